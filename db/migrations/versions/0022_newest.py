"""The newest prediction of a film is the last that was committed; paths of watched files may go

Revision: 0022
After: 0021
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The views are made anew after any upgrade.
    _path("Absolute path; empty once the job that took it is purged.")


def downgrade() -> None:
    _path("Absolute path.")


def _path(comment: str) -> None:
    """What the column means; SQLite keeps no comments."""
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("watched", "path", existing_type=sa.Text(), comment=comment)
