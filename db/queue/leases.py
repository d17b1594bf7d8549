"""Leases: the right to work on a job or a shard, kept, fenced and handed back.

A claim takes a fencing token. Whoever comes back late with an older token writes nothing. Claiming
itself is in `db.work.claims`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from db.base.errors import LeaseLost
from db.base.schema import SCORING_JOB_STATES, jobs, shards, workers
from db.base.types import due, now, pending
from db.queue import jobs as job_rows
from db.queue import shares

#: No lease is longer, in seconds, whoever holds it.
LONGEST_S = 3600.0

#: A lease may end so many seconds later than its worker's leases are long: clocks are set back by a
#: few where they are kept right (chrony steps at a start, and slews by less afterwards).
TOLERANCE_S = 5.0

#: Seconds before attempt 2, 3, … of a job or shard.
BACKOFF_S = (5.0, 30.0, 120.0)

#: A shard that its workers did not survive this many times is bisected; of one item, given up.
MAX_ATTEMPTS = 5

#: An item that the system does not let be read, while others of its source are, is in error after
#: so many tries, which lie at least so many seconds apart.
TRIES, TRY_AGAIN_S = 3, 60.0

#: The longest wait before another attempt at a job or shard, in seconds.
LONGEST_WAIT_S = max(*BACKOFF_S, TRY_AGAIN_S)

#: A shard that so many workers did not survive may be what ends them. It is worked on alone, so
#: that its next victim takes no other shard's attempts with it.
SUSPECT_ATTEMPTS = 2


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to work on a job until the lease runs out; every write is fenced by `token`."""

    job_id: int
    token: int
    worker_id: str


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A claimed shard."""

    job_id: int
    shard_no: int
    token: int
    worker_id: str
    #: 1 for the first attempt.
    attempt: int
    source_no: int
    first_item: int
    n_items: int
    listing: bytes
    model_id: int
    priority: int
    spec: dict[str, Any]
    #: Why the attempt before this one was given up, where its worker could say so.
    last_error: str | None = None
    #: fp32, bf16, fp16 or int8.
    precision: str = "fp32"
    #: tensorrt or onnx, where the job asks for one.
    engine: str | None = None
    #: Tries so far of items that the system did not let be read, by item_no.
    unread: Mapping[int, int] = field(default_factory=dict)

    @property
    def suspect(self) -> bool:
        """Whether it is to be worked on alone."""
        return self.attempt > SUSPECT_ATTEMPTS


def fence(connection: sa.Connection, lease: Lease) -> None:
    """Begin a fenced write: lock the job's row, or raise LeaseLost."""
    held = connection.execute(
        sa.update(jobs)
        .where(
            jobs.c.id == lease.job_id,
            jobs.c.lease_token == lease.token,
            jobs.c.lease_until.is_not(None),
            jobs.c.finished_at.is_(None),
        )
        .values(worker_id=lease.worker_id)
    )
    if held.rowcount != 1:
        raise LeaseLost(f"job {lease.job_id} is no longer this worker's, or it has ended")


def renew(connection: sa.Connection, lease: Lease, lease_s: float) -> None:
    """Push the lease's end back; raises LeaseLost where it is lost or the job was cancelled."""
    fence(connection, lease)
    connection.execute(
        sa.update(jobs).where(jobs.c.id == lease.job_id).values(lease_until=now(lease_s))
    )


def hand_back(
    connection: sa.Connection,
    lease: Lease,
    reason: str,
    *,
    in_good_order: bool,
    event: str = "handed_back",
) -> None:
    """Give the job up so that another worker can take it: at once, or after a back-off.

    In good order (the worker is shutting down) the attempt does not count.
    """
    fence(connection, lease)
    attempts = connection.execute(
        sa.select(jobs.c.attempts).where(jobs.c.id == lease.job_id)
    ).scalar_one()
    delay_s = 0.0 if in_good_order else BACKOFF_S[min(attempts, len(BACKOFF_S)) - 1]
    connection.execute(
        sa.update(jobs)
        .where(jobs.c.id == lease.job_id)
        .values(
            state=sa.case((jobs.c.kind == "train", "queued"), else_=jobs.c.state),
            lease_token=jobs.c.lease_token + 1,
            lease_until=now(),
            attempts=attempts - 1 if in_good_order else attempts,
            not_before=now(delay_s),
        )
    )
    job_rows.log(connection, lease.job_id, lease.worker_id, event, reason)


