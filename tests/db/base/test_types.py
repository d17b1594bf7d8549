"""Times mean the same instant on both databases, whatever zone they come from."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import StatementError

from db.base.database import reading, write
from db.base.types import UtcDateTime, now

TIMES = sa.Table("times", sa.MetaData(), sa.Column("at", UtcDateTime()))

NOON = datetime(2026, 1, 31, 12, 0, 0, 123_000, tzinfo=timezone.utc)


@pytest.fixture
def times(database: sa.Engine) -> Iterator[sa.Engine]:
    """A database with an empty table of times."""
    write(database, TIMES.create)
    yield database
    write(database, TIMES.drop)


def _stored(database: sa.Engine, *values: datetime | None) -> list[datetime | None]:
    """What comes back, in the database's order."""
    write(database, lambda c: c.execute(sa.insert(TIMES), [{"at": v} for v in values]))
    with reading(database) as connection:
        return list(connection.execute(sa.select(TIMES.c.at).order_by(TIMES.c.at)).scalars())


def test_a_time_comes_back_as_the_same_instant_in_utc(times: sa.Engine) -> None:
    tokyo = NOON.astimezone(timezone(timedelta(hours=9)))

    (stored,) = _stored(times, tokyo)

    assert stored == NOON
    assert stored is not None
    assert stored.utcoffset() == timedelta(0)


def test_no_time_comes_back_as_none(times: sa.Engine) -> None:
    assert _stored(times, None) == [None]


def test_a_time_without_a_zone_is_refused(times: sa.Engine) -> None:
    with pytest.raises(StatementError, match="a time without a zone cannot be stored"):
        _stored(times, NOON.replace(tzinfo=None))


def test_the_order_of_stored_times_is_that_of_the_instants(times: sa.Engine) -> None:
    shifts_ms = [0, 1, -1, 999, 60_000, 86_400_000, -86_400_000, 31_622_400_000]
    zones = [timezone(timedelta(hours=h)) for h in range(-11, 13, 3)]
    instants = [
        (NOON + timedelta(milliseconds=ms)).astimezone(zone)
        for ms, zone in zip(shifts_ms, zones, strict=True)
    ]

    assert _stored(times, *instants) == sorted(instants)


def test_sqlite_keeps_times_as_text_of_one_length(sqlite_database: sa.Engine) -> None:
    write(sqlite_database, TIMES.create)
    _stored(sqlite_database, NOON.replace(microsecond=0))
    write(sqlite_database, lambda c: c.execute(sa.insert(TIMES).values(at=now())))

    with reading(sqlite_database) as connection:
        texts = list(connection.execute(sa.text("SELECT at FROM times")).scalars())

    assert texts[0] == "2026-01-31T12:00:00.000Z"
    assert [len(text) for text in texts] == [24, 24]


def test_now_is_the_clock_of_the_database(database: sa.Engine) -> None:
    with reading(database) as connection:
        before, at, after = connection.execute(sa.select(now(-60), now(), now(90.5))).one()

    # The databases of the tests are on this machine.
    assert abs(at - datetime.now(timezone.utc)) < timedelta(seconds=30)
    assert round((at - before).total_seconds()) == 60
    assert round((after - at).total_seconds(), 1) == 90.5


def test_now_moves_on_during_a_transaction(database: sa.Engine) -> None:
    """A lease that is granted at the end of a long transaction is as long as any other."""
    with reading(database) as connection:
        first = connection.execute(sa.select(now())).scalar_one()
        while connection.execute(sa.select(now())).scalar_one() == first:
            pass
