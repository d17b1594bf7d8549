"""Engine checks: a model is tried by what this machine computes, and each failure is a sentence."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from numpy.typing import NDArray

from db.base import database as connecting
from db.base.schema import models as models_table
from db.registry import engines, models
from tests.worker.made_up import ON_GPU
from trainer.card import Card
from worker import config
from worker.config import Settings
from worker.engine import Engine, EngineChoice, choose, gate, open_engine
from worker.engine.base import Outputs, Pending
from worker.machine import gpu_lease
from worker.scoring import engine_check, serving

Change = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class Changed:
    """A real engine whose scores are changed."""

    def __init__(self, inner: Engine, change: Change) -> None:
        self._inner, self._change = inner, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def submit(self, pixels: NDArray[np.uint8], films: int | None = None) -> Pending:
        return ChangedPending(self._inner.submit(pixels, films), self._change)


class ChangedPending:
    """A batch of such an engine."""

    def __init__(self, inner: Pending, change: Change) -> None:
        self._inner, self._change = inner, change

    def result(self) -> Outputs:
        found = self._inner.result()
        return Outputs(scores=self._change(found.scores), cam=found.cam, ood=found.ood)


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite only: who checks what is tested on both with the database."""
    return sqlite_url


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return config.load(
        {"PNEUMOQ_HOME": str(tmp_path / "home"), "PNEUMOQ_DATABASE_URL": database_url}
    )


@pytest.fixture(scope="module")
def drawn(card: Card) -> gate.Films:
    """The drawn films."""
    return gate.golden(card)


@pytest.fixture(scope="module")
def scores(model_file: Path, drawn: gate.Films) -> NDArray[np.float32]:
    """What the engine on the processor says of them; PyTorch's place is taken by it."""
    engine = open_engine(model_file, batch=16, threads=1)
    scores = gate.answers(engine, drawn).scores
    engine.close()
    return scores


@pytest.fixture(autouse=True)
def drawn_once(drawn: gate.Films, monkeypatch: pytest.MonkeyPatch) -> None:
    """Films are always the same, and to draw them takes longer than all else here."""
    monkeypatch.setattr(gate, "golden", lambda card: drawn)


@pytest.fixture
def learned(database: sa.Engine, model_id: int, scores: NDArray[np.float32]) -> int:
    """A model that came with the scores that training gave the drawn films."""
    connecting.write(
        database,
        lambda c: c.execute(
            sa.update(models_table).values(reference={"golden": {"scores": scores.tolist()}})
        ),
    )
    return model_id


def check(
    settings: Settings, database: sa.Engine, model_id: int, choice: EngineChoice | None = None
) -> tuple[bool, str]:
    return engine_check.check(
        settings, database, "w", choice or choose(settings), model_id, threading.Event()
    )


def computing(monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    """Have this machine compute wrongly from now on."""
    real = serving.open_on
    monkeypatch.setattr(serving, "open_on", lambda *a, **k: Changed(real(*a, **k), change))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda scores: np.clip(scores + np.float32([[0.25, -0.25]]), 0, 1),
            "fp32 differs from training by up to 0.25 in probability on 160 drawn films "
            "(limit 0.0001)",
        ),
        (
            lambda scores: np.full_like(scores, np.nan),
            "fp32 differs from training by up to 1 in probability on 160 drawn films "
            "(limit 0.0001)",
        ),
        (
            lambda scores: scores[:, :1],
            "fp32 gives (160, 1), and training (160, 2)",
        ),
    ],
    ids=["off", "not-a-number", "another-shape"],
)
def test_a_machine_that_computes_wrongly_does_not_pass_a_model_and_says_how_far_off(
    settings: Settings, database: sa.Engine, learned: int, monkeypatch: pytest.MonkeyPatch,
    change: Change, says: str,
) -> None:  # fmt: skip
    computing(monkeypatch, change)
    assert check(settings, database, learned) == (False, says)


def test_the_precision_that_would_serve_is_tried_too_and_not_only_fp32(
    settings: Settings, database: sa.Engine, learned: int, monkeypatch: pytest.MonkeyPatch,
    scores: NDArray[np.float32],
) -> None:  # fmt: skip
    # Where it was made, bf16 gave the drawn films other scores than fp32 did.
    by_bf16 = np.clip(scores + np.float32([[0.3, -0.3]]), 0, 1)
    golden = {"scores": scores.tolist(), "bf16": by_bf16.tolist()}
    connecting.write(
        database,
        lambda c: c.execute(sa.update(models_table).values(reference={"golden": golden})),
    )
    row = {
        "precision": "bf16", "backend": "openvino", "backend_version": "1", "device": "CPU",
        "options": {}, "passed": True,
    }  # fmt: skip
    sha256 = str(models.file_of(database, learned)["sha256"])
    connecting.write(database, lambda c: engines.record(c, sha256, row))
    assert engines.best_precision(database, learned) == "bf16"
    real = serving.open_on

    def rounded(scores: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.clip(scores + np.float32([[0.3, -0.3]]), 0, 1) + np.float32(0.01)

    def saturated(scores: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.full_like(scores, 0.5)

    change: Change = rounded

    def open_on(*a: Any, precision: str, **k: Any) -> Any:
        # Not every processor has bf16: fp32 is computed, and called so.
        engine = real(*a, precision="fp32", **k)
        if precision == "fp32":
            return engine
        changed = Changed(engine, change)
        changed.precision = precision
        return changed

    monkeypatch.setattr(serving, "open_on", open_on)
    passed, detail = check(settings, database, learned)
    assert passed, detail
    assert [part.split()[0] for part in detail.split("; ")] == ["fp32", "bf16"]
    change = saturated
    passed, detail = check(settings, database, learned)
    assert not passed
    assert detail.startswith("bf16 differs from training by 0.")
    assert detail.endswith(" in probability (99th percentile of 160 drawn films; limit 0.1)")


def test_an_engine_that_another_took_the_place_of_does_not_pass(
    settings: Settings, database: sa.Engine, learned: int, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    """A GPU that fails would else pass by the processor that serves in its place."""
    monkeypatch.setattr(gpu_lease, "LOCKS", tmp_path)
    passed, detail = check(settings, database, learned, ON_GPU)
    assert not passed
    assert detail.startswith(f"fp32 does not run on {ON_GPU.kind}; OpenVINO ")
    assert detail.endswith(" took its place")


def test_a_check_that_is_stopped_has_found_out_nothing(
    settings: Settings, database: sa.Engine, learned: int
) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(engine_check.Stopped):
        engine_check.check(settings, database, "w", choose(settings), learned, stop)
