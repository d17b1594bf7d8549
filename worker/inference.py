"""The engine thread: it owns the device, loads models, and answers batches in order."""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.engine import Engine, Outputs, Pending
from worker.errors import EngineError

log = logging.getLogger(__name__)

#: A model's number and the precision that it computes in.
Model = tuple[int, str]


@dataclass(kw_only=True, eq=False)
class Request:
    """One batch for the engine; `answer` or `error` is set when it is done."""

    model: Model
    #: `uint8 [batch, 1, S, S]`, left alone until the request is done.
    pixels: NDArray[np.uint8]
    answer: Outputs | None = None
    error: EngineError | None = None
    pending: Pending | None = field(default=None, repr=False)


class EngineThread:
    """One thread that computes requests in the order they come.

    `locate` finds a model's file and `load` makes an engine of it; both run in the thread, since a
    GPU context belongs to the thread that made it. `wake` is called after each finished request.
    """

    def __init__(
        self,
        locate: Callable[[Model], Path],
        load: Callable[[Path, str], Engine],
        wake: Callable[[], None],
    ) -> None:
        self._locate = locate
        self._load = load
        self._wake = wake
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self.done: deque[Request] = deque()
        self._engines: dict[Model, Engine] = {}
        self._broken: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Queue a batch; it turns up in `done`."""
        self._requests.put(request)

    def check(self) -> None:
        """Raise what ended the thread, if it has ended: no request will be answered."""
        if self._broken is not None:
            raise RuntimeError(f"the engine ended: {self._broken}") from self._broken

    def close(self) -> None:
        """Finish what is queued and release the device."""
        self._requests.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:
            log.exception("the engine thread ended")
            self._broken = error
            self._wake()

    def _serve(self) -> None:
        started: deque[tuple[Engine, Request]] = deque()

        def finish_oldest() -> None:
            _, oldest = started.popleft()
            assert oldest.pending is not None
            self._finish(oldest, answer=oldest.pending.result())

        closing = False
        while not closing or started:
            while not closing and (not started or len(started) < started[0][0].depth):
                try:
                    request = self._requests.get(block=not started)
                except queue.Empty:
                    break
                if request is None:
                    closing = True
                    break
                while started and request.model not in self._engines:
                    finish_oldest()  # the engine that computes them is about to go
                try:
                    engine = self._engine(request.model)
                    request.pending = engine.submit(request.pixels)
                    started.append((engine, request))
                except EngineError as error:
                    self._finish(request, error=error)
            if started:
                finish_oldest()
        for engine in self._engines.values():
            engine.close()

    def _finish(
        self, request: Request, answer: Outputs | None = None, error: EngineError | None = None
    ) -> None:
        request.answer, request.error, request.pending = answer, error, None
        self.done.append(request)
        self._wake()

    def _engine(self, model: Model) -> Engine:
        if model not in self._engines:
            path = self._locate(model)
            # One at a time: on a small board a second model's memory is not there to be had.
            for old in self._engines.values():
                old.close()
            self._engines.clear()
            engine = self._load(path, model[1])
            log.info(
                "model %d runs on %s %s (%s, %s)",
                model[0], engine.backend, engine.backend_version, engine.precision, engine.device,
            )  # fmt: skip
            self._engines[model] = engine
        return self._engines[model]
