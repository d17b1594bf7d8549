"""Everything from the start

Revision: 0001
After: None
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from db.base.types import UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "cams",
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
        sa.Column("height", sa.SmallInteger(), nullable=False, comment="Rows of the map."),
        sa.Column("width", sa.SmallInteger(), nullable=False, comment="Columns of the map."),
        sa.Column("low", sa.Float(), nullable=False, comment="Logit that byte 0 stands for."),
        sa.Column("high", sa.Float(), nullable=False, comment="Logit that byte 255 stands for."),
        sa.Column(
            "data",
            sa.LargeBinary(),
            nullable=False,
            comment="height × width bytes, row by row, linear from low to high.",
        ),
        sa.PrimaryKeyConstraint("job_id", "item_no", name=op.f("pk_cams")),
        comment="Class-activation map of the positive class: where in the film the evidence is.",
        postgresql_partition_by="RANGE (job_id)",
        sqlite_with_rowid=False,
    )
    op.create_table(
        "datasets",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
            comment="Number.",
        ),
        sa.Column(
            "hash",
            sa.String(length=64),
            nullable=False,
            comment="SHA-256 of the manifest: same films, labels and split, same hash.",
        ),
        sa.Column("root", sa.Text(), nullable=False, comment="Folder it was read from."),
        sa.Column("n_train", sa.Integer(), nullable=False, comment="Films trained on."),
        sa.Column("n_val", sa.Integer(), nullable=False, comment="Films validated on."),
        sa.Column("n_patients", sa.Integer(), nullable=False, comment="Patients in both."),
        sa.Column(
            "classes",
            sa.JSON().with_variant(postgresql.JSONB(), "postgresql"),
            nullable=False,
            comment="Films per class name.",
        ),
        sa.Column(
            "notes",
            sa.JSON().with_variant(postgresql.JSONB(), "postgresql"),
            nullable=False,
            comment="Sentences about how it was read.",
        ),
        sa.Column(
            "manifest",
            sa.LargeBinary(),
            nullable=False,
            comment="zlib of a CSV: path, sha256, label, patient, split.",
        ),
        sa.Column("created_at", UtcDateTime(), nullable=False, comment="First seen."),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datasets")),
        sa.UniqueConstraint("hash", name=op.f("uq_datasets_hash")),
        sqlite_autoincrement=True,
        comment="A labelled folder as it was when a training job read it.",
    )
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
    op.create_table(
        "item_errors",
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
            "shard_no",
            sa.Integer(),
            nullable=False,
            comment="The shard that produced this outcome.",
        ),
        sa.Column(
            "name",
            sa.Text(),
            nullable=False,
            comment="The member's name in its source, escaped where it is not printable.",
        ),
        sa.Column("code", sa.String(length=32), nullable=False, comment="Stable short word."),
        sa.Column("detail", sa.Text(), nullable=False, comment="What was found, in a sentence."),
        sa.PrimaryKeyConstraint("job_id", "item_no", name=op.f("pk_item_errors")),
        comment="A broken item.",
        postgresql_partition_by="RANGE (job_id)",
        sqlite_with_rowid=False,
    )
    op.create_table(
        "labels",
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
        sa.Column("label", sa.Text(), nullable=False, comment="True class name."),
        sa.Column("imported_at", UtcDateTime(), nullable=False, comment="When it was brought in."),
        sa.Column("imported_by", sa.Text(), nullable=False, comment="Who brought it in."),
        sa.PrimaryKeyConstraint("job_id", "item_no", name=op.f("pk_labels")),
        comment="Ground truth brought in after scoring.",
        postgresql_partition_by="RANGE (job_id)",
        sqlite_with_rowid=False,
    )
    op.create_table(
        "predictions",
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
            "shard_no",
            sa.Integer(),
            nullable=False,
            comment="The shard that produced this outcome.",
        ),
        sa.Column(
            "name",
            sa.Text(),
            nullable=False,
            comment="The member's name in its source, escaped where it is not printable.",
        ),
        sa.Column("model_id", sa.Integer(), nullable=False, comment="models.id."),
        sa.Column(
            "label_no",
            sa.SmallInteger(),
            nullable=False,
            comment="model_labels.label_no, by the operating threshold.",
        ),
        sa.Column(
            "probability",
            sa.Double(),
            nullable=False,
            comment="P(positive class), 0 to 1, calibrated. Always that class.",
        ),
        sa.Column(
            "scores",
            sa.JSON().with_variant(postgresql.JSONB(), "postgresql"),
            nullable=True,
            comment="All classes' probabilities, where there are more than two.",
        ),
        sa.Column(
            "ood",
            sa.Double(),
            nullable=True,
            comment="Distance from the training films; about 1 is typical.",
        ),
        sa.Column(
            "reused_from_job",
            sa.BigInteger(),
            nullable=True,
            comment="Answered from this job's row.",
        ),
        sa.Column(
            "reused_from_item",
            sa.Integer(),
            nullable=True,
            comment="Answered from this item's row.",
        ),
        sa.CheckConstraint(
            "probability >= 0 AND probability <= 1", name=op.f("ck_predictions_probability")
        ),
        sa.PrimaryKeyConstraint("job_id", "item_no", name=op.f("pk_predictions")),
        comment="A film that was scored.",
        postgresql_partition_by="RANGE (job_id)",
        sqlite_with_rowid=False,
    )
    op.create_table(
        "refusals",
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
            "shard_no",
            sa.Integer(),
            nullable=False,
            comment="The shard that produced this outcome.",
        ),
        sa.Column(
            "name",
            sa.Text(),
            nullable=False,
            comment="The member's name in its source, escaped where it is not printable.",
        ),
        sa.Column("code", sa.String(length=32), nullable=False, comment="Stable short word."),
        sa.Column("detail", sa.Text(), nullable=False, comment="What was found, in a sentence."),
        sa.PrimaryKeyConstraint("job_id", "item_no", name=op.f("pk_refusals")),
        comment="An intact item that is not a film to be scored.",
        postgresql_partition_by="RANGE (job_id)",
        sqlite_with_rowid=False,
    )
    op.create_table(
        "schedules",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
            comment="Number.",
        ),
        sa.Column("name", sa.String(length=64), nullable=False, comment="Name."),
        sa.Column("cron", sa.String(length=128), nullable=False, comment="Five cron fields."),
        sa.Column(
            "tz",
            sa.String(length=64),
            nullable=False,
            comment="IANA time zone that the fields are read in.",
        ),
        sa.Column("kind", sa.String(length=8), nullable=False, comment="Kind of job it makes."),
        sa.Column(
            "spec",
            sa.JSON().with_variant(postgresql.JSONB(), "postgresql"),
            nullable=False,
            comment="What the job is to do, as jobs.spec.",
        ),
        sa.Column(
            "paused", sa.Boolean(), nullable=False, comment="Whether it makes no jobs for now."
        ),
        sa.Column(
            "catch_up_s",
            sa.Integer(),
            nullable=False,
            comment="A missed run is made up for within this many seconds.",
        ),
        sa.Column("created_at", UtcDateTime(), nullable=False, comment="Added."),
        sa.Column("created_by", sa.Text(), nullable=False, comment="Who added it."),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedules")),
        sa.UniqueConstraint("name", name=op.f("uq_schedules_name")),
        sqlite_autoincrement=True,
        comment="Jobs to be made by the clock.",
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.String(length=64), nullable=False, comment="One per process start."),
        sa.Column("host", sa.Text(), nullable=False, comment="Machine."),
        sa.Column("pid", sa.Integer(), nullable=False, comment="Process id there."),
        sa.Column(
            "queues",
            sa.Text(),
            nullable=False,
            comment="What it listens to, comma-separated: score, train.",
        ),
        sa.Column("engine", sa.Text(), nullable=True, comment="What it computes with."),
        sa.Column(
            "versions",
            sa.JSON().with_variant(postgresql.JSONB(), "postgresql"),
            nullable=False,
            comment="Software versions.",
        ),
        sa.Column("started_at", UtcDateTime(), nullable=False, comment="Started."),
        sa.Column("seen_at", UtcDateTime(), nullable=False, comment="Latest heartbeat."),
        sa.Column("stopped_at", UtcDateTime(), nullable=True, comment="Stopped in good order."),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
        comment="Worker processes, past and present.",
    )
    with op.batch_alter_table("workers", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_workers_seen_at"), ["seen_at"], unique=False)

    op.create_table(
        "models",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
            comment="Number, as in `pneumoq models show 3`.",
        ),
        sa.Column("name", sa.String(length=128), nullable=False, comment="A name for people."),
        sa.Column(
            "state",
            sa.String(length=16),
            nullable=False,
            comment="candidate (usable) or retired (file may be pruned).",
        ),
        sa.Column("origin", sa.String(length=16), nullable=False, comment="trained or imported."),
        sa.Column("arch", sa.String(length=32), nullable=False, comment="Network architecture."),
        sa.Column(
            "positive",
            sa.Text(),
            nullable=False,
            comment="Class whose probability predictions.probability is.",
        ),
        sa.Column("size", sa.Integer(), nullable=False, comment="S: films are S × S pixels."),
        sa.Column(
            "film_rule",
            sa.String(length=64),
            nullable=False,
            comment="Versioned rule that makes its pixels.",
        ),
        sa.Column(
            "temperature",
            sa.Float(),
            nullable=False,
            comment="Calibration temperature inside the file.",
        ),
        sa.Column(
            "threshold",
            sa.Float(),
            nullable=False,
            comment="Operating point: P(positive) at or above is called positive.",
        ),
        sa.Column(
            "threshold_rule",
            sa.Text(),
            nullable=False,
            comment="How the operating point was chosen.",
        ),
        sa.Column("ood_threshold", sa.Float(), nullable=True, comment="ood above this is unusual."),
        sa.Column(
            "metrics",
            sa.JSON().with_variant(postgresql.JSONB(), "postgresql"),
            nullable=False,
            comment="Validation metrics by name.",
        ),
        sa.Column(
            "card",
            sa.JSON().with_variant(postgresql.JSONB(), "postgresql"),
            nullable=False,
            comment="The metadata inside the model file, whole.",
        ),
        sa.Column(
            "dataset_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=True,
            comment="Trained on.",
        ),
        sa.Column("job_id", sa.BigInteger(), nullable=True, comment="Trained by (jobs.id)."),
        sa.Column(
            "parent_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=True,
            comment="Weights it started from, where those were a model here.",
        ),
        sa.Column("created_at", UtcDateTime(), nullable=False, comment="Registered."),
        sa.CheckConstraint("origin IN ('trained', 'imported')", name=op.f("ck_models_origin")),
        sa.CheckConstraint("state IN ('candidate', 'retired')", name=op.f("ck_models_state")),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_models_dataset_id_datasets")
        ),
        sa.ForeignKeyConstraint(
            ["parent_id"], ["models.id"], name=op.f("fk_models_parent_id_models")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
        sa.UniqueConstraint("name", name=op.f("uq_models_name")),
        sqlite_autoincrement=True,
        comment="A registered model. Which one is in use is told by aliases.",
    )
    op.create_table(
        "aliases",
        sa.Column(
            "name", sa.String(length=64), nullable=False, comment="champion, or a name of yours."
        ),
        sa.Column(
            "model_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
            comment="Model it stands for now.",
        ),
        sa.Column("moved_at", UtcDateTime(), nullable=False, comment="Last moved."),
        sa.Column("moved_by", sa.Text(), nullable=False, comment="Who moved it."),
        sa.Column("reason", sa.Text(), nullable=False, comment="Why."),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name=op.f("fk_aliases_model_id_models")
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_aliases")),
        comment="Names that stand for a model. Jobs resolve theirs once, when they are submitted.",
    )
    op.create_table(
        "jobs",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
            comment="Number.",
        ),
        sa.Column("kind", sa.String(length=8), nullable=False, comment="score or train."),
        sa.Column(
            "state",
            sa.String(length=24),
            nullable=False,
            comment="queued, planning, running, paused; finally completed, completed_with_errors, failed or cancelled.",
        ),
        sa.Column("reason", sa.Text(), nullable=True, comment="Why it failed or was cancelled."),
        sa.Column(
            "priority",
            sa.SmallInteger(),
            server_default="0",
            nullable=False,
            comment="Higher goes first; then older.",
        ),
        sa.Column(
            "spec",
            sa.JSON().with_variant(postgresql.JSONB(), "postgresql"),
            nullable=False,
            comment="What to do: the options as submitted, defaults filled in.",
        ),
        sa.Column(
            "model_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=True,
            comment="Scoring: the model, pinned when submitted. Training: the model made.",
        ),
        sa.Column(
            "dataset_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=True,
            comment="Training: what it read.",
        ),
        sa.Column(
            "parent_job_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=True,
            comment="The job that this one retries or resumes.",
        ),
        sa.Column(
            "schedule_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=True,
            comment="The schedule that made it.",
        ),
        sa.Column(
            "scheduled_for",
            UtcDateTime(),
            nullable=True,
            comment="The time of the schedule that it was made for.",
        ),
        sa.Column(
            "key",
            sa.String(length=128),
            nullable=True,
            comment="Submitting the same key again returns the same job.",
        ),
        sa.Column(
            "submitted_by",
            sa.Text(),
            nullable=False,
            comment="Operating-system user and host that submitted it.",
        ),
        sa.Column("created_at", UtcDateTime(), nullable=False, comment="Submitted."),
        sa.Column("started_at", UtcDateTime(), nullable=True, comment="First claimed."),
        sa.Column(
            "planned_at", UtcDateTime(), nullable=True, comment="Scoring: the listing is complete."
        ),
        sa.Column("finished_at", UtcDateTime(), nullable=True, comment="Reached a final state."),
        sa.Column(
            "planned_items",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Scoring: items listed so far.",
        ),
        sa.Column(
            "planned_shards",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Scoring: shards written so far.",
        ),
        sa.Column(
            "passed_over",
            sa.JSON().with_variant(postgresql.JSONB(), "postgresql"),
            nullable=True,
            comment="Scoring: entries that are no items, counted by kind.",
        ),
        sa.Column(
            "progress",
            sa.JSON().with_variant(postgresql.JSONB(), "postgresql"),
            nullable=True,
            comment="Training: how far the current epoch is, every few seconds.",
        ),
        sa.Column(
            "lease_token",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="Counts claims; every write of a holder carries it.",
        ),
        sa.Column(
            "lease_until",
            UtcDateTime(),
            nullable=True,
            comment="The holder lost the lease unless it renewed it by then.",
        ),
        sa.Column(
            "worker_id", sa.String(length=64), nullable=True, comment="Latest holder (workers.id)."
        ),
        sa.Column(
            "attempts",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Claims that were not handed back in good order.",
        ),
        sa.Column(
            "not_before",
            UtcDateTime(),
            nullable=True,
            comment="After a failure, not to be claimed again earlier.",
        ),
        sa.CheckConstraint(
            "(state IN ('completed', 'completed_with_errors', 'failed', 'cancelled')) = (finished_at IS NOT NULL)",
            name=op.f("ck_jobs_finished"),
        ),
        sa.CheckConstraint("kind IN ('score', 'train')", name=op.f("ck_jobs_kind")),
        sa.CheckConstraint(
            "state IN ('queued', 'planning', 'running', 'paused', 'completed', 'completed_with_errors', 'failed', 'cancelled')",
            name=op.f("ck_jobs_state"),
        ),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_jobs_dataset_id_datasets")
        ),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_jobs_model_id_models")),
        sa.ForeignKeyConstraint(
            ["parent_job_id"], ["jobs.id"], name=op.f("fk_jobs_parent_job_id_jobs")
        ),
        sa.ForeignKeyConstraint(
            ["schedule_id"], ["schedules.id"], name=op.f("fk_jobs_schedule_id_schedules")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("key", name=op.f("uq_jobs_key")),
        sa.UniqueConstraint(
            "schedule_id", "scheduled_for", name=op.f("uq_jobs_schedule_id_scheduled_for")
        ),
        sqlite_autoincrement=True,
        comment="A training or scoring job. This row is the truth; the queue only rings a bell.",
    )
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.create_index(
            "ix_jobs_open",
            ["kind", "priority", "id"],
            unique=False,
            postgresql_where=sa.text("finished_at IS NULL"),
            sqlite_where=sa.text("finished_at IS NULL"),
        )

    op.create_table(
        "model_events",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
            comment="Number.",
        ),
        sa.Column(
            "model_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
            comment="Model.",
        ),
        sa.Column("at", UtcDateTime(), nullable=False, comment="When."),
        sa.Column("who", sa.Text(), nullable=False, comment="User or worker."),
        sa.Column(
            "event",
            sa.String(length=32),
            nullable=False,
            comment="registered, promoted, replaced, retired.",
        ),
        sa.Column("detail", sa.Text(), nullable=False, comment="Why, in a sentence."),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name=op.f("fk_model_events_model_id_models")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_events")),
        comment="What happened to models. Rows are only ever added.",
    )
    op.create_table(
        "model_files",
        sa.Column(
            "sha256", sa.String(length=64), nullable=False, comment="SHA-256 of the file's bytes."
        ),
        sa.Column(
            "model_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
            comment="Model.",
        ),
        sa.Column(
            "precision",
            sa.String(length=8),
            nullable=False,
            comment="fp32, fp16 or int8: the precision inside this file.",
        ),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False, comment="Length."),
        sa.Column("created_at", UtcDateTime(), nullable=False, comment="Registered."),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name=op.f("fk_model_files_model_id_models")
        ),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_model_files")),
        sa.UniqueConstraint(
            "model_id", "precision", name=op.f("uq_model_files_model_id_precision")
        ),
        comment="The ONNX files of a model, one per precision, addressed by content.",
    )
    op.create_table(
        "model_labels",
        sa.Column(
            "model_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
            comment="Model.",
        ),
        sa.Column(
            "label_no",
            sa.SmallInteger(),
            autoincrement=False,
            nullable=False,
            comment="Column of the network's scores.",
        ),
        sa.Column("name", sa.Text(), nullable=False, comment="Class name."),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name=op.f("fk_model_labels_model_id_models")
        ),
        sa.PrimaryKeyConstraint("model_id", "label_no", name=op.f("pk_model_labels")),
        comment="Class names of a model.",
    )
    op.create_table(
        "engines",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
            comment="Number.",
        ),
        sa.Column(
            "sha256", sa.String(length=64), nullable=False, comment="Model file it was built from."
        ),
        sa.Column(
            "backend", sa.String(length=32), nullable=False, comment="openvino, tensorrt, ..."
        ),
        sa.Column(
            "backend_version", sa.String(length=64), nullable=False, comment="Version of that."
        ),
        sa.Column(
            "device", sa.Text(), nullable=False, comment="Processor or GPU it was built for."
        ),
        sa.Column(
            "precision",
            sa.String(length=8),
            nullable=False,
            comment="Precision that it computes in.",
        ),
        sa.Column(
            "options",
            sa.JSON().with_variant(postgresql.JSONB(), "postgresql"),
            nullable=False,
            comment="Build options.",
        ),
        sa.Column(
            "parity_delta",
            sa.Float(),
            nullable=True,
            comment="Largest |Δ probability| against the reference.",
        ),
        sa.Column(
            "passed", sa.Boolean(), nullable=False, comment="Whether it passed the parity gate."
        ),
        sa.Column("created_at", UtcDateTime(), nullable=False, comment="Built."),
        sa.Column("worker_id", sa.String(length=64), nullable=True, comment="Built by."),
        sa.ForeignKeyConstraint(
            ["sha256"], ["model_files.sha256"], name=op.f("fk_engines_sha256_model_files")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_engines")),
        sa.UniqueConstraint(
            "sha256",
            "backend",
            "backend_version",
            "device",
            "precision",
            name=op.f("uq_engines_sha256_backend_backend_version_device_precision"),
        ),
        comment="Engines that were built from model files, and whether they agree with the reference.",
    )
    op.create_table(
        "epochs",
        sa.Column(
            "job_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
            comment="Training job.",
        ),
        sa.Column("epoch", sa.Integer(), autoincrement=False, nullable=False, comment="From 1."),
        sa.Column(
            "train_loss",
            sa.Float(),
            nullable=False,
            comment="Mean loss over the epoch, as optimised.",
        ),
        sa.Column(
            "train_accuracy", sa.Float(), nullable=False, comment="0 to 1, on augmented films."
        ),
        sa.Column("train_auroc", sa.Float(), nullable=False, comment="0 to 1, on augmented films."),
        sa.Column(
            "val_loss", sa.Float(), nullable=False, comment="Mean cross-entropy on validation."
        ),
        sa.Column("val_accuracy", sa.Float(), nullable=False, comment="0 to 1."),
        sa.Column("val_auroc", sa.Float(), nullable=False, comment="0 to 1."),
        sa.Column("learning_rate", sa.Float(), nullable=False, comment="At the end of the epoch."),
        sa.Column("seconds", sa.Float(), nullable=False, comment="Training and validation."),
        sa.Column(
            "films_per_s",
            sa.Float(),
            nullable=False,
            comment="Training films per second, validation not counted.",
        ),
        sa.Column(
            "best",
            sa.Boolean(),
            nullable=False,
            comment="Whether it was the best so far when it ended.",
        ),
        sa.Column("finished_at", UtcDateTime(), nullable=False, comment="When it ended."),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_epochs_job_id_jobs")),
        sa.PrimaryKeyConstraint("job_id", "epoch", name=op.f("pk_epochs")),
        comment="One pass over the training films, and what validation said after it.",
    )
    op.create_table(
        "evaluations",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
            comment="Number.",
        ),
        sa.Column(
            "model_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
            comment="Model.",
        ),
        sa.Column(
            "dataset_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=True,
            comment="Labelled films.",
        ),
        sa.Column(
            "job_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=True,
            comment="Job that measured it.",
        ),
        sa.Column(
            "split",
            sa.String(length=16),
            nullable=False,
            comment="validation, test, or a slice's name.",
        ),
        sa.Column("n_films", sa.Integer(), nullable=False, comment="Films."),
        sa.Column(
            "metrics",
            sa.JSON().with_variant(postgresql.JSONB(), "postgresql"),
            nullable=False,
            comment="auroc, accuracy, sensitivity, specificity, ... by name.",
        ),
        sa.Column("created_at", UtcDateTime(), nullable=False, comment="Measured."),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_evaluations_dataset_id_datasets")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_evaluations_job_id_jobs")),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name=op.f("fk_evaluations_model_id_models")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluations")),
        comment="How a model did on labelled films.",
    )
    op.create_table(
        "job_events",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
            comment="Number.",
        ),
        sa.Column(
            "job_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
            comment="Job.",
        ),
        sa.Column("at", UtcDateTime(), nullable=False, comment="When."),
        sa.Column("who", sa.Text(), nullable=False, comment="User or worker."),
        sa.Column(
            "event",
            sa.String(length=32),
            nullable=False,
            comment="submitted, planning, running, completed, ...",
        ),
        sa.Column("detail", sa.Text(), nullable=True, comment="Why, in a sentence."),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_events_job_id_jobs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_events")),
        comment="What happened to jobs. Rows are only ever added.",
    )
    with op.batch_alter_table("job_events", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_job_events_job_id_id"), ["job_id", "id"], unique=False)

    op.create_table(
        "model_chunks",
        sa.Column("sha256", sa.String(length=64), nullable=False, comment="File."),
        sa.Column(
            "chunk_no",
            sa.Integer(),
            autoincrement=False,
            nullable=False,
            comment="Place in the file, from 0.",
        ),
        sa.Column("data", sa.LargeBinary(), nullable=False, comment="Bytes."),
        sa.ForeignKeyConstraint(
            ["sha256"], ["model_files.sha256"], name=op.f("fk_model_chunks_sha256_model_files")
        ),
        sa.PrimaryKeyConstraint("sha256", "chunk_no", name=op.f("pk_model_chunks")),
        comment="The bytes of model files: how a model reaches another machine.",
    )
    op.create_table(
        "rollups",
        sa.Column(
            "job_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
            comment="Job.",
        ),
        sa.Column("shard_no", sa.Integer(), autoincrement=False, nullable=False, comment="Shard."),
        sa.Column(
            "bucket",
            sa.SmallInteger(),
            autoincrement=False,
            nullable=False,
            comment="Probability in twentieths: 0 is [0, 0.05), 19 is [0.95, 1].",
        ),
        sa.Column(
            "label_no",
            sa.SmallInteger(),
            autoincrement=False,
            nullable=False,
            comment="Label given.",
        ),
        sa.Column("n", sa.Integer(), nullable=False, comment="Predictions."),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_rollups_job_id_jobs")),
        sa.PrimaryKeyConstraint(
            "job_id", "shard_no", "bucket", "label_no", name=op.f("pk_rollups")
        ),
        comment="Histogram of scores per shard, so that sums over millions of rows stay instant.",
    )
    op.create_table(
        "shards",
        sa.Column(
            "job_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
            comment="Job.",
        ),
        sa.Column(
            "shard_no",
            sa.Integer(),
            autoincrement=False,
            nullable=False,
            comment="Place in the job, from 0.",
        ),
        sa.Column(
            "source_no", sa.SmallInteger(), nullable=False, comment="Source of all its items."
        ),
        sa.Column("first_item", sa.Integer(), nullable=False, comment="item_no of its first item."),
        sa.Column("n_items", sa.Integer(), nullable=False, comment="Items."),
        sa.Column(
            "listing",
            sa.LargeBinary(),
            nullable=False,
            comment="Compressed listing: names, offsets, sizes, CRCs.",
        ),
        sa.Column(
            "state",
            sa.String(length=8),
            nullable=False,
            comment="ready, leased, done, or dead (attempts used up).",
        ),
        sa.Column(
            "n_predictions",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Items predicted.",
        ),
        sa.Column(
            "n_positive",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Items called positive.",
        ),
        sa.Column(
            "n_unusual",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Predictions with ood above the threshold.",
        ),
        sa.Column(
            "n_refused", sa.Integer(), server_default="0", nullable=False, comment="Items refused."
        ),
        sa.Column(
            "n_errors", sa.Integer(), server_default="0", nullable=False, comment="Items in error."
        ),
        sa.Column("finished_at", UtcDateTime(), nullable=True, comment="Outcomes committed."),
        sa.Column(
            "last_error", sa.Text(), nullable=True, comment="Why the latest attempt was given up."
        ),
        sa.Column(
            "lease_token",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="Counts claims; every write of a holder carries it.",
        ),
        sa.Column(
            "lease_until",
            UtcDateTime(),
            nullable=True,
            comment="The holder lost the lease unless it renewed it by then.",
        ),
        sa.Column(
            "worker_id", sa.String(length=64), nullable=True, comment="Latest holder (workers.id)."
        ),
        sa.Column(
            "attempts",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Claims that were not handed back in good order.",
        ),
        sa.Column(
            "not_before",
            UtcDateTime(),
            nullable=True,
            comment="After a failure, not to be claimed again earlier.",
        ),
        sa.CheckConstraint(
            "(state IN ('done', 'dead')) = (finished_at IS NOT NULL)",
            name=op.f("ck_shards_finished"),
        ),
        sa.CheckConstraint(
            "state <> 'done' OR n_predictions + n_refused + n_errors = n_items",
            name=op.f("ck_shards_complete"),
        ),
        sa.CheckConstraint(
            "state IN ('ready', 'leased', 'done', 'dead')", name=op.f("ck_shards_state")
        ),
        sa.CheckConstraint("n_items > 0", name=op.f("ck_shards_n_items")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_shards_job_id_jobs")),
        sa.PrimaryKeyConstraint("job_id", "shard_no", name=op.f("pk_shards")),
        comment="A run of consecutive items of a scoring job: the unit of claiming and committing.",
    )
    with op.batch_alter_table("shards", schema=None) as batch_op:
        batch_op.create_index(
            "ix_shards_open",
            ["job_id", "shard_no"],
            unique=False,
            postgresql_where=sa.text("finished_at IS NULL"),
            sqlite_where=sa.text("finished_at IS NULL"),
        )

    op.create_table(
        "sources",
        sa.Column(
            "job_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
            comment="Job.",
        ),
        sa.Column(
            "source_no",
            sa.SmallInteger(),
            autoincrement=False,
            nullable=False,
            comment="Place on the command line, from 0.",
        ),
        sa.Column(
            "uri",
            sa.Text(),
            nullable=False,
            comment="Absolute path of the folder, archive or film.",
        ),
        sa.Column(
            "kind",
            sa.String(length=16),
            nullable=False,
            comment="folder, file, zip, tar or tar.gz.",
        ),
        sa.Column(
            "fingerprint",
            sa.Text(),
            nullable=False,
            comment="Identity of the archive when it was planned.",
        ),
        sa.Column(
            "seek_index",
            sa.LargeBinary(),
            nullable=True,
            comment="tar.gz: where decompression can start.",
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_sources_job_id_jobs")),
        sa.PrimaryKeyConstraint("job_id", "source_no", name=op.f("pk_sources")),
        comment="What a scoring job reads.",
    )


def downgrade() -> None:
    op.drop_table("sources")
    with op.batch_alter_table("shards", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_shards_open",
            postgresql_where=sa.text("finished_at IS NULL"),
            sqlite_where=sa.text("finished_at IS NULL"),
        )

    op.drop_table("shards")
    op.drop_table("rollups")
    op.drop_table("model_chunks")
    with op.batch_alter_table("job_events", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_job_events_job_id_id"))

    op.drop_table("job_events")
    op.drop_table("evaluations")
    op.drop_table("epochs")
    op.drop_table("engines")
    op.drop_table("model_labels")
    op.drop_table("model_files")
    op.drop_table("model_events")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_jobs_open",
            postgresql_where=sa.text("finished_at IS NULL"),
            sqlite_where=sa.text("finished_at IS NULL"),
        )

    op.drop_table("jobs")
    op.drop_table("aliases")
    op.drop_table("models")
    with op.batch_alter_table("workers", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_workers_seen_at"))

    op.drop_table("workers")
    op.drop_table("schedules")
    op.drop_table("refusals")
    op.drop_table("predictions")
    op.drop_table("labels")
    op.drop_table("item_errors")
    op.drop_table("films")
    op.drop_table("datasets")
    op.drop_table("cams")
