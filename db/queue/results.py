"""Outcomes: a shard's predictions, refusals and errors are written in one fenced transaction.

This is the hot path of scoring: outcomes are tuples from the scorer to the database's driver.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from db.base import bulk, totals
from db.base.schema import films, shard_totals, shards, shares
from db.base.types import now
from db.queue import jobs as job_rows
from db.queue import leases
from db.queue import shares as charges
from db.queue.leases import Shard

#: What read a film of which no version is kept: every reader's first.
FIRST_READER = 1

#: Contents in one statement; SQLite takes at most 32,766 values.
LOOKUP = 4096

#: Buckets of the score histogram; twentieths.
BUCKETS = 20

PREDICTIONS = (
    "job_id", "item_no", "shard_no", "name", "model_id", "label_no", "probability", "scores", "ood",
    "reused_from_job", "reused_from_item", "look",
)  # fmt: skip
CAMS = ("job_id", "item_no", "height", "width", "low", "high", "data")
NOT_PREDICTED = ("job_id", "item_no", "shard_no", "name", "code", "detail")
IDENTITIES = ("job_id", "item_no", "patient", "study", "accession")
ROLLUPS = ("job_id", "shard_no", "bucket", "label_no", "n")


class Cam(NamedTuple):
    """A class-activation map as bytes, linear from `low` to `high` logits."""

    height: int
    width: int
    low: float
    high: float
    data: bytes


class Identity(NamedTuple):
    """Whose film a DICOM item is: keyed hashes of 32 characters, where the tag was there."""

    patient: str | None = None
    study: str | None = None
    accession: str | None = None


class Prediction(NamedTuple):
    """A film that was scored, or that was answered from the store."""

    item_no: int
    name: str
    label_no: int
    #: P(positive class), 0 to 1.
    probability: float
    positive: bool
    #: All classes, where there are more than two.
    scores: Sequence[float] | None = None
    ood: float | None = None
    unusual: bool = False
    #: The group of training films (model_looks) that it looks acquired like, if any.
    look: int | None = None
    cam: Cam | None = None
    #: Hash of the film's bytes, where the prediction may answer for the same film later.
    content: bytes | None = None
    #: Job and item whose prediction this repeats, where it was not scored now.
    reused_from: tuple[int, int] | None = None
    identity: Identity | None = None
    #: Codes of refusals that were overridden, without which it would have been refused.
    overridden: Sequence[str] = ()
    #: What read the film: its kind of file, and the version of the reader.
    reader: tuple[str, int] | None = None


class NotPredicted(NamedTuple):
    """An item that was refused (intact, but no film to be scored) or is in error (broken)."""

    item_no: int
    name: str
    code: str
    detail: str
    refused: bool = False
    identity: Identity | None = None
    #: Hash of the bytes, where they could be read.
    content: bytes | None = None
    #: As of `Prediction`.
    reader: tuple[str, int] | None = None


Outcome = Prediction | NotPredicted


def commit(
    connection: sa.Connection,
    shard: Shard,
    outcomes: Sequence[Outcome],
    seconds: float | None = None,
) -> None:
    """Write a shard's outcomes and mark it done, all or nothing.

    `seconds` is what it took of a worker's time, which is counted to the share of its job.
    The fence comes first: LeaseLost where another worker has claimed the shard since, or the job
    has ended. A duplicate key is not forgiven: it would mean that an item had two outcomes.
    """
    if sorted([o.item_no for o in outcomes]) != list(
        range(shard.first_item, shard.first_item + shard.n_items)
    ):
        raise ValueError(
            f"shard {shard.shard_no} of job {shard.job_id} has {shard.n_items} items, "
            f"but {len(outcomes)} outcomes that are not one each"
        )
    job_id, shard_no, model_id = shard.job_id, shard.shard_no, shard.model_id
    predicted = [o for o in outcomes if isinstance(o, Prediction)]
    others = [o for o in outcomes if isinstance(o, NotPredicted)]
    refused = [o for o in others if o.refused]
    broken = [o for o in others if not o.refused]
    positives = sum([p.positive for p in predicted])
    unusual = sum([p.unusual for p in predicted])
    day = _finish(
        connection,
        shard,
        "done",
        n_predictions=len(predicted),
        n_positive=positives,
        n_unusual=unusual,
        n_looks=sum([p.look is not None for p in predicted]),
        n_refused=len(refused),
        n_errors=len(broken),
        **_readers([*predicted, *refused]),
        **_took(seconds),
    )
    bulk.insert(
        connection,
        "predictions",
        PREDICTIONS,
        [
            (
                job_id, p.item_no, shard_no, p.name, model_id, p.label_no, p.probability,
                None if p.scores is None else json.dumps(list(p.scores)), p.ood,
                *(p.reused_from or (None, None)), p.look,
            )
            for p in predicted
        ],
    )  # fmt: skip
    bulk.insert(connection, "cams", CAMS, [(job_id, p.item_no, *p.cam) for p in predicted if p.cam])
    for table, kind in (("refusals", refused), ("item_errors", broken)):
        bulk.insert(
            connection,
            table,
            NOT_PREDICTED,
            [(job_id, o.item_no, shard_no, o.name, o.code, o.detail) for o in kind],
        )
    bulk.insert(
        connection,
        "identities",
        IDENTITIES,
        [(job_id, o.item_no, *o.identity) for o in outcomes if o.identity],
    )
    histogram = Counter(
        [(min(int(p.probability * BUCKETS), BUCKETS - 1), p.label_no) for p in predicted]
    )
    bulk.insert(
        connection,
        "rollups",
        ROLLUPS,
        [(job_id, shard_no, bucket, label, n) for (bucket, label), n in histogram.items()],
    )
    tenths = Counter[int]()
    for (bucket, _), n in histogram.items():
        tenths[bucket // 2] += n
    _sum_up(
        connection,
        shard,
        day,
        predictions=len(predicted),
        positives=positives,
        unusual=unusual,
        reused=sum([p.reused_from is not None for p in predicted]),
        refused=len(refused),
        errors=len(broken),
        score_sum=sum([p.probability for p in predicted]),
        timed=0 if seconds is None else shard.n_items,
        seconds=seconds or 0.0,
        **{name: tenths[n] for n, name in enumerate(totals.TENTHS)},
    )
    _remember(connection, shard, [p for p in predicted if p.content and not p.reused_from])
    _forget(connection, shard, others)


def _readers(outcomes: Sequence[Outcome]) -> dict[str, dict[str, int]]:
    """The column that says what read a shard's films, where that is known of all of them."""
    found: dict[str, int] = {}
    for outcome in outcomes:
        if outcome.reader is None:
            return {}
        kind, version = outcome.reader
        found[kind] = min(version, found.get(kind, version))
    return {"readers": found}


