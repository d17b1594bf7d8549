"""An idle worker measures a model that is new to its kind, and gives way to everything else."""

from __future__ import annotations

import errno
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db.base import database as connecting
from db.base.schema import films
from db.queue import jobs
from db.registry import models, rates
from tests.worker import samples
from tests.worker.made_up import delays, passes
from worker.config import Settings
from worker.engine import choose, store
from worker.machine import gpu_lease
from worker.machine.gpu_lease import GpuLease
from worker.scoring import measuring, serving
from worker.service import rates as rates_of_service
from worker.service.daemon import Daemon
from worker.service.rates import Rates


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite only: the rows are tested on both with the database."""
    return sqlite_url


@pytest.fixture
def passed(database: sa.Engine, model_id: int) -> int:
    """The champion, whose bf16 passed its gate."""
    passes(database, model_id, "bf16")
    return model_id


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker of a machine measures at a time, and others run such tests."""
    monkeypatch.setattr(gpu_lease, "LOCKS", tmp_path)


def predictions(database: sa.Engine) -> Sequence[Any]:
    with connecting.reading(database) as connection:
        return connection.exec_driver_sql("SELECT job_id FROM predictions").all()


def looking(settings: Settings, database: sa.Engine) -> Rates:
    return Rates(settings, database, "w", choose(settings))


def test_a_model_with_one_precision_or_with_stored_predictions_is_not_measured(
    settings: Settings, database: sa.Engine, model_id: int, request: pytest.FixtureRequest
) -> None:
    assert not looking(settings, database).look(), "fp32 is all that it may be computed in"
    request.getfixturevalue("passed")
    assert looking(settings, database).look()
    row = {"model_id": model_id, "precision": "fp32", "content": b"0" * 16}
    with connecting.writing(database) as connection:
        connection.execute(sa.insert(films).values(row | {"job_id": 1, "item_no": 0}))
    assert not looking(settings, database).look()


