"""Serving: an engine is opened for a model, and serves once it agrees with the processor's.

What became of it is a row of the engines table, so that the next process need not compare again.
Where an engine does not do, the next best takes its place, unless this one was asked for by name.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from db import database as connecting
from db import models
from worker import store
from worker.config import Settings
from worker.engine import Choice, Engine, gate, instead, open_engine, open_on
from worker.engine.choose import NAMES
from worker.engine.pieces import InPieces
from worker.engine.progress import Report, silent
from worker.errors import EngineError, GpuLost
from worker.precisions import identity

log = logging.getLogger(__name__)


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
    opening: Callable[[Choice], Engine] | None = None,
) -> Served:
    """As `serve`, of a file that was fetched already: `worker.store` names files by their hash.

    `opening` makes the engine of a choice; `open_on` unless told.
    """

    def open_it(tried: Choice) -> Engine:
        return open_on(
            tried, path, precision=precision, home=settings.home,
            workspace_mb=settings.gpu_workspace_mb, report=report,
        )  # fmt: skip

    trial = _Trial(settings, database, path, precision, worker_id)
    tried, batch = choice, choice.batch
    while True:
        try:
            return trial.of(tried, (opening or open_it)(tried), batch)
        except GpuLost:
            raise
        except EngineError as error:
            reason = f"{NAMES[tried.backend]}: {error}"
            following = instead(tried, settings, _shortened(reason))
            if following is None:
                if tried.backend == "openvino" and tried is choice:
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
        row = models.engine_passed(
            self.database, sha256, key["backend"], key["backend_version"], key["device"],
            key["precision"],
        )  # fmt: skip
        options = json.loads(json.dumps(engine.options))
        if row is not None and all(row["options"].get(name) == v for name, v in options.items()):
            return f"parity {row['parity_delta'] or 0.0:.2g} on {row['options'].get('films')} films"
        reference = self._reference()
        try:
            verdict = gate.check(engine, reference, gate.golden(engine.card))
        finally:
            reference.close()
        kept = {
            **key,
            "options": {**options, "films": verdict.films, "agreement": verdict.agreement},
            "parity_delta": verdict.delta,
            "passed": verdict.passed,
            "worker_id": self.worker_id,
        }
        connecting.write(self.database, lambda c: models.record_engine(c, sha256, kept))
        log.info("%s: %s", described(engine), verdict.text)
        if not verdict.passed:
            raise EngineError(f"does not agree with the processor: {verdict.text}")
        return verdict.text

    def _reference(self) -> Engine:
        # bf16 is held to what fp32 says of the same file.
        precision = "fp32" if self.precision == "bf16" else self.precision
        return open_engine(
            self.path,
            batch=self.settings.batch,
            threads=self.settings.engine_threads,
            precision=precision,
        )


def described(engine: Engine) -> str:
    """What computes: "TensorRT 10.3.0, fp16, on Orin (8.7)"."""
    name = NAMES.get(engine.backend, engine.backend)
    return f"{name} {engine.backend_version}, {engine.precision}, on {engine.device}"


def _shortened(reason: str) -> str:
    """A reason within another one: the first sentence will do."""
    first, _, rest = reason.partition(". ")
    return first if rest else reason
