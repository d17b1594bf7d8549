"""Sums over shards, so that questions over years are answered without a look at the jobs.

A finished shard's row is what is summed: it is written once, in the transaction of its outcomes, by
workers of every release. `db.work.totals` adds finished shards to these tables in batches and marks
each as `summed` in the same transaction; until then the views count it from its own rows. So no
commit waits for a row that others write too, and each shard is counted once, whatever is repeated.
"""

from __future__ import annotations

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


def _counts(meanings: dict[str, str]) -> list[sa.Column[int]]:
    return [column(name, sa.Integer, meaning) for name, meaning in meanings.items()]


day_totals = Table(
    "day_totals",
    metadata,
    column("day", sa.String(10), "Day (UTC) on which the outcomes were committed: 2026-01-31.",
           primary_key=True),
    column("model_id", sa.BigInteger, "models.id.", primary_key=True, autoincrement=False),
    column("precision", sa.String(8), "fp32, bf16, fp16 or int8.", primary_key=True),
    column("host", sa.Text, "Machine that committed them; empty where that is not known.",
           primary_key=True),
    *_counts(COUNTS),
    *_counts(TENTHS),
    column("score_sum", sa.Double, "Sum of the probabilities that the tenths count."),
    column("timed", sa.Integer, "Items of the shards of which `seconds` is known."),
    column("seconds", sa.Double, "Sum of shards.seconds."),
    comment="Outcomes per day, model, precision and machine. Purging jobs takes nothing from it.",
)  # fmt: skip

source_totals = Table(
    "source_totals",
    metadata,
    column("job_id", sa.BigInteger, "jobs.id.", primary_key=True, autoincrement=False),
    column("source_no", sa.SmallInteger, "sources.source_no.", primary_key=True,
           autoincrement=False),
    *_counts(COUNTS),
    comment="Outcomes per source of a scoring job. They go when the job is purged.",
)  # fmt: skip

#: Columns of day_totals beside its key.
OF_A_DAY = (*COUNTS, *TENTHS, "score_sum", "timed", "seconds")
#: What `of_shards` gives.
OF_A_SHARD = ("job_id", "source_no", "day", "model_id", "precision", "host", *OF_A_DAY)

#: Finished shards that are not added to the totals yet: few, and found by an index of their own.
UNSUMMED = "shards h WHERE h.finished_at IS NOT NULL AND h.summed IS NULL AND "

_ITEMS = (
    "FROM predictions p WHERE p.job_id = h.job_id AND p.item_no >= h.first_item "
    "AND p.item_no < h.first_item + h.n_items"
)


def of_shards(among: str) -> str:
    """A SELECT of the sums of finished shards, one row each, in the words of `db.base.view`.

    `among` stands behind FROM, calls the shards `h`, and ends where a condition is expected. A row
    with which an older release replaced the shards of a job that it purged counts what was not
    added before: of no machine, and on the day on which the job ended.
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
    # "Its sources go last": a purged job that has some is being purged, and its shards are there.
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
        SELECT h.job_id, h.source_no, UTC_DAY(h.finished_at) AS day, {key},
               COALESCE((SELECT w.host FROM workers w WHERE w.id = h.worker_id), '') AS host,
               {counts}, {tenths},
               (SELECT COALESCE(SUM(p.probability), 0.0) {_ITEMS}) AS score_sum,
               CASE WHEN h.seconds IS NULL THEN 0 ELSE h.n_items END AS timed,
               COALESCE(h.seconds, 0.0) AS seconds
        FROM {among} NOT ({gone})
        UNION ALL
        SELECT h.job_id, h.source_no,
               (SELECT UTC_DAY(j.finished_at) FROM jobs j WHERE j.id = h.job_id) AS day, {key},
               '' AS host, {kept}, {nothing}, 0.0 AS score_sum, 0 AS timed, 0.0 AS seconds
        FROM {among} {gone}
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
