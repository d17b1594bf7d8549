"""Retention: what is in use stays, what is retired keeps its row, and bytes go last."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db.base.database import reading, write
from db.base.errors import Conflict
from db.base.schema import jobs as job_table
from db.base.schema import model_chunks, model_events, predictions, schedules
from db.base.schema import models as table
from db.base.types import now
from db.nightly import runs
from db.nightly import schedules as schedules_
from db.queue import jobs
from db.registry import aliases, models, retention
from db.work import control, endings, purge
from tests.db import given

#: Makes a model and gives its number.
Make = Callable[..., int]


@pytest.fixture
def make(database: sa.Engine, tmp_path: Path) -> Make:
    """Registers models 2, 3, …; model 1 is there, and the champion."""

    def register(**values: Any) -> int:
        name = f"model {given.count(database, table) + 1}"
        new = given.model(tmp_path, name, **values)
        return write(database, lambda c: models.register(c, new, "tests"))

    return register


def promote(database: sa.Engine, model_id: int) -> None:
    write(database, lambda c: aliases.move(c, aliases.CHAMPION, model_id, "tests", "better"))


def retire(database: sa.Engine, keep: int, schedule_id: int | None = None) -> list[int]:
    """Retire; the numbers of those that were."""
    found = write(database, lambda c: retention.retire(c, keep, "tests", schedule_id))
    return sorted(judged.id for judged in found if not judged.stays)


def why(database: sa.Engine, keep: int, model_id: int) -> str:
    with reading(database) as connection:
        (judged,) = [j for j in retention.judge(connection, keep) if j.id == model_id]
    assert judged.stays
    return judged.why


def has_bytes(database: sa.Engine, model_id: int) -> bool:
    sha256 = models.file_of(database, model_id)["sha256"]
    return given.count(database, model_chunks, model_chunks.c.sha256 == sha256) > 0


def a_schedule(database: sa.Engine, kind: str, spec: dict[str, Any], name: str = "nightly") -> int:
    insert = sa.insert(schedules).values(
        name=name, cron="0 2 * * *", tz="UTC", kind=kind, spec=spec, paused=False, catch_up_s=0,
        created_at=now(), created_by="tests",
    )  # fmt: skip
    return int(write(database, lambda c: c.execute(insert.returning(schedules.c.id)).scalar_one()))


def test_the_newest_stay_and_the_others_are_retired_with_a_reason(
    database: sa.Engine, make: Make
) -> None:
    made = [make() for _ in range(4)]
    assert retire(database, 2) == made[:2]
    assert models.get(database, made[0])["state"] == "retired"
    event = given.one(database, model_events, model_events.c.event == "retired",
                      model_events.c.model_id == made[0])  # fmt: skip
    assert event.detail == "it is not one of the 2 newest, and nothing uses it"
    assert why(database, 1, made[-1]) == "the newest"
    assert why(database, 1, 1) == "it is champion"
    assert retire(database, 2) == []


def test_what_an_alias_a_rollback_or_the_champion_s_lineage_needs_stays(
    database: sa.Engine, make: Make
) -> None:
    parent, before = make(), make()
    champion, named, free, newest = make(parent_id=parent), make(), make(), make()
    promote(database, before)
    promote(database, champion)
    write(database, lambda c: aliases.move(c, "trial", named, "tests", "to try"))
    assert why(database, 1, parent) == f"model {champion}, the champion, began from it"
    assert why(database, 1, before) == "it was champion before, to roll back to"
    assert why(database, 1, named) == "it is trial"
    assert retire(database, 1) == [1, free]
    write(database, lambda c: aliases.rollback(c, aliases.CHAMPION, "tests", "worse on the ward"))
    assert aliases.resolve(database, "champion")["id"] == before
    assert newest not in retire(database, 1)


def test_what_a_person_promoted_last_stays_however_many_nights_came_after(
    database: sa.Engine, make: Make
) -> None:
    chosen = make()
    promote(database, chosen)
    a_schedule(database, "train", {"job": {}, "night": {}})
    run = write(database, lambda c: schedules_.run_now(c, "nightly"))
    write(database, lambda c: runs.finish(c, run, "promoted", "as good"))
    for model_id in [make() for _ in range(3)]:
        write(
            database,
            lambda c, m=model_id: aliases.move(  # type: ignore[misc]
                c, aliases.CHAMPION, m, "w", "as good", run_id=run
            ),
        )
    assert why(database, 1, chosen) == "a person promoted it last, and nights compare with it"
    assert chosen not in retire(database, 1)


def test_what_open_jobs_runs_and_schedules_need_stays(database: sa.Engine, make: Make) -> None:
    scored, begun, compared, candidate, named, free, _ = (make() for _ in range(7))
    given.queued(database, model_id=scored)
    given.queued(database, "train", spec={"warm_start": begun})
    schedule_id = a_schedule(database, "train", {"job": {}, "night": {"keep": 10}})
    when = datetime(2026, 11, 1, tzinfo=timezone.utc)
    write(
        database,
        lambda c: runs.begin(
            c, schedule_id, when, "clock", "proving", champion_id=compared, candidate_id=candidate
        ),
    )
    a_schedule(database, "score", {"job": {"model": str(named)}}, name="incoming")
    assert retire(database, 1) == [free]
    assert why(database, 1, scored) == "job 1 is open"
    assert why(database, 1, begun) == "job 2 begins from it"
    assert why(database, 1, compared) == "run 1 compares with it"
    assert why(database, 1, candidate) == "run 1 is about it"
    assert why(database, 1, named) == "schedule incoming scores with it"


def test_a_schedule_keeps_its_own_newest_and_leaves_others_alone(
    database: sa.Engine, make: Make
) -> None:
    schedule_id = a_schedule(database, "train", {"job": {}, "night": {"keep": 2}})
    when = datetime(2026, 11, 1, tzinfo=timezone.utc)
    others = [make() for _ in range(3)]
    nightly = []
    for night in range(4):
        job_id = given.queued(
            database, "train", schedule_id=schedule_id, scheduled_for=when + timedelta(days=night)
        )
        write(database, lambda c, j=job_id: endings.finish(c, j, "completed", "w1"))  # type: ignore[misc]
        nightly.append(make(job_id=job_id))
    assert retention.surplus(database) == [(schedule_id, 2)]
    assert retire(database, 2, schedule_id) == nightly[:2]
    assert retention.surplus(database) == []
    assert all(models.get(database, other)["state"] == "candidate" for other in others)


def scored(database: sa.Engine, model_id: int) -> int:
    """A job of one film that the model has scored."""
    job_id = given.running(database, model_id=model_id)
    given.commit(database, given.claimed(database))
    given.close(database, job_id)
    return job_id


def test_bytes_stay_while_a_prediction_of_theirs_does_and_the_row_for_good(
    database: sa.Engine, make: Make
) -> None:
    used, unused, _ = make(), make(), make()
    job_id = scored(database, used)
    assert retire(database, 1) == [used, unused]
    assert [freed.id for freed in retention.free(database, "tests")] == [unused]
    assert (has_bytes(database, used), has_bytes(database, unused)) == (True, False)
    with reading(database) as connection:
        (held,) = retention.bytes_of_retired(connection)
    assert (held.id, held.held_by) == (used, job_id)
    assert given.one(database, predictions).model_id == used
    old = sa.update(job_table).values(finished_at=now(-7200))
    write(database, lambda c: c.execute(old.where(job_table.c.id == job_id)))
    purge.purge(database, timedelta(hours=1), "tests")
    assert [freed.id for freed in retention.free(database, "tests")] == [used]
    row = models.get(database, used)
    assert (row["card"], row["state"]) == ({"format": 1}, "retired")
    assert models.file_of(database, used)["size_bytes"] > 0
    events = [event["event"] for event in models.detail(database, used)["events"]]
    assert events[-2:] == ["retired", "pruned"]


def test_a_model_whose_bytes_are_gone_takes_no_job(database: sa.Engine, make: Make) -> None:
    gone, _ = make(), make()
    retire(database, 1)
    given.queued(database, model_id=gone)  # its bytes are there yet
    assert retention.free(database, "tests") == []
    write(database, lambda c: control.cancel(c, 1, "tests"))
    assert [freed.id for freed in retention.free(database, "tests")] == [gone]
    with pytest.raises(Conflict, match=f"model {gone} .* is retired, and its files were removed"):
        given.queued(database, model_id=gone)
    with pytest.raises(Conflict, match="is retired"):
        promote(database, gone)


@pytest.mark.postgres
def test_a_job_that_is_being_submitted_holds_its_model_s_bytes(
    postgres_database: sa.Engine, tmp_path: Path
) -> None:
    new = given.model(tmp_path, "second")
    second = write(postgres_database, lambda c: models.register(c, new, "tests"))
    promote(postgres_database, second)
    write(
        postgres_database, lambda c: c.execute(sa.update(table).where(table.c.id == 1).values(
            state="retired"))
    )  # fmt: skip
    freed = given.meanwhile(
        postgres_database,
        lambda c: jobs.submit(c, kind="score", spec={}, submitted_by="tests", model_id=1),
        lambda: retention.free(postgres_database, "tests"),
    )
    assert freed == []
    assert has_bytes(postgres_database, 1)


def test_what_an_unfinished_training_left_stays_a_week_or_while_it_is_gone_on_with(
    database: sa.Engine, make: Make
) -> None:
    def ended(state: str, days: float, model_id: int | None = None) -> int:
        job_id = given.queued(database, "train")
        write(database, lambda c: endings.finish(c, job_id, state, "w1"))
        values = {"finished_at": now(-days * 86_400), "model_id": model_id}
        update = sa.update(job_table).where(job_table.c.id == job_id).values(values)
        write(database, lambda c: c.execute(update))
        return job_id

    old = {state: ended(state, 8) for state in ("failed", "cancelled", "completed")}
    ended("failed", 6)
    resumed = ended("cancelled", 8)
    given.queued(database, "train", parent_job_id=resumed)
    retired, kept = make(), make()
    of_retired = ended("completed", 0, retired)
    ended("completed", 30, kept)
    promote(database, kept)
    retire(database, 1)
    assert retention.unneeded_training(database) == {
        old["failed"]: "it failed more than 7 days ago",
        old["cancelled"]: "it was cancelled more than 7 days ago",
        old["completed"]: "it made no model more than 7 days ago",
        of_retired: f"model {retired} is retired",
    }
