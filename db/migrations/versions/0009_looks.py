"""Groups of training films that look acquired alike, and predictions of films that look so

Revision: 0009
After: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from db.base.types import BigId, Json

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "model_looks",
        sa.Column("model_id", BigId, nullable=False, comment="Model."),
        sa.Column(
            "look_no",
            sa.SmallInteger(),
            autoincrement=False,
            nullable=False,
            comment="Column of the network's look.",
        ),
        sa.Column(
            "what",
            sa.Text(),
            nullable=False,
            comment="How the films are alike, as in: films with …",
        ),
        sa.Column(
            "label",
            sa.Text(),
            nullable=False,
            comment="Class that training saw nearly all of them with.",
        ),
        sa.Column(
            "films",
            Json,
            nullable=False,
            comment="Training films of the group per class name.",
        ),
        sa.Column("patients", sa.Integer(), nullable=False, comment="Patients of these."),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name=op.f("fk_model_looks_model_id_models")
        ),
        sa.PrimaryKeyConstraint("model_id", "look_no", name=op.f("pk_model_looks")),
        comment="Groups of a model's training films that look acquired alike and are of one class.",
    )
    op.add_column(
        "predictions",
        sa.Column(
            "look",
            sa.SmallInteger(),
            nullable=True,
            comment="Group that it looks acquired like (model_looks.look_no). NULL: none, or not "
            "known.",
        ),
    )
    op.add_column(
        "shards",
        sa.Column(
            "n_looks",
            sa.Integer(),
            nullable=False,
            server_default="0",
            comment="Predictions with a look.",
        ),
    )


def downgrade() -> None:
    op.drop_column("shards", "n_looks")
    op.drop_column("predictions", "look")
    op.drop_table("model_looks")
