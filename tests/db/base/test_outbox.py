"""Notices: written with what happened, claimed by one, sent again until they arrive."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
import sqlalchemy as sa

from db.base import outbox, workers
from db.base.database import reading, write, writing
from db.base.outbox import Notice
from db.base.schema import notices as table
from db.base.schema import schedules
from db.base.types import now
from db.nightly import runs
from db.queue import jobs
from db.work import endings
from tests.db.given import together

#: A film's path with a patient's name in it, as a reason for a failure may have it.
PLANTED = "/archive/MEIER^ANNA/1962-03-01.dcm"


def add(database: sa.Engine, event: str = "failed", **facts: Any) -> int:
    return write(database, lambda c: outbox.add(c, event, **facts))


def claim(database: sa.Engine, who: str = "w1") -> Notice | None:
    return write(database, lambda c: outbox.claim(c, who))


def record(database: sa.Engine, notice: Notice, *errors: str) -> str:
    return write(database, lambda c: outbox.record_result(c, notice, errors))


def pass_time(database: sa.Engine) -> None:
    """Let what is to be sent again later be due."""
    write(database, lambda c: c.execute(sa.update(table).values(not_before=now(-1))))


def a_run(database: sa.Engine) -> int:
    def work(connection: sa.Connection) -> int:
        schedule_id = connection.execute(
            sa.insert(schedules)
            .values(
                name="nightly", cron="0 2 * * *", tz="Europe/Paris", kind="train", spec={},
                paused=False, catch_up_s=0, created_at=now(), created_by="tests",
            )
            .returning(schedules.c.id)
        ).scalar_one()  # fmt: skip
        when = datetime(2026, 11, 1, 1, tzinfo=timezone.utc)
        job_id = jobs.submit(
            connection, kind="train", spec={"data": [PLANTED]}, submitted_by="tests",
            schedule_id=schedule_id, scheduled_for=when,
        )  # fmt: skip
        run_id = runs.begin(connection, schedule_id, when, "clock", "running", job_id=job_id)
        assert run_id is not None
        endings.finish(connection, job_id, "failed", "w1", f"{PLANTED} cannot be read")
        return run_id

    return write(database, work)


def test_a_failed_job_is_told_with_its_run_and_without_its_reason(database: sa.Engine) -> None:
    run_id = a_run(database)
    notice = claim(database)
    assert notice is not None
    assert notice.sent == {
        "id": notice.id, "at": notice.at.isoformat(timespec="seconds"), "event": "failed",
        "text": "schedule nightly, 2026-11-01T01:00:00+00:00: failed; "
        "`pneumoq schedule show nightly` says why",
        "run": run_id, "schedule": "nightly", "kind": "train", "job": 1,
        "scheduled_for": "2026-11-01T01:00:00+00:00",
    }  # fmt: skip
    assert runs.get(database, run_id)["reason"] == f"{PLANTED} cannot be read"


def test_of_a_run_s_reason_only_what_is_meant_to_be_told_is_told(database: sa.Engine) -> None:
    def work(connection: sa.Connection) -> None:
        schedule_id = connection.execute(
            sa.insert(schedules)
            .values(
                name="nightly", cron="0 2 * * *", tz="UTC", kind="train", spec={}, paused=False,
                catch_up_s=0, created_at=now(), created_by="tests",
            )
            .returning(schedules.c.id)
        ).scalar_one()  # fmt: skip
        when = datetime(2026, 11, 1, 1, tzinfo=timezone.utc)
        run_id = runs.begin(connection, schedule_id, when, "clock", "running")
        assert run_id is not None
        reason = f"kept: {PLANTED} and 40 other films cannot be read"
        assert runs.finish(connection, run_id, "kept", reason, hook_text="41 films cannot be read")

    write(database, work)
    notice = claim(database)
    assert notice is not None
    assert (notice.sent["event"], notice.sent["text"]) == ("kept", "41 films cannot be read")
    assert "MEIER" not in str(notice.sent)


def test_what_is_rolled_back_is_not_told(database: sa.Engine) -> None:
    with pytest.raises(ZeroDivisionError), writing(database) as connection:
        outbox.add(connection, "failed")
        raise ZeroDivisionError
    assert not outbox.waiting(database)


def test_of_several_that_claim_each_notice_is_one_s(database: sa.Engine) -> None:
    for _ in range(4):
        add(database)
    got = together(*[lambda who=f"w{n}": claim(database, who) for n in range(6)])  # type: ignore[misc]
    numbers = sorted(notice.id for notice in got if isinstance(notice, Notice))
    assert numbers == [1, 2, 3, 4] and got.count(None) == 2


def test_a_notice_that_does_not_arrive_is_sent_again_until_it_is_given_up(
    database: sa.Engine,
) -> None:
    number = add(database)
    delays = []
    for attempt in range(1, 8):
        notice = claim(database)
        if notice is None:
            break
        assert notice.attempt == attempt
        record(database, notice, "webhook: it answered 500")
        assert claim(database) is None  # not at once
        left = sa.select(table.c.not_before, now())
        with reading(database) as connection:
            not_before, moment = connection.execute(left).one()
        if not_before is not None:
            delays.append((not_before - moment).total_seconds())
        pass_time(database)
    assert delays == pytest.approx(outbox.BACKOFF_S, abs=5)
    row = outbox.get(database, number)
    assert (row["state"], row["attempts"]) == ("given_up", 6)
    assert row["last_error"] == "webhook: it answered 500"


def test_a_sender_that_does_not_come_back_is_replaced_and_changes_nothing_any_more(
    database: sa.Engine,
) -> None:
    number = add(database)
    first = claim(database, "killed")
    assert first is not None and claim(database) is None
    pass_time(database)
    second = claim(database)
    assert second is not None and second.sent == first.sent
    assert record(database, first, "command: it ended with status 1") == "waiting"
    assert outbox.get(database, number)["last_error"] is None
    assert record(database, second) == "delivered"
    assert record(database, first, "command: it ended with status 1") == "delivered"
    assert claim(database) is None


def test_a_notice_that_ends_its_senders_is_given_up(database: sa.Engine) -> None:
    number = add(database)
    for _ in range(6):
        assert claim(database) is not None
        pass_time(database)
    assert claim(database) is None
    row = outbox.get(database, number)
    assert row["state"] == "given_up"
    assert row["last_error"] == "its worker ended each time before it was sent"


def _hello(database: sa.Engine, name: str, host: str, **versions: str) -> None:
    write(
        database,
        lambda c: workers.register(
            c, name, host=host, pid=1, queues="score", engine=None, versions=versions
        ),
    )


def test_without_a_hook_anywhere_notices_are_unheard(database: sa.Engine) -> None:
    _hello(database, "w1", "one")
    number = add(database)
    assert write(database, outbox.mark_undelivered) == 1
    assert outbox.get(database, number)["state"] == "unheard"
    assert claim(database) is None


def test_another_machine_s_hooks_are_waited_for(database: sa.Engine) -> None:
    _hello(database, "w1", "one")
    _hello(database, "w2", "two", hooks="yes")
    write(database, lambda c: workers.deregister(c, "w2"))  # off for a moment
    number = add(database)
    assert write(database, outbox.mark_undelivered) == 0
    _hello(database, "w3", "two")  # back, its hooks taken away
    assert write(database, outbox.mark_undelivered) == 1
    assert [row["id"] for row in outbox.recent(database, state="unheard")] == [number]
