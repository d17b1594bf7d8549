"""What an epoch was chosen by: the least AUROC of held-out films that are dressed as others look

Revision: 0018
After: 0017
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "epochs",
        sa.Column(
            "shift_auroc",
            sa.Float(),
            nullable=True,
            comment="Least AUROC of validation films dressed as others look, 0 to 1. "
            "NULL: none were dressed.",
        ),
    )


def downgrade() -> None:
    op.drop_column("epochs", "shift_auroc")
