"""Serving: an engine is opened for a model, and serves once it agrees with the processor's.

What became of it is a row of the engines table, so that the next process need not compare again.
Where an engine does not do, the next best takes its place, unless this one was asked for by name.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from db.base import database as connecting
from db.base.errors import Unavailable
from db.registry import engines
from trainer.errors import Stopped
from worker.config import Settings
from worker.engine import Choice, Engine, choose, gate, instead, open_engine, open_on, store
from worker.engine.choose import NAMES
from worker.engine.pieces import InPieces
from worker.engine.progress import Report, silent
from worker.errors import EngineError, GpuLost
from worker.machine.gpu_lease import Board
from worker.scoring.engine_thread import Model
from worker.training.precisions import identity

log = logging.getLogger(__name__)

#: What is told of an engine while it is being built is passed on this often, in seconds.
NEWS_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Served:
    """An engine that may serve, and what is to be said of it."""

    engine: Engine
    #: For the job's history: what computes, where, and what it is worth.
    text: str


def serve(
    settings: Settings,
    database: sa.Engine,
    model_id: int,
    precision: str,
    choice: Choice,
    report: Report = silent,
    *,
    worker_id: str | None = None,
) -> Engine:
    """An engine that passed its gate, for a model in a precision; batches are `choice.batch`.

    Raises EngineError where there is none: the model cannot be fetched or run, or what was asked
    for by name cannot be had or does not agree with the processor. Raises GpuLost.
    """
    path = store.fetch(database, settings.home, model_id, precision)
    return found(settings, database, path, precision, choice, report, worker_id=worker_id).engine


def found(
    settings: Settings,
    database: sa.Engine,
    path: Path,
    precision: str,
    choice: Choice,
    report: Report = silent,
    *,
    worker_id: str | None = None,
) -> Served:
    """As `serve`, of a file that was fetched already: the store names files by their hash."""
    trial = _Trial(settings, database, path, precision, worker_id)
    tried, batch = choice, choice.batch
    while True:
        try:
            engine = open_on(
                tried, path, precision=precision, home=settings.home,
                workspace_mb=settings.gpu_workspace_mb, report=report,
            )  # fmt: skip
            return trial.of(tried, engine, batch)
        except GpuLost:
            raise
        except EngineError as error:
            reason = f"{NAMES[tried.backend]}: {error}"
            following = instead(tried, settings, _shortened(reason))
            if following is None:
                if choice.gpu is None:
                    raise
                raise EngineError(reason) from error
            log.warning("%s does not serve %s; %s is tried: %s", tried, path.name, following, error)
            tried = following


class Loader:
    """Finds and opens what a scoring worker's engine thread computes with."""

    def __init__(
        self,
        settings: Settings,
        database: sa.Engine,
        worker_id: str,
        choice: Choice,
        stop: threading.Event,
        say: Callable[[str], object],
    ) -> None:
        """`say` is told what is loaded, for the worker's row; `stop` ends a build."""
        self._settings = settings
        self._database = database
        self._worker_id = worker_id
        self._choice = choice
        self._stop = stop
        self._say = say
        self._said: dict[tuple[int, str], str] = {}

    def locate(self, model: Model) -> Path:
        """The model's file; raises EngineError."""
        return store.fetch(self._database, self._settings.home, model.number, model.precision)

    def load(self, path: Path, model: Model) -> Engine:
        """An engine that may serve what the model's job asks for.

        Raises EngineError, GpuLost, and Stopped where a build was under way.
        """
        name = f"model {model.number} in {model.precision}"
        told_at = 0.0

        def report(phase: str, step: int, steps: int) -> None:
            nonlocal told_at
            if self._stop.is_set():
                raise Stopped("the worker was stopped")
            if time.monotonic() - told_at >= NEWS_S:
                told_at = time.monotonic()
                share = f", {100 * step // steps} % done" if steps else ""
                log.info("%s: %s%s", name, phase, share)
                self._say(f"{name}: {phase}{share}")

        served = found(
            self._settings, self._database, path, model.precision,
            self._choice.asking(model.asked), report, worker_id=self._worker_id,
        )  # fmt: skip
        self._said[model.number, model.precision] = served.text
        as_chosen = served.engine.backend == self._choice.backend
        self._say(name if as_chosen else f"{name}: {served.text}")
        return served.engine

    def said(self, model: Model) -> str:
        """What a model that was loaded is scored with, for the histories of its jobs."""
        return self._said[model.number, model.precision]


