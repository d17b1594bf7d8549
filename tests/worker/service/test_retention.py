"""Tidying: a machine's files go when nothing will read them again, and not before."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db.base import database as connecting
from db.base.database import write
from db.base.schema import jobs as job_table
from db.base.schema import model_chunks, notices, schedules
from db.base.types import now
from db.registry import models, retention
from db.work import control, endings
from tests.scheduler import rows
from trainer.data import cache as pixel_cache
from worker import config
from worker.config import Settings
from worker.engine import signed, store
from worker.errors import EngineError
from worker.service import retention as tidying

DAY_S = 86_400.0


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[sa.Engine]:
    made = connecting.connect(sqlite_url)
    yield made
    made.dispose()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return config.load({"PNEUMOQ_HOME": str(tmp_path / "home")})


def put(path: Path, size: int = 1000, days: float = 0.0) -> Path:
    """A file of so many bytes, written so long ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    then = time.time() - days * DAY_S
    os.utime(path, (then, then))
    return path


def tidied(settings: Settings, engine: sa.Engine) -> set[Path]:
    """What is removed, which is what a dry run has said."""
    said = tidying.tidy(settings, engine, dry_run=True)
    assert all(entry.path.exists() and entry.size_bytes and entry.why for entry in said)
    done = tidying.tidy(settings, engine)
    assert done == said and not any(entry.path.exists() for entry in done)
    assert tidying.tidy(settings, engine) == []
    return {entry.path for entry in done}


def retire(engine: sa.Engine, keep: int = 1) -> None:
    write(engine, lambda c: retention.retire(c, keep, "tests"))


def a_training(engine: sa.Engine, state: str, days: float, model_id: int | None = None) -> int:
    """A training job that ended so long ago."""
    job_id = rows.a_queued_job(engine, "train")
    write(engine, lambda c: endings.finish(c, job_id, state, "w1"))
    update = sa.update(job_table).where(job_table.c.id == job_id)
    values: dict[str, Any] = {"finished_at": now(-days * DAY_S), "model_id": model_id}
    write(engine, lambda c: c.execute(update.values(values)))
    return job_id


def test_a_retired_model_s_files_and_engines_go_and_a_used_one_s_stay(
    engine: sa.Engine, settings: Settings, tmp_path: Path
) -> None:
    champion, gone, newest = (rows.a_model(engine, tmp_path, name) for name in ("a", "b", "c"))
    files = {n: store.fetch(engine, settings.home, n) for n in (champion, gone, newest)}
    folder = settings.home / "engines"
    folder.mkdir()
    plans = {}
    for n, file in files.items():
        about = {"sha256": file.stem, "options": {"precision": "fp16"}}
        plans[n] = folder / f"{n:040x}.plan"
        signed.write(plans[n], about, b"a plan", b"a key")
        put(plans[n].with_suffix(".lock"), 0)
    foreign = put(settings.home / "models" / f"{'0' * 64}.onnx")  # of another database
    killed = put(settings.home / "models" / ".fetch-abc", days=2)
    busy = put(settings.home / "models" / ".fetch-def")
    assert tidied(settings, engine) == {killed}
    retire(engine)
    assert tidied(settings, engine) == {files[gone], plans[gone]}
    assert not plans[gone].with_suffix(".lock").exists()
    assert foreign.exists() and busy.exists() and plans[champion].exists()
    # It comes again where a job wants it, until its bytes are gone.
    assert store.fetch(engine, settings.home, gone) == files[gone]
    tidied(settings, engine)
    assert [freed.id for freed in retention.free(engine, "tests")] == [gone]
    with pytest.raises(EngineError, match=f"model {gone} .b. is retired, and its files were rem"):
        store.fetch(engine, settings.home, gone)


def test_an_open_job_s_model_keeps_its_files_though_it_is_retired(
    engine: sa.Engine, settings: Settings, tmp_path: Path
) -> None:
    _, gone, _ = (rows.a_model(engine, tmp_path, name) for name in ("a", "b", "c"))
    file = store.fetch(engine, settings.home, gone)
    retire(engine)
    job_id = rows.a_queued_job(engine, model_id=gone)
    assert tidied(settings, engine) == set()
    write(engine, lambda c: control.cancel(c, job_id, "tests"))
    assert tidied(settings, engine) == {file}


