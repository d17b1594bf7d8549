"""Leases: shards are claimed, kept, handed back and bisected.

A claim takes a fencing token. Whoever comes back late with an older token writes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from db.base.errors import LeaseLost
from db.base.schema import SCORING_JOB_STATES, jobs, shard_listings, shards, sources
from db.base.types import now
from db.queue import jobs as job_rows
from db.queue.jobs import BACKOFF_S, Claimed
from db.queue.listings import NewShard

#: A shard that its workers did not survive this many times is bisected; of one item, given up.
MAX_ATTEMPTS = 5

#: Attempts that each half of a bisected shard has.
HALF_ATTEMPTS = 2

#: A shard that so many workers did not survive may be what ends them. It is worked on alone, so
#: that its next victim takes no other shard's attempts with it.
SUSPECT_ATTEMPTS = 2


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

    @property
    def suspect(self) -> bool:
        """Whether it is to be worked on alone."""
        return self.attempt > SUSPECT_ATTEMPTS


def first_due(
    connection: sa.Connection,
    select: sa.Select[Any],
    worker_id: str = "",
    *,
    alone: bool = True,
    claim: bool = False,
    kinds: Collection[str] | None = None,
) -> sa.Row[Any] | None:
    """The row of a SELECT over shards for the best that this worker could claim now, or None.

    The highest priority first, then the oldest job, then the first in it. `kinds` are the words of
    `jobs.engine` that the worker serves, and jobs that ask for another are passed over; None serves
    all. With `claim` the shard's row is locked, and those that others have locked are passed over.
    """
    # Job by job: each is one look into an index, while sorting all open shards of all jobs would
    # take longer the more there is to do.
    open_shard = sa.exists().where(shards.c.job_id == jobs.c.id, shards.c.finished_at.is_(None))
    numbers = connection.execute(
        sa.select(jobs.c.id)
        .where(jobs.c.state.in_(SCORING_JOB_STATES), open_shard, served(kinds))
        .order_by(jobs.c.priority.desc(), jobs.c.id)
    ).scalars()
    for job_id in numbers.all():
        query = _due(select, job_id, worker_id, alone)
        if claim:
            query = query.with_for_update(skip_locked=True, of=shards)
        row = connection.execute(query).one_or_none()
        if row is not None:
            return row
    return None


def served(kinds: Collection[str] | None) -> sa.ColumnElement[bool]:
    """The condition under which a job may be scored by a worker that serves these engines."""
    if kinds is None:
        return sa.true()
    return sa.or_(jobs.c.engine.is_(None), jobs.c.engine.in_(sorted(kinds)))


def _due(select: sa.Select[Any], job_id: int, worker_id: str, alone: bool) -> sa.Select[Any]:
    """Narrow a SELECT over shards to the first of a job that this worker could claim now.

    Unless the worker is `alone`, with nothing else in hand, suspect shards are left out.
    A source that can only be read from its start is one worker's at a time: a second one would
    inflate all of it once more.
    """
    others = shards.alias("others")
    taken = sa.exists().where(
        sources.c.job_id == shards.c.job_id,
        sources.c.source_no == shards.c.source_no,
        sources.c.streams,
        others.c.job_id == sources.c.job_id,
        others.c.source_no == sources.c.source_no,
        others.c.state == "leased",
        others.c.lease_until > now(),
        others.c.worker_id != worker_id,
    )
    return (
        select.join_from(shards, jobs, jobs.c.id == shards.c.job_id)
        .where(
            shards.c.job_id == job_id,
            jobs.c.state.in_(SCORING_JOB_STATES),
            shards.c.finished_at.is_(None),
            sa.or_(
                shards.c.state == "ready",
                sa.and_(shards.c.state == "leased", shards.c.lease_until <= now()),
            ),
            sa.or_(shards.c.not_before.is_(None), shards.c.not_before <= now()),
            ~taken,
            sa.true() if alone else shards.c.attempts < SUSPECT_ATTEMPTS,
        )
        .order_by(shards.c.shard_no)
        .limit(1)
    )


def claim(
    connection: sa.Connection,
    worker_id: str,
    lease_s: float,
    *,
    alone: bool = True,
    kinds: Collection[str] | None = None,
) -> Shard | None:
    """Claim the best shard that is due: highest priority, then oldest job, then first in it.

    Of jobs that this worker's `kinds` of engine may score, as in `first_due`.

    One whose attempts are used up comes too, `attempt` being above MAX_ATTEMPTS: whoever claimed it
    gives it up with `results.give_up`.
    """
    while True:
        row = first_due(
            connection,
            sa.select(
                shards,
                *(jobs.c[name] for name in ("model_id", "precision", "engine", "priority", "spec")),
            ),
            worker_id,
            alone=alone,
            claim=True,
            kinds=kinds,
        )
        if row is None:
            return None
        # It may have been paused or cancelled since the statement began to look.
        if job_rows.scoring(connection, row.job_id, key_only=True):
            break
    listing = connection.execute(
        sa.select(shard_listings.c.listing).where(
            shard_listings.c.job_id == row.job_id, shard_listings.c.shard_no == row.shard_no
        )
    ).scalar_one()
    connection.execute(
        sa.update(shards)
        .where(shards.c.job_id == row.job_id, shards.c.shard_no == row.shard_no)
        .values(
            state="leased",
            lease_token=shards.c.lease_token + 1,
            lease_until=now(lease_s),
            worker_id=worker_id,
            attempts=shards.c.attempts + 1,
            # Should this attempt end without a word, no other attempt's words explain it.
            last_error=None,
        )
    )
    return Shard(
        job_id=row.job_id,
        shard_no=row.shard_no,
        token=row.lease_token + 1,
        worker_id=worker_id,
        attempt=row.attempts + 1,
        source_no=row.source_no,
        first_item=row.first_item,
        n_items=row.n_items,
        listing=bytes(listing),
        model_id=row.model_id,
        precision=row.precision or "fp32",
        engine=row.engine,
        priority=row.priority,
        spec=row.spec,
        last_error=row.last_error,
    )


def claim_best(
    connection: sa.Connection,
    worker_id: str,
    lease_s: float,
    *,
    planning: bool,
    alone: bool = True,
    kinds: Collection[str] | None = None,
) -> Shard | Claimed | None:
    """Claim a shard or, with `planning`, a job to be planned: whichever goes first.

    Higher priority first, then the older job; a job is planned before its own shards are scored.
    Not `alone` is a worker that has something in hand: it gets no suspect shard. Of shards it gets
    those that its `kinds` of engine may score, as in `first_due`; any worker may plan.
    """
    job = None
    if planning:
        job = connection.execute(
            job_rows.due("score", sa.select(jobs.c.id, jobs.c.priority)).limit(1)
        ).one_or_none()
    shard = first_due(
        connection,
        sa.select(shards.c.job_id, jobs.c.priority),
        worker_id,
        alone=alone,
        kinds=kinds,
    )
    if job is not None and (
        shard is None or (-job.priority, job.id) <= (-shard.priority, shard.job_id)
    ):
        claimed = job_rows.claim(connection, "score", worker_id, lease_s)
        # It may have been given up just now, or be in another's hands: the shards are still due.
        if claimed is not None:
            return claimed
    return claim(connection, worker_id, lease_s, alone=alone, kinds=kinds)


def held(shard: Shard) -> sa.ColumnElement[bool]:
    """The condition under which a shard is still this holder's."""
    return sa.and_(
        shards.c.job_id == shard.job_id,
        shards.c.shard_no == shard.shard_no,
        shards.c.lease_token == shard.token,
        shards.c.state == "leased",
    )


