"""What a machine measures of a model's precisions, and what it leaves as it was."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db.base import database as connecting
from db.registry import rates
from tests.worker.made_up import delays, passes
from worker import config
from worker.config import Settings
from worker.engine import choose, open_on, speed
from worker.errors import EngineError, OutOfMemory
from worker.machine import gpu_lease
from worker.scoring import engine_check, measuring, serving


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite only: the rows are tested on both with the database."""
    return sqlite_url


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker of a machine measures at a time, and others run such tests."""
    monkeypatch.setattr(gpu_lease, "LOCKS", tmp_path)


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return config.load(
        {
            "PNEUMOQ_HOME": str(tmp_path / "home"),
            "PNEUMOQ_DATABASE_URL": database_url,
            "PNEUMOQ_ENGINE_THREADS": "1",
        }
    )


@pytest.fixture
def passed(database: sa.Engine, model_id: int) -> int:
    """A model whose bf16 and fp16 passed their gates."""
    for precision in ("bf16", "fp16"):
        passes(database, model_id, precision)
    return model_id


def measure(settings: Settings, database: sa.Engine, model_id: int, **options: Any) -> bool:
    return measuring.measure(settings, database, model_id, choose(settings), "w", **options)


def test_a_precision_that_is_slower_here_than_fp32_is_auto_no_more(
    settings: Settings, database: sa.Engine, passed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = delays(monkeypatch, {"bf16": 0.1, "fp32": 0.0})
    choice = choose(settings)
    assert measuring.candidates(database, passed, choice) == ["bf16", "fp32"]
    assert measure(settings, database, passed)
    assert opened == ["bf16", "fp32"], "fp16 is no faster than fp32 on a processor"
    fast, slow = rates.of_model(database, passed)
    assert (fast["precision"], fast["chosen"], slow["precision"]) == ("fp32", True, "bf16")
    assert fast["ratio_low"] > 1.1
    assert fast["films_per_s"] / slow["films_per_s"] == pytest.approx(fast["ratio"], rel=0.5)
    assert (fast["kind"], fast["batch"], fast["rounds"]) == (choice.kind, 8, measuring.ROUNDS)
    assert measuring.candidates(database, passed, choice) == ["fp32", "bf16"]


def test_a_precision_that_is_no_slower_stays_auto_and_what_was_measured_is_kept(
    settings: Settings, database: sa.Engine, passed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays(monkeypatch, {"bf16": 0.0, "fp32": 0.1})
    assert measure(settings, database, passed)
    assert rates.chosen(database, passed, choose(settings).kind) == "bf16"
    assert len(rates.of_model(database, passed)) == 2


def test_nothing_is_kept_of_what_was_interrupted_and_a_precision_that_cannot_be_had_is_left_out(
    settings: Settings, database: sa.Engine, passed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays(monkeypatch, {"bf16": 0.0, "fp32": 0.0})
    looks = iter([False] * 5)
    assert not measure(settings, database, passed, pause=lambda: next(looks, True))
    assert rates.of_model(database, passed) == []
    delays(monkeypatch, {"bf16": 0.0})
    assert measure(settings, database, passed)
    assert [row["precision"] for row in rates.of_model(database, passed)] == ["bf16"]
    delays(monkeypatch, {"fp32": 0.0})
    assert measure(settings, database, passed), "what was auto cannot be had any more"
    assert [row["precision"] for row in rates.of_model(database, passed)] == ["fp32"]
    assert rates.chosen(database, passed, choose(settings).kind) == "fp32"
    delays(monkeypatch, {})
    assert not measure(settings, database, passed)


@pytest.mark.parametrize(
    "error", [OutOfMemory("of the device"), OSError(errno.ENOSPC, "No space left on device")]
)
def test_what_a_machine_has_run_out_of_for_now_says_nothing_of_a_precision(
    settings: Settings, database: sa.Engine, passed: int, monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:  # fmt: skip
    delays(monkeypatch, {"bf16": 0.0, "fp32": 0.0})

    def fails(*args: Any, precision: str, **options: Any) -> Any:
        if precision != "bf16":
            return open_on(*args, precision=precision, **options)
        if isinstance(error, EngineError):
            raise error
        raise EngineError("it cannot be opened") from error

    monkeypatch.setattr(serving, "open_on", fails)
    with pytest.raises(EngineError):
        measure(settings, database, passed)
    assert rates.of_model(database, passed) == []


def test_with_only_new_a_kind_that_was_measured_keeps_its_rows(
    settings: Settings, database: sa.Engine, passed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays(monkeypatch, {"bf16": 0.0, "fp32": 0.1})
    measure(settings, database, passed)
    before = rates.of_model(database, passed)
    delays(monkeypatch, {"bf16": 0.1, "fp32": 0.0})
    assert measure(settings, database, passed, only_new=True)
    assert rates.of_model(database, passed) == before


def test_in_an_engine_check_every_precision_that_was_measured_is_tried(
    settings: Settings, database: sa.Engine, passed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays(monkeypatch, {"bf16": 0.1, "fp32": 0.0})
    ok, detail = engine_check.check(
        settings, database, "w", choose(settings), passed, threading.Event()
    )
    assert (ok, detail) == (True, "fp32 runs; bf16 runs")
    assert rates.chosen(database, passed, choose(settings).kind) == "fp32"


def test_a_precision_that_another_machine_of_that_name_has_costs_a_candidate_nothing_here(
    settings: Settings, database: sa.Engine, passed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays(monkeypatch, {"bf16": 0.1, "fp32": 0.0})
    measure(settings, database, passed)
    delays(monkeypatch, {"fp32": 0.0})
    ok, detail = engine_check.check(
        settings, database, "w", choose(settings), passed, threading.Event()
    )
    assert (ok, detail) == (True, "fp32 runs")


def test_nothing_is_kept_where_another_precision_came_while_a_model_was_measured(
    settings: Settings, database: sa.Engine, passed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays(monkeypatch, {"bf16": 0.0, "fp32": 0.0})
    came = iter([True])

    def pause() -> bool:
        if next(came, False):
            connecting.write(database, lambda c: rates.forget(c, passed))
            passes(database, passed, "int8")
        return False

    assert not measure(settings, database, passed, pause=pause)
    assert rates.of_model(database, passed) == []


def test_what_goes_wrong_while_a_candidate_is_measured_says_nothing_of_its_answers(
    settings: Settings, database: sa.Engine, passed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays(monkeypatch, {"bf16": 0.0, "fp32": 0.0})
    monkeypatch.setattr(speed, "interval", lambda values: 1 / 0)
    ok, detail = engine_check.check(
        settings, database, "w", choose(settings), passed, threading.Event()
    )
    assert (ok, detail) == (True, "fp32 runs; bf16 runs")
