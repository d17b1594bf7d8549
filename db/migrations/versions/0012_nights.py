"""Nights that end, nights without a promotion, and models that were calibrated anew

Revision: 0012
After: 0011
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from db.base.types import UtcDateTime

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

#: Events that had notices before.
_BEFORE = (
    "failed", "skipped", "missed", "kept", "promoted", "drift", "test", "with_errors",
    "source_away", "source_back",
)  # fmt: skip
_NEW = ("not_promoted",)


def upgrade() -> None:
    op.add_column(
        "models",
        sa.Column(
            "calibrated_on",
            sa.Text(),
            nullable=True,
            comment="Labelled films that its temperature and operating point were chosen on anew, "
            "the weights being those of parent_id; NULL where it was trained or imported.",
        ),
    )
    op.add_column(
        "models",
        sa.Column(
            "calibration_films",
            sa.Integer(),
            nullable=True,
            comment="How many films those were.",
        ),
    )
    op.add_column(
        "models",
        sa.Column(
            "calibration_patients",
            sa.Integer(),
            nullable=True,
            comment="Of how many patients.",
        ),
    )
    op.add_column(
        "jobs",
        sa.Column(
            "put_aside_at",
            UtcDateTime(),
            nullable=True,
            comment="Training: paused then, at the end of its night; its schedule goes on with it "
            "at its next time.",
        ),
    )
    op.add_column(
        "runs",
        sa.Column(
            "until",
            UtcDateTime(),
            nullable=True,
            comment="Of training: the end of its night, where it has one.",
        ),
    )
    op.add_column(
        "runs",
        sa.Column(
            "put_aside",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Nights at whose end its training was not done.",
        ),
    )
    _events(
        (*_BEFORE, *_NEW),
        "failed, with_errors (completed_with_errors), skipped, missed, kept, promoted, drift, "
        "source_away, source_back, not_promoted or test.",
    )


def downgrade() -> None:
    notices = sa.table("notices", sa.column("event"))
    op.execute(sa.delete(notices).where(notices.c.event.in_(_NEW)))
    _events(
        _BEFORE,
        "failed, with_errors (completed_with_errors), skipped, missed, kept, promoted, drift, "
        "source_away, source_back or test.",
    )
    op.drop_column("runs", "put_aside")
    op.drop_column("runs", "until")
    op.drop_column("jobs", "put_aside_at")
    op.drop_column("models", "calibration_patients")
    op.drop_column("models", "calibration_films")
    op.drop_column("models", "calibrated_on")


def _events(allowed: tuple[str, ...], comment: str) -> None:
    """Allow notices of these events and no others."""
    listed = ", ".join(repr(event) for event in allowed)
    with op.batch_alter_table("notices") as batch_op:
        batch_op.drop_constraint(op.f("ck_notices_event"), type_="check")
        batch_op.create_check_constraint(op.f("ck_notices_event"), f"event IN ({listed})")
        batch_op.alter_column("event", existing_type=sa.String(16), comment=comment)
