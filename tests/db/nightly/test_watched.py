"""Watched files as rows: one worker has a run, and each file is taken by one job at a time."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from db.base import workers
from db.base.database import reading, write, writing
from db.base.errors import Conflict, LeaseLost
from db.base.schema import jobs as jobs_table
from db.base.schema import models, notices, sources
from db.base.schema import watched as table
from db.nightly import runs, schedules, watched
from db.nightly.watched import Seen
from db.queue import jobs
from db.work import endings
from tests.db import given

#: What a run of the tests' schedule submits.
JOB = {"spec": {"keep_cam": "none"}, "submitted_by": "schedule inbox", "model_id": 1,
       "precision": "fp32",
       "source_rows": [{"uri": "/in", "kind": "list", "fingerprint": "1"}]}  # fmt: skip

#: For how long files are let settle.
SETTLE_S = 3600.0

A, B = Seen("/in/a.jpg", 10, 1), Seen("/in/b.jpg", 20, 2)


@pytest.fixture
def schedule(database: sa.Engine) -> int:
    return add(database, "inbox")


def add(database: sa.Engine, name: str) -> int:
    return write(
        database,
        lambda c: schedules.add(
            c, name=name, cron="0 2 * * *", tz="UTC", kind="score", spec={"job": JOB["spec"]},
            catch_up_s=60, created_by="tests",
        ),
    )  # fmt: skip


def due(database: sa.Engine, schedule: int, who: str | None = "looker") -> int:
    """A run of the schedule that is due, and that a worker has."""

    def make(connection: sa.Connection) -> int | None:
        many = connection.execute(sa.text("SELECT count(*) FROM runs")).scalar_one()
        return runs.begin(connection, schedule, at + timedelta(days=many), "clock", "due")

    at = schedules.database_clock(database)
    run_id = write(database, make)
    assert run_id is not None
    if who is not None:
        assert claim(database, run_id, who)
    return run_id


def claim(database: sa.Engine, run_id: int, who: str, *there: str) -> bool:
    return write(database, lambda c: watched.claim(c, run_id, who, there, SETTLE_S))


def observe(database: sa.Engine, run_id: int, schedule: int, *found: Seen) -> None:
    watched.observe(database, run_id, "looker", schedule, found)


def take(database: sa.Engine, run_id: int, schedule: int, *found: Seen) -> int:
    paths = [seen.path for seen in found]
    return write(
        database, lambda c: watched.take(c, run_id, "looker", schedule, paths, **JOB)  # type: ignore[arg-type]
    )  # fmt: skip


def end(database: sa.Engine, job_id: int, state: str) -> None:
    write(database, lambda c: endings.finish(c, job_id, state, "looker"))


def states(database: sa.Engine, schedule: int) -> dict[str, tuple[str, int]]:
    """Path → state and attempts."""
    select = sa.select(table.c.path, table.c.state, table.c.attempts)
    with reading(database) as connection:
        found = connection.execute(select.where(table.c.schedule_id == schedule))
        return {row.path: (row.state, row.attempts) for row in found}


def test_of_workers_that_look_at_once_one_has_the_run(database: sa.Engine, schedule: int) -> None:
    run_id = due(database, schedule, who=None)
    names = ("a", "b", "c", "d")
    found = given.together(
        *[lambda n=n: claim(database, run_id, n, *(set(names) - {n})) for n in names]  # type: ignore[misc]
    )
    assert sorted(map(str, found)) == ["False", "False", "False", "True"]
    assert runs.get(database, run_id)["worker_id"] == names[found.index(True)]


def test_a_run_is_left_to_who_lives_and_taken_from_who_vanished(
    database: sa.Engine, schedule: int
) -> None:
    for name in ("first", "second"):
        write(
            database,
            lambda c, n=name: workers.register(  # type: ignore[misc]
                c, n, host="h", pid=1, queues="score", engine="x", versions={}
            ),
        )
    run_id = due(database, schedule, who="first")
    assert not claim(database, run_id, "second", *(workers.alive_ids(database) - {"second"}))
    assert claim(database, run_id, "first", *(workers.alive_ids(database) - {"first"})), "its own"
    write(database, lambda c: workers.deregister(c, "first"))
    assert claim(database, run_id, "second", *(workers.alive_ids(database) - {"second"}))
    with pytest.raises(LeaseLost, match=f"run {run_id} is another worker's by now"):
        write(database, lambda c: watched.fence(c, run_id, "first"))


def test_a_second_look_waits_for_its_time_and_is_anybody_s(
    database: sa.Engine, schedule: int
) -> None:
    run_id = due(database, schedule)
    write(database, lambda c: watched.again(c, run_id, "looker", 3600))
    assert runs.get(database, run_id)["worker_id"] is None
    assert not claim(database, run_id, "other")
    with writing(database) as connection:
        connection.execute(sa.text("UPDATE runs SET not_before = created_at"))
    assert claim(database, run_id, "other")


def test_very_many_files_are_kept_in_short_transactions_and_only_once(
    database: sa.Engine, schedule: int
) -> None:
    run_id = due(database, schedule)
    many = [Seen(f"/in/{n}.jpg", n, n) for n in range(2500)]
    commits = []
    sa.event.listen(database, "commit", commits.append)
    observe(database, run_id, schedule, *many)
    assert len(commits) == 3
    observe(database, run_id, schedule, *many)
    assert len(commits) == 3
    assert [file[:3] for file in watched.waiting(database, schedule)] == sorted(many)
    observe(database, run_id, schedule, *many[1:], Seen("/in/0.jpg", 9, 9))
    assert len(commits) == 4
    assert watched.waiting(database, schedule)[0][:3] == ("/in/0.jpg", 9, 9)


def test_who_lost_its_run_writes_nothing_more(database: sa.Engine, schedule: int) -> None:
    run_id = due(database, schedule)
    observe(database, run_id, schedule, A)
    assert claim(database, run_id, "other")
    for work in (
        lambda: observe(database, run_id, schedule, A, B),
        lambda: take(database, run_id, schedule, A),
        lambda: write(database, lambda c: watched.again(c, run_id, "looker", 1)),
        lambda: write(
            database,
            lambda c: watched.read(
                c, run_id, "looker", schedule, A.path, "f" * 64, taken_before=True
            ),
        ),
    ):
        with pytest.raises(LeaseLost):
            work()
    assert states(database, schedule) == {A.path: ("seen", 0)}
    assert given.count(database, jobs_table) == 0
    assert runs.get(database, run_id)["worker_id"] == "other"


def test_a_file_begins_to_wait_anew_only_where_its_size_or_time_is_another(
    database: sa.Engine, schedule: int
) -> None:
    run_id = due(database, schedule)
    observe(database, run_id, schedule, A, B)
    first = {file.path: file.since for file in watched.waiting(database, schedule)}
    long_ago = first[A.path] - timedelta(hours=1)
    with writing(database) as connection:
        connection.execute(sa.update(table).values(since=long_ago, content="f" * 64, attempts=2))
    observe(database, run_id, schedule, A, B._replace(mtime_ns=3))
    a, b = watched.waiting(database, schedule)
    assert (a.since, a.content, a.attempts) == (long_ago, "f" * 64, 2)
    assert b.since >= first[B.path]
    assert (b.content, b.attempts) == (None, 0), "it is another file by now"
    observe(database, run_id, schedule, A._replace(size=11), B._replace(mtime_ns=3))
    assert watched.waiting(database, schedule)[0].since >= first[A.path]


@pytest.mark.parametrize("state", ["taken", "done", "given_up"])
def test_a_file_that_was_dealt_with_waits_again_only_when_it_is_changed(
    database: sa.Engine, schedule: int, state: str
) -> None:
    run_id = due(database, schedule)
    observe(database, run_id, schedule, A)
    with writing(database) as connection:
        connection.execute(sa.update(table).values(state=state, attempts=3))
    observe(database, run_id, schedule, A)
    assert watched.waiting(database, schedule) == []
    observe(database, run_id, schedule, A._replace(size=11))
    assert states(database, schedule) == {A.path: ("seen", 0)}


def test_schedules_know_nothing_of_each_other_s_files(database: sa.Engine, schedule: int) -> None:
    other = add(database, "other")
    first, second = due(database, schedule), due(database, other)
    observe(database, first, schedule, A)
    observe(database, second, other, A)
    job_id = take(database, first, schedule, A)
    assert states(database, other) == {A.path: ("seen", 0)}
    end(database, job_id, "completed")
    assert states(database, schedule) == {A.path: ("done", 1)}
    assert states(database, other) == {A.path: ("seen", 0)}


def test_paths_of_any_length_and_writing_are_told_apart(database: sa.Engine, schedule: int) -> None:
    run_id = due(database, schedule)
    deep = "/in/" + "/".join(["ward" * 50] * 20)
    paths = [f"{deep}/a.jpg", f"{deep}/A.jpg", "/in/röntgen 'ä\\.jpg", "/in/胸部.dcm"]
    observe(database, run_id, schedule, *[Seen(path, 1, 1) for path in paths])
    observe(database, run_id, schedule, *[Seen(path, 1, 1) for path in paths])
    assert {file.path for file in watched.waiting(database, schedule)} == set(paths)


def test_taking_makes_the_job_and_marks_files_and_run_all_or_nothing(
    database: sa.Engine, schedule: int
) -> None:
    run_id = due(database, schedule)
    observe(database, run_id, schedule, A, B)
    with writing(database) as connection:
        connection.execute(sa.update(models).values(state="retired"))
        connection.execute(sa.text("DELETE FROM model_chunks"))
    with pytest.raises(Conflict, match="is retired"):
        take(database, run_id, schedule, A)
    assert states(database, schedule) == {A.path: ("seen", 0), B.path: ("seen", 0)}
    assert given.count(database, jobs_table) == given.count(database, sources) == 0
    assert runs.get(database, run_id)["state"] == "due"

    with writing(database) as connection:
        connection.execute(sa.update(models).values(state="candidate"))
    job_id = take(database, run_id, schedule, A)
    assert states(database, schedule) == {A.path: ("taken", 1), B.path: ("seen", 0)}
    run = runs.get(database, run_id)
    assert (run["state"], run["job_id"], run["not_before"]) == ("running", job_id, None)
    assert jobs.get(database, job_id)["schedule_id"] == schedule
    assert not claim(database, run_id, "other"), "it is not due any more"
    with pytest.raises(LeaseLost):
        take(database, run_id, schedule, B)


@pytest.mark.parametrize(
    ("state", "after"),
    [
        ("completed", "done"),
        ("completed_with_errors", "done"),
        ("failed", "seen"),
        ("cancelled", "seen"),
    ],
)
def test_a_job_s_end_decides_what_becomes_of_the_files_that_it_took(
    database: sa.Engine, schedule: int, state: str, after: str
) -> None:
    run_id = due(database, schedule)
    observe(database, run_id, schedule, A, B)
    end(database, take(database, run_id, schedule, A), state)
    assert states(database, schedule) == {A.path: (after, 1), B.path: ("seen", 0)}
    assert runs.get(database, run_id)["outcome"] == state


def test_the_third_job_that_fails_is_a_file_s_last(database: sa.Engine, schedule: int) -> None:
    for attempt in (1, 2, 3):
        run_id = due(database, schedule)
        observe(database, run_id, schedule, A)
        assert [file.attempts for file in watched.waiting(database, schedule)] == [attempt - 1]
        end(database, take(database, run_id, schedule, A), "failed")
    assert states(database, schedule) == {A.path: ("given_up", 3)}
    assert watched.waiting(database, schedule) == []
    with reading(database) as connection:
        payloads = list(connection.execute(sa.select(notices.c.payload)).scalars())
    events = [payload["event"] for payload in payloads]
    assert events == ["failed", "failed", "given_up", "failed"]
    assert "/in" not in str(payloads)


def test_a_file_that_changed_while_its_job_went_on_is_scored_again(
    database: sa.Engine, schedule: int
) -> None:
    run_id = due(database, schedule)
    observe(database, run_id, schedule, A)
    job_id = take(database, run_id, schedule, A)
    later = due(database, schedule)
    observe(database, later, schedule, A._replace(size=11))
    end(database, job_id, "completed")
    assert states(database, schedule) == {A.path: ("seen", 0)}


def test_a_content_is_known_once_a_job_has_it_and_no_longer_where_the_job_failed(
    database: sa.Engine, schedule: int
) -> None:
    run_id = due(database, schedule)
    observe(database, run_id, schedule, A)
    write(
        database,
        lambda c: watched.read(c, run_id, "looker", schedule, A.path, "f" * 64, taken_before=False),
    )
    assert not watched.taken_before(database, schedule, "f" * 64)
    job_id = take(database, run_id, schedule, A)
    assert watched.taken_before(database, schedule, "f" * 64)
    end(database, job_id, "failed")
    assert not watched.taken_before(database, schedule, "f" * 64)
    again = due(database, schedule)
    end(database, take(database, again, schedule, A), "completed")
    assert watched.taken_before(database, schedule, "f" * 64)


def test_more_files_than_one_statement_holds_are_seen_and_taken(
    database: sa.Engine, schedule: int
) -> None:
    run_id = due(database, schedule)
    many = [Seen(f"/in/{number:05}.jpg", number, 1) for number in range(2_500)]
    observe(database, run_id, schedule, *many)
    assert [f.path for f in watched.waiting(database, schedule)] == [seen.path for seen in many]
    take(database, run_id, schedule, *many[:-1])
    assert [f.path for f in watched.waiting(database, schedule)] == [many[-1].path]


def test_an_attempt_whose_answer_was_lost_is_counted_once(
    database: sa.Engine, schedule: int
) -> None:
    run_id = due(database, schedule)
    watched.observe(database, run_id, "looker", schedule, [A])
    (before,) = watched.waiting(database, schedule)
    for _ in range(2):  # as `write` repeats it where the connection broke when it was committed
        write(
            database,
            lambda c: watched.failed_again(
                c, run_id, "looker", schedule, {before.path: before.attempts}
            ),
        )
    assert [file.attempts for file in watched.waiting(database, schedule)] == [1]