def test_what_trainings_left_goes_when_it_is_of_no_more_use(
    engine: sa.Engine, settings: Settings, tmp_path: Path
) -> None:
    folder = settings.home / "training"

    def left(job_id: int) -> Path:
        put(folder / f"job-{job_id}" / "attempt-1" / "checkpoint.pth")
        return folder / f"job-{job_id}"

    champion, gone, _ = (rows.a_model(engine, tmp_path, name) for name in ("a", "b", "c"))
    going = {
        left(a_training(engine, "failed", 8)),
        left(a_training(engine, "cancelled", 8)),
        left(a_training(engine, "completed", 1, gone)),
    }
    staying = [
        left(a_training(engine, "cancelled", 1)),
        left(a_training(engine, "completed", 30, champion)),
        left(rows.a_queued_job(engine, "train")),
        left(4711),  # of another database
        put(folder / "job-of mine" / "notes.txt"),
    ]
    retire(engine)
    assert tidied(settings, engine) == going
    assert all(path.exists() for path in staying)


def test_caches_beyond_the_newest_go_unless_a_training_runs(
    engine: sa.Engine, settings: Settings
) -> None:
    cache = settings.home / "cache"
    made = [
        [put(cache / f"{n:032x}.{end}", days=2 + n) for end in ("json", "npy")]
        for n in range(pixel_cache.KEPT_FILES + 2)
    ]
    half = put(cache / f"{'e' * 32}.json", days=30)
    killed = put(cache / f".{'f' * 32}.1234", days=2)
    put(cache / f".{'f' * 32}.5678")  # is being written
    begun = [put(cache / f".{'a' * 32}.{end}", days=2) for end in ("planes", "entries")]
    for end in ("planes", "entries"):
        put(cache / f".{'b' * 32}.{end}")  # somebody may go on with it
    searched = [
        put(cache / f"{n + 100:032x}{pixel_cache.SEARCHED}", days=2 + n)
        for n in range(pixel_cache.KEPT_FILES + 1)
    ]
    lease = rows.a_claimed_training(engine)
    assert tidied(settings, engine) == set()
    write(engine, lambda c: endings.finish(c, lease.job_id, "failed", "w1"))
    gone = {*made[-1], *made[-2], searched[-1], half, killed, *begun}
    assert tidied(settings, engine) == gone


def test_what_cannot_be_removed_is_told_and_stays(
    engine: sa.Engine,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = put(settings.home / "models" / ".fetch-abc", days=2)

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert tidying.tidy(settings, engine) == []
    assert file.exists() and f"{file} cannot be removed: Permission denied" in caplog.text


def test_the_chores_retire_a_schedule_s_surplus_and_free_its_bytes(
    engine: sa.Engine, settings: Settings, tmp_path: Path
) -> None:
    insert = sa.insert(schedules).values(
        name="nightly", cron="0 2 * * *", tz="UTC", kind="train",
        spec={"job": {}, "night": {"keep": 1}}, paused=False, catch_up_s=0, created_at=now(),
        created_by="tests",
    )  # fmt: skip
    write(engine, lambda c: c.execute(insert))
    rows.a_model(engine, tmp_path, "champion")
    made = []
    for night in range(3):
        job_id = rows.a_queued_job(
            engine, "train", schedule_id=1,
            scheduled_for=datetime(2026, 11, 1 + night, tzinfo=timezone.utc),
        )  # fmt: skip
        write(engine, lambda c, j=job_id: endings.finish(c, j, "completed", "w1"))  # type: ignore[misc]
        made.append(rows.a_model(engine, tmp_path, f"night {night}", job_id=job_id))
    assert tidying.of_schedules(settings, engine, "w1") == 2
    assert [models.get(engine, n)["state"] for n in made] == ["retired", "retired", "candidate"]
    with connecting.reading(engine) as connection:
        left = connection.execute(sa.select(sa.func.count()).select_from(model_chunks)).scalar()
        assert connection.execute(sa.select(notices)).all() == []
    assert left == 2
    assert tidying.of_schedules(settings, engine, "w1") == 0
    tidying.hourly(replace(settings, home=tmp_path / "no such home"), engine, "w1")


def test_a_worker_forgets_the_names_of_films_of_what_was_purged_elsewhere(
    settings: Settings, engine: sa.Engine
) -> None:
    purged, kept = (rows.a_queued_job(engine, "train") for _ in range(2))
    gone = sa.update(job_table).where(job_table.c.id == purged).values(purged_at=now())
    write(engine, lambda c: c.execute(gone))
    names = settings.home / "names"
    stay = {put(names / f"job-{kept}.csv"), put(names / "job-99.csv"), put(names / "other.csv")}
    put(names / f"job-{purged}.csv")

    tidying.hourly(settings, engine, "w")

    assert set(names.iterdir()) == stay
