"""Sums per day, machine, model and source, how long shards took, and indexes for questions

Shards that are finished already are not `summed`: workers add them in batches once they run.

Revision: 0014
After: 0013
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_COUNTS = {
    "predictions": "Films predicted, whether scored or answered from the store.",
    "positives": "Of these, called positive.",
    "unusual": "Of these, unlike the training films.",
    "reused": "Of these, answered from the store.",
    "refused": "Items refused.",
    "errors": "Items in error.",
}
_TENTHS = {
    f"tenth_{n}": f"Predictions with a probability in [{n / 10}, {(n + 1) / 10}{')]'[n == 9]}."
    for n in range(10)
}
#: Name → table, columns, condition.
_INDEXES = {
    "ix_shards_unsummed": (
        "shards",
        ["job_id", "shard_no"],
        "state IN ('done', 'dead') AND summed IS NULL",
    ),
    "ix_shards_finished_at": ("shards", ["finished_at"], "finished_at IS NOT NULL"),
    "ix_jobs_parent_job_id": ("jobs", ["parent_job_id"], "parent_job_id IS NOT NULL"),
    "ix_evaluations_model_id": ("evaluations", ["model_id"], None),
}


_WORK = {
    "items": "Items that had an outcome: predicted, refused or in error.",
    "scored": "Of these, films that went through the network.",
    "reused": "Of these, films answered from the store.",
    "timed": "Items of the shards of which `seconds` is known.",
}


def _counts(meanings: dict[str, str]) -> list[sa.Column[int]]:
    return [
        sa.Column(name, sa.Integer(), nullable=False, comment=meaning)
        for name, meaning in meanings.items()
    ]


def _key(name: str, type_: Any, comment: str) -> sa.Column[Any]:
    return sa.Column(name, type_, autoincrement=False, nullable=False, comment=comment)


def _day() -> sa.Column[Any]:
    return _key("day", sa.String(length=10), "Day (UTC) of the commit: 2026-01-31.")


def _model() -> sa.Column[Any]:
    return _key("model_id", sa.BigInteger(), "models.id.")


def _precision() -> sa.Column[Any]:
    return _key("precision", sa.String(length=8), "fp32, bf16, fp16 or int8.")


def upgrade() -> None:
    op.create_table(
        "day_totals",
        _day(),
        _model(),
        _precision(),
        *_counts(_COUNTS),
        *_counts(_TENTHS),
        sa.Column(
            "score_sum",
            sa.Double(),
            nullable=False,
            comment="Sum of the probabilities that the tenths count.",
        ),
        sa.PrimaryKeyConstraint("day", "model_id", "precision", name=op.f("pk_day_totals")),
        comment="Outcomes per day, model and precision. Purging jobs takes nothing from it.",
    )
    op.create_table(
        "host_totals",
        _day(),
        _key("host", sa.Text(), "Machine; empty where it is not known."),
        _model(),
        _precision(),
        *_counts(_WORK),
        sa.Column("seconds", sa.Double(), nullable=False, comment="Sum of shards.seconds."),
        sa.PrimaryKeyConstraint(
            "day", "host", "model_id", "precision", name=op.f("pk_host_totals")
        ),
        comment="What machines got through per day, model and precision.",
    )
    op.create_table(
        "model_totals",
        _model(),
        *_counts(_COUNTS),
        sa.PrimaryKeyConstraint("model_id", name=op.f("pk_model_totals")),
        comment="Outcomes per model. Purging jobs takes nothing from it.",
    )
    op.create_table(
        "source_totals",
        _key("job_id", sa.BigInteger(), "jobs.id."),
        _key("source_no", sa.SmallInteger(), "sources.source_no."),
        *_counts(_COUNTS),
        sa.PrimaryKeyConstraint("job_id", "source_no", name=op.f("pk_source_totals")),
        comment="Outcomes per source of a scoring job. They go when the job is purged.",
    )
    op.create_table(
        "shard_totals",
        _key("job_id", sa.BigInteger(), "jobs.id."),
        _key("shard_no", sa.Integer(), "shards.shard_no, when it was finished."),
        sa.Column("source_no", sa.SmallInteger(), nullable=False, comment="sources.source_no."),
        _day(),
        _model(),
        _precision(),
        sa.Column(
            "worker_id",
            sa.String(length=64),
            nullable=True,
            comment="Who committed it (workers.id).",
        ),
        *_counts(_COUNTS),
        *_counts(_TENTHS),
        sa.Column(
            "score_sum",
            sa.Double(),
            nullable=False,
            comment="Sum of the probabilities that the tenths count.",
        ),
        sa.Column(
            "timed",
            sa.Integer(),
            nullable=False,
            comment="Items, where `seconds` is known; else 0.",
        ),
        sa.Column(
            "seconds",
            sa.Double(),
            nullable=False,
            comment="As of shards; 0 where it is not known.",
        ),
        sa.PrimaryKeyConstraint("job_id", "shard_no", name=op.f("pk_shard_totals")),
        comment="Sums of finished shards that are to be added to the other sums; gone afterwards.",
    )
    op.add_column(
        "shards",
        sa.Column(
            "summed",
            sa.Boolean(),
            nullable=True,
            comment="Whether its sums were written; NULL: not yet, or it is not finished.",
        ),
    )
    for name, (table, columns, condition) in _INDEXES.items():
        where = None if condition is None else sa.text(condition)
        op.create_index(name, table, columns, postgresql_where=where, sqlite_where=where)
    # PostgreSQL has no longer keys; paths have up to 4,096 bytes.
    fits = sa.text("octet_length(uri) <= 2600")
    op.create_index("ix_sources_uri_job_id", "sources", ["uri", "job_id"], postgresql_where=fits)


def downgrade() -> None:
    op.drop_index("ix_sources_uri_job_id", table_name="sources")
    for name, (table, _, _) in _INDEXES.items():
        op.drop_index(name, table_name=table)
    op.drop_column("shards", "summed")
    for name in ("shard_totals", "source_totals", "model_totals", "host_totals", "day_totals"):
        op.drop_table(name)
