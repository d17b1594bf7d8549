"""The schema states which releases may use it

Revision: 0006
After: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "compatibility",
        sa.Column(
            "revision",
            sa.String(length=32),
            nullable=False,
            comment="Revision of the schema that this is said of.",
        ),
        sa.Column(
            "oldest_release",
            sa.String(length=32),
            nullable=False,
            comment="Oldest release of PneumoQ that may use it.",
        ),
        sa.PrimaryKeyConstraint("revision", name=op.f("pk_compatibility")),
        comment="Which releases of PneumoQ may use this schema: one row.",
    )


def downgrade() -> None:
    op.drop_table("compatibility")
