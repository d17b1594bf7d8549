"""Bulk scoring: precision per job, content of sources, studies, listings apart from shards

Revision: 0002
After: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from db.base.types import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

#: table, column → comment before, comment after. SQLite keeps no comments.
COMMENTS = {
    ("sources", "kind"): (
        "folder, file, zip, tar or tar.gz.",
        "folder, file, zip, tar, tar.gz, tar.zst, list or glob.",
    ),
    ("sources", "fingerprint"): (
        "Identity of the archive when it was planned.",
        "Identity of the archive when it was submitted.",
    ),
    ("sources", "seek_index"): (
        "tar.gz: where decompression can start.",
        "Compressed tar: where decompression can start.",
    ),
    ("evaluations", "split"): (
        "validation, test, or a slice's name.",
        "validation, test, a slice's name, or `labels of job 7`.",
    ),
}
SHARDS = (
    "A run of consecutive items of a scoring job: the unit of claiming and committing.",
    "A run of consecutive items of a scoring job: the unit of claiming and committing. "
    "Of a purged job, one row with the sums.",
)


def _comment(which: int) -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    for (table, column), both in COMMENTS.items():
        op.alter_column(table, column, comment=both[which])
    op.create_table_comment("shards", SHARDS[which])


def upgrade() -> None:
    op.add_column(
        "jobs",
        sa.Column(
            "precision",
            sa.String(length=8),
            nullable=True,
            comment="Scoring: fp32, bf16 or int8, pinned when submitted.",
        ),
    )
    op.add_column(
        "jobs",
        sa.Column(
            "purged_at",
            UtcDateTime(),
            nullable=True,
            comment="Its outcomes were removed; only their sums are left.",
        ),
    )
    op.execute("UPDATE jobs SET precision = 'fp32' WHERE kind = 'score'")
    op.add_column(
        "sources",
        sa.Column(
            "content_id",
            sa.Text(),
            nullable=True,
            comment="Identity of the archive's content, where one is known cheaply.",
        ),
    )
    op.add_column(
        "sources",
        sa.Column(
            "streams",
            sa.Boolean(),
            server_default=sa.false(),
            nullable=False,
            comment="Whether it can be read from its start only.",
        ),
    )
    op.create_index(
        "ix_sources_content_id",
        "sources",
        ["content_id"],
        postgresql_where=sa.text("content_id IS NOT NULL"),
        sqlite_where=sa.text("content_id IS NOT NULL"),
    )
    op.create_table(
        "shard_listings",
        sa.Column(
            "job_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
            comment="Job.",
        ),
        sa.Column("shard_no", sa.Integer(), autoincrement=False, nullable=False, comment="Shard."),
        sa.Column(
            "listing",
            sa.LargeBinary(),
            nullable=False,
            comment="Compressed listing: names, offsets, sizes, CRCs.",
        ),
        sa.ForeignKeyConstraint(
            ["job_id", "shard_no"],
            ["shards.job_id", "shards.shard_no"],
            name=op.f("fk_shard_listings_job_id_shards"),
        ),
        sa.PrimaryKeyConstraint("job_id", "shard_no", name=op.f("pk_shard_listings")),
        comment="The members that a shard's items are.",
    )
    op.execute(
        "INSERT INTO shard_listings (job_id, shard_no, listing) "
        "SELECT job_id, shard_no, listing FROM shards"
    )
    op.drop_column("shards", "listing")
    op.create_table(
        "identities",
        sa.Column(
            "job_id",
            sa.BigInteger(),
            autoincrement=False,
            nullable=False,
            comment="The scoring job.",
        ),
        sa.Column(
            "item_no",
            sa.Integer(),
            autoincrement=False,
            nullable=False,
            comment="The item's place in the job's listing, from 0.",
        ),
        sa.Column(
            "patient",
            sa.String(length=32),
            nullable=True,
            comment="Keyed hash of the patient's identifier.",
        ),
        sa.Column(
            "study",
            sa.String(length=32),
            nullable=True,
            comment="Keyed hash of the study's identifier.",
        ),
        sa.Column(
            "accession",
            sa.String(length=32),
            nullable=True,
            comment="Keyed hash of the accession number.",
        ),
        sa.PrimaryKeyConstraint("job_id", "item_no", name=op.f("pk_identities")),
        comment="Whose film a DICOM item is, as keyed hashes: results roll up per study.",
        postgresql_partition_by="RANGE (job_id)",
        sqlite_with_rowid=False,
    )
    if op.get_bind().dialect.name == "postgresql":
        # Jobs that exist already have partitions of the other tables only.
        op.execute(
            """
            DO $$
            DECLARE part record;
            BEGIN
                FOR part IN
                    SELECT replace(child.relname, 'predictions', 'identities') AS name,
                           pg_get_expr(child.relpartbound, child.oid) AS bound
                    FROM pg_inherits
                    JOIN pg_class child ON child.oid = inhrelid
                    WHERE inhparent = 'predictions'::regclass
                LOOP
                    EXECUTE format(
                        'CREATE TABLE %I PARTITION OF identities %s', part.name, part.bound
                    );
                END LOOP;
            END $$
            """
        )
    op.drop_table("films")  # nothing wrote it so far
    op.create_table(
        "films",
        sa.Column(
            "model_id",
            sa.BigInteger(),
            autoincrement=False,
            nullable=False,
            comment="Model that scored it.",
        ),
        sa.Column(
            "precision",
            sa.String(length=8),
            nullable=False,
            comment="Precision it was scored in.",
        ),
        sa.Column(
            "content",
            sa.LargeBinary(length=16),
            nullable=False,
            comment="BLAKE2b-128 of the film's bytes.",
        ),
        sa.Column(
            "job_id", sa.BigInteger(), nullable=False, comment="Job that holds the prediction."
        ),
        sa.Column(
            "item_no", sa.Integer(), nullable=False, comment="Item that holds the prediction."
        ),
        sa.PrimaryKeyConstraint("model_id", "precision", "content", name=op.f("pk_films")),
        comment="Content that was scored before, so that it can be answered without scoring.",
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("evaluations") as batch_op:
        batch_op.alter_column("split", existing_type=sa.String(16), type_=sa.String(64))
    _comment(1)


def downgrade() -> None:
    _comment(0)
    op.execute("DELETE FROM evaluations WHERE length(split) > 16")
    with op.batch_alter_table("evaluations") as batch_op:
        batch_op.alter_column("split", existing_type=sa.String(64), type_=sa.String(16))
    op.drop_table("films")
    op.create_table(
        "films",
        sa.Column(
            "content",
            sa.LargeBinary(length=16),
            nullable=False,
            comment="BLAKE2b-128 of the film's bytes.",
        ),
        sa.Column(
            "sha256", sa.String(length=64), nullable=False, comment="Model file that scored it."
        ),
        sa.Column("job_id", sa.BigInteger(), nullable=False, comment="Job that holds the outcome."),
        sa.Column("item_no", sa.Integer(), nullable=False, comment="Item that holds the outcome."),
        sa.PrimaryKeyConstraint("content", "sha256", name=op.f("pk_films")),
        comment="Content that was scored before, so that it can be answered without scoring.",
        sqlite_with_rowid=False,
    )
    op.drop_table("identities")
    # SQLite adds a NOT NULL column only with a default. A purged job's row of sums has no listing.
    empty = "''" if op.get_bind().dialect.name == "postgresql" else "x''"
    op.add_column(
        "shards",
        sa.Column(
            "listing",
            sa.LargeBinary(),
            server_default=sa.text(empty),
            nullable=False,
            comment="Compressed listing: names, offsets, sizes, CRCs.",
        ),
    )
    op.execute(
        "UPDATE shards SET listing = l.listing FROM shard_listings AS l "
        "WHERE l.job_id = shards.job_id AND l.shard_no = shards.shard_no"
    )
    op.drop_table("shard_listings")
    op.drop_index("ix_sources_content_id", "sources")
    op.drop_column("sources", "streams")
    op.drop_column("sources", "content_id")
    op.drop_column("jobs", "purged_at")
    op.drop_column("jobs", "precision")