def test_a_model_that_cannot_be_measured_here_is_not_tried_again(
    settings: Settings, database: sa.Engine, passed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = delays(monkeypatch, {})
    found = looking(settings, database)
    assert found.look()
    assert found.run(lambda: False)
    assert opened == ["bf16", "fp32"]
    assert not found.due() and not found.look()
    assert rates.of_model(database, passed) == []


def test_while_another_worker_of_the_machine_measures_it_waits_and_keeps_no_lock(
    settings: Settings, database: sa.Engine, passed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = delays(monkeypatch, {"bf16": 0.0, "fp32": 0.0})
    other = GpuLease(measuring.PROCESSOR, "measuring")
    assert other.take()
    found = looking(settings, database)
    assert found.look()
    asked = iter([False, False])
    assert not found.run(lambda: next(asked, True))
    assert not opened and not found.due()
    other.release()
    assert other.take(), "nobody waits for a turn that it does not want any more"
    other.release()
    monkeypatch.setattr(rates_of_service, "AGAIN_S", 0.0)
    again = looking(settings, database)
    assert again.look()
    assert again.run(lambda: False)
    assert opened == ["bf16", "fp32"]
    assert other.take()
    other.release()


def test_what_was_interrupted_begins_again_after_a_while_and_not_before(
    settings: Settings, database: sa.Engine, passed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays(monkeypatch, {"bf16": 0.0, "fp32": 0.0})
    found = looking(settings, database)
    assert found.look()
    asked = iter([False] * 3)
    assert not found.run(lambda: next(asked, True))
    assert not found.look()
    assert rates.of_model(database, passed) == []
    monkeypatch.setattr(rates_of_service, "AGAIN_S", 0.0)
    found = looking(settings, database)
    assert found.look()
    asked = iter([False] * 3)
    assert not found.run(lambda: next(asked, True))
    assert found.look()
    assert found.run(lambda: False)
    assert len(rates.of_model(database, passed)) == 2


def test_what_a_machine_has_run_out_of_is_tried_again_later(
    settings: Settings, database: sa.Engine, passed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates_of_service, "AGAIN_S", 0.0)
    full = OSError(errno.ENOSPC, "No space left on device")

    def fails(*args: object, **options: object) -> None:
        raise full

    found = looking(settings, database)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(serving, "open_on", fails)
        assert found.look()
        assert found.run(lambda: False)
    delays(monkeypatch, {"bf16": 0.0, "fp32": 0.0})
    assert found.look()
    assert found.run(lambda: False)
    assert len(rates.of_model(database, passed)) == 2


def test_the_worker_that_measured_a_model_measures_it_again_when_it_has_another_precision(
    settings: Settings, database: sa.Engine, passed: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    delays(monkeypatch, {"bf16": 0.0, "fp32": 0.0, "int8": 0.0})
    found = looking(settings, database)
    assert found.look() and found.run(lambda: False)
    assert not found.look()
    # Another file of the same network: fp32 is computed, and called so.
    file = store.fetch(database, settings.home, passed)
    small = tmp_path / "small.onnx"
    small.write_bytes(file.read_bytes() + b"\xc0\x0c\x01")  # a field that nobody reads
    tried = {
        "precision": "int8", "backend": "openvino", "backend_version": "1", "device": "CPU",
        "options": {}, "parity_delta": 0.0, "passed": True,
    }  # fmt: skip
    connecting.write(
        database, lambda c: models.add_precisions(c, passed, {"int8": small}, [tried], "kim")
    )
    assert rates.of_model(database, passed) == []
    assert found.look() and found.run(lambda: False)
    assert {row["precision"] for row in rates.of_model(database, passed)} == {
        "int8", "bf16", "fp32",
    }  # fmt: skip


def test_an_idle_worker_measures_the_champion_and_jobs_are_computed_by_it_from_then_on(
    database: sa.Engine, passed: int, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays(monkeypatch, {"bf16": 0.1, "fp32": 0.0})
    worker = Daemon(settings, ["score"])
    try:
        kind = choose(settings).kind
        samples.wait(lambda: rates.chosen(database, passed, kind), "the model to be measured")
    finally:
        worker.close()
    (event,) = [
        e["detail"] for e in models.detail(database, passed)["events"] if e["event"] == "precision"
    ]
    assert event.startswith(f"auto is fp32 in place of bf16 on {kind}: ")
    assert {row["measured_by"] for row in rates.of_model(database, passed)} == {worker.worker_id}


def test_a_job_does_not_wait_for_what_is_being_measured(
    database: sa.Engine, passed: int, settings: Settings, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    delays(monkeypatch, {"bf16": 0.0, "fp32": 0.0})
    monkeypatch.setattr(Daemon, "_take_up", lambda worker, name: None)  # no sweep finds the job
    begun = threading.Event()
    given_way: list[int] = []
    real = measuring.measure

    def measure(*args: object, **options: object) -> bool:
        begun.set()
        pause = options["pause"]
        assert callable(pause)
        # As long as the longest build, if nobody asks for anything else.
        samples.wait(pause, "something else to be asked for")
        given_way.append(len(predictions(database)))
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(measuring, "measure", measure)
    worker = Daemon(settings, ["score"])
    try:
        samples.wait(begun.is_set, "measuring to begin")
        folder = tmp_path / "films"
        folder.mkdir()
        for name, data in samples.films(2):
            (folder / name).write_bytes(data)
        job_id = samples.submit_score(database, passed, folder)
        waking = threading.Thread(target=worker.score)
        waking.start()
        samples.wait(lambda: jobs.get(database, job_id)["finished_at"], "the job to be done")
        waking.join()
    finally:
        worker.close()
    assert given_way and given_way[0] == 0
    assert jobs.get(database, job_id)["state"] == "completed"
    # It has stored predictions now, and is left alone.
    assert rates.of_model(database, passed) == []
