"""Turns: whose work is claimed next, where several people share the workers.

Higher priority first. Within a priority the keys of jobs (`jobs.share`) take turns by start-time
fair queueing (Goyal, Vin and Cheng, "Start-time Fair Queuing", IEEE/ACM Transactions on Networking
5(5), 1997): each claim has a virtual start and end, whose distance is what the shard costs, in
seconds of a worker, over the key's weight. The key goes first whose last claim ends first. One that
was away begins where the others are: it is owed nothing, and owes no more than it took. Within a
key the oldest job goes first.

Start and end are columns of the shard that is claimed, so that no row is written by every claim.
Claims of one instant wait for none of each other, and none sees what the others are charged. On
PostgreSQL each therefore takes a place (an advisory lock) with its key: the next one goes to the
next key, and where all have one, to the first again, which is charged for those before it too.
Workers of release 0.2.0 take the oldest job first, and what they claim is counted to nobody.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa

from db.base.schema import SCORING_JOB_STATES, jobs, shard_listings, shards, shares, sources
from db.queue import leases
from db.queue.leases import SUSPECT_ATTEMPTS

#: Seconds that a film is taken to cost while no shard of anybody is done that would tell.
FILM_S = 0.02

#: What a film costs is judged by those of a key's latest so many claims that are done.
LATEST = 64

#: A shard costs no less, in seconds: one that is answered from the store takes hardly any time.
LEAST_S = 1e-3

#: So many claims of a key that are under way at once are told apart; more count as the last.
PLACES = 8

#: So many jobs, by their turns, are looked at for something that is due; all where nothing is.
_FIRST, _ALL = 64, 2**31 - 1


class Away(NamedTuple):
    """What a worker leaves alone for a while, since it could not read it."""

    #: Paths of sources: no shard of them is claimed.
    uris: frozenset[str] = frozenset()
    #: Jobs that are not planned.
    jobs: frozenset[int] = frozenset()


#: Nothing is left alone.
NOWHERE = Away()


class Wanted(NamedTuple):
    """What a worker can do now."""

    worker_id: str = ""
    #: Whether it would plan a job …
    planning: bool = True
    #: … but for jobs of these keys, of which it plans one already.
    planned: frozenset[str] = frozenset()
    #: Whether it has nothing else in hand; else suspect shards are left out.
    alone: bool = True
    #: The words of `jobs.engine` that it serves; None serves all. Any worker may plan.
    kinds: Collection[str] | None = None
    away: Away = NOWHERE


def next_one(
    connection: sa.Connection, wanted: Wanted, passed: Collection[int] = (), *, taking: bool = False
) -> sa.Row[Any] | None:
    """The job whose turn it is, with something in it that this worker could claim now, or None.

    A row of `id`, `priority`, `share` (its key), `plan` (whether it is to be planned; else a shard
    is due), `start` (the virtual start of the claim), `leader` (the key that was served last) and
    `place` (claims of the key that others have under way). Jobs that are `passed` are left out.
    Whoever is `taking` it takes that place until commit.
    """
    places = taking and connection.dialect.name == "postgresql"  # SQLite has one writer
    statement = _turns(wanted.planning, wanted.alone, wanted.kinds is None, places)
    values = {**_values(wanted), "passed": list(passed)}
    for most in (_FIRST, _ALL):
        row = connection.execute(statement, {**values, "most": most}).one_or_none()
        if row is not None:
            return row
    return None


def lock_shard(connection: sa.Connection, turn: sa.Row[Any], wanted: Wanted) -> sa.Row[Any] | None:
    """The first shard of that job that is due, with its listing; its row is locked.

    Beside its columns, and some of its job's, a row has `film_s`, what a film of the key costs in
    seconds, its `weight`, and `taken`, where its last claim ends by now. None where others have all
    of them. The job's row is locked before.
    """
    return connection.execute(
        _first_shard(wanted.alone),
        {**_values(wanted), "job": turn.id, "share": turn.share, "leader": turn.leader,
         "priority": turn.priority},
    ).one_or_none()  # fmt: skip


def counted(turn: sa.Row[Any], shard: sa.Row[Any]) -> dict[str, Any]:
    """The columns of a claimed shard by which it is counted to its key."""
    cost = max(float(shard.film_s) * shard.n_items, LEAST_S) / shard.weight
    start = max(turn.start, shard.taken or 0.0) + turn.place * cost
    theirs = (shard.share, shard.share_priority) == (turn.share, turn.priority)
    if theirs and shard.starts is None:
        # Begun earlier by what was paid: what it is given back or took counts from there.
        start -= min(shard.ends or 0.0, cost)
    return {
        "share": turn.share,
        "share_priority": turn.priority,
        "starts": start,
        "ends": start + cost,
    }


def _values(wanted: Wanted) -> dict[str, Any]:
    return {
        "worker": wanted.worker_id,
        "planned": sorted(wanted.planned),
        "kinds": sorted(wanted.kinds or ()),
        "away_jobs": sorted(wanted.away.jobs),
        "away_uris": sorted(wanted.away.uris),
    }


def to_plan() -> sa.ColumnElement[bool]:
    """The condition under which a scoring job that has not ended is to be planned now."""
    return sa.and_(
        sa.or_(jobs.c.state == "queued", sa.and_(jobs.c.state == "planning", leases.run_out(jobs))),
        leases.waited(jobs),
    )


def _some(name: str) -> sa.BindParameter[Any]:
    """A list of values, however many."""
    return sa.bindparam(name, expanding=True)


@cache
def _turns(planning: bool, alone: bool, any_kind: bool, places: bool) -> sa.Select[Any]:
    """The statement of `next_one`; made once, as it is large. What has a limit is sorted first."""
    share = sa.func.coalesce(jobs.c.share, jobs.c.submitted_by)
    plan = (
        sa.and_(to_plan(), jobs.c.id.not_in(_some("away_jobs")), share.not_in(_some("planned")))
        if planning
        else sa.false()
    )
    served = sa.or_(jobs.c.engine.is_(None), jobs.c.engine.in_(_some("kinds")))
    ends = _last_ends(share, jobs.c.priority)
    opened = (
        sa.select(
            jobs.c.id,
            jobs.c.priority,
            share.label("share"),
            plan.label("plan"),
            (sa.true() if any_kind else served).label("served"),
            ends.label("ends"),
        )
        .where(
            jobs.c.kind == "score",
            jobs.c.finished_at.is_(None),
            jobs.c.state.in_(("queued", *SCORING_JOB_STATES)),
            jobs.c.id.not_in(_some("passed")),
        )
        .cte("opened")
        .prefix_with("MATERIALIZED")  # each key's last claim is looked up once
    )
    # Where the others are: the start of the claim that was made last, and whose it was.
    priorities = sa.select(opened.c.priority).distinct().subquery("priorities")

    def last(column: sa.ColumnElement[Any]) -> sa.ScalarSelect[Any]:
        return (
            sa.select(column)
            .where(shards.c.share_priority == priorities.c.priority, shards.c.starts.is_not(None))
            .order_by(shards.c.starts.desc())
            .limit(1)
            .correlate(priorities)
            .scalar_subquery()
        )

    levels = (
        sa.select(
            priorities.c.priority,
            last(shards.c.starts).label("level"),
            last(shards.c.share).label("leader"),
        )
        .cte("levels")
        .prefix_with("MATERIALIZED")
    )
    level = levels.c.level
    start = sa.case(
        (opened.c.ends >= level, opened.c.ends), else_=sa.func.coalesce(level, 0.0)
    ).label("start")
    turns = (
        sa.select(opened, levels.c.leader, start)
        .join_from(opened, levels, levels.c.priority == opened.c.priority)
        # Of several that begin there, whoever took the least; that is nothing for one who is new.
        .order_by(
            opened.c.priority.desc(), start, sa.func.coalesce(opened.c.ends, -1.0), opened.c.id
        )
        .limit(sa.bindparam("most", type_=sa.Integer))
        .subquery("turns")
    )
    place: sa.ColumnElement[int] = sa.literal_column("0", sa.Integer)
    if places:
        turns = _with_places(turns)
        place = turns.c.place
    due = sa.select(shards.c.shard_no).where(*_due(turns.c.id, alone)).limit(1).scalar_subquery()
    found = sa.or_(turns.c.plan, sa.and_(turns.c.served, due.is_not(None)))
    if places:
        # A place is taken with what was found only.
        found = sa.case((found, _takes(turns)), else_=sa.false())
    names = ("id", "priority", "share", "plan", "start", "leader")
    return sa.select(*(turns.c[n] for n in names), place.label("place")).where(found).limit(1)


def _with_places(turns: sa.Subquery) -> sa.Subquery:
    """Every key's first place, by their turns, then every key's second one, and so on."""
    # With VALUES SQLAlchemy would compile the whole statement anew for each claim.
    numbers = sa.func.generate_series(0, PLACES - 1)
    places = numbers.table_valued(sa.column("place", sa.Integer), name="places").render_derived()
    return (
        sa.select(turns, places.c.place)
        .join_from(turns, places, sa.true())
        .order_by(
            turns.c.priority.desc(), places.c.place, turns.c.start,
            sa.func.coalesce(turns.c.ends, -1.0), turns.c.id,
        )
        .limit(_ALL)  # it is sorted first
        .subquery("placed")
    )  # fmt: skip


def _takes(turns: sa.Subquery) -> sa.ColumnElement[bool]:
    """Whether this claim has that place now, until commit; the last one is everybody's."""
    key = sa.func.concat(turns.c.priority, " ", turns.c.share)
    number = sa.func.hashtextextended(key, turns.c.place)
    return sa.or_(turns.c.place == PLACES - 1, sa.func.pg_try_advisory_xact_lock(number))


