"""Tables of work: jobs and their shards, who does them, and what is told of them."""

from __future__ import annotations

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
from db.base.columns import metadata
from db.base.schema.pieces import (
    FINAL_JOB_STATES,
    FINAL_SHARD_STATES,
    JOB_STATES,
    NOTICES,
    SHARD_STATES,
    lease,
    one_of,
)
from db.base.types import BigId, Json, UtcDateTime

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
    *lease(),
    UniqueConstraint("key"),
    UniqueConstraint("schedule_id", "scheduled_for"),
    CheckConstraint(one_of("kind", ("score", "train")), name="kind"),
    CheckConstraint(one_of("state", JOB_STATES), name="state"),
    CheckConstraint(
        f"({one_of('state', FINAL_JOB_STATES)}) = (finished_at IS NOT NULL)", name="finished"
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

notices = Table(
    "notices", metadata,
    _c("id", BigId, "Number.", primary_key=True),
    _c("at", UtcDateTime, "When it happened."),
    _c("event", sa.String(16),
       "failed, with_errors (completed_with_errors), skipped, missed, kept, promoted, drift, "
       "source_away, source_back, not_promoted, not_taken, given_up or test."),
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
    CheckConstraint(one_of("event", NOTICES), name="event"),
    CheckConstraint(one_of("state", ("waiting", "delivered", "given_up", "unheard")), name="state"),
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
    *lease(),
    CheckConstraint(one_of("state", SHARD_STATES), name="state"),
    CheckConstraint(
        f"({one_of('state', FINAL_SHARD_STATES)}) = (finished_at IS NOT NULL)", name="finished"
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
