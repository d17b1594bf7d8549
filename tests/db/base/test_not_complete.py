"""What `v_completeness` says of sources that no job could list, and of files that were given up."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from db.base.database import reading, write
from db.base.schema import runs as runs_table
from db.nightly import runs, schedules, watched
from db.queue import listings
from db.work import claims, control, endings
from tests.db import given

ARCHIVE = "/archive/2026.tar.gz"


def _rows(database: sa.Engine) -> list[tuple[Any, ...]]:
    """Source, precision, listing, jobs, newest job, listed, scored, failed and missing."""
    statement = (
        "SELECT source, precision, listing, jobs, newest_job, listed, scored, failed, missing "
        "FROM v_completeness ORDER BY source, precision, listing"
    )
    with reading(database) as connection:
        found = connection.exec_driver_sql(statement).all()
    return [
        tuple(value if isinstance(value, str) else int(value) for value in row) for row in found
    ]


def _sources(*uris: str) -> list[dict[str, Any]]:
    return [{"uri": uri, "kind": "tar.gz", "fingerprint": "1", "paths": None} for uri in uris]


def _unlisted(database: sa.Engine, *uris: str, **options: Any) -> int:
    """A job that failed while it was planned: its number."""
    rows = _sources(*(uris or (ARCHIVE,)))
    lease = given.planning(database, source_rows=rows, **options).lease
    write(database, lambda c: endings.fail(c, lease, "the archive was cut short"))
    return lease.job_id


def _scored(database: sa.Engine, **options: Any) -> int:
    """A job over the archive's three films, of which none is in error."""
    job_id = given.running(database, items=3, source_rows=_sources(ARCHIVE), **options)
    given.commit(database, given.claimed(database))
    given.close(database, job_id)
    return job_id


def test_an_archive_that_failed_as_a_whole_is_one_item_in_error_until_it_is_listed(
    database: sa.Engine,
) -> None:
    first = _unlisted(database)
    assert _rows(database) == [(ARCHIVE, "fp32", "unlisted", 1, first, 1, 0, 1, 0)]
    again = _unlisted(database)
    assert _rows(database) == [(ARCHIVE, "fp32", "unlisted", 1, again, 1, 0, 1, 0)], "still one"
    retry = write(database, lambda c: control.retry(c, again, "kim@ward"))
    assert _rows(database) == [(ARCHIVE, "fp32", "unlisted", 1, again, 1, 0, 1, 0)], "it is queued"
    write(database, lambda c: endings.finish(c, retry, "cancelled", "kim@ward"))
    mended = _scored(database)
    assert _rows(database) == [(ARCHIVE, "fp32", "whole", 1, mended, 3, 3, 0, 0)]


def test_an_archive_that_was_complete_and_fails_as_a_whole_is_listed_again(
    database: sa.Engine,
) -> None:
    before = _scored(database)
    newest = _unlisted(database)
    assert _rows(database) == [
        (ARCHIVE, "fp32", "unlisted", 1, newest, 1, 0, 1, 0),
        (ARCHIVE, "fp32", "whole", 1, before, 3, 3, 0, 0),
    ]


def test_each_source_of_a_job_that_failed_while_it_was_planned_is_in_error(
    database: sa.Engine,
) -> None:
    job_id = _unlisted(database, "/a.zip", ARCHIVE)
    assert [(row[0], row[4], row[7]) for row in _rows(database)] == [
        ("/a.zip", job_id, 1), (ARCHIVE, job_id, 1),
    ]  # fmt: skip


def test_another_precision_does_not_complete_what_failed_in_one(database: sa.Engine) -> None:
    failed = _unlisted(database, precision="int8")
    scored = _scored(database, precision="fp32")
    assert _rows(database) == [
        (ARCHIVE, "fp32", "whole", 1, scored, 3, 3, 0, 0),
        (ARCHIVE, "int8", "unlisted", 1, failed, 1, 0, 1, 0),
    ]


def _run(database: sa.Engine, inbox: int, *names: str) -> int:
    """A run of the schedule that a worker looks at, who sees these files."""
    at = schedules.database_clock(database)

    def make(connection: sa.Connection) -> int:
        many = connection.execute(sa.select(sa.func.count()).select_from(runs_table)).scalar_one()
        run = runs.begin(connection, inbox, at + timedelta(days=many), "clock", "due")
        assert run is not None
        assert watched.claim(connection, run, "looker", (), 60.0)
        return run

    run_id = write(database, make)
    seen = [watched.Seen(f"/in/{name}", 10, 1) for name in names]
    watched.observe(database, run_id, "looker", inbox, seen)
    return run_id


