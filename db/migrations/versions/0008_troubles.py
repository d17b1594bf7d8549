"""Sources that cannot be read: since when, how often their items were tried, who was told

Revision: 0008
After: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from db.base.types import BigId, Json, UtcDateTime

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_BEFORE = ("failed", "skipped", "missed", "kept", "promoted", "drift", "test")
_NEW = ("with_errors", "source_away", "source_back")


def upgrade() -> None:
    op.add_column(
        "sources",
        sa.Column(
            "trouble",
            sa.Text(),
            nullable=True,
            comment="Why a worker could not read it, where none has read it since.",
        ),
    )
    op.add_column(
        "sources",
        sa.Column(
            "trouble_at",
            UtcDateTime(),
            nullable=True,
            comment="When a worker could not read it for the first time since it was last read, or "
            "since the job was resumed: patience is counted from then.",
        ),
    )
    op.add_column(
        "shards",
        sa.Column(
            "unread",
            Json,
            nullable=True,
            comment="Items that the system did not let be read while others of their source were, "
            "and how often: {item_no: tries}.",
        ),
    )
    op.add_column(
        "jobs",
        sa.Column(
            "out_of_patience_at",
            UtcDateTime(),
            nullable=True,
            comment="Paused then, since no worker could read what is left of it; NULL where a "
            "person paused it.",
        ),
    )
    op.add_column(
        "runs",
        sa.Column(
            "blind",
            Json,
            nullable=True,
            comment="Workers (workers.id) that could not look through it.",
        ),
    )
    op.create_table(
        "outages",
        sa.Column("id", BigId, nullable=False, comment="Number."),
        sa.Column(
            "schedule_id",
            sa.BigInteger(),
            nullable=True,
            comment="Schedule (schedules.id) that cannot read its folders, or whose job cannot "
            "read them.",
        ),
        sa.Column(
            "job_id",
            sa.BigInteger(),
            nullable=True,
            comment="Job (jobs.id) of no schedule that cannot read its sources.",
        ),
        sa.Column(
            "began_at",
            UtcDateTime(),
            nullable=False,
            comment="Hooks got the notice that it began.",
        ),
        sa.Column("reason", sa.Text(), nullable=False, comment="What the first worker found."),
        sa.Column(
            "ended_at",
            UtcDateTime(),
            nullable=True,
            comment="Something was read again, or nothing is left to be read.",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outages")),
        comment="A time in which no worker could read sources: one notice, and one when it ends.",
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_outages_open",
        "outages",
        ["id"],
        postgresql_where=sa.text("ended_at IS NULL"),
        sqlite_where=sa.text("ended_at IS NULL"),
    )
    _events(
        (*_BEFORE, *_NEW),
        "failed, with_errors (completed_with_errors), skipped, missed, kept, promoted, drift, "
        "source_away, source_back or test.",
    )


def downgrade() -> None:
    notices = sa.table("notices", sa.column("event"))
    op.execute(sa.delete(notices).where(notices.c.event.in_(_NEW)))
    _events(_BEFORE, "failed, skipped, missed, kept, promoted, drift or test.")
    op.drop_index("ix_outages_open", table_name="outages")
    op.drop_table("outages")
    op.drop_column("runs", "blind")
    op.drop_column("jobs", "out_of_patience_at")
    op.drop_column("shards", "unread")
    op.drop_column("sources", "trouble_at")
    op.drop_column("sources", "trouble")


def _events(allowed: tuple[str, ...], comment: str) -> None:
    """Allow notices of these events and no others."""
    listed = ", ".join(repr(event) for event in allowed)
    with op.batch_alter_table("notices") as batch_op:
        batch_op.drop_constraint(op.f("ck_notices_event"), type_="check")
        batch_op.create_check_constraint(op.f("ck_notices_event"), f"event IN ({listed})")
        batch_op.alter_column("event", existing_type=sa.String(16), comment=comment)