@dataclass(frozen=True)
class _Trial:
    """One model file in one precision, of which engines are tried."""

    settings: Settings
    database: sa.Engine
    path: Path
    precision: str
    worker_id: str | None

    def of(self, choice: Choice, engine: Engine, batch: int) -> Served:
        """Let an engine serve that passes; raises EngineError for one that does not."""
        try:
            if choice.backend == "openvino":
                # The reference itself: its precisions passed their gate on validation films.
                verdict = choice.reason
                if engine.batch != batch:
                    engine = InPieces(engine, batch)
            else:
                verdict = "; ".join(filter(None, (self._gated(engine), choice.reason)))
        except BaseException:
            engine.close()
            raise
        return Served(engine=engine, text=described(engine) + (f": {verdict}" if verdict else ""))

    def _gated(self, engine: Engine) -> str:
        """What the gate said of an engine, now or earlier; EngineError where it does not pass."""
        sha256 = self.path.stem
        key = identity(engine)
        row = self._recorded(sha256, key)
        options = json.loads(json.dumps(engine.options))
        if row is not None and all(row["options"].get(name) == v for name, v in options.items()):
            return f"parity {row['parity_delta'] or 0.0:.2g} on {row['options'].get('films')} films"
        verdict, kept = proved(self.settings, self.path, engine)
        self._record(sha256, {**kept, "worker_id": self.worker_id})
        log.info("%s: %s", described(engine), verdict.text)
        if not verdict.passed:
            raise EngineError(f"does not agree with the processor: {verdict.text}")
        return verdict.text

    def _recorded(self, sha256: str, key: dict[str, Any]) -> sa.RowMapping | None:
        try:
            return engines.passed(
                self.database, sha256, key["backend"], key["backend_version"], key["device"],
                key["precision"],
            )  # fmt: skip
        except sa.exc.DBAPIError as error:
            log.warning("the gate is passed anew, as the database is away: %s", error.orig)
            return None

    def _record(self, sha256: str, kept: dict[str, Any]) -> None:
        try:
            connecting.write(self.database, lambda c: engines.record(c, sha256, kept))
        except (Unavailable, sa.exc.DBAPIError) as error:
            # No reason to stop: whoever opens it next compares again.
            log.warning("what the gate said is not kept, as the database is away: %s", error)


def proved(
    settings: Settings, path: Path, engine: Engine, films: gate.Films | None = None
) -> tuple[gate.Verdict, dict[str, Any]]:
    """Compare an engine with the processor's of the same file: the verdict, and its row of engines.

    On `films`, `uint8 [N, 1, S, S]`, or on those that are drawn.
    """
    # bf16 is held to what fp32 says of the same file.
    precision = "fp32" if engine.precision == "bf16" else engine.precision
    reference = open_engine(
        path, batch=settings.batch, threads=settings.engine_threads, precision=precision
    )
    try:
        verdict = gate.check(
            engine, reference, gate.golden(engine.card) if films is None else films
        )
    finally:
        reference.close()
    options = json.loads(json.dumps(engine.options))
    return verdict, {
        **identity(engine),
        "options": {**options, "films": verdict.films, "agreement": verdict.agreement},
        "parity_delta": verdict.delta,
        "passed": verdict.passed,
    }


@contextmanager
def opened(
    settings: Settings,
    database: sa.Engine,
    model_id: int,
    precision: str,
    *,
    threads: int | None = None,
) -> Iterator[Engine]:
    """An engine that may serve, for a command here and now, and the GPU's lease with it.

    On the processor it has so many threads, which change no answer; those of the settings unless
    told. Raises EngineError as `serve`.
    """
    choice = choose(settings)
    if choice.gpu is None and threads is not None:
        choice = replace(choice, threads=threads, lanes=threads)
    board = None if choice.gpu is None else Board(choice.gpu.uuid, "a command")
    try:
        if board is not None and not board.take():
            choice = _beside(choice, settings, board)
        engine = serve(settings, database, model_id, precision, choice)
        try:
            yield engine
        finally:
            engine.close()
    finally:
        if board is not None:
            board.release()


def _beside(choice: Choice, settings: Settings, board: Board) -> Choice:
    """The processor, while another process has the GPU: it may have it for hours."""
    reason = f"the GPU is in use by {board.holder()}"
    other: Choice | None = choice
    while other is not None and other.gpu is not None:
        other = instead(other, settings, reason)
    if other is None:
        raise EngineError(f"{reason}; try again later, or ask for onnx or auto")
    return other


def described(engine: Engine) -> str:
    """What computes: "TensorRT 10.3.0, fp16, on Orin (8.7)"."""
    name = NAMES.get(engine.backend, engine.backend)
    return f"{name} {engine.backend_version}, {engine.precision}, on {engine.device}"


def _shortened(reason: str) -> str:
    """A reason within another one: the first sentence will do."""
    first, _, rest = reason.partition(". ")
    return first if rest else reason
