"""Sums per day and per source, the time that shards took, and indexes by time, source and parent

Shards that are finished already are not `summed`; workers add them in batches once they run, and
until then the views count them from their own rows.

Revision: 0014
After: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0008"
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
        "finished_at IS NOT NULL AND summed IS NULL",
    ),
    "ix_shards_finished_at": ("shards", ["finished_at"], "finished_at IS NOT NULL"),
    "ix_jobs_parent_job_id": ("jobs", ["parent_job_id"], "parent_job_id IS NOT NULL"),
    "ix_sources_uri": ("sources", ["uri"], None),
}


def _counts(meanings: dict[str, str]) -> list[sa.Column[int]]:
    return [
        sa.Column(name, sa.Integer(), nullable=False, comment=meaning)
        for name, meaning in meanings.items()
    ]


def upgrade() -> None:
    op.create_table(
        "day_totals",
        sa.Column(
            "day",
            sa.String(length=10),
            nullable=False,
            comment="Day (UTC) on which the outcomes were committed: 2026-01-31.",
        ),
        sa.Column(
            "model_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="models.id."
        ),
        sa.Column(
            "precision",
            sa.String(length=8),
            nullable=False,
            comment="fp32, bf16, fp16 or int8.",
        ),
        sa.Column(
            "host",
            sa.Text(),
            nullable=False,
            comment="Machine that committed them; empty where that is not known.",
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
            comment="Items of the shards of which `seconds` is known.",
        ),
        sa.Column("seconds", sa.Double(), nullable=False, comment="Sum of shards.seconds."),
        sa.PrimaryKeyConstraint("day", "model_id", "precision", "host", name=op.f("pk_day_totals")),
        comment="Outcomes per day, model, precision and machine. Purging jobs takes nothing from "
        "it.",
    )
    op.create_table(
        "source_totals",
        sa.Column(
            "job_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="jobs.id."
        ),
        sa.Column(
            "source_no",
            sa.SmallInteger(),
            autoincrement=False,
            nullable=False,
            comment="sources.source_no.",
        ),
        *_counts(_COUNTS),
        sa.PrimaryKeyConstraint("job_id", "source_no", name=op.f("pk_source_totals")),
        comment="Outcomes per source of a scoring job. They go when the job is purged.",
    )
    op.add_column(
        "shards",
        sa.Column(
            "seconds",
            sa.Double(),
            nullable=True,
            comment="Time that its worker took: from its claim, or from the worker's commit before "
            "it where that came later, to its outcomes. NULL: not scored, or not known.",
        ),
    )
    op.add_column(
        "shards",
        sa.Column(
            "summed",
            sa.Boolean(),
            nullable=True,
            comment="Whether it is in day_totals and source_totals; NULL: not yet.",
        ),
    )
    for name, (table, columns, condition) in _INDEXES.items():
        where = None if condition is None else sa.text(condition)
        op.create_index(name, table, columns, postgresql_where=where, sqlite_where=where)


def downgrade() -> None:
    for name, (table, _, _) in _INDEXES.items():
        op.drop_index(name, table_name=table)
    op.drop_column("shards", "summed")
    op.drop_column("shards", "seconds")
    op.drop_table("source_totals")
    op.drop_table("day_totals")