def _take(database: sa.Engine, run_id: int, inbox: int, *names: str) -> int:
    """The run's job over these files: its number. Archives are sources of their own."""
    folder = {"uri": "/in", "kind": "list", "fingerprint": "1", "paths": b"packed"}
    archives = [f"/in/{name}" for name in names if not name.endswith(".jpg")]
    films = [folder] * (len(archives) < len(names))
    return write(
        database,
        lambda c: watched.take(
            c, run_id, "looker", inbox, [f"/in/{name}" for name in names], spec={},
            submitted_by="schedule", model_id=1, precision="fp32",
            source_rows=[*_sources(*archives), *films],
        ),
    )  # fmt: skip


def _fail(database: sa.Engine, inbox: int, *names: str, state: str = "failed") -> int:
    """A job over these files that ended before its listing was complete: its number."""
    job_id = _take(database, _run(database, inbox, *names), inbox, *names)
    write(database, lambda c: endings.finish(c, job_id, state, "looker"))
    return job_id


def _not_taken(database: sa.Engine, inbox: int, name: str) -> None:
    """A look that finds an archive which cannot be read."""
    run_id = _run(database, inbox, name)
    (file,) = [f for f in watched.waiting(database, inbox) if f.path == f"/in/{name}"]
    attempts = {file.path: file.attempts}
    write(database, lambda c: watched.failed_again(c, run_id, "looker", inbox, attempts))
    write(database, lambda c: runs.finish(c, run_id, "skipped", "", hook_text=None))


def _listed(database: sa.Engine, job_id: int, items: int) -> None:
    """The only job that is queued is planned and scored."""
    claimed = write(database, lambda c: claims.claim_job(c, "score", "p", given.LEASE_S))
    assert claimed is not None and claimed.lease.job_id == job_id
    write(database, lambda c: listings.add(c, claimed.lease, given.new_shards(1, items)))
    write(database, lambda c: listings.complete(c, claimed.lease, {}))
    given.commit(database, given.claimed(database))
    given.close(database, job_id)


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_films_that_were_given_up_count_though_no_job_of_theirs_was_listed(
    database: sa.Engine, inbox: int, state: str
) -> None:
    for _ in range(3):
        last = _fail(database, inbox, "a.jpg", "b.jpg", state=state)
    given_up = ("/in", "fp32", "given_up", 1, last, 2, 0, 2, 0)
    assert _rows(database) == [given_up]
    newer = _take(database, _run(database, inbox, "c.jpg"), inbox, "c.jpg")
    _listed(database, newer, 1)
    assert _rows(database) == [given_up, ("/in", "fp32", "new", 1, newer, 1, 1, 0, 0)]
    by_hand = write(database, lambda c: control.retry(c, last, "kim@ward"))
    _listed(database, by_hand, 2)
    assert _rows(database) == [("/in", "fp32", "new", 2, by_hand, 3, 3, 0, 0)]


def test_an_archive_that_was_given_up_is_in_error_by_itself_beside_its_folder(
    database: sa.Engine, inbox: int
) -> None:
    first = _fail(database, inbox, "2026.tar.gz", "a.jpg")
    archive = ("/in/2026.tar.gz", "fp32", "unlisted", 1, first, 1, 0, 1, 0)
    assert _rows(database) == [archive], "the film waits for the next job"
    second = _take(database, _run(database, inbox), inbox, "a.jpg")
    _listed(database, second, 1)
    folder = ("/in", "fp32", "new", 1, second, 1, 1, 0, 0)
    for _ in range(2):
        _not_taken(database, inbox, "2026.tar.gz")
        assert _rows(database) == [folder, archive]
    assert watched.given_up(database, inbox) == ["/in/2026.tar.gz"]


@pytest.mark.parametrize("cancelled", [0, 1])
def test_an_archive_that_no_job_took_is_in_error_once_it_is_given_up(
    database: sa.Engine, inbox: int, cancelled: int
) -> None:
    for _ in range(cancelled):
        _fail(database, inbox, "2026.zip", state="cancelled")
    for _ in range(3 - cancelled):
        assert _rows(database) == []
        _not_taken(database, inbox, "2026.zip")
    job_id = _take(database, _run(database, inbox, "a.jpg"), inbox, "a.jpg")
    _listed(database, job_id, 1)
    by = 1 if cancelled else job_id
    assert _rows(database) == [
        ("/in", "fp32", "new", 1, job_id, 1, 1, 0, 0),
        ("/in/2026.zip", "fp32", "given_up", 1, by, 1, 0, 1, 0),
    ]
    by_hand = given.running(database, items=3, source_rows=_sources("/in/2026.zip"))
    given.commit(database, given.claimed(database))
    given.close(database, by_hand)
    assert _rows(database)[1:] == [("/in/2026.zip", "fp32", "whole", 1, by_hand, 3, 3, 0, 0)]
