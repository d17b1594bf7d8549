"""Notices of a watched folder's files that are not taken, or given up; completeness counts them

Revision: 0021
After: 0020
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

#: Events that had notices before.
_BEFORE = (
    "failed", "skipped", "missed", "kept", "promoted", "drift", "test", "with_errors",
    "source_away", "source_back", "not_promoted",
)  # fmt: skip
_NEW = ("not_taken", "given_up")


def upgrade() -> None:
    _events(
        (*_BEFORE, *_NEW),
        "failed, with_errors (completed_with_errors), skipped, missed, kept, promoted, drift, "
        "source_away, source_back, not_promoted, not_taken, given_up or test.",
    )


def downgrade() -> None:
    notices = sa.table("notices", sa.column("event"))
    op.execute(sa.delete(notices).where(notices.c.event.in_(_NEW)))
    _events(
        _BEFORE,
        "failed, with_errors (completed_with_errors), skipped, missed, kept, promoted, drift, "
        "source_away, source_back, not_promoted or test.",
    )


def _events(allowed: tuple[str, ...], comment: str) -> None:
    """Allow notices of these events and no others."""
    listed = ", ".join(repr(event) for event in allowed)
    with op.batch_alter_table("notices") as batch_op:
        batch_op.drop_constraint(op.f("ck_notices_event"), type_="check")
        batch_op.create_check_constraint(op.f("ck_notices_event"), f"event IN ({listed})")
        batch_op.alter_column("event", existing_type=sa.String(16), comment=comment)
