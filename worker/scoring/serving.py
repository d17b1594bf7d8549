"""Serving: an engine is opened for a model, and serves once it agrees with the processor's.

What became of it is a row of the engines table, so that the next process need not compare again.
Where an engine does not do, the next best takes its place, unless this one was asked for by name.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from db.base import database as connecting
from db.registry import engines
from worker.config import Settings
from worker.engine import Engine, EngineChoice, choose, fallback, gate, open_on, store
from worker.engine.base import identity
from worker.engine.choose import NAMES
from worker.engine.pieces import InPieces
from worker.engine.progress import Report, silent
from worker.errors import EngineError, GpuLost
from worker.machine.gpu_lease import GpuLease

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Served:
    """An engine that may serve, and its description."""

    engine: Engine
    #: For the job's history: what computes, where, and how near it is to the processor's.
    text: str


def serve(
    settings: Settings,
    database: sa.Engine,
    model_id: int,
    precision: str,
    choice: EngineChoice,
    report: Report = silent,
    *,
    worker_id: str | None = None,
) -> Engine:
    """An engine that passed its gate, for a model in a precision; batches are `choice.batch`.

    Raises EngineError where there is none: the model cannot be fetched or run, or what was asked
    for by name cannot be had or does not agree with the processor. Raises GpuLost.
    """
    path = store.fetch(database, settings.home, model_id, precision)
    return obtain(settings, database, path, precision, choice, report, worker_id=worker_id).engine


def obtain(
    settings: Settings,
    database: sa.Engine,
    path: Path,
    precision: str,
    choice: EngineChoice,
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
            following = fallback(tried, settings, _shortened(reason))
            if following is None:
                if choice.gpu is None:
                    raise
                raise EngineError(reason) from error
            log.warning("%s does not serve %s; %s is tried: %s", tried, path.name, following, error)
            tried = following


@dataclass(frozen=True)
class _Trial:
    """One model file in one precision, of which engines are tried."""

    settings: Settings
    database: sa.Engine
    path: Path
    precision: str
    worker_id: str | None

    def of(self, choice: EngineChoice, engine: Engine, batch: int) -> Served:
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
        """The gate's verdict, of now or earlier; EngineError where the engine does not pass."""
        sha256 = self.path.stem
        key = identity(engine)
        row = self._recorded(sha256, key)
        options = json.loads(json.dumps(engine.options))
        if row is not None and all(row["options"].get(name) == v for name, v in options.items()):
            return f"parity {row['parity_delta'] or 0.0:.2g} on {row['options'].get('films')} films"
        verdict = gate.against_processor(self.settings, self.path, engine)
        self._record(sha256, {**columns(engine, verdict), "worker_id": self.worker_id})
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
        except Exception as error:
            if not connecting.away(error):
                raise
            log.warning("the gate is passed anew, as the database is away: %s", error)
            return None

    def _record(self, sha256: str, row: dict[str, Any]) -> None:
        try:
            connecting.write(self.database, lambda c: engines.record(c, sha256, row))
        except Exception as error:
            if not connecting.away(error):
                raise
            # No reason to stop: whoever opens it next compares again.
            log.warning("the gate's verdict is not kept, as the database is away: %s", error)


def columns(engine: Engine, verdict: gate.Verdict) -> dict[str, Any]:
    """The row of the engines table of an engine that was compared with the processor's."""
    options = json.loads(json.dumps(engine.options))
    return {
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

    On the processor it has so many `threads` (of the settings where None), which change no answer.
    Raises EngineError as `serve`.
    """
    choice = choose(settings)
    if choice.gpu is None and threads is not None:
        choice = replace(choice, threads=threads, lanes=threads)
    lease = None if choice.gpu is None else GpuLease(choice.gpu.uuid, "a command")
    try:
        if lease is not None and not lease.take():
            choice = _beside(choice, settings, lease)
        engine = serve(settings, database, model_id, precision, choice)
        try:
            yield engine
        finally:
            engine.close()
    finally:
        if lease is not None:
            lease.release()


def _beside(choice: EngineChoice, settings: Settings, lease: GpuLease) -> EngineChoice:
    """The processor, while another process has the GPU: it may have it for hours."""
    reason = f"the GPU is in use by {lease.holder()}"
    other: EngineChoice | None = choice
    while other is not None and other.gpu is not None:
        other = fallback(other, settings, reason)
    if other is None:
        raise EngineError(f"{reason}; try again later, or ask for onnx or auto")
    return other


def described(engine: Engine) -> str:
    """What computes: "TensorRT 10.3.0, fp16, on Orin (8.7)"."""
    name = NAMES.get(engine.backend, engine.backend)
    return f"{name} {engine.backend_version}, {engine.precision}, on {engine.device}"


def _shortened(reason: str) -> str:
    """A reason within another one: the first sentence will do."""
    first, _, others = reason.partition(". ")
    return first if others else reason
