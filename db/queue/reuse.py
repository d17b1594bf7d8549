"""Incremental scoring: what was scored before is answered from the store.

A film is known by its content (a hash of its bytes: `content_hash`), under one model and precision;
a whole archive by the identity of its content, which needs no member to be read. `reused_from`
names the row that was scored, never one that was itself answered from the store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from db.base import bulk, totals
from db.base import database as connecting
from db.base.schema import films, jobs, predictions, shards, site, sources
from db.base.types import now
from db.base.view import render
from db.queue import leases, listings
from db.queue.leases import Lease
from db.queue.results import FIRST_READER, LOOKUP, Cam, Identity

#: Shards in one transaction of `copy_source`.
SHARDS = 64

#: Options that decide what a job's rows hold, and their defaults.
_OPTIONS: dict[str, Any] = {"keep_cam": "flagged", "accept": [], "hash_names": False}


class Known(NamedTuple):
    """A prediction that was made before, and where it is."""

    job_id: int
    item_no: int
    label_no: int
    probability: float
    scores: list[float] | None
    ood: float | None
    cam: Cam | None
    #: Of DICOM, whose film it is.
    identity: Identity | None
    #: Refusals that it needed to be overridden, by their codes: it answers where all of them are.
    overridden: frozenset[str]
    #: Version of what read the film.
    reader: int
    #: The group of training films that it looks acquired like, if any and if that is known.
    look: int | None = None


def content_hash(engine: sa.Engine) -> Literal["blake3", "blake2b"]:
    """What this database knows films by; it never changes."""
    with connecting.reading(engine) as connection:
        found = connection.execute(sa.select(site.c.content_hash)).scalar_one()
    return "blake2b" if found == "blake2b" else "blake3"


def any_known(connection: sa.Connection, model_id: int, precision: str) -> bool:
    """Whether a model has scored anything in this precision that could be answered again."""
    found = connection.execute(
        sa.select(films.c.item_no)
        .where(films.c.model_id == model_id, films.c.precision == precision)
        .limit(1)
    )
    return found.first() is not None


#: Probabilities of one film that was scored twice in one precision differ by less.
SAME_FILM = 0.02


def is_of(connection: sa.Connection, job_id: int, item_no: int, content: bytes) -> bool:
    """Whether an item's prediction, if it has one, is known to be of a film of these bytes.

    It is where the store answers for them with that prediction, with the one that it repeats, or
    with another that says the same.
    """
    own, kept = predictions.alias("own"), predictions.alias("kept")
    found = connection.execute(
        sa.select(
            own.c.label_no, own.c.probability, own.c.reused_from_job, own.c.reused_from_item,
            films.c.job_id, films.c.item_no,
            kept.c.label_no.label("kept_label_no"), kept.c.probability.label("kept_probability"),
        )
        .select_from(own)
        .join(jobs, jobs.c.id == own.c.job_id)
        .outerjoin(
            films,
            sa.and_(
                films.c.model_id == own.c.model_id,
                films.c.precision == sa.func.coalesce(jobs.c.precision, "fp32"),
                films.c.content == content,
            ),
        )
        .outerjoin(
            kept, sa.and_(kept.c.job_id == films.c.job_id, kept.c.item_no == films.c.item_no)
        )
        .where(own.c.job_id == job_id, own.c.item_no == item_no)
    ).one_or_none()  # fmt: skip
    if found is None:
        return True
    if found.kept_label_no is None:
        return False
    if (found.job_id, found.item_no) in (
        (job_id, item_no),
        (found.reused_from_job, found.reused_from_item),
    ):
        return True
    apart = abs(found.probability - found.kept_probability)
    return bool(found.label_no == found.kept_label_no and apart <= SAME_FILM)


_KNOWN = """
    SELECT f.content, p.job_id, p.item_no, p.label_no, p.probability, p.scores, p.ood, p.look,
           c.height, c.width, c.low, c.high, c.data, i.item_no, i.patient, i.study, i.accession,
           f.reader, f.overridden, j.spec
    FROM films f
    JOIN predictions p ON p.job_id = f.job_id AND p.item_no = f.item_no
    LEFT JOIN cams c ON c.job_id = f.job_id AND c.item_no = f.item_no
    LEFT JOIN identities i ON i.job_id = f.job_id AND i.item_no = f.item_no
    LEFT JOIN jobs j ON j.id = f.job_id AND f.overridden IS NULL
