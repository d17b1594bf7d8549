"""Several people share the workers; what many ended jobs and files left is not looked through

Revision: 0013
After: 0012
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from db.base.types import UtcDateTime

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "jobs",
        sa.Column(
            "share",
            sa.Text(),
            nullable=True,
            comment="Whose share of the workers it takes: `--for`, else the user or the schedule. "
            "NULL, of release 0.2.0: who submitted it.",
        ),
    )
    _priority("Higher goes first; then, of scoring, whose share it is; then older.")
    for column in _claim():
        op.add_column("shards", column)
    op.create_table(
        "shares",
        sa.Column("key", sa.Text(), nullable=False, comment="As of jobs.share."),
        sa.Column(
            "weight",
            sa.Double(),
            nullable=False,
            comment="2 is twice as much as others get; without a row it is 1.",
        ),
        sa.Column("set_at", UtcDateTime(), nullable=False, comment="When."),
        sa.Column("set_by", sa.Text(), nullable=False, comment="Who set it."),
        sa.CheckConstraint("weight > 0", name=op.f("ck_shares_weight")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_shares")),
        comment="Whose share of the workers is not that of everybody.",
    )
    _index("ix_shards_share", "shards", ["share", "share_priority", "starts", "ends"],
           "starts IS NOT NULL")  # fmt: skip
    _index("ix_shards_starts", "shards", ["share_priority", "starts"], "starts IS NOT NULL")
    _index("ix_sources_troubled", "sources", ["job_id"], "trouble_at IS NOT NULL")
    _index("ix_watched_undone", "watched", ["schedule_id", "job_id"], "state <> 'done'")
    _index("ix_runs_open_schedule", "runs", ["schedule_id"], "finished_at IS NULL")
    op.create_index(op.f("ix_runs_schedule_id_id"), "runs", ["schedule_id", "id"])
    op.create_index(op.f("ix_runs_candidate_id"), "runs", ["candidate_id"])
    op.create_index(op.f("ix_jobs_model_id"), "jobs", ["model_id"])


def downgrade() -> None:
    op.drop_index(op.f("ix_jobs_model_id"), table_name="jobs")
    op.drop_index(op.f("ix_runs_candidate_id"), table_name="runs")
    op.drop_index(op.f("ix_runs_schedule_id_id"), table_name="runs")
    op.drop_index("ix_runs_open_schedule", table_name="runs")
    op.drop_index("ix_watched_undone", table_name="watched")
    op.drop_index("ix_sources_troubled", table_name="sources")
    op.drop_index("ix_shards_starts", table_name="shards")
    op.drop_index("ix_shards_share", table_name="shards")
    op.drop_table("shares")
    for column in reversed(_claim()):
        op.drop_column("shards", column.name)
    _priority("Higher goes first; then older.")
    op.drop_column("jobs", "share")


def _claim() -> list[sa.Column[object]]:
    """What a shard says of its last claim."""
    return [
        sa.Column(
            "share",
            sa.Text(),
            nullable=True,
            comment="To whose share its last claim was counted; NULL: to nobody's.",
        ),
        sa.Column(
            "share_priority",
            sa.SmallInteger(),
            nullable=True,
            comment="The job's priority at that claim.",
        ),
        sa.Column(
            "starts",
            sa.Double(),
            nullable=True,
            comment="Virtual start of that claim: seconds of a worker over the share's weight.",
        ),
        sa.Column(
            "ends",
            sa.Double(),
            nullable=True,
            comment="Virtual end of it, as expected, or as it was once the shard is done.",
        ),
        sa.Column(
            "seconds",
            sa.Double(),
            nullable=True,
            comment="What it took of a worker's time, where its worker told.",
        ),
    ]


def _index(name: str, table: str, columns: list[str], where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, postgresql_where=condition, sqlite_where=condition)


def _priority(comment: str) -> None:
    """What the column means; SQLite keeps no comments."""
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("jobs", "priority", existing_type=sa.SmallInteger(), comment=comment)
