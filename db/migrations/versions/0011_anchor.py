"""Which model a person chose last, and which a night compared with besides the champion

Revision: 0011
After: 0010
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "promotions",
        sa.Column(
            "anchor",
            sa.Boolean(),
            nullable=True,
            comment="Whether nights compare with this model from then on, as with one that a "
            "person chose. NULL, of older releases: they do where no run decided it.",
        ),
    )
    op.add_column(
        "runs",
        sa.Column(
            "anchor_id",
            sa.BigInteger(),
            nullable=True,
            comment="The last model that a person promoted (models.id), where that is not the "
            "champion: the new model is compared with it too.",
        ),
    )
    # Of a model that a person chose long ago the files may be gone: the champion of this moment is
    # where nights begin to count.
    promotions = sa.table(
        "promotions", sa.column("id"), sa.column("alias"), sa.column("anchor", sa.Boolean())
    )
    newest = sa.select(sa.func.max(promotions.c.id)).where(promotions.c.alias == "champion")
    op.execute(
        sa.update(promotions)
        .where(promotions.c.id == newest.scalar_subquery())
        .values(anchor=sa.true())
    )


def downgrade() -> None:
    op.drop_column("runs", "anchor_id")
    op.drop_column("promotions", "anchor")