def leased(table: sa.FromClause) -> sa.ColumnElement[bool]:
    """The condition under which the lease of a row of `jobs` or `shards` has not run out.

    One that ends later than its worker could have written was given by a clock that was ahead, and
    nothing is left of it either.
    """
    return pending(table.c.lease_until, _longest(table))


def run_out(table: sa.FromClause) -> sa.ColumnElement[bool]:
    """The contrary of `leased`."""
    return due(table.c.lease_until, _longest(table))


def _longest(table: sa.FromClause) -> sa.ColumnElement[float]:
    """How far ahead the lease of a row can be, in seconds.

    A worker of release 0.2.0 does not say how long its leases are.
    """
    length = sa.select(workers.c.lease_s).where(workers.c.id == table.c.worker_id)
    return sa.func.coalesce(length.scalar_subquery() + TOLERANCE_S, sa.literal(LONGEST_S, sa.Float))


def waited(table: sa.FromClause) -> sa.ColumnElement[bool]:
    """The condition under which the wait before the next attempt at such a row is over."""
    return due(table.c.not_before, LONGEST_WAIT_S)


def held(shard: Shard) -> sa.ColumnElement[bool]:
    """The condition under which a shard is still this holder's."""
    return sa.and_(
        shards.c.job_id == shard.job_id,
        shards.c.shard_no == shard.shard_no,
        shards.c.lease_token == shard.token,
        shards.c.state == "leased",
    )


def renew_shards(
    connection: sa.Connection, held_shards: Sequence[Shard], lease_s: float
) -> list[Shard]:
    """Push the leases' ends back; returns those that are lost (or whose job was cancelled)."""
    lost = []
    for shard in sorted(held_shards, key=lambda shard: (shard.job_id, shard.shard_no)):
        alive = sa.exists().where(jobs.c.id == shard.job_id, jobs.c.state.in_(SCORING_JOB_STATES))
        renewed = connection.execute(
            sa.update(shards).where(held(shard), alive).values(lease_until=now(lease_s))
        )
        if renewed.rowcount != 1:
            lost.append(shard)
    return lost


def hand_back_shard(
    connection: sa.Connection,
    shard: Shard,
    reason: str | None,
    *,
    in_good_order: bool,
    unread: Mapping[int, int] | None = None,
) -> None:
    """Make a shard claimable again: at once when the worker is shutting down, else after a wait.

    In good order the attempt does not count, and its key is charged nothing for it. With `unread`,
    tries of items by item_no, the shard waits for TRY_AGAIN_S. Without a reason it counts as if the
    worker had ended without a word: one item may be to blame, and is cornered. A lease that is lost
    already is left alone.
    """
    job_rows.hold(connection, shard.job_id)
    delay_s = 0.0 if in_good_order else BACKOFF_S[min(shard.attempt, len(BACKOFF_S)) - 1]
    values: dict[str, Any] = shares.given_back() if in_good_order else {}
    if unread is not None:
        delay_s = TRY_AGAIN_S
        values["unread"] = {str(item): tries for item, tries in sorted(unread.items())}
    connection.execute(
        sa.update(shards)
        .where(held(shard))
        .values(
            state="ready",
            lease_until=None,
            attempts=shards.c.attempts - (1 if in_good_order else 0),
            not_before=now(delay_s),
            last_error=reason,
            **values,
        )
    )


def lost(shard: Shard) -> LeaseLost:
    """The error for a holder that is none any more."""
    return LeaseLost(
        f"shard {shard.shard_no} of job {shard.job_id} is no longer this worker's, "
        "or the job is paused or has ended"
    )
