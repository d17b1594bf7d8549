"""The engine thread: answers in order, changes models in between, and survives those it cannot."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.worker import samples
from trainer.card import Card
from worker.engine import Engine, open_engine
from worker.errors import EngineError, GpuLost
from worker.scoring.engine_thread import EngineThread, Model, Request

BATCH = 4


class Asked:
    """An engine thread on real engines, and what was heard of it."""

    def __init__(self, files: dict[int, Path], wrap: Callable[[Engine], Any] = lambda e: e) -> None:
        self.loaded: list[Path] = []
        self.woken = threading.Semaphore(0)

        def locate(model: Model) -> Path:
            if model[0] not in files:
                raise EngineError(f"model {model[0]} is not here")
            return files[model[0]]

        def load(path: Path, model: Model) -> Engine:
            self.loaded.append(path)
            engine: Engine = wrap(
                open_engine(path, batch=BATCH, threads=2, precision=model.precision)
            )
            return engine

        self.thread = EngineThread(locate, load, self.woken.release)

    def ask(self, *model_ids: int) -> list[Request]:
        """One batch of its own for each."""
        rng = np.random.default_rng(len(model_ids))
        requests = [
            Request(
                model=Model(model_id, "fp32"),
                pixels=rng.integers(0, 256, (BATCH, 1, samples.SIZE, samples.SIZE), np.uint8),
            )
            for model_id in model_ids
        ]
        for request in requests:
            self.thread.submit(request)
        return requests

    def done(self, count: int) -> list[Request]:
        """Wait for so many."""
        for _ in range(count):
            assert self.woken.acquire(timeout=samples.PATIENCE_S)
        found = list(self.thread.finished())
        assert len(found) == count
        return found


@pytest.fixture
def asked(model_file: Path, other_model: tuple[Path, Card], tmp_path: Path) -> Iterator[Asked]:
    """Models 1 and 2, and a model 3 that cannot be loaded."""
    (tmp_path / "bad.onnx").write_text("no model")
    made = Asked({1: model_file, 2: other_model[0], 3: tmp_path / "bad.onnx"})
    yield made
    made.thread.close()


@contextlib.contextmanager
def reference(path: Path) -> Iterator[Engine]:
    """An engine to compare with."""
    engine = open_engine(path, batch=BATCH, threads=1)
    yield engine
    engine.close()


def test_batches_are_answered_in_the_order_in_which_they_came(
    asked: Asked, model_file: Path
) -> None:
    requests = asked.ask(*[1] * 12)
    assert asked.done(12) == requests
    assert asked.loaded == [model_file]
    with reference(model_file) as engine:
        for request in requests:
            assert request.error is None
            assert request.answer is not None
            expected = engine.submit(request.pixels).result()
            assert request.answer.scores.tobytes() == expected.scores.tobytes()


def test_models_change_while_batches_are_pending(
    asked: Asked, model_file: Path, other_model: tuple[Path, Card]
) -> None:
    requests = asked.ask(1, 1, 2, 2, 2, 1, 2)
    assert asked.done(7) == requests
    for model_id, path in ((1, model_file), (2, other_model[0])):
        with reference(path) as engine:
            for request in requests:
                if request.model.number == model_id:
                    assert request.answer is not None
                    expected = engine.submit(request.pixels).result()
                    assert request.answer.scores.tobytes() == expected.scores.tobytes()


def test_a_model_that_cannot_be_loaded_costs_its_own_batches(asked: Asked) -> None:
    requests = asked.ask(1, 3, 1, 4, 3, 2)
    assert set(asked.done(6)) == set(requests)
    assert [r.answer is not None for r in requests] == [True, False, True, False, False, True]
    assert "not an ONNX file" in str(requests[1].error)
    assert str(requests[3].error) == "model 4 is not here"
    assert list(asked.thread.finished()) == []


def test_a_model_that_is_not_here_does_not_cost_the_one_that_is_loaded(
    asked: Asked, model_file: Path
) -> None:
    asked.ask(1, 4, 1)
    asked.done(3)
    assert asked.loaded == [model_file]


def test_closing_finishes_what_is_queued(model_file: Path) -> None:
    asked = Asked({1: model_file})
    requests = asked.ask(*[1] * 6)
    asked.thread.close()
    assert list(asked.thread.finished()) == requests
    assert all(r.answer is not None for r in requests)


def test_what_nobody_foresaw_costs_its_own_batch_and_the_engine_is_opened_anew(
    asked: Asked, model_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (before,) = asked.ask(1)
    # A batch of another size than the engine's is a mistake of ours, no trouble with the model.
    wrong = Request(
        model=Model(1, "fp32"),
        pixels=np.zeros((BATCH + 1, 1, samples.SIZE, samples.SIZE), np.uint8),
    )
    asked.thread.submit(wrong)
    (after,) = asked.ask(1)
    assert set(asked.done(3)) == {before, wrong, after}
    assert wrong.error is not None
    assert not isinstance(wrong.error, EngineError)
    assert before.answer is not None
    assert after.answer is not None
    assert asked.loaded == [model_file] * 2
    assert "Traceback" in caplog.text


def test_an_engine_thread_that_ends_says_so_instead_of_keeping_its_askers_waiting(
    model_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Stuck:
        """A real engine, except that it cannot be closed."""

        def __init__(self, inner: Engine) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return "onnxruntime" if name == "backend" else getattr(self._inner, name)

        def close(self) -> None:
            self._inner.close()
            raise RuntimeError("the driver does not answer")

    asked = Asked({1: model_file}, Stuck)
    asked.ask(1)
    asked.done(1)
    asked.thread.release_gpu()
    assert asked.woken.acquire(timeout=samples.PATIENCE_S)
    with pytest.raises(RuntimeError, match="the engine ended"):
        list(asked.thread.finished())
    assert "the engine thread ended" in caplog.text
    began = time.monotonic()
    asked.thread.close()
    assert time.monotonic() - began < 5


def test_a_thread_that_lost_its_gpu_stays_as_it_is_and_keeps_nobody_waiting(
    model_file: Path,
) -> None:
    closed: list[Engine] = []

    class Losing:
        """A real engine, except that the GPU is lost at every batch."""

        def __init__(self, inner: Engine) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return "tensorrt" if name == "backend" else getattr(self._inner, name)

        def submit(self, pixels: Any, films: int | None = None) -> Any:
            raise GpuLost("CUDA says 719")

        def close(self) -> None:
            closed.append(self._inner)

    asked = Asked({1: model_file}, Losing)
    (request,) = asked.ask(1)
    assert asked.woken.acquire(timeout=samples.PATIENCE_S)
    assert asked.woken.acquire(timeout=samples.PATIENCE_S)
    with pytest.raises(GpuLost, match="CUDA says 719"):
        list(asked.thread.finished())
    assert isinstance(request.error, GpuLost)
    began = time.monotonic()
    asked.thread.release_gpu()
    asked.thread.close()
    assert time.monotonic() - began < 5
    # A context that is on the thread's stack would abort the process where the thread ends.
    assert asked.thread._thread.is_alive()
    assert closed == [], "what is told to let go of a lost GPU may never come back"
