"""What is stored says what it answers

Revision: 0007
After: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "films",
        sa.Column(
            "overridden",
            sa.Text(),
            nullable=True,
            comment="Refusals that it needed to be overridden: codes, comma-separated, or empty. NULL: not known, but none that its job does not override.",
        ),
    )


def downgrade() -> None:
    op.drop_column("films", "overridden")
