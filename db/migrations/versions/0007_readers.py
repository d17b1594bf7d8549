"""What is stored says what it answers

Revision: 0007
After: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from db.base.types import Json

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
    op.add_column(
        "films",
        sa.Column(
            "reader",
            sa.SmallInteger(),
            nullable=True,
            comment="Version of what read it; NULL is 1.",
        ),
    )
    op.add_column(
        "shards",
        sa.Column(
            "readers",
            Json,
            nullable=True,
            comment="Kind of file → version of what read its films; NULL: not known.",
        ),
    )


def downgrade() -> None:
    op.drop_column("shards", "readers")
    op.drop_column("films", "reader")
    op.drop_column("films", "overridden")
