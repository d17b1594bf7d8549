"""Claiming: which job or shard a worker does next, and taking it.

Higher priority first, then the older job, then the first shard in it. A claim takes the lease's
next token, and a job whose attempts are used up is given up here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa

from db.base import database
from db.base.schema import SCORING_JOB_STATES, jobs, shard_listings, shards, sources
from db.base.types import now
from db.queue import jobs as job_rows
from db.queue import leases, outages
from db.queue.leases import SUSPECT_ATTEMPTS, Lease, Shard
from db.work import endings

#: A job that its workers did not survive so many times is given up. Of planning, only attempts in a
#: row that listed nothing count, and of training those without a checkpoint; and a planner's worker
#: may die by a film that it scores meanwhile, which takes several deaths to be found.
MAX_ATTEMPTS = {"train": 6, "score": 15}


class Away(NamedTuple):
    """What a worker leaves alone for a while, since it could not read it."""

    #: Paths of sources: no shard of them is claimed.
    uris: frozenset[str] = frozenset()
    #: Jobs that are not planned.
    jobs: frozenset[int] = frozenset()


#: Nothing is left alone.
NOWHERE = Away()


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """A job that this worker has just claimed."""

    lease: Lease
    kind: str
    spec: dict[str, Any]
    model_id: int | None
    #: Scoring: fp32, bf16, fp16 or int8.
    precision: str | None
    #: The job that this one retries.
    parent_job_id: int | None
    #: -100 to 100; higher goes first.
    priority: int
    #: 1 for the first attempt.
    attempt: int
    #: Scoring: what an earlier planner had already listed.
    planned_items: int
    planned_shards: int


def claim_job(
    connection: sa.Connection,
    kind: str,
    worker_id: str,
    lease_s: float,
    away: Away = NOWHERE,
) -> Claimed | None:
    """Claim the best job that is due: of kind `train`, or of kind `score` to be planned.

    None that is `away`.

    A job whose last worker vanished is claimed again after its lease, `MAX_ATTEMPTS` times; then it
    fails here, saying so.
    """
    while True:
        row = connection.execute(
            due(kind, sa.select(jobs), away).limit(1).with_for_update(skip_locked=True)
        ).one_or_none()
        if row is None:
            return None
        if row.attempts < MAX_ATTEMPTS[kind]:
            break
        endings.finish(
            connection, row.id, "failed", worker_id,
            f"given up after {row.attempts} attempts: its worker ended each time before it did",
        )  # fmt: skip
    state = "planning" if kind == "score" else "running"
    connection.execute(
        sa.update(jobs)
        .where(jobs.c.id == row.id)
        .values(
            state=state,
            lease_token=jobs.c.lease_token + 1,
            lease_until=now(lease_s),
            worker_id=worker_id,
            attempts=jobs.c.attempts + 1,
            started_at=sa.func.coalesce(jobs.c.started_at, now()),
        )
    )
    job_rows.log(connection, row.id, worker_id, state, f"attempt {row.attempts + 1}")
    return Claimed(
        lease=Lease(job_id=row.id, token=row.lease_token + 1, worker_id=worker_id),
        kind=row.kind,
        spec=row.spec,
        model_id=row.model_id,
        precision=row.precision,
        parent_job_id=row.parent_job_id,
        priority=row.priority,
        attempt=row.attempts + 1,
        planned_items=row.planned_items,
        planned_shards=row.planned_shards,
    )


def due(kind: str, select: sa.Select[Any], away: Away = NOWHERE) -> sa.Select[Any]:
    """Narrow a SELECT over jobs to those that could be claimed now, best first.

    Without those that are `away`.
    """
    active = ("planning",) if kind == "score" else ("running",)
    if away.jobs:
        select = select.where(jobs.c.id.not_in(sorted(away.jobs)))
    return (
        select.where(
            jobs.c.kind == kind,
            jobs.c.finished_at.is_(None),
            sa.or_(
                jobs.c.state == "queued",
                sa.and_(jobs.c.state.in_(active), leases.run_out(jobs)),
            ),
            leases.waited(jobs),
        )
        .order_by(jobs.c.priority.desc(), jobs.c.id)
    )  # fmt: skip


def claim_shard(
    connection: sa.Connection,
    worker_id: str,
    lease_s: float,
    *,
    alone: bool = True,
    kinds: Collection[str] | None = None,
    away: Away = NOWHERE,
    wait: bool = True,
) -> Shard | None:
    """Claim the best shard that is due: highest priority, then oldest job, then first in it.

    Of jobs that this worker's `kinds` of engine may score, and not of sources that are `away`, as
    in `first_due`. Unless it is to `wait`, a job that another one changes just now is skipped.

    One whose attempts are used up comes too, `attempt` being above MAX_ATTEMPTS: whoever claimed it
    gives it up with `results.give_up`.
    """
    row = first_due(
        connection,
        sa.select(
            shards,
            *(jobs.c[name] for name in ("model_id", "precision", "engine", "priority", "spec")),
        ),
        worker_id,
        alone=alone,
        lock=lambda job_id: job_rows.scoring(
            connection, job_id, key_only=True, skip_locked=not wait
        ),
        kinds=kinds,
        away=away,
    )
    if row is None:
        return None
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
        unread={int(item): tries for item, tries in (row.unread or {}).items()},
    )


def first_due(
    connection: sa.Connection,
    select: sa.Select[Any],
    worker_id: str = "",
    *,
    alone: bool = True,
    lock: Callable[[int], bool] | None = None,
    kinds: Collection[str] | None = None,
    away: Away = NOWHERE,
) -> sa.Row[Any] | None:
    """The row of a SELECT over shards for the best that this worker could claim now, or None.

    The highest priority first, then the oldest job, then the first in it. `kinds` are the words of
    `jobs.engine` that the worker serves, and jobs that ask for another are skipped; None serves
    all. What is `away` is left alone. With `lock` the row is to be claimed: it locks the job's row,
    and says whether its shards may be worked on still; the shard's row is locked then, and those
    that others have locked are skipped.
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
        if away.uris:
            query = query.where(
                ~sa.exists().where(
                    sources.c.job_id == shards.c.job_id,
                    sources.c.source_no == shards.c.source_no,
                    sources.c.uri.in_(sorted(away.uris)),
                )
            )
        row = connection.execute(query).one_or_none()
        if row is not None and lock is not None:
            # The job's row comes before its shards', but not where nothing of it is due.
            if not lock(job_id):
                continue
            locked = query.with_for_update(skip_locked=True, of=shards)
            row = connection.execute(locked).one_or_none()
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
        leases.leased(others),
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
                sa.and_(shards.c.state == "leased", leases.run_out(shards)),
            ),
            leases.waited(shards),
            ~taken,
            sa.true() if alone else shards.c.attempts < SUSPECT_ATTEMPTS,
        )
        .order_by(shards.c.shard_no)
        .limit(1)
    )


