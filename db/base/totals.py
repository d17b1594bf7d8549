"""Sums over shards, so that questions over years are answered without a look at the jobs.

A finished shard's row is what is summed: it is written once, in the transaction of its outcomes, by
workers of every release. `db.work.totals` adds finished shards to these tables in batches and marks
each as `summed` in the same transaction; until then the views count it from its own rows. So no
commit waits for a row that others write too, and each shard is counted once, whatever is repeated.
"""

from __future__ import annotations

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

#: The condition under which a shard `h` is finished and not in the totals yet: few are, and an
#: index of their own finds them.
UNSUMMED = "h.state IN ('done', 'dead') AND h.summed IS NULL"

_ITEMS = (
    "FROM predictions p WHERE p.job_id = h.job_id AND p.item_no >= h.first_item "
    "AND p.item_no < h.first_item + h.n_items"
)


def of_shards(among: str) -> str:
    """A SELECT of the sums of finished shards, one row each, in the words of `db.base.view`.

    `among` stands behind FROM, calls the shards `h`, and has a condition. A row with which an older
    release replaced the shards of a job that it purged counts what was not added before: of no
    machine, and on the day on which the job ended.
    """
    tenths = ", ".join(
        "CAST((SELECT COALESCE(SUM(r.n), 0) FROM rollups r WHERE r.job_id = h.job_id "  # noqa: S608  # constants
        f"AND r.shard_no = h.shard_no AND r.bucket BETWEEN {2 * n} AND {2 * n + 1}) AS INTEGER) "
        f"AS {name}"
        for n, name in enumerate(TENTHS)
    )
    kept = ", ".join(
        f"h.{column} - CAST((SELECT COALESCE(SUM(t.{name}), 0) FROM source_totals t "  # noqa: S608  # constants
        f"WHERE t.job_id = h.job_id) AS INTEGER) AS {name}"
        if column
        else f"0 AS {name}"
        for name, column in _OF_THE_SHARD.items()
    )
    job = "(SELECT {} FROM jobs j WHERE j.id = h.job_id)"
    model, precision = job.format("j.model_id"), job.format("COALESCE(j.precision, 'fp32')")
    key = f"{model} AS model_id, {precision} AS precision"
    # A purge removes the sources last: while there are some, the shards are still its own.
    gone = (
        "EXISTS (SELECT 1 FROM jobs j WHERE j.id = h.job_id AND j.purged_at IS NOT NULL) "
        "AND NOT EXISTS (SELECT 1 FROM sources s WHERE s.job_id = h.job_id)"
    )
    counts = ", ".join(
        f"h.{column} AS {name}"
        if column
        else f"CAST((SELECT COUNT(p.reused_from_job) {_ITEMS}) AS INTEGER) AS {name}"
        for name, column in _OF_THE_SHARD.items()
    )
    nothing = ", ".join(f"0 AS {name}" for name in TENTHS)
    return f"""
        SELECT x.*, x.predictions + x.refused + x.errors AS items,
               x.predictions - x.reused AS scored
        FROM (
        SELECT h.job_id, h.source_no, UTC_DAY(h.finished_at) AS day, {key},
               COALESCE((SELECT w.host FROM workers w WHERE w.id = h.worker_id), '') AS host,
               {counts}, {tenths},
               (SELECT COALESCE(SUM(p.probability), 0.0) {_ITEMS}) AS score_sum,
               CASE WHEN h.seconds IS NULL THEN 0 ELSE h.n_items END AS timed,
               COALESCE(h.seconds, 0.0) AS seconds, 1 AS has_source
        FROM {among} AND NOT ({gone})
        UNION ALL
        SELECT h.job_id, h.source_no,
               (SELECT UTC_DAY(j.finished_at) FROM jobs j WHERE j.id = h.job_id) AS day, {key},
               '' AS host, {kept}, {nothing}, 0.0 AS score_sum,
               0 AS timed, 0.0 AS seconds, 0 AS has_source
        FROM {among} AND {gone}
        ) AS x
    """  # noqa: S608  # constants


def unsummed(total: Total) -> str:
    """A SELECT of what a table with sums lacks yet, a row for each of its keys."""
    keys = ", ".join(total.key)
    sums = ", ".join(f"SUM({column}) AS {column}" for column in total.columns)
    each = of_shards(f"shards h WHERE {UNSUMMED}")
    return f"SELECT {keys}, {sums} FROM ({each}) AS e GROUP BY {keys}"  # noqa: S608  # constants


def up_to_now(total: Total) -> str:
    """A SELECT of the rows of a table with sums, with what it lacks yet.

    Nothing is grouped here, so that both databases look up what is asked for by the key.
    """
    keys = " AND ".join(f"u.{column} = t.{column}" for column in total.key)
    more = ", ".join(f"t.{c} + COALESCE(u.{c}, 0) AS {c}" for c in total.columns)
    lacking = unsummed(total)
    return f"""
            SELECT {", ".join(f"t.{column}" for column in total.key)}, {more}
            FROM {total.name} t LEFT JOIN ({lacking}) AS u ON {keys}
            UNION ALL
            SELECT {", ".join((*total.key, *total.columns))} FROM ({lacking}) AS u
            WHERE NOT EXISTS (SELECT 1 FROM {total.name} t WHERE {keys})
    """  # noqa: S608  # constants


#: What is counted → column of the shard; None: it has none.
_OF_THE_SHARD = {
    "predictions": "n_predictions",
    "positives": "n_positive",
    "unusual": "n_unusual",
    "reused": None,
    "refused": "n_refused",
    "errors": "n_errors",
}
