"""Pages: files with films in them that were written outside the database

Revision: 0015
After: 0014
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from db.base.types import BigId, UtcDateTime

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "pages",
        sa.Column("id", BigId, nullable=False, comment="Number."),
        sa.Column(
            "kind",
            sa.String(16),
            nullable=False,
            comment="report, review, export, folder (of films) or labels (a CSV that was read).",
        ),
        sa.Column("path", sa.Text(), nullable=False, comment="Absolute path it was written to."),
        sa.Column("job_id", sa.BigInteger(), nullable=True, comment="Job that it is of (jobs.id)."),
        sa.Column(
            "model_id", sa.BigInteger(), nullable=True, comment="Model that it is of (models.id)."
        ),
        sa.Column("run_id", sa.BigInteger(), nullable=True, comment="Night it is of (runs.id)."),
        sa.Column(
            "n_films",
            sa.Integer(),
            nullable=True,
            comment="Films in it that page_films names; NULL: all of its job.",
        ),
        sa.Column("written_by", sa.Text(), nullable=False, comment="User and host."),
        sa.Column("written_at", UtcDateTime(), nullable=False, comment="When it was written."),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pages")),
        comment="Files and folders with films, or names of films, that were written for a person.",
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_pages_job_id"), "pages", ["job_id"])
    op.create_table(
        "page_films",
        sa.Column("page_id", BigId, nullable=False, autoincrement=False, comment="Page."),
        sa.Column(
            "job_id", sa.BigInteger(), nullable=False, autoincrement=False, comment="Scoring job."
        ),
        sa.Column(
            "item_no", sa.Integer(), nullable=False, autoincrement=False, comment="Item of it."
        ),
        sa.ForeignKeyConstraint(
            ["page_id"], ["pages.id"], name=op.f("fk_page_films_page_id_pages")
        ),
        sa.PrimaryKeyConstraint("page_id", "job_id", "item_no", name=op.f("pk_page_films")),
        comment="Which films are in a page, so that an erasure can name it.",
    )
    op.create_index(op.f("ix_page_films_job_id_item_no"), "page_films", ["job_id", "item_no"])


def downgrade() -> None:
    op.drop_table("page_films")
    op.drop_table("pages")
