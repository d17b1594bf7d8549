"""What a list named when it was submitted, and how long a worker's leases are

Revision: 0016
After: 0015
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "sources",
        sa.Column(
            "listed",
            sa.LargeBinary(),
            nullable=True,
            comment="Of a list's file: the paths that it named when it was submitted, JSON, gzip. "
            "NULL of release 0.2.0, whose workers read the file.",
        ),
    )
    op.add_column(
        "workers",
        sa.Column(
            "lease_s",
            sa.Float(),
            nullable=True,
            comment="How long its leases are, in seconds; NULL of release 0.2.0.",
        ),
    )


def downgrade() -> None:
    op.drop_column("workers", "lease_s")
    op.drop_column("sources", "listed")
