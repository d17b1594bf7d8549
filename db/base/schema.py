"""The tables. Each table and column says what it means; `pneumoq db schema` prints exactly this.

Those with sums over many shards are in `db.base.totals`.

People query the views (views.py), whose names and columns are stable. These tables may change, by
migration.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Table,
    UniqueConstraint,
)

from db.base.columns import column as _c
from db.base.columns import metadata as metadata
from db.base.totals import shard_totals as shard_totals
from db.base.totals import source_totals as source_totals
from db.base.types import BigId, Json, UtcDateTime

#: Jobs in these states never change again.
FINAL_JOB_STATES = ("completed", "completed_with_errors", "failed", "cancelled")
#: Shards of jobs in these states may be claimed.
SCORING_JOB_STATES = ("planning", "running")
JOB_STATES = ("queued", "planning", "running", "paused", *FINAL_JOB_STATES)
SHARD_STATES = ("ready", "leased", "done", "dead")
FINAL_SHARD_STATES = ("done", "dead")
RUN_STATES = ("due", "running", "proving", "done")
#: What became of a run of a schedule.
OUTCOMES = (
    "promoted", "kept", "skipped", "failed", "missed", "cancelled", "completed",
    "completed_with_errors",
)  # fmt: skip
#: Events of which hooks get a notice.
NOTICES = (
    "failed", "skipped", "missed", "kept", "promoted", "drift", "test", "with_errors",
    "source_away", "source_back", "not_promoted",
)  # fmt: skip

#: Rows keyed by (job, item) are stored in that order and, on PostgreSQL, partitioned by job, so
#: that an old job's rows can be dropped without a scan.
_BY_JOB: dict[str, Any] = {
    "postgresql_partition_by": "RANGE (job_id)",
    "sqlite_with_rowid": False,
}
PARTITIONED = ("predictions", "cams", "refusals", "item_errors", "labels", "identities")
#: Jobs in one partition.
PARTITION_JOBS = 1000


def _in(column: str, values: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(v) for v in values)})"


def _lease() -> list[sa.Column[Any]]:
    return [
        _c("lease_token", sa.BigInteger, "Counts claims; every write of a holder carries it.",
           server_default="0"),
        _c("lease_until", UtcDateTime, "The holder lost the lease unless it renewed it by then.",
           nullable=True),
        _c("worker_id", sa.String(64), "Latest holder (workers.id).", nullable=True),
        _c("attempts", sa.Integer, "Claims that were not handed back in good order.",
           server_default="0"),
        _c("not_before", UtcDateTime, "After a failure, not to be claimed again earlier.",
           nullable=True),
    ]  # fmt: skip


def _item(*columns: sa.Column[Any]) -> list[sa.Column[Any]]:
    return [
        _c("job_id", sa.BigInteger, "The scoring job.", primary_key=True, autoincrement=False),
        _c("item_no", sa.Integer, "The item's place in the job's listing, from 0.",
           primary_key=True, autoincrement=False),
        *columns,
    ]  # fmt: skip


def _outcome() -> list[sa.Column[Any]]:
    return [
        _c("shard_no", sa.Integer, "The shard that produced this outcome."),
        _c("name", sa.Text, "The member's name in its source, escaped where it is not printable."),
    ]


datasets = Table(
    "datasets", metadata,
    _c("id", BigId, "Number.", primary_key=True),
    _c("hash", sa.String(64), "SHA-256 of the manifest: same films, labels and split, same hash."),
    _c("root", sa.Text, "Folder it was read from."),
    _c("n_train", sa.Integer, "Films trained on."),
    _c("n_val", sa.Integer, "Films validated on."),
    _c("n_patients", sa.Integer, "Patients in both."),
    _c("classes", Json, "Films per class name."),
    _c("notes", Json, "Sentences about how it was read."),
    _c("manifest", sa.LargeBinary, "zlib of a CSV: path, sha256, label, patient, split."),
    _c("created_at", UtcDateTime, "First seen."),
    UniqueConstraint("hash"),
    sqlite_autoincrement=True,  # a removed row's number is never given again
    comment="A labelled folder as it was when a training job read it.",
)  # fmt: skip

models = Table(
    "models", metadata,
    _c("id", BigId, "Number, as in `pneumoq models show 3`.", primary_key=True),
    _c("name", sa.String(128), "A name for people."),
    _c("state", sa.String(16), "candidate (usable) or retired (file may be pruned)."),
    _c("origin", sa.String(16), "trained or imported."),
    _c("arch", sa.String(32), "Network architecture."),
    _c("positive", sa.Text, "Class whose probability predictions.probability is."),
    _c("size", sa.Integer, "S: films are S × S pixels."),
    _c("film_rule", sa.String(64), "Versioned rule that makes its pixels."),
    _c("temperature", sa.Float, "Calibration temperature inside the file."),
    _c("threshold", sa.Float, "Operating point: P(positive) at or above is called positive."),
    _c("threshold_rule", sa.Text, "How the operating point was chosen."),
    _c("ood_threshold", sa.Float, "ood above this is unusual.", nullable=True),
    _c("metrics", Json, "Validation metrics by name."),
    _c("card", Json, "The metadata inside the model file, whole."),
    _c("reference", Json,
       "What drift is measured against (`of`, `n`, `histogram`, `unusual`), and what every engine "
       "must say of drawn films (`golden`).", nullable=True),
    _c("dataset_id", BigId, "Trained on.", ForeignKey("datasets.id"), nullable=True),
    _c("job_id", sa.BigInteger, "Trained by (jobs.id).", nullable=True),
    _c("parent_id", BigId, "Weights it started from, where those were a model here.",
       ForeignKey("models.id"), nullable=True),
    _c("created_at", UtcDateTime, "Registered."),
    _c("calibrated_on", sa.Text,
       "Labelled films that its temperature and operating point were chosen on anew, the weights "
       "being those of parent_id; NULL where it was trained or imported.", nullable=True),
    _c("calibration_films", sa.Integer, "How many films those were.", nullable=True),
    _c("calibration_patients", sa.Integer, "Of how many patients.", nullable=True),
    UniqueConstraint("name"),
    CheckConstraint(_in("state", ("candidate", "retired")), name="state"),
    CheckConstraint(_in("origin", ("trained", "imported")), name="origin"),
    sqlite_autoincrement=True,  # a removed row's number is never given again
    comment="A registered model. Which one is in use is told by aliases.",
)  # fmt: skip

model_labels = Table(
    "model_labels", metadata,
    _c("model_id", BigId, "Model.", ForeignKey("models.id"), primary_key=True),
    _c("label_no", sa.SmallInteger, "Column of the network's scores.", primary_key=True,
       autoincrement=False),
    _c("name", sa.Text, "Class name."),
    comment="Class names of a model.",
)  # fmt: skip

model_looks = Table(
    "model_looks", metadata,
    _c("model_id", BigId, "Model.", ForeignKey("models.id"), primary_key=True),
    _c("look_no", sa.SmallInteger, "Column of the network's look.", primary_key=True,
       autoincrement=False),
    _c("what", sa.Text, "How the films are alike, as in: films with …"),
    _c("label", sa.Text, "Class that training saw nearly all of them with."),
    _c("films", Json, "Training films of the group per class name."),
    _c("patients", sa.Integer, "Patients of these."),
    comment="Groups of a model's training films that look acquired alike and are of one class.",
)  # fmt: skip

model_files = Table(
    "model_files", metadata,
    _c("sha256", sa.String(64), "SHA-256 of the file's bytes.", primary_key=True),
    _c("model_id", BigId, "Model.", ForeignKey("models.id")),
    _c("precision", sa.String(8), "fp32, fp16 or int8: the precision inside this file."),
    _c("size_bytes", sa.BigInteger, "Length."),
    _c("created_at", UtcDateTime, "Registered."),
    UniqueConstraint("model_id", "precision"),
    comment="The ONNX files of a model, one per precision, addressed by content.",
)  # fmt: skip

model_chunks = Table(
    "model_chunks",
    metadata,
    _c("sha256", sa.String(64), "File.", ForeignKey("model_files.sha256"), primary_key=True),
    _c("chunk_no", sa.Integer, "Place in the file, from 0.", primary_key=True, autoincrement=False),
    _c("data", sa.LargeBinary, "Bytes."),
    comment="The bytes of model files: how a model reaches another machine.",
)

engines = Table(
    "engines",
    metadata,
    _c("id", BigId, "Number.", primary_key=True),
    _c("sha256", sa.String(64), "Model file it was built from.", ForeignKey("model_files.sha256")),
    _c("backend", sa.String(32), "openvino, onnxruntime, tensorrt or tensorrt_rtx."),
    _c("backend_version", sa.String(64), "Version of that."),
    _c("device", sa.Text, "Processor or GPU it was built for."),
    _c("precision", sa.String(8), "Precision that it computes in."),
    _c("options", Json, "Build options."),
    _c("parity_delta", sa.Float, "Largest |Δ probability| against the reference.", nullable=True),
    _c("passed", sa.Boolean, "Whether it passed the parity gate."),
    _c("created_at", UtcDateTime, "Built."),
    _c("worker_id", sa.String(64), "Built by.", nullable=True),
    UniqueConstraint("sha256", "backend", "backend_version", "device", "precision"),
    comment="Engines that were built from model files, and whether they agree with the reference.",
)

aliases = Table(
    "aliases",
    metadata,
    _c("name", sa.String(64), "champion, or a name of yours.", primary_key=True),
    _c("model_id", BigId, "Model it stands for now.", ForeignKey("models.id")),
    _c("moved_at", UtcDateTime, "Last moved."),
    _c("moved_by", sa.Text, "Who moved it."),
    _c("reason", sa.Text, "Why."),
    comment="Names that stand for a model. Jobs resolve theirs once, when they are submitted.",
)

promotions = Table(
    "promotions",
    metadata,
    _c("id", BigId, "Number.", primary_key=True),
    _c("alias", sa.String(64), "Name that was moved."),
    _c("model_id", BigId, "Model it stands for since.", ForeignKey("models.id")),
    _c("previous_id", BigId, "Model it stood for before.", ForeignKey("models.id"), nullable=True),
    _c("how", sa.String(16), "first, promote or rollback."),
    _c("run_id", BigId, "Run of a schedule that decided it.", ForeignKey("runs.id"), nullable=True),
    _c("at", UtcDateTime, "When."),
    _c("who", sa.Text, "User or worker."),
    _c("reason", sa.Text, "Why."),
    _c(
        "anchor",
        sa.Boolean,
        "Whether nights compare with this model from then on, as with one that a person chose. "
        "NULL, of older releases: they do where no run decided it.",
        nullable=True,
    ),
    Index(None, "alias", "id"),
    CheckConstraint(_in("how", ("first", "promote", "rollback")), name="how"),
    comment="Every move of an alias: what `models rollback` goes back by. Rows are only added.",
)

model_events = Table(
    "model_events",
    metadata,
    _c("id", BigId, "Number.", primary_key=True),
    _c("model_id", BigId, "Model.", ForeignKey("models.id")),
    _c("at", UtcDateTime, "When."),
    _c("who", sa.Text, "User or worker."),
    _c("event", sa.String(32), "registered, promoted, replaced, retired."),
    _c("detail", sa.Text, "Why, in a sentence."),
    comment="What happened to models. Rows are only ever added.",
)

schedules = Table(
    "schedules",
    metadata,
    _c("id", BigId, "Number.", primary_key=True),
    _c("name", sa.String(64), "Name; of a removed one with its number, so that it is free."),
    _c("cron", sa.String(128), "Five cron fields."),
    _c("tz", sa.String(64), "IANA time zone that the fields are read in."),
    _c("kind", sa.String(8), "Kind of job it makes."),
    _c("spec", Json, "`job`: as jobs.spec; `night` or `watch`: how it is judged, or found."),
    _c("paused", sa.Boolean, "Whether it makes no jobs for now."),
    _c("catch_up_s", sa.Integer, "A missed run is made up for within this many seconds."),
    _c("created_at", UtcDateTime, "Added."),
    _c("created_by", sa.Text, "Who added it."),
    _c("considered_until", UtcDateTime, "Times up to then were dealt with.", nullable=True),
    _c(
        "evaluation_id",
        sa.BigInteger,
        "Frozen films that its models are compared on (datasets.id).",
        nullable=True,
    ),
    _c("removed_at", UtcDateTime, "Removed; its runs stay.", nullable=True),
    UniqueConstraint("name"),
    sqlite_autoincrement=True,  # a removed row's number is never given again
    comment="Jobs to be made by the clock.",
)

jobs = Table(
    "jobs", metadata,
    _c("id", BigId, "Number.", primary_key=True),
    _c("kind", sa.String(8), "score or train."),
    _c("state", sa.String(24),
       "queued, planning, running, paused; finally completed, completed_with_errors, failed or "
       "cancelled."),
    _c("reason", sa.Text, "Why it failed or was cancelled.", nullable=True),
    _c("priority", sa.SmallInteger,
       "Higher goes first; then, of scoring, whose share it is; then older.", server_default="0"),
    _c("spec", Json, "What to do: the options as submitted, defaults filled in."),
    _c("model_id", BigId, "Scoring: the model, pinned when submitted. Training: the model made.",
       ForeignKey("models.id"), nullable=True),
    _c("precision", sa.String(8), "Scoring: fp32, bf16, fp16 or int8, pinned when submitted.",
       nullable=True),
    _c("engine", sa.String(16),
       "Scoring: tensorrt or onnx, where only workers with that may score it.", nullable=True),
    _c("dataset_id", BigId, "Training: what it read.", ForeignKey("datasets.id"), nullable=True),
    _c("parent_job_id", BigId, "The job that this one retries or resumes.",
       ForeignKey("jobs.id"), nullable=True),
    _c("schedule_id", BigId, "The schedule that made it.", ForeignKey("schedules.id"),
       nullable=True),
    _c("scheduled_for", UtcDateTime, "The time of the schedule that it was made for.",
       nullable=True),
    _c("key", sa.String(128), "Submitting the same key again returns the same job.",
       nullable=True),
    _c("submitted_by", sa.Text, "Operating-system user and host that submitted it."),
    _c("share", sa.Text,
       "Whose share of the workers it takes: `--for`, else the user or the schedule. NULL, of "
       "release 0.2.0: who submitted it.", nullable=True),
    _c("created_at", UtcDateTime, "Submitted."),
    _c("started_at", UtcDateTime, "First claimed.", nullable=True),
    _c("planned_at", UtcDateTime, "Scoring: the listing is complete.", nullable=True),
    _c("finished_at", UtcDateTime, "Reached a final state.", nullable=True),
    _c("purged_at", UtcDateTime, "Its outcomes were removed; only their sums are left.",
       nullable=True),
    _c("planned_items", sa.Integer, "Scoring: items listed so far.", server_default="0"),
    _c("planned_shards", sa.Integer, "Scoring: shards written so far.", server_default="0"),
    _c("passed_over", Json, "Scoring: entries that are no items, counted by kind.",
       nullable=True),
    _c("progress", Json, "Training: how far the current epoch is, every few seconds.",
       nullable=True),
    _c("out_of_patience_at", UtcDateTime,
       "Paused then, since no worker could read what is left of it; NULL where a person paused it.",
       nullable=True),
    _c("put_aside_at", UtcDateTime,
       "Training: paused then, at the end of its night; its schedule goes on with it at its next "
       "time.", nullable=True),
    *_lease(),
    UniqueConstraint("key"),
    UniqueConstraint("schedule_id", "scheduled_for"),
    CheckConstraint(_in("kind", ("score", "train")), name="kind"),
    CheckConstraint(_in("state", JOB_STATES), name="state"),
    CheckConstraint(
        f"({_in('state', FINAL_JOB_STATES)}) = (finished_at IS NOT NULL)", name="finished"
    ),
    Index(None, "model_id"),
    Index(None, "state", "id"),
    Index("ix_jobs_open", "kind", "priority", "id",
          postgresql_where=sa.text("finished_at IS NULL"),
          sqlite_where=sa.text("finished_at IS NULL")),
    Index("ix_jobs_parent_job_id", "parent_job_id",
          postgresql_where=sa.text("parent_job_id IS NOT NULL"),
          sqlite_where=sa.text("parent_job_id IS NOT NULL")),
    sqlite_autoincrement=True,  # a removed row's number is never given again
    comment="A training or scoring job. This row is the truth; the queue only rings a bell.",
)  # fmt: skip

runs = Table(
    "runs", metadata,
    _c("id", BigId, "Number.", primary_key=True),
    _c("schedule_id", BigId, "Schedule.", ForeignKey("schedules.id")),
    _c("scheduled_for", UtcDateTime, "The time of the schedule that it is for."),
    _c("cause", sa.String(16), "clock, catch_up (the machine was off at the time) or hand."),
    _c("state", sa.String(16),
       "due (a watched folder is looked through), running (its job is open), proving (workers "
       "compare the new model), done."),
    _c("outcome", sa.String(24),
       "Of training: promoted, kept (the champion stays), skipped or failed. Of scoring: what "
       "became of its job, or skipped. Of both: missed, cancelled.", nullable=True),
    _c("reason", sa.Text, "Why, in a sentence.", nullable=True),
    _c("job_id", BigId, "Its job.", ForeignKey("jobs.id"), nullable=True),
    _c("champion_id", BigId, "The champion when it began, which the new model is compared with.",
       ForeignKey("models.id"), nullable=True),
    _c("candidate_id", BigId, "The new model.", ForeignKey("models.id"), nullable=True),
    _c("evaluation_id", BigId, "Frozen films that both were measured on.",
       ForeignKey("datasets.id"), nullable=True),
    _c("snapshot", Json,
       "The films as they were: `hash`, `films`, `classes`, `added`, `removed`, `relabelled`, "
       "`unreadable`.", nullable=True),
    _c("verdict", Json, "Both models' figures, differences with intervals, and slices.",
       nullable=True),
    _c("not_before", UtcDateTime, "A watched folder is looked at again then.", nullable=True),
    _c("worker_id", sa.String(64), "Who looks through the watched folder.", nullable=True),
    _c("blind", Json, "Workers (workers.id) that could not look through it.", nullable=True),
    _c("anchor_id", sa.BigInteger,
       "The last model that a person promoted (models.id), where that is not the champion: the new "
       "model is compared with it too.", nullable=True),
    _c("created_at", UtcDateTime, "Made."),
    _c("finished_at", UtcDateTime, "Its outcome was settled.", nullable=True),
    _c("until", UtcDateTime, "Of training: the end of its night, where it has one.",
       nullable=True),
    _c("put_aside", sa.Integer, "Nights at whose end its training was not done.",
       server_default="0"),
    UniqueConstraint("schedule_id", "scheduled_for"),
    CheckConstraint(_in("cause", ("clock", "catch_up", "hand")), name="cause"),
    CheckConstraint(_in("state", RUN_STATES), name="state"),
    CheckConstraint(_in("outcome", OUTCOMES), name="outcome"),
    CheckConstraint("(state = 'done') = (finished_at IS NOT NULL)", name="finished"),
    CheckConstraint("(state = 'done') = (outcome IS NOT NULL)", name="decided"),
    Index("ix_runs_open", "state", "id",
          postgresql_where=sa.text("finished_at IS NULL"),
          sqlite_where=sa.text("finished_at IS NULL")),
    Index("ix_runs_open_schedule", "schedule_id",
          postgresql_where=sa.text("finished_at IS NULL"),
          sqlite_where=sa.text("finished_at IS NULL")),
    Index(None, "schedule_id", "id"),
    Index(None, "job_id"),
    Index(None, "candidate_id"),
    sqlite_autoincrement=True,  # a removed row's number is never given again
    comment="What a schedule did at one of its times: once each, however many clocks tick.",
)  # fmt: skip

proofs = Table(
    "proofs",
    metadata,
    _c("run_id", BigId, "Run.", ForeignKey("runs.id"), primary_key=True),
    _c("kind", sa.String(200), "What computes: engine, version and device.", primary_key=True),
    _c("worker_id", sa.String(64), "Who is at it, or was.", nullable=True),
    _c("attempts", sa.Integer, "Times it was begun.", server_default="0"),
    _c("passed", sa.Boolean, "Whether the engine says what training says.", nullable=True),
    _c("detail", sa.Text, "What was found, in a sentence.", nullable=True),
    _c("began_at", UtcDateTime, "Last begun.", nullable=True),
    _c("finished_at", UtcDateTime, "Decided.", nullable=True),
    comment="A new model tried on every kind of worker that is there, before it is promoted.",
)

watched = Table(
    "watched",
    metadata,
    _c("schedule_id", BigId, "Schedule.", ForeignKey("schedules.id"), primary_key=True),
    _c("path_hash", sa.LargeBinary(16), "BLAKE2b-128 of the path.", primary_key=True),
    _c("path", sa.Text, "Absolute path."),
    _c("size", sa.BigInteger, "Bytes, when it was last looked at."),
    _c("mtime_ns", sa.BigInteger, "Modified, in nanoseconds since 1970, as the file says."),
    _c("since", UtcDateTime, "Of this size and time since then."),
    _c("content", sa.String(64), "SHA-256, once it had stopped growing.", nullable=True),
    _c("state", sa.String(16), "seen, taken (its job is open), done or given_up."),
    _c("job_id", BigId, "The job that took it last.", ForeignKey("jobs.id"), nullable=True),
    _c("attempts", sa.Integer, "Jobs that took it.", server_default="0"),
    CheckConstraint(_in("state", ("seen", "taken", "done", "given_up")), name="state"),
    Index(None, "schedule_id", "content"),
    Index(
        "ix_watched_undone",
        "schedule_id",
        "job_id",
        postgresql_where=sa.text("state <> 'done'"),
        sqlite_where=sa.text("state <> 'done'"),
    ),
    comment="Files of watched folders: one is taken once it stopped growing, and not twice.",
)

drift = Table(
    "drift", metadata,
    _c("job_id", BigId, "Scoring job.", ForeignKey("jobs.id"), primary_key=True,
       autoincrement=False),
    _c("model_id", BigId, "Its model.", ForeignKey("models.id")),
    _c("reference", sa.Text, "What it is compared with: validation, or `job 7`."),
    _c("n", sa.Integer, "Predictions of the job."),
    _c("reference_n", sa.Integer, "Films of the reference."),
    _c("psi", sa.Double, "Population stability index over twentieths of probability."),
    _c("psi_limit", sa.Double, "What chance alone exceeds once in 1000 at these numbers."),
    _c("ks", sa.Double, "Kolmogorov-Smirnov distance, 0 to 1, over the same twentieths."),
    _c("ks_p", sa.Double, "Its p-value, 0 to 1."),
    _c("unusual", sa.Integer, "Predictions that are unlike the training films."),
    _c("reference_unusual", sa.Integer, "Films of the reference that are.", nullable=True),
    _c("unusual_p", sa.Double, "p-value of the two rates being equal.", nullable=True),
    _c("warned", sa.Boolean, "Whether it is beyond what chance and habit explain."),
    _c("detail", sa.Text, "In a sentence."),
    _c("measured_at", UtcDateTime, "When the job ended."),
    comment="A scoring job's scores against its model's reference.",
)  # fmt: skip

notices = Table(
    "notices", metadata,
    _c("id", BigId, "Number.", primary_key=True),
    _c("at", UtcDateTime, "When it happened."),
    _c("event", sa.String(16),
       "failed, with_errors (completed_with_errors), skipped, missed, kept, promoted, drift, "
       "source_away, source_back, not_promoted or test."),
    _c("payload", Json, "What is sent: numbers and names of ours, no path and no film."),
    _c("job_id", BigId, "Job.", ForeignKey("jobs.id"), nullable=True),
    _c("run_id", BigId, "Run.", ForeignKey("runs.id"), nullable=True),
    _c("model_id", BigId, "Model.", ForeignKey("models.id"), nullable=True),
    _c("state", sa.String(16), "waiting, delivered, given_up, or unheard (no hook was set)."),
    _c("attempts", sa.Integer, "Times it was sent.", server_default="0"),
    _c("not_before", UtcDateTime, "To be sent again then.", nullable=True),
    _c("worker_id", sa.String(64), "Who sends it, or did.", nullable=True),
    _c("sent_at", UtcDateTime, "Last sent.", nullable=True),
    _c("last_error", sa.Text, "Why it did not arrive.", nullable=True),
    CheckConstraint(_in("event", NOTICES), name="event"),
    CheckConstraint(_in("state", ("waiting", "delivered", "given_up", "unheard")), name="state"),
    Index("ix_notices_waiting", "id",
          postgresql_where=sa.text("state = 'waiting'"),
          sqlite_where=sa.text("state = 'waiting'")),
    comment="What hooks are told, written with the outcome and sent afterwards.",
)  # fmt: skip

sources = Table(
    "sources", metadata,
    _c("job_id", BigId, "Job.", ForeignKey("jobs.id"), primary_key=True),
    _c("source_no", sa.SmallInteger, "Place on the command line, from 0.", primary_key=True,
       autoincrement=False),
    _c("uri", sa.Text, "Absolute path of the folder, archive or film."),
    _c("kind", sa.String(16), "folder, file, zip, tar, tar.gz, tar.zst, list or glob."),
    _c("fingerprint", sa.Text, "Identity of the archive when it was submitted."),
    _c("content_id", sa.Text, "Identity of the archive's content, where one is known cheaply.",
       nullable=True),
    _c("streams", sa.Boolean, "Whether it can be read from its start only.",
       server_default=sa.false()),
    _c("seek_index", sa.LargeBinary, "Compressed tar: where decompression can start.",
       nullable=True),
    _c("paths", sa.LargeBinary, "Of a list that no file holds: its paths, one a line, zlib.",
       nullable=True),
    _c("listed", sa.LargeBinary,
       "Of a list's file: the paths that it named when it was submitted, JSON, gzip. NULL of "
       "release 0.2.0, whose workers read the file.", nullable=True),
    _c("trouble", sa.Text, "Why a worker could not read it, where none has read it since.",
       nullable=True),
    _c("trouble_at", UtcDateTime,
       "When a worker could not read it for the first time since it was last read, or since the "
       "job was resumed: patience is counted from then.", nullable=True),
    Index("ix_sources_content_id", "content_id",
          postgresql_where=sa.text("content_id IS NOT NULL"),
          sqlite_where=sa.text("content_id IS NOT NULL")),
    Index("ix_sources_troubled", "job_id",
          postgresql_where=sa.text("trouble_at IS NOT NULL"),
          sqlite_where=sa.text("trouble_at IS NOT NULL")),
    # PostgreSQL's trees have no longer keys; paths have up to 4,096 bytes. Of long ones it keeps
    # hashes.
    Index(None, "uri", "job_id", postgresql_where=sa.text("octet_length(uri) <= 2600")),
    Index("ix_sources_long_uri", "uri", postgresql_using="hash",
          postgresql_where=sa.text("octet_length(uri) > 2600"),
          sqlite_where=sa.text("length(uri) > 2600")),
    comment="What a scoring job reads.",
)  # fmt: skip

shards = Table(
    "shards", metadata,
    _c("job_id", BigId, "Job.", ForeignKey("jobs.id"), primary_key=True),
    _c("shard_no", sa.Integer, "Place in the job, from 0.", primary_key=True, autoincrement=False),
    _c("source_no", sa.SmallInteger, "Source of all its items."),
    _c("first_item", sa.Integer, "item_no of its first item."),
    _c("n_items", sa.Integer, "Items."),
    _c("state", sa.String(8), "ready, leased, done, or dead (attempts used up)."),
    _c("n_predictions", sa.Integer, "Items predicted.", server_default="0"),
    _c("n_positive", sa.Integer, "Items called positive.", server_default="0"),
    _c("n_unusual", sa.Integer, "Predictions with ood above the threshold.", server_default="0"),
    _c("n_looks", sa.Integer, "Predictions with a look.", server_default="0"),
    _c("n_refused", sa.Integer, "Items refused.", server_default="0"),
    _c("n_errors", sa.Integer, "Items in error.", server_default="0"),
    _c("finished_at", UtcDateTime, "Outcomes committed.", nullable=True),
    _c("readers", Json, "Kind of file → version of what read its films; NULL: not known.",
       nullable=True),
    _c("summed", sa.Boolean, "Whether its sums were written; NULL: not yet, or it is not finished.",
       nullable=True),
    _c("last_error", sa.Text, "Why the latest attempt was given up.", nullable=True),
    _c("unread", Json,
       "Items that the system did not let be read while others of their source were, and how "
       "often: {item_no: tries}.", nullable=True),
    _c("share", sa.Text, "To whose share its last claim was counted; NULL: to nobody's.",
       nullable=True),
    _c("share_priority", sa.SmallInteger, "The job's priority at that claim.", nullable=True),
    _c("starts", sa.Double,
       "Virtual start of that claim: seconds of a worker over the share's weight.", nullable=True),
    _c("ends", sa.Double,
       "Virtual end of it, as expected, or as it was once the shard is done. Where `starts` is "
       "NULL: what was charged for a claim that was handed back, to be taken off the next one's "
       "charge.",
       nullable=True),
    _c("seconds", sa.Double, "What it took of a worker's time, where its worker told.",
       nullable=True),
    *_lease(),
    CheckConstraint(_in("state", SHARD_STATES), name="state"),
    CheckConstraint(
        f"({_in('state', FINAL_SHARD_STATES)}) = (finished_at IS NOT NULL)", name="finished"
    ),
    CheckConstraint("n_items > 0", name="n_items"),
    CheckConstraint(
        "state <> 'done' OR n_predictions + n_refused + n_errors = n_items", name="complete"
    ),
    Index("ix_shards_open", "job_id", "shard_no",
          postgresql_where=sa.text("finished_at IS NULL"),
          sqlite_where=sa.text("finished_at IS NULL")),
    Index("ix_shards_share", "share", "share_priority", "starts", "ends",
          postgresql_where=sa.text("starts IS NOT NULL"),
          sqlite_where=sa.text("starts IS NOT NULL")),
    Index("ix_shards_starts", "share_priority", "starts",
          postgresql_where=sa.text("starts IS NOT NULL"),
          sqlite_where=sa.text("starts IS NOT NULL")),
    Index("ix_shards_unsummed", "job_id", "shard_no",
          postgresql_where=sa.text("state IN ('done', 'dead') AND summed IS NULL"),
          sqlite_where=sa.text("state IN ('done', 'dead') AND summed IS NULL")),
    Index("ix_shards_finished_at", "finished_at",
          postgresql_where=sa.text("finished_at IS NOT NULL"),
          sqlite_where=sa.text("finished_at IS NOT NULL")),
    comment="A run of consecutive items of a scoring job: the unit of claiming and committing. "
            "Of a purged job, one row with the sums.",
)  # fmt: skip

outages = Table(
    "outages",
    metadata,
    _c("id", BigId, "Number.", primary_key=True),
    _c("schedule_id", sa.BigInteger, "Schedule (schedules.id) that cannot read its folders, or "
       "whose job cannot read them.", nullable=True),
    _c("job_id", sa.BigInteger, "Job (jobs.id) of no schedule that cannot read its sources.",
       nullable=True),
    _c("began_at", UtcDateTime, "Hooks got the notice that it began."),
    _c("reason", sa.Text, "What the first worker found."),
    _c("ended_at", UtcDateTime, "Something was read again, or nothing is left to be read.",
       nullable=True),
    Index("ix_outages_open", "id",
          postgresql_where=sa.text("ended_at IS NULL"),
          sqlite_where=sa.text("ended_at IS NULL")),
    sqlite_autoincrement=True,
    comment="A time in which no worker could read sources: one notice, and one when it ends.",
)  # fmt: skip

shares = Table(
    "shares",
    metadata,
    _c("key", sa.Text, "As of jobs.share.", primary_key=True),
    _c("weight", sa.Double, "2 is twice as much as others get; without a row it is 1."),
    _c("set_at", UtcDateTime, "When."),
    _c("set_by", sa.Text, "Who set it."),
    CheckConstraint("weight > 0", name="weight"),
    comment="Whose share of the workers is not that of everybody.",
)

# Apart from the shards, whose rows are written at each claim, heartbeat and commit, and summed up
# whenever somebody looks: none of that should move 25 KB a shard.
shard_listings = Table(
    "shard_listings",
    metadata,
    _c("job_id", BigId, "Job.", primary_key=True, autoincrement=False),
    _c("shard_no", sa.Integer, "Shard.", primary_key=True, autoincrement=False),
    _c("listing", sa.LargeBinary, "Compressed listing: names, offsets, sizes, CRCs."),
    ForeignKeyConstraint(["job_id", "shard_no"], ["shards.job_id", "shards.shard_no"]),
    comment="The members that a shard's items are.",
)

predictions = Table(
    "predictions", metadata,
    *_item(
        *_outcome(),
        _c("model_id", sa.Integer, "models.id."),
        _c("label_no", sa.SmallInteger, "model_labels.label_no, by the operating threshold."),
        _c("probability", sa.Double, "P(positive class), 0 to 1, calibrated. Always that class."),
        _c("scores", Json, "All classes' probabilities, where there are more than two.",
           nullable=True),
        _c("ood", sa.Double, "Distance from the training films; about 1 is typical.",
           nullable=True),
        _c("reused_from_job", sa.BigInteger, "Answered from this job's row.", nullable=True),
        _c("reused_from_item", sa.Integer, "Answered from this item's row.", nullable=True),
        _c("look", sa.SmallInteger,
           "Group that it looks acquired like (model_looks.look_no). NULL: none, or not known.",
           nullable=True),
    ),
    CheckConstraint("probability >= 0 AND probability <= 1", name="probability"),
    comment="A film that was scored.",
    **_BY_JOB,
)  # fmt: skip

cams = Table(
    "cams",
    metadata,
    *_item(
        _c("height", sa.SmallInteger, "Rows of the map."),
        _c("width", sa.SmallInteger, "Columns of the map."),
        _c("low", sa.Float, "Logit that byte 0 stands for."),
        _c("high", sa.Float, "Logit that byte 255 stands for."),
        _c("data", sa.LargeBinary, "height × width bytes, row by row, linear from low to high."),
    ),
    comment="Class-activation map of the positive class: where in the film the evidence is.",
    **_BY_JOB,
)

refusals = Table(
    "refusals",
    metadata,
    *_item(
        *_outcome(),
        _c("code", sa.String(32), "Stable short word."),
        _c("detail", sa.Text, "What was found, in a sentence."),
    ),
    comment="An intact item that is not a film to be scored.",
    **_BY_JOB,
)

item_errors = Table(
    "item_errors",
    metadata,
    *_item(
        *_outcome(),
        _c("code", sa.String(32), "Stable short word."),
        _c("detail", sa.Text, "What was found, in a sentence."),
    ),
    comment="A broken item.",
    **_BY_JOB,
)

labels = Table(
    "labels",
    metadata,
    *_item(
        _c("label", sa.Text, "True class name."),
        _c("imported_at", UtcDateTime, "When it was brought in."),
        _c("imported_by", sa.Text, "Who brought it in."),
    ),
    comment="Ground truth brought in after scoring.",
    **_BY_JOB,
)

identities = Table(
    "identities",
    metadata,
    *_item(
        _c("patient", sa.String(32), "Keyed hash of the patient's identifier.", nullable=True),
        _c("study", sa.String(32), "Keyed hash of the study's identifier.", nullable=True),
        _c("accession", sa.String(32), "Keyed hash of the accession number.", nullable=True),
    ),
    comment="Whose film a DICOM item is, as keyed hashes: results roll up per study.",
    **_BY_JOB,
)

# The content comes last in the key, so that one model's films are found without a scan.
films = Table(
    "films",
    metadata,
    _c("model_id", sa.BigInteger, "Model that scored it.", primary_key=True, autoincrement=False),
    _c("precision", sa.String(8), "Precision it was scored in.", primary_key=True),
    _c("content", sa.LargeBinary(16), "BLAKE2b-128 of the film's bytes.", primary_key=True),
    _c("job_id", sa.BigInteger, "Job that holds the prediction."),
    _c("item_no", sa.Integer, "Item that holds the prediction."),
    _c(
        "overridden",
        sa.Text,
        "Refusals that it needed to be overridden: codes, comma-separated, or empty. NULL: not "
        "known, but none that its job does not override.",
        nullable=True,
    ),
    _c("reader", sa.SmallInteger, "Version of what read it; NULL is 1.", nullable=True),
    comment="Content that was scored before, so that it can be answered without scoring.",
    sqlite_with_rowid=False,
)

rollups = Table(
    "rollups", metadata,
    _c("job_id", BigId, "Job.", ForeignKey("jobs.id"), primary_key=True),
    _c("shard_no", sa.Integer, "Shard.", primary_key=True, autoincrement=False),
    _c("bucket", sa.SmallInteger,
       "Probability in twentieths: 0 is [0, 0.05), 19 is [0.95, 1].", primary_key=True,
       autoincrement=False),
    _c("label_no", sa.SmallInteger, "Label given.", primary_key=True, autoincrement=False),
    _c("n", sa.Integer, "Predictions."),
    comment="Histogram of scores per shard, so that sums over millions of rows stay instant.",
)  # fmt: skip

#: Figures of an epoch beside loss, accuracy and AUROC, at 0.5: name → meaning.
MEASURES = {
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
#: Of these validation has a 95 % confidence interval.
_UNSURE = ("auroc", "accuracy", "auprc", "sensitivity", "specificity", "ppv", "npv")
INTERVALS = {
    f"{name}_{end}": f"{end.capitalize()} end of its 95 % confidence interval."
    for name in _UNSURE
    for end in ("low", "high")
}
#: Column → meaning. Empty where the films do not allow a figure, and in epochs of old.
EPOCH_MEASURES = {
    **{f"train_{name}": f"{meaning} On augmented films." for name, meaning in MEASURES.items()},
    **{f"val_{name}": meaning for name, meaning in {**MEASURES, **INTERVALS}.items()},
}

epochs = Table(
    "epochs",
    metadata,
    _c("job_id", BigId, "Training job.", ForeignKey("jobs.id"), primary_key=True),
    _c("epoch", sa.Integer, "From 1.", primary_key=True, autoincrement=False),
    _c("train_loss", sa.Float, "Mean loss over the epoch, as optimised."),
    _c("train_accuracy", sa.Float, "0 to 1, on augmented films."),
    _c("train_auroc", sa.Float, "0 to 1, on augmented films."),
    _c("val_loss", sa.Float, "Mean cross-entropy on validation."),
    _c("val_accuracy", sa.Float, "0 to 1."),
    _c("val_auroc", sa.Float, "0 to 1."),
    _c("learning_rate", sa.Float, "At the end of the epoch."),
    _c("seconds", sa.Float, "Training and validation."),
    _c("films_per_s", sa.Float, "Training films per second, validation not counted."),
    _c("best", sa.Boolean, "Whether it was the best so far when it ended."),
    _c("finished_at", UtcDateTime, "When it ended."),
    *(_c(name, sa.Float, meaning, nullable=True) for name, meaning in EPOCH_MEASURES.items()),
    comment="One pass over the training films, and what validation said after it.",
)

evaluations = Table(
    "evaluations",
    metadata,
    _c("id", BigId, "Number.", primary_key=True),
    _c("model_id", BigId, "Model.", ForeignKey("models.id")),
    _c("dataset_id", BigId, "Labelled films.", ForeignKey("datasets.id"), nullable=True),
    _c("job_id", BigId, "Job that measured it.", ForeignKey("jobs.id"), nullable=True),
    _c("split", sa.String(64), "validation, test, a slice's name, or `labels of job 7`."),
    _c("n_films", sa.Integer, "Films."),
    _c("metrics", Json, "auroc, accuracy, sensitivity, specificity, ... by name."),
    _c("created_at", UtcDateTime, "Measured."),
    _c(
        "shift",
        Json,
        "What is left where these films are dressed as others look: "
        "docs/reference/model-file.md. NULL: not measured.",
        nullable=True,
    ),
    _c("shift_worst", sa.Text, "Of these dressings the one that costs most AUROC.", nullable=True),
    _c("shift_worst_auroc", sa.Float, "AUROC there.", nullable=True),
    Index(None, "model_id"),
    comment="How a model did on labelled films.",
)

job_events = Table(
    "job_events",
    metadata,
    _c("id", BigId, "Number.", primary_key=True),
    _c("job_id", BigId, "Job.", ForeignKey("jobs.id")),
    _c("at", UtcDateTime, "When."),
    _c("who", sa.Text, "User or worker."),
    _c("event", sa.String(32), "submitted, planning, running, completed, ..."),
    _c("detail", sa.Text, "Why, in a sentence.", nullable=True),
    Index(None, "job_id", "id"),
    comment="What happened to jobs. Rows are only ever added.",
)

workers = Table(
    "workers", metadata,
    _c("id", sa.String(64), "One per process start.", primary_key=True),
    _c("host", sa.Text, "Machine."),
    _c("pid", sa.Integer, "Process id there."),
    _c("queues", sa.Text, "What it listens to, comma-separated: score, train."),
    _c("engine", sa.Text, "What it computes with.", nullable=True),
    _c("versions", Json, "Software versions; `engines`: the words of jobs.engine that it serves."),
    _c("health", Json, "Temperature, power, throttling and memory of its machine, where it tells.",
       nullable=True),
    _c("lease_s", sa.Float, "How long its leases are, in seconds; NULL of release 0.2.0.",
       nullable=True),
    _c("started_at", UtcDateTime, "Started."),
    _c("seen_at", UtcDateTime, "Latest heartbeat."),
    _c("stopped_at", UtcDateTime, "Stopped in good order.", nullable=True),
    Index(None, "seen_at"),
    comment="Worker processes, past and present.",
)  # fmt: skip

pages = Table(
    "pages",
    metadata,
    _c("id", BigId, "Number.", primary_key=True),
    _c("kind", sa.String(16),
       "report, review, export, folder (of films) or labels (a CSV that was read)."),
    _c("path", sa.Text, "Absolute path it was written to."),
    _c("job_id", sa.BigInteger, "Job that it is of (jobs.id).", nullable=True),
    _c("model_id", sa.BigInteger, "Model that it is of (models.id).", nullable=True),
    _c("run_id", sa.BigInteger, "Night it is of (runs.id).", nullable=True),
    _c("n_films", sa.Integer, "Films in it that page_films names; NULL: all of its job.",
       nullable=True),
    _c("written_by", sa.Text, "User and host."),
    _c("written_at", UtcDateTime, "When it was written."),
    Index(None, "job_id"),
    sqlite_autoincrement=True,  # a removed row's number is never given again
    comment="Files and folders with films, or names of films, that were written for a person.",
)  # fmt: skip

page_films = Table(
    "page_films",
    metadata,
    _c("page_id", BigId, "Page.", ForeignKey("pages.id"), primary_key=True, autoincrement=False),
    _c("job_id", sa.BigInteger, "Scoring job.", primary_key=True, autoincrement=False),
    _c("item_no", sa.Integer, "Item of it.", primary_key=True, autoincrement=False),
    Index(None, "job_id", "item_no"),
    comment="Which films are in a page, so that an erasure can name it.",
)

compatibility = Table(
    "compatibility",
    metadata,
    _c("revision", sa.String(32), "Revision of the schema that this is said of.", primary_key=True),
    _c("oldest_release", sa.String(32), "Oldest release of PneumoQ that may use it."),
    comment="Which releases of PneumoQ may use this schema: one row.",
)
