"""Evaluations say what is left where films are dressed as others look

Revision: 0010
After: 0009
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from db.base.types import Json

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "evaluations",
        sa.Column(
            "shift",
            Json,
            nullable=True,
            comment="What is left where these films are dressed as others look: "
            "docs/reference/model-file.md. NULL: not measured.",
        ),
    )
    op.add_column(
        "evaluations",
        sa.Column(
            "shift_worst",
            sa.Text(),
            nullable=True,
            comment="Of these dressings the one that costs most AUROC.",
        ),
    )
    op.add_column(
        "evaluations",
        sa.Column("shift_worst_auroc", sa.Float(), nullable=True, comment="AUROC there."),
    )


def downgrade() -> None:
    op.drop_column("evaluations", "shift_worst_auroc")
    op.drop_column("evaluations", "shift_worst")
    op.drop_column("evaluations", "shift")
