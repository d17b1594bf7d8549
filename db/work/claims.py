"""Claiming: which job or shard a worker does next, and taking it.

Higher priority first. Training goes by age then; scoring by turns between those who share the
workers (`turns`), then by age, then the first shard in the job. A claim takes the lease's next
token, and a job whose attempts are used up is given up here.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from db.base import database
from db.base.schema import SCORING_JOB_STATES, jobs, shards
from db.base.types import now
from db.queue import jobs as job_rows
from db.queue import leases, outages
from db.queue.leases import Lease, Shard
from db.work import endings, turns
from db.work.turns import NOWHERE, Away, Wanted

#: A job that its workers did not survive so many times is given up. Of planning, only attempts in a
#: row that listed nothing count, and of training those without a checkpoint; and a planner's worker
#: may die by a film that it scores meanwhile, which takes several deaths to be found.
MAX_ATTEMPTS = {"train": 6, "score": 15}


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
    #: Whose share of the workers it takes.
    share: str
    #: Scoring: what an earlier planner had already listed.
    planned_items: int
    planned_shards: int


def claim_job(
    connection: sa.Connection,
    kind: str,
    worker_id: str,
    lease_s: float,
    away: Away = NOWHERE,
    job_id: int | None = None,
) -> Claimed | None:
    """Claim the best job that is due: of kind `train`, or of kind `score` to be planned.

    None that is `away`; with `job_id` this one or none. A job whose last worker vanished is claimed
    again after its lease, `MAX_ATTEMPTS` times; then it fails here, saying so.
    """
    wanted = due(kind, sa.select(jobs), away)
    if job_id is not None:
        wanted = wanted.where(jobs.c.id == job_id)
    while True:
        row = connection.execute(wanted.limit(1).with_for_update(skip_locked=True)).one_or_none()
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
        share=row.share or row.submitted_by,
        attempt=row.attempts + 1,
        planned_items=row.planned_items,
        planned_shards=row.planned_shards,
    )


def due(kind: str, select: sa.Select[Any], away: Away = NOWHERE) -> sa.Select[Any]:
    """Narrow a SELECT over jobs to those that could be claimed now, the oldest of the best first.

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
) -> Shard | None:
    """Claim the best shard that is due, as `claim_best` of a worker that plans nothing."""
    found = claim_best(
        connection, worker_id, lease_s, planning=False, alone=alone, kinds=kinds, away=away
    )
    assert not isinstance(found, Claimed)
    return found


def claim_best(
    connection: sa.Connection,
    worker_id: str,
    lease_s: float,
    *,
    planning: bool,
    planned: Collection[str] = (),
    alone: bool = True,
    kinds: Collection[str] | None = None,
    away: Away = NOWHERE,
) -> Shard | Claimed | None:
    """Claim a shard or, with `planning`, a job to be planned: whichever has its turn.

    A job is planned before its own shards are scored, and not while this worker plans another one
    of its key (`planned`). Not `alone` is a worker that has something in hand: it gets no suspect
    shard. Of shards it gets those that its `kinds` of engine may score, which are words of
    `jobs.engine` (None serves all); any worker may plan what is not `away`.

    A shard whose attempts are used up comes too, `attempt` being above MAX_ATTEMPTS: whoever
    claimed it gives it up with `results.give_up`.
    """
    wanted = Wanted(
        worker_id=worker_id, planning=planning, planned=frozenset(planned), alone=alone,
        kinds=kinds, away=away,
    )  # fmt: skip
    passed: list[int] = []
    # Behind what is locked no other job's row may be waited for.
    wait = True
    while (turn := turns.next_one(connection, wanted, passed, taking=True)) is not None:
        if turn.plan:
            claimed = claim_job(connection, "score", worker_id, lease_s, away, turn.id)
            if claimed is not None:
                return claimed
            # It was given up just now, or is in another's hands: shards are due still.
            wanted, wait = wanted._replace(planning=False), False
            continue
        # The job's row comes before its shards'.
        if job_rows.scoring(connection, turn.id, key_only=True, skip_locked=not wait):
            row = turns.lock_shard(connection, turn, wanted)
            if row is not None:
                return _take(connection, turn, row, worker_id, lease_s)
        passed.append(turn.id)
        wait = False
    return None


def _take(
    connection: sa.Connection, turn: sa.Row[Any], row: sa.Row[Any], worker_id: str, lease_s: float
) -> Shard:
    """Claim a shard whose row is locked."""
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
            **turns.counted(turn, row),
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
        listing=bytes(row.listing),
        model_id=row.model_id,
        precision=row.precision or "fp32",
        engine=row.engine,
        priority=row.priority,
        spec=row.spec,
        last_error=row.last_error,
        unread={int(item): tries for item, tries in (row.unread or {}).items()},
    )


def served(kinds: Collection[str] | None) -> sa.ColumnElement[bool]:
    """The condition under which a job may be scored by a worker that serves these engines."""
    if kinds is None:
        return sa.true()
    return sa.or_(jobs.c.engine.is_(None), jobs.c.engine.in_(sorted(kinds)))


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
        if queue == "train":
            first = connection.execute(due("train", sa.select(jobs.c.id), away).limit(1))
            return first.first() is not None
        return turns.next_one(connection, Wanted(kinds=kinds, away=away)) is not None


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
            jobs.c.finished_at.is_(None),
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