def _took(seconds: float | None) -> dict[str, Any]:
    """Columns that say what a shard took: its virtual end is no longer what was expected."""
    if seconds is None:
        return {}
    weight = sa.select(shares.c.weight).where(shares.c.key == shards.c.share).scalar_subquery()
    return {
        "seconds": seconds,
        "ends": shards.c.starts + seconds / sa.func.coalesce(weight, 1.0),
    }


#: What is there already stays, unless an older version read it, or the same one and it answers
#: less: it has no map and the new one has, or what it needed to be overridden is not known.
_FILMS = """
    INSERT INTO films (model_id, precision, content, job_id, item_no, overridden, reader)
    {new}
    ON CONFLICT (model_id, precision, content) DO UPDATE SET
        job_id = excluded.job_id, item_no = excluded.item_no, overridden = excluded.overridden,
        reader = excluded.reader
    WHERE COALESCE(films.reader, {first}) < excluded.reader
    OR COALESCE(films.reader, {first}) = excluded.reader AND (
        films.overridden IS NULL
        OR EXISTS (
            SELECT 1 FROM cams c WHERE c.job_id = excluded.job_id AND c.item_no = excluded.item_no
        ) AND NOT EXISTS (
            SELECT 1 FROM cams c WHERE c.job_id = films.job_id AND c.item_no = films.item_no
        )
    )
"""
_FILMS_POSTGRESQL = _FILMS.format(
    first=FIRST_READER,
    new="SELECT %s, %s, content, %s, item_no, overridden, reader "
    "FROM unnest(%s::bytea[], %s::int[], %s::text[], %s::int[]) "
    "AS new (content, item_no, overridden, reader)",
)
_FILMS_SQLITE = _FILMS.format(first=FIRST_READER, new="VALUES (?, ?, ?, ?, ?, ?, ?)")