"""


def known(
    connection: sa.Connection, contents: Sequence[bytes], model_id: int, precision: str
) -> dict[bytes, Known]:
    """The predictions that this model made of these contents in this precision."""
    answers: dict[bytes, Known] = {}
    for start in range(0, len(contents), LOOKUP):
        part = contents[start : start + LOOKUP]
        if connection.dialect.name == "postgresql":
            where = "WHERE f.model_id = %s AND f.precision = %s AND f.content = ANY(%s)"
            values: tuple[Any, ...] = (model_id, precision, list(part))
        else:
            places = ", ".join("?" * len(part))
            where = f"WHERE f.model_id = ? AND f.precision = ? AND f.content IN ({places})"
            values = (model_id, precision, *part)
        for row in connection.exec_driver_sql(_KNOWN + where, values):
            content, job_id, item_no, label_no, probability, scores, ood, look = row[:8]
            height, width, low, high, data, identified, *identity = row[8:17]
            reader, overridden, spec = row[17:]
            answers[bytes(content)] = Known(
                job_id, item_no, label_no, probability,
                _json(scores), ood,
                None if data is None else Cam(height, width, low, high, bytes(data)),
                None if identified is None else Identity(*identity),
                _overridden(overridden, spec),
                FIRST_READER if reader is None else reader,
                look,
            )  # fmt: skip
    return answers


def _json(value: Any) -> Any:
    """A value as PostgreSQL's driver gives it, or of the text as which SQLite keeps it."""
    return json.loads(value) if isinstance(value, str) else value


def _overridden(codes: str | None, spec: Any) -> frozenset[str]:
    """What a film needed to be overridden; where that was not kept, all that its job overrode."""
    if codes is None:
        return frozenset(_json(spec).get("accept") or ())
    return frozenset(codes.split(",")) if codes else frozenset()


def find_copy(
    connection: sa.Connection,
    content_id: str,
    model_id: int,
    precision: str,
    spec: Mapping[str, Any],
) -> tuple[int, int] | None:
    """The job and source whose rows answer for an unchanged archive, or None.

    The best is a job that has ended well, then the newest: same model, precision and options that
    decide what its rows hold.
    """
    wanted = _options(spec)
    found = connection.execute(
        sa.select(jobs.c.id, jobs.c.spec, sources.c.source_no)
        .join_from(sources, jobs, jobs.c.id == sources.c.job_id)
        .where(
            sources.c.content_id == content_id,
            jobs.c.kind == "score",
            jobs.c.model_id == model_id,
            jobs.c.precision == precision,
            jobs.c.planned_at.is_not(None),
            jobs.c.purged_at.is_(None),
        )
        .order_by(
            sa.case((jobs.c.state.in_(("completed", "completed_with_errors")), 0), else_=1),
            jobs.c.id.desc(),
            sources.c.source_no,
        )
    )
    for row in found:
        # A job over what failed in another has only some of the archive's items.
        if _options(row.spec) == wanted and not row.spec.get("failed_only"):
            return int(row.id), int(row.source_no)
    return None


def _options(spec: Mapping[str, Any]) -> tuple[Any, ...]:
    values = _OPTIONS | {k: v for k, v in spec.items() if k in _OPTIONS and v is not None}
    return (values["keep_cam"], sorted(set(values["accept"])), bool(values["hash_names"]))


class Copied(NamedTuple):
    """What one call of `copy_source` did."""

    #: Shards that were copied now; 0 where there is nothing to go on with.
    shards: int
    #: Items in them.
    items: int
    #: Whether the whole source is listed in the new job now.
    complete: bool


# item_no + :shift is the item's number in the new job.
_ITEMS = "FROM {} WHERE job_id = :origin AND item_no >= :first AND item_no < :end"
_COPIES = {
    "predictions": (
        "INSERT INTO predictions (job_id, item_no, shard_no, name, model_id, label_no, "
        "probability, scores, ood, look, reused_from_job, reused_from_item) "
        "SELECT :job, item_no + :shift, :shard, name, model_id, label_no, probability, scores, "
        "ood, look, COALESCE(reused_from_job, job_id), COALESCE(reused_from_item, item_no) "
    ),
    "cams": (
        "INSERT INTO cams (job_id, item_no, height, width, low, high, data) "
        "SELECT :job, item_no + :shift, height, width, low, high, data "
    ),
    "refusals": (
        "INSERT INTO refusals (job_id, item_no, shard_no, name, code, detail) "
        "SELECT :job, item_no + :shift, :shard, name, code, detail "
    ),
    "identities": (
        "INSERT INTO identities (job_id, item_no, patient, study, accession) "
        "SELECT :job, item_no + :shift, patient, study, accession "
    ),
}
_ROLLUPS = (
    "INSERT INTO rollups (job_id, shard_no, bucket, label_no, n) "
    "SELECT :job, :shard, bucket, label_no, n FROM rollups "
    "WHERE job_id = :origin AND shard_no = :origin_shard"
)
_LISTINGS = (
    "INSERT INTO shard_listings (job_id, shard_no, listing) "
    "SELECT :job, :shard, listing FROM shard_listings "
    "WHERE job_id = :origin AND shard_no = :origin_shard"
)


