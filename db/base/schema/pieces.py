"""Pieces of tables: the words of states, what partitions hold, and columns that several have."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from db.base.columns import column as _c
from db.base.types import UtcDateTime

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
    "source_away", "source_back", "not_promoted", "not_taken", "given_up",
)  # fmt: skip

#: Rows keyed by (job, item) are stored in that order and, on PostgreSQL, partitioned by job, so
#: that an old job's rows can be dropped without a scan.
BY_JOB: dict[str, Any] = {
    "postgresql_partition_by": "RANGE (job_id)",
    "sqlite_with_rowid": False,
}

PARTITIONED = ("predictions", "cams", "refusals", "item_errors", "labels", "identities")

#: Jobs in one partition.
PARTITION_JOBS = 1000


def one_of(column: str, values: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(v) for v in values)})"


def lease() -> list[sa.Column[Any]]:
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


def item(*columns: sa.Column[Any]) -> list[sa.Column[Any]]:
    return [
        _c("job_id", sa.BigInteger, "The scoring job.", primary_key=True, autoincrement=False),
        _c("item_no", sa.Integer, "The item's place in the job's listing, from 0.",
           primary_key=True, autoincrement=False),
        *columns,
    ]  # fmt: skip


def outcome() -> list[sa.Column[Any]]:
    return [
        _c("shard_no", sa.Integer, "The shard that produced this outcome."),
        _c("name", sa.Text, "The member's name in its source, escaped where it is not printable."),
    ]
