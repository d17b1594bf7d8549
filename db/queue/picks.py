"""Picks: which films of a scoring job a person should look at, and why.

Each question is answered by one pass over the job's predictions that keeps no more rows than are
asked for, so that a job of a million films takes a second and no memory.
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
from collections.abc import Iterator, Sequence

import sqlalchemy as sa

from db.base import database
from db.base.schema import jobs, model_labels, models, shards, sources

#: Rows of an answer that are fetched at a time.
FETCH = 50_000

#: What has a true label is done.
_NO_LABEL = (
    "NOT EXISTS (SELECT 1 FROM labels t WHERE t.job_id = p.job_id AND t.item_no = p.item_no)"
)
_USUAL = "(p.ood IS NULL OR m.ood_threshold IS NULL OR p.ood <= m.ood_threshold)"
_UNUSUAL = "p.ood > m.ood_threshold"

#: Another model's outcome for the film at the same place of the same sources. Names are compared
#: beside, as a folder may have been listed otherwise.
_OTHER = (
    "JOIN predictions o ON o.job_id = :other AND o.item_no = p.item_no AND o.name = p.name "
    "JOIN models n ON n.id = o.model_id"
)

#: Why → joins, condition and order: the first is the one to look at first.
#:
#: highest         the surest of the disease
#: nearest         nearest to the threshold, so that a label moves it most
#: unusual         unlike the training films: the label that the model gave means little
#: look            acquired as films of one class were: the model may go by that
#: disagreeing     another model calls it otherwise; the larger the difference, the sooner
#:
#: And control: drawn by chance from all of them, by which the others can be judged.
_WHY = {
    "highest": ("", "1 = 1", "-p.probability"),
    "nearest": ("", _USUAL, "ABS(p.probability - m.threshold)"),
    "unusual": ("", _UNUSUAL, "-p.ood"),
    "look": ("", "p.look IS NOT NULL", "-p.probability"),
    "disagreeing": (
        _OTHER,
        "(p.probability >= m.threshold) <> (o.probability >= n.threshold)",
        "-ABS(p.probability - o.probability)",
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pick:
    """A film that was picked."""

    item_no: int
    shard_no: int
    name: str
    source: str
    label: str
    probability: float
    threshold: float
    ood: float | None
    unusual: int
    #: Which films of one class it looks acquired like, if any.
    look: str | None = None


_COLUMNS = ", ".join(
    f"v.{field.name}" for field in dataclasses.fields(Pick) if field.name != "shard_no"
)


def films(
    engine: sa.Engine,
    job_id: int,
    why: str,
    most: int,
    *,
    unlabelled: bool = False,
    other: int | None = None,
    without: Sequence[int] = (),
) -> list[Pick]:
    """Up to `most` films of a job, the one to look at first coming first.

    `why` is highest, nearest, unusual, look, disagreeing (with the job `other`) or control.
    `unlabelled` leaves out films whose true class is known, `without` the items that are named.
    """
    if why == "control":
        return named(engine, job_id, _drawn(engine, job_id, most, frozenset(without)))
    join, condition, order = _WHY[why]
    if unlabelled:
        condition += f" AND {_NO_LABEL}"
    # Asked for as many more, in place of a condition that grows with them.
    statement = f"""
        SELECT {_COLUMNS}, k.shard_no
        FROM (SELECT p.job_id, p.item_no, p.shard_no, {order} AS place
              FROM predictions p JOIN models m ON m.id = p.model_id {join}
              WHERE p.job_id = :job AND {condition}
              ORDER BY place, p.item_no LIMIT :most) AS k
        JOIN v_predictions v ON v.job_id = k.job_id AND v.item_no = k.item_no
        ORDER BY k.place, k.item_no
    """  # noqa: S608  # constants
    values = {"job": job_id, "most": most + len(without)}
    if why == "disagreeing":
        values["other"] = int(other or 0)
    skipped = set(without)
    with database.reading(engine) as connection:
        rows = connection.execute(sa.text(statement), values).mappings()
        found = [Pick(**row) for row in rows if row["item_no"] not in skipped]
    return found[:most]


def _drawn(engine: sa.Engine, job_id: int, most: int, without: frozenset[int]) -> list[int]:
    """Items of a job drawn by chance: each time the same ones, as the chance is the job's own.

    Each item has its number drawn by a hash of the job and the item, and the lowest are taken, so
    that one more film, or one less, changes no more than that film's place.
    """

    def place(item_no: int) -> bytes:
        return hashlib.blake2b(b"%d %d" % (job_id, item_no), digest_size=8).digest()

    statement = sa.text("SELECT item_no FROM predictions WHERE job_id = :job")
    with database.reading(engine) as connection:
        rows = connection.execution_options(yield_per=FETCH).execute(statement, {"job": job_id})
        numbers = (number for number in rows.scalars() if number not in without)
        return heapq.nsmallest(most, numbers, key=place)


def by_shard(engine: sa.Engine, job_id: int) -> Iterator[list[Pick]]:
    """All films of a job that were predicted, in their order, those of one shard at a time."""
    statement = sa.text(
        f"SELECT {_COLUMNS}, p.shard_no FROM predictions p "  # noqa: S608  # constants
        "JOIN v_predictions v ON v.job_id = p.job_id AND v.item_no = p.item_no "
        "WHERE p.job_id = :job AND p.item_no >= :first AND p.item_no < :end ORDER BY p.item_no"
    )
    after = -1
    while True:
        with database.reading(engine) as connection:
            shard = connection.execute(
                sa.select(shards.c.shard_no, shards.c.first_item, shards.c.n_items)
                .where(shards.c.job_id == job_id, shards.c.shard_no > after)
                .order_by(shards.c.shard_no)
                .limit(1)
            ).one_or_none()
            if shard is None:
                return
            values = {
                "job": job_id,
                "first": shard.first_item,
                "end": shard.first_item + shard.n_items,
            }
            found = [Pick(**row) for row in connection.execute(statement, values).mappings()]
        after = shard.shard_no
        if found:
            yield found


def named(engine: sa.Engine, job_id: int, items: Sequence[int]) -> list[Pick]:
    """The films of these items that were predicted, by their numbers; a few hundred at most."""
    statement = sa.text(
        f"SELECT {_COLUMNS}, p.shard_no FROM v_predictions v "  # noqa: S608  # constants
        "JOIN predictions p ON p.job_id = v.job_id AND p.item_no = v.item_no "
        "WHERE v.job_id = :job AND v.item_no IN :items ORDER BY v.item_no"
    ).bindparams(sa.bindparam("items", expanding=True))
    with database.reading(engine) as connection:
        rows = connection.execute(statement, {"job": job_id, "items": list(items)}).mappings()
        return [Pick(**row) for row in rows]


def classes(engine: sa.Engine, job_id: int) -> list[str]:
    """The classes of a scoring job's model, in the order of the scores."""
    with database.reading(engine) as connection:
        return list(
            connection.execute(
                sa.select(model_labels.c.name)
                .join(jobs, jobs.c.model_id == model_labels.c.model_id)
                .where(jobs.c.id == job_id)
                .order_by(model_labels.c.label_no)
            ).scalars()
        )