def copy_source(
    connection: sa.Connection,
    lease: Lease,
    from_job: int,
    from_source_no: int,
    to_source_no: int,
    readers: Mapping[str, int],
    limit: int = SHARDS,
) -> Copied:
    """Copy the next shards of an unchanged source from the job that `find_copy` found, fenced.

    Done shards come with their outcomes, as done, where all their films were read by the versions
    in `readers` (kind of file → version). Those where that is not so or not known, that had errors,
    are dead or open come as ready to be scored. It goes on where the new job's listing of the
    source ends, so it is called until `complete`. Where no shard begins there, or the origin was
    purged meanwhile, nothing is copied, and the rest is to be listed from the archive.
    """
    leases.fence(connection, lease)
    # On PostgreSQL this keeps out who bisects a shard or purges the job.
    origin = connection.execute(
        sa.select(jobs.c.planned_at, jobs.c.purged_at)
        .where(jobs.c.id == from_job)
        .with_for_update(read=True)
    ).one()
    job = connection.execute(
        sa.select(jobs.c.planned_items, jobs.c.planned_shards).where(jobs.c.id == lease.job_id)
    ).one()
    ours = sa.and_(shards.c.job_id == from_job, shards.c.source_no == from_source_no)
    base, total = connection.execute(
        sa.select(sa.func.min(shards.c.first_item), sa.func.sum(shards.c.n_items)).where(ours)
    ).one()
    if origin.planned_at is None or origin.purged_at is not None or base is None:
        return Copied(0, 0, False)
    listed = listings.planned(connection, lease.job_id).get(to_source_no, 0)
    found = connection.execute(
        sa.select(shards)
        .where(ours, shards.c.first_item >= base + listed)
        .order_by(shards.c.first_item)
        .limit(limit)
    ).all()
    if not found or found[0].first_item != base + listed:
        return Copied(0, 0, listed == int(total))
    # Others of the origin's sources may have been listed in between: one piece at a time.
    found = found[: _together(found)]
    shift = job.planned_items - found[0].first_item
    numbered = [(job.planned_shards + n, shard) for n, shard in enumerate(found)]
    items = sum(shard.n_items for shard in found)
    _copy(connection, lease, from_job, to_source_no, shift, numbered, readers)
    connection.execute(
        sa.update(jobs)
        .where(jobs.c.id == lease.job_id)
        .values(
            planned_items=job.planned_items + items, planned_shards=job.planned_shards + len(found)
        )
    )
    return Copied(len(found), items, listed + items == int(total))


def _together(found: Sequence[Any]) -> int:
    """How many shards follow each other without a gap."""
    for number, (before, shard) in enumerate(pairwise(found), 1):
        if shard.first_item != before.first_item + before.n_items:
            return number
    return len(found)


def _copy(
    connection: sa.Connection,
    lease: Lease,
    origin: int,
    source_no: int,
    shift: int,
    numbered: Sequence[tuple[int, Any]],
    readers: Mapping[str, int],
) -> None:
    def place(number: int, shard: Any) -> dict[str, int]:
        first = shard.first_item
        return {
            "job": lease.job_id, "origin": origin, "shift": shift, "shard": number, "first": first,
            "origin_shard": shard.shard_no, "end": first + shard.n_items,
        }  # fmt: skip

    def answers(shard: Any) -> bool:
        return (
            shard.state == "done"
            and not shard.n_errors
            and shard.readers is not None
            and all(readers.get(kind) == version for kind, version in shard.readers.items())
        )

    done = [(n, s) for n, s in numbered if answers(s)]
    ready = [(n, s) for n, s in numbered if not answers(s)]
    bulk.insert(
        connection,
        "shards",
        listings.SHARDS,
        [(lease.job_id, n, source_no, s.first_item + shift, s.n_items, "ready") for n, s in ready],
    )
    if done:
        connection.execute(
            sa.insert(shards).values(
                job_id=lease.job_id, source_no=source_no, state="done", finished_at=now(),
                worker_id=lease.worker_id, summed=True,
            ),
            [
                {
                    "shard_no": n, "first_item": s.first_item + shift, "n_items": s.n_items,
                    "n_predictions": s.n_predictions, "n_positive": s.n_positive,
                    "n_unusual": s.n_unusual, "n_looks": s.n_looks, "n_refused": s.n_refused,
                    "readers": s.readers,
                }
                for n, s in done
            ],
        )  # fmt: skip
        places = [place(n, s) for n, s in done]
        for table, statement in _COPIES.items():
            connection.execute(sa.text(statement + _ITEMS.format(table)), places)
        connection.execute(sa.text(_ROLLUPS), places)
        batch = totals.named((lease.job_id, n) for n, _ in done)
        each = render(totals.of_shards(totals.BATCH), connection.dialect.name)
        into = f"shard_totals ({', '.join(totals.OF_A_SHARD)})"
        connection.exec_driver_sql(f"{batch} INSERT INTO {into} {each}")
    connection.execute(sa.text(_LISTINGS), [place(n, s) for n, s in numbered])