def _last_ends(
    share: sa.ColumnElement[str], priority: sa.ColumnElement[int]
) -> sa.ScalarSelect[float]:
    """The virtual end of a key's last claim, or NULL: one look into an index."""
    one = shards.alias("last_claim")
    return (
        sa.select(one.c.ends)
        .where(one.c.share == share, one.c.share_priority == priority, one.c.starts.is_not(None))
        .order_by(one.c.starts.desc(), one.c.ends.desc())
        .limit(1)
        .correlate_except(one)
        .scalar_subquery()
    )


def _due(job_id: sa.ColumnElement[int], alone: bool) -> tuple[sa.ColumnElement[bool], ...]:
    """The conditions under which this worker could claim a shard of a job now.

    A source that can only be read from its start is one worker's at a time: a second one would
    inflate all of it once more.
    """
    others = shards.alias("others")
    same = sa.and_(sources.c.job_id == shards.c.job_id, sources.c.source_no == shards.c.source_no)
    taken = sa.exists().where(
        same,
        sources.c.streams,
        others.c.job_id == sources.c.job_id,
        others.c.source_no == sources.c.source_no,
        others.c.finished_at.is_(None),
        others.c.state == "leased",
        leases.leased(others),
        others.c.worker_id != sa.bindparam("worker"),
    )
    return (
        shards.c.job_id == job_id,
        shards.c.finished_at.is_(None),
        sa.or_(
            shards.c.state == "ready",
            sa.and_(shards.c.state == "leased", leases.run_out(shards)),
        ),
        leases.waited(shards),
        ~taken,
        ~sa.exists().where(same, sources.c.uri.in_(_some("away_uris"))),
        sa.true() if alone else shards.c.attempts < SUSPECT_ATTEMPTS,
    )


