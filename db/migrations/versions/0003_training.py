"""Training: every figure of an epoch

Revision: 0003
After: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_MEASURES = {
    "auprc": "Average precision, 0 to 1.",
    "sensitivity": "0 to 1.",
    "specificity": "0 to 1.",
    "ppv": "Share of positive calls that are right, 0 to 1.",
    "npv": "Share of negative calls that are right, 0 to 1.",
    "ece": "Expected calibration error, 0 to 1.",
    "true_positive": "Films.",
    "false_positive": "Films.",
    "true_negative": "Films.",
    "false_negative": "Films.",
}
_INTERVALS = {
    f"{name}_{end.lower()}": f"{end} end of its 95 % confidence interval."
    for name in ("auroc", "accuracy", "auprc", "sensitivity", "specificity", "ppv", "npv")
    for end in ("Low", "High")
}
COLUMNS = {
    **{f"train_{name}": f"{meaning} On augmented films." for name, meaning in _MEASURES.items()},
    **{f"val_{name}": meaning for name, meaning in {**_MEASURES, **_INTERVALS}.items()},
}


def upgrade() -> None:
    for name, meaning in COLUMNS.items():
        op.add_column("epochs", sa.Column(name, sa.Float(), nullable=True, comment=meaning))


def downgrade() -> None:
    for name in reversed(COLUMNS):
        op.drop_column("epochs", name)
