"""Schedules: jobs that the clock makes, and each of their times dealt with once.

Whoever ticks works under the schedule's row lock, and a run is unique per schedule and time: of any
number of clocks, one makes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from db.base import database
from db.base.errors import Conflict, NotFound
from db.base.schema import job_events, schedules, workers
from db.base.schema import notices as notices_table
from db.base.schema import runs as runs_table
from db.base.types import now
from db.nightly import ends, runs
from db.nightly.runs import Times
from db.queue import jobs, outages
from db.registry import aliases

#: Characters of a name; a removed one has its number after them.
LONGEST_NAME = 48

#: Characters of cron fields.
LONGEST_CRON = 128

#: The rules about names of what says none, those of release 0.2.0 and before; what they are, and of
#: those of today, the trainer knows.
FIRST_NAMING = 1

#: A run that is later than its time by more than this was made up for.
LATE = timedelta(minutes=2)

#: A clock that is further behind than this is not to be believed.
BEHIND = timedelta(seconds=60)

#: A job's number → whether it was ended, since it only waits for sources that nobody can read.
LetGo = Callable[[sa.Connection, int], bool]


def _no_times(cron: str, tz: str, after: datetime, until: datetime) -> Sequence[datetime]:
    """For runs of schedules whose nights have no end."""
    return ()


def name_fault(name: str) -> str | None:
    """What is wrong with a name; None for a good one."""
    if re.fullmatch(rf"[\w.-]{{1,{LONGEST_NAME}}}", name):
        return None
    return f"give 1 to {LONGEST_NAME} letters, digits, dots, hyphens or underscores"


def add(
    connection: sa.Connection,
    *,
    name: str,
    cron: str,
    tz: str,
    kind: str,
    spec: dict[str, Any],
    catch_up_s: int,
    created_by: str,
) -> int:
    """Insert a schedule, whose times begin now; Conflict where its name is taken."""
    schedule_id, inserted = database.find_or_insert(
        connection,
        sa.select(schedules.c.id).where(schedules.c.name == name),
        sa.insert(schedules)
        .values(
            name=name,
            cron=cron,
            tz=tz,
            kind=kind,
            spec=spec,
            paused=False,
            catch_up_s=catch_up_s,
            created_at=now(),
            created_by=created_by,
            considered_until=now(),
        )
        .returning(schedules.c.id),
    )
    if not inserted:
        raise Conflict(
            f"there is a schedule {name!r} already; `pneumoq schedule rm {name}` removes it"
        )
    return schedule_id


def get(engine: sa.Engine, name: str) -> sa.RowMapping:
    """A schedule by its name; NotFound where there is none."""
    with database.reading(engine) as connection:
        row = connection.execute(_named(name)).mappings().first()
    if row is None:
        raise NotFound(f"there is no schedule {name!r}; `pneumoq schedule ls` lists them")
    return row


def listing(engine: sa.Engine) -> list[sa.RowMapping]:
    """All schedules by name, with their last run: `run_id`, `run_state`, `outcome`, `run_for`."""
    one = runs_table.alias()
    last = (
        sa.select(sa.func.max(one.c.id))
        .where(one.c.schedule_id == schedules.c.id)
        .correlate(schedules)
        .scalar_subquery()
    )
    select = (
        sa.select(
            schedules,
            runs_table.c.id.label("run_id"),
            runs_table.c.state.label("run_state"),
            runs_table.c.outcome,
            runs_table.c.reason,
            runs_table.c.scheduled_for.label("run_for"),
            runs_table.c.job_id,
        )
        .select_from(schedules)
        .outerjoin(runs_table, runs_table.c.id == last)
        .where(schedules.c.removed_at.is_(None))
        .order_by(schedules.c.name)
    )
    with database.reading(engine) as connection:
        return list(connection.execute(select).mappings())


def set_paused(connection: sa.Connection, name: str, paused: bool) -> None:
    """Hold a schedule, or let it go on: times that passed meanwhile are not made up for."""
    row = _locked(connection, name)
    if row.paused == paused:
        raise Conflict(f"schedule {name!r} is {'paused' if paused else 'not paused'} already")
    connection.execute(
        sa.update(schedules)
        .where(schedules.c.id == row.id)
        .values(paused=paused, considered_until=now())
    )


def remove(connection: sa.Connection, name: str) -> None:
    """Remove a schedule: it makes no more runs. Those that it made, and their jobs, stay.

    A run that has no job yet, for its folders are still to be looked through, is cancelled.
    """
    row = _locked(connection, name)
    due = sa.select(runs_table.c.id).where(
        runs_table.c.schedule_id == row.id, runs_table.c.state == "due"
    )
    for run_id in connection.execute(due).scalars().all():
        runs.finish(connection, run_id, "cancelled", "the schedule was removed")
    outages.end(connection, schedule_id=row.id, silently=True)
    connection.execute(
        sa.update(schedules)
        .where(schedules.c.id == row.id)
        .values(removed_at=now(), name=f"{name}#{row.id}", paused=True)
    )


def run_now(
    connection: sa.Connection, name: str, times: Times = _no_times, who: str = "by hand"
) -> int:
    """Make a run by hand, for this moment; Conflict where one of this schedule is open.

    One that was put aside at the end of its night goes on, until the end of the night that begins
    now.
    """
    row = _locked(connection, name)
    at = connection.execute(sa.select(now())).scalar_one()
    until = ends.of(row, at, times)
    going = _open_run(connection, row.id)
    if going is not None and ends.goes_on(connection, going, until, at, who):
        return int(going["id"])
    if going is not None:
        raise Conflict(
            f"the run of {going['scheduled_for']:%Y-%m-%d %H:%M} UTC is still going on"
            + (f" (job {going['job_id']})" if going["job_id"] else "")
        )
    run_id = make_run(connection, row, at, "hand", until)
    assert run_id is not None, "no other run can be for this very moment under the row's lock"
    return run_id


def make_run(
    connection: sa.Connection,
    schedule: Any,
    scheduled_for: datetime,
    cause: str,
    until: datetime | None = None,
) -> int | None:
    """Make a schedule's run for a time, and of training its job; None where there is one already.

    The champion is pinned here: it is what the new model is compared with, and where the job says
    `warm_start`, what it starts from. `until` is when its night ends.
    """
    if schedule.kind == "score":
        return runs.begin(connection, schedule.id, scheduled_for, cause, "due")
    champion = aliases.model_of(connection, aliases.CHAMPION)
    run_id = runs.begin(
        connection, schedule.id, scheduled_for, cause, "running", champion_id=champion,
        until=until,
    )  # fmt: skip
    if run_id is None:
        return None
    spec = dict(schedule.spec["job"])
    if "naming" not in spec:
        # Of an older release, whose rules about names it keeps: its first job from here on says so.
        said = {**schedule.spec, "job": {**spec, "naming": FIRST_NAMING}}
        connection.execute(
            sa.update(schedules).where(schedules.c.id == schedule.id).values(spec=said)
        )
    if spec.get("warm_start"):
        spec["warm_start"] = champion
    job_id = jobs.submit(
        connection,
        kind="train",
        spec=spec,
        submitted_by=f"schedule {schedule.name}",
        priority=int(schedule.spec.get("priority", 0)),
        schedule_id=schedule.id,
        scheduled_for=scheduled_for,
    )
    runs.note(connection, run_id, job_id=job_id)
    return run_id


def active(engine: sa.Engine) -> list[int]:
    """The schedules that make runs."""
    select = sa.select(schedules.c.id).where(
        schedules.c.removed_at.is_(None), sa.not_(schedules.c.paused)
    )
    with database.reading(engine) as connection:
        return list(connection.execute(select.order_by(schedules.c.id)).scalars())


def tick(
    connection: sa.Connection,
    schedule_id: int,
    at: datetime,
    times: Times,
    let_go: LetGo = lambda connection, job_id: False,
) -> int | None:
    """Deal with a schedule's times up to `at`; the run that was made, if any.

    `let_go` ends the job of a run that still goes on where it only waits; whether it did.
    A training that was put aside at the end of its night goes on, and its run is returned.

    Of several times the last one counts, unless it is longer ago than may be made up for, or its
    night is over. Those
    that come to nothing are one row, which says how many they were.
    """
    row = connection.execute(
        sa.select(schedules).where(schedules.c.id == schedule_id).with_for_update(key_share=True)
    ).one()
    if row.removed_at is not None or row.paused:
        return None
    if row.considered_until - at > BEHIND:
        _begin_anew(connection, schedule_id, at)
        return None
    found = times(row.cron, row.tz, row.considered_until, at)
    if not found:
        return None
    connection.execute(
        sa.update(schedules).where(schedules.c.id == schedule_id).values(considered_until=found[-1])
    )
    *missed, last = found
    late = at - last
    until = ends.of(row, last, times)
    over = until is not None and at >= until
    too_late = over or late > max(timedelta(seconds=row.catch_up_s), LATE)
    if too_late:
        missed.append(last)
    if missed:
        _missed(connection, schedule_id, missed, too_late)
    if too_late:
        return None
    going = _open_run(connection, schedule_id)
    if going is not None and going["job_id"] and let_go(connection, going["job_id"]):
        going = _open_run(connection, schedule_id)
    if going is not None and ends.goes_on(connection, going, until, at, f"schedule {row.name}"):
        ends.note(connection, schedule_id, last, going)
        return int(going["id"])
    if going is not None:
        skipped = runs.begin(connection, schedule_id, last, "clock", "running")
        if skipped is not None:
            which = f"{going['scheduled_for']:%Y-%m-%d %H:%M} UTC"
            what = f"job {going['job_id']}" if going["job_id"] else "its folder"
            reason = f"the run of {which} was still going on ({what})"
            # A folder is looked at every few minutes, and the next look takes what waits.
            hook_text = reason if row.kind == "train" else None
            runs.finish(connection, skipped, "skipped", reason, hook_text=hook_text)
        return None
    return make_run(connection, row, last, "catch_up" if late > LATE else "clock", until)


def _begin_anew(connection: sa.Connection, schedule_id: int, at: datetime) -> None:
    """A clock that was ahead has dealt with times that are still to come: they begin now.

    Runs that it made for them stay, also that of a time to come: it has been run. Those that came
    to nothing go, so that the times have their runs.
    """
    nothing = sa.select(runs_table.c.id).where(
        runs_table.c.schedule_id == schedule_id,
        runs_table.c.scheduled_for > at + BEHIND,
        runs_table.c.job_id.is_(None),
        runs_table.c.finished_at.is_not(None),
    )
    gone = connection.execute(nothing).scalars().all()
    connection.execute(
        sa.update(notices_table).where(notices_table.c.run_id.in_(gone)).values(run_id=None)
    )
    connection.execute(sa.delete(runs_table).where(runs_table.c.id.in_(gone)))
    connection.execute(
        sa.update(schedules).where(schedules.c.id == schedule_id).values(considered_until=at)
    )


def clock_behind(engine: sa.Engine, at: datetime) -> timedelta | None:
    """How far a clock is behind what was written last; None where it may be believed.

    It may also be that what was written last is by a clock that was ahead for a while.
    """
    # The newest event by its number: an index finds it among however many.
    event = sa.select(job_events.c.at).order_by(job_events.c.id.desc()).limit(1)
    with database.reading(engine) as connection:
        newest = [
            connection.execute(select).scalar()
            for select in (event, sa.select(sa.func.max(workers.c.seen_at)))
        ]
        behind = max((moment - at for moment in newest if moment is not None), default=timedelta())
        if behind <= BEHIND or _was_ahead(connection, at):
            return None
        return behind


def _was_ahead(connection: sa.Connection, at: datetime) -> bool:
    """Whether what is later than `at` is by a clock that was ahead once, as far as can be told.

    It lies by itself then: nothing was written in the first half of the time from now until the
    last of it, and there are schedules that were made before now. To a clock that is behind, what
    was written begins soon, or it is behind everything that there is.
    """
    later = at + BEHIND
    found = [
        connection.execute(
            sa.select(sa.func.min(column), sa.func.max(column)).where(column > later)
        ).one()
        for column in (job_events.c.at, workers.c.started_at, workers.c.seen_at)
    ]
    first = min(low for low, _ in found if low is not None)
    last = max(high for _, high in found if high is not None)
    before = sa.exists().where(schedules.c.created_at <= at)
    made_before = bool(connection.execute(sa.select(before)).scalar_one())
    return made_before and first - at > last - first


def database_clock(engine: sa.Engine) -> datetime:
    """What time it is in the database."""
    with database.reading(engine) as connection:
        return connection.execute(sa.select(now())).scalar_one()


def _named(name: str) -> sa.Select[Any]:
    return sa.select(schedules).where(schedules.c.name == name, schedules.c.removed_at.is_(None))


def _locked(connection: sa.Connection, name: str) -> sa.Row[Any]:
    row = connection.execute(_named(name).with_for_update(key_share=True)).one_or_none()
    if row is None:
        raise NotFound(f"there is no schedule {name!r}; `pneumoq schedule ls` lists them")
    return row


def _open_run(connection: sa.Connection, schedule_id: int) -> sa.RowMapping | None:
    """The open run of a schedule: its job is open, or the engine checks of its model are."""
    return connection.execute(
        sa.select(
            runs_table.c.id, runs_table.c.scheduled_for, runs_table.c.job_id, runs_table.c.until
        )
        .where(runs_table.c.schedule_id == schedule_id, runs_table.c.finished_at.is_(None))
        .order_by(runs_table.c.id)
        .limit(1)
    ).mappings().one_or_none()  # fmt: skip


def _missed(
    connection: sa.Connection, schedule_id: int, times: Sequence[datetime], too_late: bool
) -> None:
    """One row for all times that came to nothing: none was made up for, or only a later one."""
    run_id = runs.begin(connection, schedule_id, times[-1], "clock", "running")
    if run_id is None:
        return
    first, last = (f"{moment:%Y-%m-%d %H:%M}" for moment in (times[0], times[-1]))
    reason = (
        f"no worker ran at {last} UTC"
        if len(times) == 1
        else f"no worker ran at {len(times)} times, from {first} to {last} UTC"
    ) + (", nor in time to make up for it" if too_late else ", nor until the next time")
    runs.finish(connection, run_id, "missed", reason, hook_text=reason)