def claim_best(
    connection: sa.Connection,
    worker_id: str,
    lease_s: float,
    *,
    planning: bool,
    alone: bool = True,
    kinds: Collection[str] | None = None,
    away: Away = NOWHERE,
) -> Shard | Claimed | None:
    """Claim a shard or, with `planning`, a job to be planned: whichever goes first.

    Higher priority first, then the older job; a job is planned before its own shards are scored.
    Not `alone` is a worker that has something in hand: it gets no suspect shard. Of shards it gets
    those that its `kinds` of engine may score, as in `first_due`; any worker may plan what is
    not `away`.
    """
    job = None
    if planning:
        job = connection.execute(
            due("score", sa.select(jobs.c.id, jobs.c.priority), away).limit(1)
        ).one_or_none()
    shard = first_due(
        connection,
        sa.select(shards.c.job_id, jobs.c.priority),
        worker_id,
        alone=alone,
        kinds=kinds,
        away=away,
    )
    if job is not None and (
        shard is None or (-job.priority, job.id) <= (-shard.priority, shard.job_id)
    ):
        claimed = claim_job(connection, "score", worker_id, lease_s, away)
        if claimed is not None:
            return claimed
        # It was given up just now, or is in another's hands: the shards are still due. Behind what
        # was locked for its end no other job's row may be waited for.
        return claim_shard(
            connection, worker_id, lease_s, alone=alone, kinds=kinds, away=away, wait=False
        )
    return claim_shard(connection, worker_id, lease_s, alone=alone, kinds=kinds, away=away)


def anything_due(
    engine: sa.Engine,
    queue: str,
    *,
    kinds: Collection[str] | None = None,
    away: Away = NOWHERE,
) -> bool:
    """Whether a worker of this queue would find something to claim now.

    `kinds` are the words of `jobs.engine` that it serves, and `away` what it leaves alone;
    None and nothing ask for any worker.
    """
    with database.reading(engine) as connection:
        kind = "train" if queue == "train" else "score"
        if connection.execute(due(kind, sa.select(jobs.c.id), away).limit(1)).first() is not None:
            return True
        if queue == "train":
            return False
        select = sa.select(shards.c.job_id)
        return first_due(connection, select, kinds=kinds, away=away) is not None


def urgent(engine: sa.Engine, kinds: Collection[str] | None = None) -> str | None:
    """Why the next training job that is due should wait, or None; `kinds` as of `more_urgent`."""
    with database.reading(engine) as connection:
        next_one = connection.execute(
            due("train", sa.select(jobs.c.priority)).limit(1)
        ).one_or_none()
        return None if next_one is None else more_urgent(connection, next_one.priority, kinds)


def more_urgent(
    connection: sa.Connection, priority: int, kinds: Collection[str] | None = None
) -> str | None:
    """The scoring job to which training of this priority gives way, in words, or None.

    `kinds` are the engines that would score it, as of `first_due`: for a job that asks for
    another, nobody needs to wait here.
    """
    found = connection.execute(
        sa.select(jobs.c.id, jobs.c.priority)
        .where(
            jobs.c.kind == "score",
            jobs.c.state.in_(("queued", *SCORING_JOB_STATES)),
            jobs.c.priority > priority,
            served(kinds),
            # What waits for its sources may wait for hours.
            ~outages.stalled(),
        )
        .order_by(jobs.c.priority.desc(), jobs.c.id)
        .limit(1)
    ).one_or_none()
    if found is None:
        return None
    return f"scoring job {found.id} goes first: its priority is {found.priority}, not {priority}"
