"""Paths of watched files go with purged jobs and removed schedules; what was scored stays known."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from db.base.database import reading, write
from db.base.schema import watched as table
from db.nightly import forgetting, schedules, watched
from db.nightly.watched import Seen
from db.work import endings, purge
from tests.db.nightly import test_watched as looking

ALL = timedelta(seconds=-1)
#: Several in a step.
FILES = [Seen(f"/in/{n}.dcm", 10, n) for n in range(7)]


@pytest.fixture
def schedule(database: sa.Engine) -> int:
    return looking.add(database, "inbox")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "_BATCH", 3)


def take(database: sa.Engine, schedule: int, *files: Seen, end: str | None = "completed") -> int:
    """A job that took these files, and its end."""
    run_id = looking.due(database, schedule)
    looking.observe(database, run_id, schedule, *files)
    job_id = looking.take(database, run_id, schedule, *files)
    if end is not None:
        write(database, lambda c: endings.finish(c, job_id, end, "looker"))
    return job_id


def paths(database: sa.Engine, schedule: int) -> list[tuple[str, str]]:
    """Path and state of what a schedule knows."""
    select = sa.select(table.c.path, table.c.state).where(table.c.schedule_id == schedule)
    with reading(database) as connection:
        return sorted((row.path, row.state) for row in connection.execute(select))


def test_a_purged_jobs_files_are_known_without_their_paths(
    database: sa.Engine, schedule: int
) -> None:
    take(database, schedule, *FILES)
    run_id = looking.due(database, schedule)
    copy, waits = Seen("/in/copy.dcm", 10, 1), Seen("/in/waits.dcm", 10, 1)
    looking.observe(database, run_id, schedule, copy, waits)
    for path, content in ((FILES[0].path, "c"), (copy.path, "c"), (waits.path, "w")):
        write(
            database,
            lambda c, p=path, d=content: watched.read(  # type: ignore[misc]
                c, run_id, "looker", schedule, p, d, taken_before=d == "c"
            ),
        )
    assert purge.purge(database, ALL, "kim").jobs == 1

    assert paths(database, schedule) == [("", "done")] * 8 + [(waits.path, "seen")]
    looking.observe(database, run_id, schedule, *FILES, copy)
    assert [file.path for file in watched.waiting(database, schedule)] == [waits.path]
    assert watched.taken_before(database, schedule, "c")
    # One that is another now is taken, by its path.
    changed = FILES[3]._replace(size=11)
    looking.observe(database, run_id, schedule, changed)
    waiting = watched.waiting(database, schedule)
    assert [file.path for file in waiting] == [changed.path, waits.path]


def test_a_file_that_an_older_release_saw_change_gets_its_path_again(
    database: sa.Engine, schedule: int
) -> None:
    take(database, schedule, FILES[0])
    purge.purge(database, ALL, "kim")
    write(database, lambda c: c.execute(sa.update(table).values(state="seen")))

    run_id = looking.due(database, schedule)
    looking.observe(database, run_id, schedule, FILES[0])

    assert [file.path for file in watched.waiting(database, schedule)] == [FILES[0].path]


def test_what_is_open_or_of_a_job_that_is_kept_stays(database: sa.Engine, schedule: int) -> None:
    for _ in range(watched.MAX_ATTEMPTS):
        given_up = take(database, schedule, FILES[0], end="failed")
    take(database, schedule, FILES[1])
    take(database, schedule, FILES[2], end=None)
    purge.purge(database, ALL, "kim", keep=[given_up])
    kept = [("", "done"), (FILES[0].path, "given_up"), (FILES[2].path, "taken")]
    assert paths(database, schedule) == kept

    purge.purge(database, ALL, "kim")
    assert paths(database, schedule) == [("", "done"), ("", "given_up"), kept[2]]


def test_a_removed_schedules_files_go_with_it_but_for_those_that_its_job_still_counts(
    database: sa.Engine, schedule: int
) -> None:
    other = looking.add(database, "other")
    take(database, other, *FILES)
    for _ in range(watched.MAX_ATTEMPTS):
        take(database, schedule, FILES[0], end="failed")
    take(database, schedule, *FILES[1:5])
    take(database, schedule, *FILES[5:], end=None)
    write(database, lambda c: schedules.remove(c, "inbox"))
    forgetting.forget_schedule(database, schedule)

    assert paths(database, schedule) == [(FILES[0].path, "given_up")]
    assert len(paths(database, other)) == len(FILES)
    purge.purge(database, ALL, "kim")
    assert paths(database, schedule) == []
    assert paths(database, other) == [("", "done")] * len(FILES)