def _remember(connection: sa.Connection, shard: Shard, scored: list[Prediction]) -> None:
    """Let these predictions answer for the same films from now on."""
    # Each content once, and always in the same order: two that commit the same films then wait for
    # each other, instead of each for the other.
    rows = sorted({p.content: _remembered(p) for p in scored}.values())
    if not rows:
        return
    model_id, precision, job_id = shard.model_id, shard.precision, shard.job_id
    if connection.dialect.name == "postgresql":
        columns = [bulk.array(column) for column in zip(*rows, strict=True)]
        connection.exec_driver_sql(_FILMS_POSTGRESQL, (model_id, precision, job_id, *columns))
    else:
        connection.exec_driver_sql(
            _FILMS_SQLITE,
            [(model_id, precision, content, job_id, *rest) for content, *rest in rows],
        )


def _remembered(p: Prediction) -> tuple[Any, ...]:
    version = FIRST_READER if p.reader is None else p.reader[1]
    return (p.content, p.item_no, ",".join(p.overridden), version)


def _forget(connection: sa.Connection, shard: Shard, others: Sequence[NotPredicted]) -> None:
    """Let no earlier prediction answer for a film that is refused or broken by now.

    One that needed a refusal to be overridden stays: it answers where that is overridden again. So
    does one of a newer reader than this, which may know better.
    """
    version = {o.content: o.reader[1] for o in others if o.content and o.reader}
    mine = sa.and_(
        films.c.model_id == shard.model_id,
        films.c.precision == shard.precision,
        sa.func.coalesce(films.c.overridden, "") == "",
    )
    contents = sorted(version)
    for start in range(0, len(contents), LOOKUP):
        found = connection.execute(
            sa.select(films.c.content, films.c.reader)
            .where(mine, films.c.content.in_(contents[start : start + LOOKUP]))
            .order_by(films.c.content)
            .with_for_update()
        )
        for content, reader in found.all():
            if (FIRST_READER if reader is None else reader) <= version[bytes(content)]:
                connection.execute(sa.delete(films).where(mine, films.c.content == content))


def give_up(
    connection: sa.Connection, shard: Shard, names: Sequence[str], code: str, detail: str
) -> None:
    """Mark a shard dead: each of its items becomes an error row, so that none is lost unseen.

    Whoever claimed it has not worked on it, and its key is charged nothing for that.
    """
    if len(names) != shard.n_items:
        raise ValueError(
            f"shard {shard.shard_no} of job {shard.job_id} has {shard.n_items} items, "
            f"but {len(names)} names"
        )
    day = _finish(
        connection, shard, "dead", n_errors=shard.n_items, last_error=detail, **charges.given_back()
    )
    _sum_up(connection, shard, day, errors=shard.n_items)
    bulk.insert(
        connection,
        "item_errors",
        NOT_PREDICTED,
        [
            (shard.job_id, shard.first_item + n, shard.shard_no, name, code, detail)
            for n, name in enumerate(names)
        ],
    )
    job_rows.log(
        connection, shard.job_id, shard.worker_id, "shard_dead", f"shard {shard.shard_no}: {detail}"
    )


def _finish(connection: sa.Connection, shard: Shard, state: str, **counts: Any) -> str:
    """Finish a shard, or raise LeaseLost; the day in UTC on which that was."""
    # The job's row is share-locked first: a cancel waits for us, or we see it.
    if job_rows.scoring(connection, shard.job_id):
        finished_at = connection.execute(
            sa.update(shards)
            .where(leases.held(shard))
            .values(state=state, finished_at=now(), lease_until=None, summed=True, **counts)
            .returning(shards.c.finished_at)
        ).scalar_one_or_none()
        if finished_at is not None:
            return f"{finished_at:%Y-%m-%d}"
    raise leases.lost(shard)


_SUM_UP = sa.insert(shard_totals)
_NOTHING = dict.fromkeys((*totals.COUNTS, *totals.TENTHS, "score_sum", "timed", "seconds"), 0)


def _sum_up(connection: sa.Connection, shard: Shard, day: str, **sums: float) -> None:
    """Write a shard's sums, for `db.work.totals` to add them; what is not given is 0."""
    # The values apart: SQLAlchemy takes longer to know a statement again that holds them.
    connection.execute(
        _SUM_UP,
        {
            **_NOTHING,
            "job_id": shard.job_id,
            "shard_no": shard.shard_no,
            "source_no": shard.source_no,
            "day": day,
            "model_id": shard.model_id,
            "precision": shard.precision,
            "worker_id": shard.worker_id,
            **sums,
        },
    )
