"""Sums over shards, so that questions over years are answered without a look at the jobs.

Whoever finishes a shard writes its sums as a row of `shard_totals`, in the transaction of its
outcomes. `db.work.totals` takes such rows away in batches and adds them to the other tables; views
read both. So no commit waits for a row that others write too, and each shard is counted once.

Releases up to 0.2.0 know nothing of it: their shards are not `summed`, and are added from their
rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import Table

from db.base.columns import column, metadata

#: Outcomes that both tables count → meaning.
COUNTS = {
    "predictions": "Films predicted, whether scored or answered from the store.",
    "positives": "Of these, called positive.",
    "unusual": "Of these, unlike the training films.",
    "reused": "Of these, answered from the store.",
    "refused": "Items refused.",
    "errors": "Items in error.",
}
#: Predictions by tenths of their probability → meaning.
TENTHS = {
    f"tenth_{n}": f"Predictions with a probability in [{n / 10}, {(n + 1) / 10}{')]'[n == 9]}."
    for n in range(10)
}


#: What machines do, in `host_totals` → meaning.
WORK = {
    "items": "Items that had an outcome: predicted, refused or in error.",
    "scored": "Of these, films that went through the network.",
    "reused": "Of these, films answered from the store.",
    "timed": "Items of the shards of which `seconds` is known.",
}


def _counts(meanings: dict[str, str]) -> list[sa.Column[int]]:
    return [column(name, sa.Integer, meaning) for name, meaning in meanings.items()]


def _day() -> sa.Column[str]:
    return column("day", sa.String(10), "Day (UTC) of the commit: 2026-01-31.", primary_key=True)


def _model() -> sa.Column[int]:
    return column("model_id", sa.BigInteger, "models.id.", primary_key=True, autoincrement=False)


def _precision() -> sa.Column[str]:
    return column("precision", sa.String(8), "fp32, bf16, fp16 or int8.", primary_key=True)


day_totals = Table(
    "day_totals",
    metadata,
    _day(),
    _model(),
    _precision(),
    *_counts(COUNTS),
    *_counts(TENTHS),
    column("score_sum", sa.Double, "Sum of the probabilities that the tenths count."),
    comment="Outcomes per day, model and precision. Purging jobs takes nothing from it.",
)

host_totals = Table(
    "host_totals",
    metadata,
    _day(),
    column("host", sa.Text, "Machine; empty where it is not known.", primary_key=True),
    _model(),
    _precision(),
    *_counts(WORK),
    column("seconds", sa.Double, "Sum of shards.seconds."),
    comment="What machines got through per day, model and precision.",
)

model_totals = Table(
    "model_totals",
    metadata,
    _model(),
    *_counts(COUNTS),
    comment="Outcomes per model. Purging jobs takes nothing from it.",
)

source_totals = Table(
    "source_totals",
    metadata,
    column("job_id", sa.BigInteger, "jobs.id.", primary_key=True, autoincrement=False),
    column("source_no", sa.SmallInteger, "sources.source_no.", primary_key=True,
           autoincrement=False),
    *_counts(COUNTS),
    comment="Outcomes per source of a scoring job. They go when the job is purged.",
)  # fmt: skip


shard_totals = Table(
    "shard_totals",
    metadata,
    column("job_id", sa.BigInteger, "jobs.id.", primary_key=True, autoincrement=False),
    column("shard_no", sa.Integer, "shards.shard_no, when it was finished.", primary_key=True,
           autoincrement=False),
    column("source_no", sa.SmallInteger, "sources.source_no."),
    column("day", sa.String(10), "Day (UTC) of the commit: 2026-01-31."),
    column("model_id", sa.BigInteger, "models.id."),
    column("precision", sa.String(8), "fp32, bf16, fp16 or int8."),
    column("worker_id", sa.String(64), "Who committed it (workers.id).", nullable=True),
    *_counts(COUNTS),
    *_counts(TENTHS),
    column("score_sum", sa.Double, "Sum of the probabilities that the tenths count."),
    column("timed", sa.Integer, "Items, where `seconds` is known; else 0."),
    column("seconds", sa.Double, "As of shards; 0 where it is not known."),
    comment="Sums of finished shards that are to be added to the other sums; gone afterwards.",
)  # fmt: skip

#: Columns of shard_totals.
OF_A_SHARD = tuple(c.name for c in shard_totals.c)


class Total(NamedTuple):
    """A table with sums."""

    name: str
    key: tuple[str, ...]
    columns: tuple[str, ...]


DAY, HOST, MODEL, SOURCE = TOTALS = tuple(
    Total(
        table.name,
        tuple(c.name for c in table.primary_key),
        tuple(c.name for c in table.c if not c.primary_key),
    )
    for table in (day_totals, host_totals, model_totals, source_totals)
)

#: Columns of the sums → of shard_totals `s` and workers `w`, where they are called otherwise.
_FROM = {
    "host": "COALESCE(w.host, '')",
    "items": "s.predictions + s.refused + s.errors",
    "scored": "s.predictions - s.reused",
}


def _of_pending(name: str) -> str:
    return _FROM.get(name, f"s.{name}")


def to_be_added(total: Total) -> str:
    """A SELECT of what a table with sums lacks yet, a row for each of its keys."""
    keys = ", ".join(f"{_of_pending(name)} AS {name}" for name in total.key)
    sums = ", ".join(f"SUM({_of_pending(name)}) AS {name}" for name in total.columns)
    by = ", ".join(_of_pending(name) for name in total.key)
    machine = "LEFT JOIN workers w ON w.id = s.worker_id" if "host" in total.key else ""
    return f"SELECT {keys}, {sums} FROM shard_totals s {machine} GROUP BY {by}"  # noqa: S608  # constants


def up_to_now(total: Total) -> str:
    """A SELECT of the rows of a table with sums, with what it lacks yet.

    Nothing that is stored is grouped, so that both databases look up what is asked for by the key.
    """
    keys = " AND ".join(f"u.{name} = t.{name}" for name in total.key)
    more = ", ".join(f"t.{name} + COALESCE(u.{name}, 0) AS {name}" for name in total.columns)
    lacking = to_be_added(total)
    return f"""
            SELECT {", ".join(f"t.{name}" for name in total.key)}, {more}
            FROM {total.name} t LEFT JOIN ({lacking}) AS u ON {keys}
            UNION ALL
            SELECT {", ".join((*total.key, *total.columns))} FROM ({lacking}) AS u
            WHERE NOT EXISTS (SELECT 1 FROM {total.name} t WHERE {keys})
    """  # noqa: S608  # constants


#: The condition under which a shard `h` was finished by a release that writes no sums: an index of
#: its own finds those.
UNSUMMED = "h.state IN ('done', 'dead') AND h.summed IS NULL"

_ITEMS = (
    "FROM predictions p WHERE p.job_id = h.job_id AND p.item_no >= h.first_item "
    "AND p.item_no < h.first_item + h.n_items"
)


#: What is counted → column of the shard; None: it has none.
_OF_THE_SHARD = {
    "predictions": "n_predictions",
    "positives": "n_positive",
    "unusual": "n_unusual",
    "reused": None,
    "refused": "n_refused",
    "errors": "n_errors",
}


def of_shards(among: str) -> str:
    """A SELECT of rows for `shard_totals` from what is stored, in the words of `db.base.view`.

    `among` stands behind FROM, calls the shards `h`, and has a condition. A row with which an older
    release replaced the shards of a job that it purged has what was not added before: of no
    machine, and on the day on which the job ended.
    """
    tenths = ", ".join(
        "(SELECT COALESCE(SUM(r.n), 0) FROM rollups r WHERE r.job_id = h.job_id "  # noqa: S608  # constants
        f"AND r.shard_no = h.shard_no AND r.bucket BETWEEN {2 * n} AND {2 * n + 1}) AS {name}"
        for n, name in enumerate(TENTHS)
    )
    counts = ", ".join(
        f"h.{column} AS {name}" if column
        else f"(SELECT COUNT(p.reused_from_job) {_ITEMS}) AS {name}"
        for name, column in _OF_THE_SHARD.items()
    )  # fmt: skip
    left = ", ".join(
        f"h.{column} - (SELECT COALESCE(SUM(t.{name}), 0) FROM source_totals t "  # noqa: S608  # constants
        f"WHERE t.job_id = h.job_id) AS {name}" if column else f"0 AS {name}"
        for name, column in _OF_THE_SHARD.items()
    )  # fmt: skip
    nothing = ", ".join(f"0 AS {name}" for name in TENTHS)
    # A purge removes the sources last: while there are some, the shards are still its own.
    gone = (
        "j.purged_at IS NOT NULL AND NOT EXISTS (SELECT 1 FROM sources s WHERE s.job_id = h.job_id)"
    )
    key = "j.model_id, COALESCE(j.precision, 'fp32') AS precision"
    job = "j.id = h.job_id"
    return f"""
        SELECT h.job_id, h.shard_no, h.source_no, UTC_DAY(h.finished_at) AS day, {key}, h.worker_id,
               {counts}, {tenths},
               (SELECT COALESCE(SUM(p.probability), 0.0) {_ITEMS}) AS score_sum,
               CASE WHEN h.seconds IS NULL THEN 0 ELSE h.n_items END AS timed,
               COALESCE(h.seconds, 0.0) AS seconds
        FROM jobs j, {among} AND {job} AND NOT ({gone})
        UNION ALL
        SELECT h.job_id, h.shard_no, h.source_no, UTC_DAY(j.finished_at) AS day, {key}, NULL,
               {left}, {nothing}, 0.0 AS score_sum, 0 AS timed, 0.0 AS seconds
        FROM jobs j, {among} AND {job} AND {gone}
    """  # noqa: S608  # constants


def named(shards: Iterable[tuple[int, int]]) -> str:
    """A WITH that calls shards, by their jobs and numbers, `batch`."""
    values = ", ".join(f"({job_id:d}, {shard_no:d})" for job_id, shard_no in shards)
    return f"WITH batch (job_id, shard_no) AS (VALUES {values})"


#: The shards that `named` names, as `of_shards` takes them.
BATCH = "batch b JOIN shards h ON h.job_id = b.job_id AND h.shard_no = b.shard_no WHERE 1 = 1"
