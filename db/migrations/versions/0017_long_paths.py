"""Sources of long paths are found by an index too, and what `shards.ends` says of handed-back claims

Revision: 0017
After: 0016
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_sources_long_uri",
        "sources",
        ["uri"],
        postgresql_using="hash",
        postgresql_where=sa.text("octet_length(uri) > 2600"),
        sqlite_where=sa.text("length(uri) > 2600"),
    )
    _ends(
        "Virtual end of it, as expected, or as it was once the shard is done. Where `starts` is "
        "NULL: what was charged for a claim that was handed back, to be taken off the next one's "
        "charge."
    )


def downgrade() -> None:
    _ends("Virtual end of it, as expected, or as it was once the shard is done.")
    op.drop_index("ix_sources_long_uri", table_name="sources")


def _ends(comment: str) -> None:
    """What the column means; SQLite keeps no comments."""
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("shards", "ends", existing_type=sa.Double(), comment=comment)