def renew(connection: sa.Connection, held_shards: Sequence[Shard], lease_s: float) -> list[Shard]:
    """Push the leases' ends back; returns those that are lost (or whose job was cancelled)."""
    lost = []
    for shard in held_shards:
        alive = sa.exists().where(jobs.c.id == shard.job_id, jobs.c.state.in_(SCORING_JOB_STATES))
        renewed = connection.execute(
            sa.update(shards).where(held(shard), alive).values(lease_until=now(lease_s))
        )
        if renewed.rowcount != 1:
            lost.append(shard)
    return lost


def hand_back(
    connection: sa.Connection, shard: Shard, reason: str | None, *, in_good_order: bool
) -> None:
    """Make a shard claimable again: at once when the worker is shutting down, else after a wait.

    In good order the attempt does not count. Without a reason it counts as if the worker had ended
    without a word: one item may be to blame, and is cornered. A lease that is lost already is left
    alone.
    """
    delay_s = 0.0 if in_good_order else BACKOFF_S[min(shard.attempt, len(BACKOFF_S)) - 1]
    connection.execute(
        sa.update(shards)
        .where(held(shard))
        .values(
            state="ready",
            lease_until=None,
            attempts=shards.c.attempts - (1 if in_good_order else 0),
            not_before=now(delay_s),
            last_error=reason,
        )
    )


def bisect(connection: sa.Connection, shard: Shard, first: NewShard, second: NewShard) -> None:
    """Put two halves in a shard's place, so that what kills its workers is cornered.

    The first half keeps the number; the second is appended to the job. Both are due at once and
    have HALF_ATTEMPTS attempts. Raises LeaseLost as `results.commit` does.
    """
    if shard.n_items < 2 or first.n_items + second.n_items != shard.n_items:
        raise ValueError(
            f"shard {shard.shard_no} of job {shard.job_id} has {shard.n_items} items; "
            f"halves of {first.n_items} and {second.n_items} do not make it up"
        )
    row = connection.execute(
        sa.select(jobs.c.state, jobs.c.planned_shards)
        .where(jobs.c.id == shard.job_id)
        .with_for_update()
    ).one()
    attempts = MAX_ATTEMPTS - HALF_ATTEMPTS
    kept = connection.execute(
        sa.update(shards)
        .where(held(shard), sa.literal(row.state in SCORING_JOB_STATES))
        .values(
            state="ready",
            n_items=first.n_items,
            lease_until=None,
            attempts=attempts,
            not_before=None,
        )
    )
    if kept.rowcount != 1:
        raise lost(shard)
    number = row.planned_shards
    connection.execute(
        sa.insert(shards).values(
            job_id=shard.job_id,
            shard_no=number,
            source_no=shard.source_no,
            first_item=shard.first_item + first.n_items,
            n_items=second.n_items,
            state="ready",
            attempts=attempts,
            last_error=shard.last_error,
        )
    )
    connection.execute(
        sa.update(shard_listings)
        .where(shard_listings.c.job_id == shard.job_id, shard_listings.c.shard_no == shard.shard_no)
        .values(listing=first.listing)
    )
    connection.execute(
        sa.insert(shard_listings).values(
            job_id=shard.job_id, shard_no=number, listing=second.listing
        )
    )
    connection.execute(
        sa.update(jobs).where(jobs.c.id == shard.job_id).values(planned_shards=number + 1)
    )
    job_rows.log(
        connection, shard.job_id, shard.worker_id, "shard_bisected",
        f"shard {shard.shard_no} of {shard.n_items} items: the second half is shard {number} now",
    )  # fmt: skip


def lost(shard: Shard) -> LeaseLost:
    """The error for a holder that is none any more."""
    return LeaseLost(
        f"shard {shard.shard_no} of job {shard.job_id} is no longer this worker's, "
        "or the job is paused or has ended"
    )