def rival(engine: sa.Engine, job_id: int) -> int | None:
    """The newest other job in which another model with the same classes scored the same sources.

    The same are those of the same place, kind and fingerprint, in the same order.
    """
    mine, theirs = sources.alias("mine"), sources.alias("theirs")
    same = sa.and_(
        theirs.c.source_no == mine.c.source_no,
        theirs.c.uri == mine.c.uri,
        theirs.c.kind == mine.c.kind,
        theirs.c.fingerprint == mine.c.fingerprint,
    )
    this = sa.select(jobs.c.model_id, models.c.positive).join(models).where(jobs.c.id == job_id)
    count = sa.select(sa.func.count()).select_from(sources)
    n_mine = count.where(sources.c.job_id == job_id).scalar_subquery()
    n_theirs = count.where(sources.c.job_id == jobs.c.id).scalar_subquery()
    n_same = (
        sa.select(sa.func.count())
        .select_from(mine.join(theirs, same))
        .where(mine.c.job_id == job_id, theirs.c.job_id == jobs.c.id)
        .scalar_subquery()
    )
    with database.reading(engine) as connection:
        row = connection.execute(this).one_or_none()
        if row is None:
            return None
        return connection.execute(
            sa.select(jobs.c.id)
            .join(models, models.c.id == jobs.c.model_id)
            .where(
                jobs.c.kind == "score",
                jobs.c.id != job_id,
                jobs.c.model_id != row.model_id,
                models.c.positive == row.positive,
                jobs.c.state.in_(("completed", "completed_with_errors")),
                jobs.c.purged_at.is_(None),
                n_theirs == n_mine,
                n_same == n_mine,
                n_mine > 0,
            )
            .order_by(jobs.c.id.desc())
            .limit(1)
        ).scalar()
