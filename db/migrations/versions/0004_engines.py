"""Engines: which one a job asks for, and how a worker's machine is

Revision: 0004
After: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from db.base.types import Json

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

#: table, column → comment before, comment after. SQLite keeps no comments.
COMMENTS = {
    ("jobs", "precision"): (
        "Scoring: fp32, bf16 or int8, pinned when submitted.",
        "Scoring: fp32, bf16, fp16 or int8, pinned when submitted.",
    ),
    ("engines", "backend"): (
        "openvino, tensorrt, ...",
        "openvino, onnxruntime, tensorrt or tensorrt_rtx.",
    ),
    ("workers", "versions"): (
        "Software versions.",
        "Software versions; `engines`: the words of jobs.engine that it serves.",
    ),
}


def _comment(which: int) -> None:
    if op.get_bind().dialect.name == "postgresql":
        for (table, column), both in COMMENTS.items():
            op.alter_column(table, column, comment=both[which])


def upgrade() -> None:
    op.add_column(
        "jobs",
        sa.Column(
            "engine",
            sa.String(length=16),
            nullable=True,
            comment="Scoring: tensorrt or onnx, where only workers with that may score it.",
        ),
    )
    op.add_column(
        "workers",
        sa.Column(
            "health",
            Json,
            nullable=True,
            comment="Temperature, power, throttling and memory of its machine, where it tells.",
        ),
    )
    _comment(1)


def downgrade() -> None:
    _comment(0)
    op.drop_column("workers", "health")
    op.drop_column("jobs", "engine")