@cache
def _first_shard(alone: bool) -> sa.Select[Any]:
    """The statement of `lock_shard`."""
    weight = sa.select(shares.c.weight).where(shares.c.key == sa.bindparam("share"))
    return (
        sa.select(
            shards,
            shard_listings.c.listing,
            *(jobs.c[name] for name in ("model_id", "precision", "engine", "priority", "spec")),
            sa.func.coalesce(_film_s("share"), _film_s("leader"), FILM_S).label("film_s"),
            sa.func.coalesce(weight.scalar_subquery(), 1.0).label("weight"),
            _last_ends(*_key_of("share")).label("taken"),
        )
        .join_from(shards, jobs, jobs.c.id == shards.c.job_id)
        .join(
            shard_listings,
            sa.and_(
                shard_listings.c.job_id == shards.c.job_id,
                shard_listings.c.shard_no == shards.c.shard_no,
            ),
        )
        .where(
            *_due(sa.bindparam("job", type_=sa.BigInteger), alone),
            jobs.c.state.in_(SCORING_JOB_STATES),
        )
        .order_by(shards.c.shard_no)
        .limit(1)
        .with_for_update(skip_locked=True, of=shards)
    )


def _key_of(name: str) -> tuple[sa.ColumnElement[str], sa.ColumnElement[int]]:
    """A key that the statement gets by this name, and the priority."""
    return (
        sa.bindparam(name, type_=sa.Text),
        sa.bindparam("priority", type_=sa.SmallInteger),
    )


def _film_s(name: str) -> sa.ScalarSelect[Any]:
    """Seconds that a film of a key cost lately; NULL where none is done."""
    one = shards.alias(f"of_{name}")
    share, priority = _key_of(name)
    lately = (
        sa.select(one.c.seconds, one.c.n_items)
        .where(one.c.share == share, one.c.share_priority == priority, one.c.starts.is_not(None))
        .order_by(one.c.starts.desc(), one.c.ends.desc())
        .limit(LATEST)
        .subquery(f"lately_{name}")
    )
    return (
        sa.select(sa.func.sum(lately.c.seconds) / sa.func.sum(lately.c.n_items))
        .where(lately.c.seconds.is_not(None))
        .scalar_subquery()
    )
