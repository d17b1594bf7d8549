"""How fast a model is per kind of worker and precision, measured, and which one `auto` is there

Revision: 0020
After: 0019
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from db.base.types import BigId, UtcDateTime

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rates",
        sa.Column("model_id", BigId, nullable=False, autoincrement=False, comment="Model."),
        sa.Column(
            "kind",
            sa.String(length=200),
            nullable=False,
            comment="What computes: engine, version, device.",
        ),
        sa.Column(
            "precision",
            sa.String(length=8),
            nullable=False,
            comment="Precision that it computes in.",
        ),
        sa.Column("batch", sa.Integer(), nullable=False, comment="Films in every batch."),
        sa.Column(
            "films_per_s",
            sa.Double(),
            nullable=False,
            comment="Films per second of the engine alone: median of the rounds.",
        ),
        sa.Column(
            "ratio",
            sa.Double(),
            nullable=True,
            comment="Its films/s to those of the precision that was chosen then: median of the "
            "rounds' ratios, measured in turns. NULL: it was that one.",
        ),
        sa.Column(
            "ratio_low",
            sa.Double(),
            nullable=True,
            comment="Low end of that median's 95 % interval.",
        ),
        sa.Column("ratio_high", sa.Double(), nullable=True, comment="High end."),
        sa.Column("rounds", sa.Integer(), nullable=False, comment="Rounds measured."),
        sa.Column(
            "chosen",
            sa.Boolean(),
            nullable=False,
            comment="Whether `auto` is this one for workers of this kind.",
        ),
        sa.Column("measured_at", UtcDateTime(), nullable=False, comment="When."),
        sa.Column("measured_by", sa.Text(), nullable=False, comment="User or worker."),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_rates_model_id_models")),
        sa.PrimaryKeyConstraint("model_id", "kind", "precision", name=op.f("pk_rates")),
        comment="How fast a model is per kind of worker and precision, and which one `auto` is "
        "there.",
    )


def downgrade() -> None:
    op.drop_table("rates")
