"""Tables of schedules: what they did at their times, and the files of watched folders."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import CheckConstraint, ForeignKey, Index, Table, UniqueConstraint

from db.base.columns import column as _c
from db.base.columns import metadata
from db.base.schema.pieces import OUTCOMES, RUN_STATES, one_of
from db.base.types import BigId, Json, UtcDateTime

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
    CheckConstraint(one_of("cause", ("clock", "catch_up", "hand")), name="cause"),
    CheckConstraint(one_of("state", RUN_STATES), name="state"),
    CheckConstraint(one_of("outcome", OUTCOMES), name="outcome"),
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
    _c("path", sa.Text, "Absolute path; empty once the job that took it is purged."),
    _c("size", sa.BigInteger, "Bytes, when it was last looked at."),
    _c("mtime_ns", sa.BigInteger, "Modified, in nanoseconds since 1970, as the file says."),
    _c("since", UtcDateTime, "Of this size and time since then."),
    _c("content", sa.String(64), "SHA-256, once it had stopped growing.", nullable=True),
    _c("state", sa.String(16), "seen, taken (its job is open), done or given_up."),
    _c("job_id", BigId, "The job that took it last.", ForeignKey("jobs.id"), nullable=True),
    _c("attempts", sa.Integer, "Jobs that took it.", server_default="0"),
    CheckConstraint(one_of("state", ("seen", "taken", "done", "given_up")), name="state"),
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
