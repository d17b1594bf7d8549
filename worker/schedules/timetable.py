"""The timetable: at each tick, schedules whose time has come get their run.

Cron fields are read in the schedule's time zone, with Debian's rules for daylight saving: a time
in the hour that is skipped runs once, at its end; one in the hour that comes twice runs once; what
runs every so many minutes or every hour follows the real time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from heapq import heappop, heappush
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from cronsim import CronSim, CronSimError

from db.base import database
from db.nightly import schedules
from db.work import patience
from worker import wakeup
from worker.config import Settings
from worker.errors import ConfigError

log = logging.getLogger(__name__)

#: More times than this since the last tick are not listed one by one: the newest so many are.
MOST_TIMES = 10_000

_FIELDS = ("minute", "hour", "day of the month", "month", "day of the week")

#: What was logged of a database, so that it is logged once.
_logged: set[tuple[str, str]] = set()


def run(settings: Settings, engine: sa.Engine, who: str) -> None:
    """A chore: make the runs whose time has come, and notify workers of their jobs."""
    if tick(engine):
        wakeup.notify(settings, "train")


def tick(
    engine: sa.Engine, clock: Callable[[sa.Engine], datetime] = schedules.database_clock
) -> list[int]:
    """Make the runs that are due by this clock; their numbers.

    Nothing is made by a clock that is behind what was written last, as a Jetson's without a battery
    is after a power cut.
    """
    ids = schedules.active(engine)
    if not ids:
        return []
    at = clock(engine)
    behind = schedules.clock_behind(engine, at)
    if behind is not None:
        _log_once(engine, "clock", f"no schedule runs: {behind_text(at, behind)}")
        return []
    _logged.discard((engine.url.render_as_string(), "clock"))
    made: list[int | None] = []
    for number in ids:
        try:
            made.append(
                database.write(
                    engine,
                    lambda c, n=number: schedules.tick(  # type: ignore[misc]
                        c, n, at, times, patience.let_go
                    ),
                )
            )
        except ConfigError as error:  # of what only the machine knows where it was added
            _log_once(engine, str(number), f"schedule {number} does not run here: {error}")
    return [run_id for run_id in made if run_id is not None]


def _log_once(engine: sa.Engine, what: str, text: str) -> None:
    key = engine.url.render_as_string(), what
    if key not in _logged:
        _logged.add(key)
        log.error("%s", text)


def behind_text(at: datetime, behind: timedelta) -> str:
    """Why a clock cannot be believed, in words."""
    return (
        f"the clock says {at:%Y-%m-%d %H:%M} UTC, {behind} earlier than what was written last; set "
        "it (timedatectl), and they go on"
    )


def check(cron: str, tz: str, after: datetime) -> datetime:
    """The first time after an instant; ConfigError where the fields or the zone mean nothing."""
    fields = cron.split()
    if len(fields) != len(_FIELDS):
        raise ConfigError(
            f"cron has five fields ({', '.join(_FIELDS)}), like '0 2 * * *'; {cron!r} has "
            f"{len(fields)}"
        )
    zone(tz)
    try:
        CronSim(cron, after)
    except CronSimError as error:
        for number, name in enumerate(_FIELDS):
            alone = ["*"] * len(_FIELDS)
            alone[number] = fields[number]
            try:
                CronSim(" ".join(alone), after)
            except CronSimError:
                raise ConfigError(
                    f"{fields[number]!r} is no {name} for cron (in {cron!r})"
                ) from error
        raise ConfigError(f"{cron!r} is never") from error
    first = following(cron, tz, after)
    if first is None:
        raise ConfigError(f"{cron!r} is never")
    return first


def zone(tz: str) -> ZoneInfo:
    """A time zone by its IANA name; ConfigError names some that are spelt alike."""
    try:
        return ZoneInfo(tz)
    except (KeyError, ValueError, OSError) as error:
        from difflib import get_close_matches
        from zoneinfo import available_timezones

        close = get_close_matches(tz, sorted(available_timezones()), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "give one like Europe/Paris"
        raise ConfigError(f"there is no time zone {tz!r}; {hint}") from error


def following(cron: str, tz: str, after: datetime) -> datetime | None:
    """The first time after an instant, in UTC; None where there is none within fifty years."""
    return next(_times(cron, tz, after), None)


def times(cron: str, tz: str, after: datetime, until: datetime) -> list[datetime]:
    """The times after one instant and up to another, in UTC; of very many, the newest."""
    found: list[datetime] = []
    for moment in _times(cron, tz, after):
        if moment > until:
            break
        found.append(moment)
        if len(found) > 2 * MOST_TIMES:
            del found[:MOST_TIMES]
    return found[-MOST_TIMES:]


def _times(cron: str, tz: str, after: datetime) -> Iterator[datetime]:
    """All times after an instant, rising, in UTC.

    The fields are matched on the wall's clock, which knows no zone; what instants a wall's time
    stands for is decided here.
    """
    place, last = zone(tz), after.astimezone(timezone.utc)
    follows = any(field.startswith("*") for field in cron.split()[:2])
    # Earlier by more than any clock is put back, for what it shows may come once more.
    start = last.astimezone(place).replace(tzinfo=None) - timedelta(hours=3)
    again: list[datetime] = []
    try:
        walls = CronSim(cron, start)
    except CronSimError as error:
        raise ConfigError(f"{cron!r} means nothing here: {error}") from error
    for wall in walls:
        first, second = _instants(wall, place)
        if first is None:
            if follows:
                continue
            first = second = _end_of_gap(wall, place)
        while again and again[0] < first:
            if (instant := heappop(again)) > last:
                last = instant
                yield last
        if first > last:
            last = first
            yield last
        if follows and second > first:
            heappush(again, second)


def _instants(wall: datetime, place: ZoneInfo) -> tuple[datetime | None, datetime]:
    """When a clock shows this first, and last; there is no first where it is skipped."""
    first, second = (
        wall.replace(tzinfo=place, fold=fold).astimezone(timezone.utc) for fold in (0, 1)
    )
    shown = first.astimezone(place).replace(tzinfo=None, fold=0)
    return (first if shown == wall else None), second


def _end_of_gap(wall: datetime, place: ZoneInfo) -> datetime:
    """When the clock goes on after skipping this."""
    while (instant := _instants(wall, place)[0]) is None:
        wall += timedelta(minutes=1)
    return instant
