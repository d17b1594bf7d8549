"""What films' contents are hashed by is the database's own: BLAKE3 in those that begin with it

Revision: 0019
After: 0018
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    table = op.create_table(
        "site",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False, comment="1."),
        sa.Column(
            "content_hash",
            sa.String(length=16),
            nullable=False,
            comment="What films' contents are: the first 128 bits of BLAKE3 (blake3), or "
            "BLAKE2b-128 (blake2b) in databases that had jobs or workers before there was a choice.",
        ),
        sa.CheckConstraint("id = 1", name=op.f("ck_site_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_site")),
        comment="What is so for all of this database: one row.",
    )
    # What was scored before is found again by its old hash alone, since nobody has its bytes; and
    # workers of older releases go on.
    begun = any(
        op.get_bind().execute(sa.text(f"SELECT 1 FROM {older} LIMIT 1")).first() is not None  # noqa: S608
        for older in ("jobs", "workers")
    )
    op.bulk_insert(table, [{"id": 1, "content_hash": "blake2b" if begun else "blake3"}])
    _content("Hash of the film's bytes: which one, `site` says.")


def downgrade() -> None:
    _content("BLAKE2b-128 of the film's bytes.")
    # Films that are known by what 0018 does not have are scored again.
    op.execute("DELETE FROM films WHERE (SELECT content_hash FROM site) = 'blake3'")
    op.drop_table("site")


def _content(comment: str) -> None:
    """What the column means; SQLite keeps no comments."""
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("films", "content", existing_type=sa.LargeBinary(16), comment=comment)
