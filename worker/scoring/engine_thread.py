"""The engine thread: it owns the device, loads models, and answers batches in order."""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.errors import Stopped
from worker.engine import Engine, Outputs, Pending, kinds_of
from worker.errors import EngineError, GpuLost

log = logging.getLogger(__name__)

#: While somebody waits for engines to be closed, the thread is looked after this often, in seconds.
RELEASE_TICK_S = 0.5

#: Where threads wait that may not end while the process lives; it is never set.
_PARKED = threading.Event()


class Model(NamedTuple):
    """What a film is scored by."""

    number: int
    #: The precision that it computes in.
    precision: str
    #: The engine that its job asks for: auto, tensorrt or onnx.
    asked: str = "auto"


@dataclass(kw_only=True, eq=False)
class Request:
    """One batch for the engine; `answer` or `error` is set when it is done.

    The error is GpuLost where the batch was being computed when the GPU was lost: it may be to
    blame. It is no EngineError where nobody foresaw it.
    """

    model: Model
    #: `uint8 [batch, 1, S, S]`, left alone until the request is done.
    pixels: NDArray[np.uint8]
    #: How many of them are wanted, from the first on; all where None.
    films: int | None = None
    answer: Outputs | None = None
    error: Exception | None = None
    pending: Pending | None = field(default=None, repr=False)


class EngineThread:
    """One thread that computes requests in the order they come.

    `locate` finds a model's file and `load` makes an engine of it; both run in the thread, since a
    GPU context belongs to the thread that made it. `wake` is called after each finished request.

    Where the GPU is lost, or an engine could not be closed, the thread serves nobody any more, but
    stays: a context that is still its own would have PyCUDA abort the process as the thread ends,
    and what a lost GPU's libraries do when they are told to let go of it may never end.
    """

    def __init__(
        self,
        locate: Callable[[Model], Path],
        load: Callable[[Path, Model], Engine],
        wake: Callable[[], None],
    ) -> None:
        self._locate = locate
        self._load = load
        self._wake = wake
        self._requests: queue.SimpleQueue[Request | threading.Event | None] = queue.SimpleQueue()
        self._done: deque[Request] = deque()
        #: By number and precision.
        self._engines: dict[tuple[int, str], Engine] = {}
        #: Of these engines the state is not known: they are opened anew before they are used.
        self._distrusted: set[tuple[int, str]] = set()
        #: What is being computed, with its engine.
        self._started: deque[tuple[Engine, Request]] = deque()
        self._broken: BaseException | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Queue a batch; `finished` returns it."""
        self._requests.put(request)

    def finished(self) -> Iterator[Request]:
        """What is done and was not returned before; then raises what ended the thread, if it has.

        After that no request will be answered. GpuLost says that those returned with it may be to
        blame: others were not being computed.
        """
        broken = self._broken  # looked at first: what was being computed then is done by now
        while self._done:
            yield self._done.popleft()
        if isinstance(broken, GpuLost):
            raise GpuLost(str(broken)) from broken
        if broken is not None:
            raise RuntimeError(f"the engine ended: {broken}") from broken

    def release_gpu(self) -> None:
        """Close the engines that hold a GPU's memory, and wait until they are closed.

        The next request opens one anew.
        """
        released = threading.Event()
        self._requests.put(released)
        while not (self._ended.is_set() or released.wait(RELEASE_TICK_S)):
            pass

    def close(self) -> None:
        """Finish what is queued and release the device, unless it is lost."""
        self._requests.put(None)
        self._ended.wait()
        if self._broken is None:
            self._thread.join()

    def _run(self) -> None:
        self._serve_to_the_end()
        self._ended.set()
        if self._broken is not None:
            _PARKED.wait()

    def _serve_to_the_end(self) -> None:
        try:
            self._serve()
        except GpuLost as error:
            log.error("the GPU is lost: %s", error)
            while self._started:
                self._finish(self._started.popleft()[1], error=error)
            self._broken = error
            self._wake()
        except Exception as error:
            log.exception("the engine thread ended")
            self._broken = error
            self._wake()

    def _serve(self) -> None:
        started = self._started
        closing = False
        while not closing or started:
            while not closing and (not started or len(started) < started[0][0].depth):
                try:
                    request = self._requests.get(block=not started)
                except queue.Empty:
                    break
                if request is None:
                    closing = True
                elif isinstance(request, threading.Event):
                    self._close_engines(only_gpu=True)
                    request.set()
                else:
                    self._begin(request)
                    continue
                break
            if started:
                self._finish_oldest()
        self._close_engines()

    def _begin(self, request: Request) -> None:
        try:
            engine = self._engine(request.model)
            # Before it is begun, so that it is among those that lost the GPU if they do.
            self._started.append((engine, request))
            request.pending = engine.submit(request.pixels, request.films)
        except GpuLost:
            raise
        except Stopped as error:  # a build takes minutes, and is not waited for
            self._finish(request, error=EngineError(str(error)))
        except EngineError as error:
            self._refuse(request, error)
        except Exception as error:
            log.exception("model %d cannot be computed", request.model.number)
            self._distrusted.add((request.model.number, request.model.precision))
            self._refuse(request, error)

    def _finish_oldest(self) -> None:
        _, oldest = self._started[0]
        assert oldest.pending is not None
        try:
            answer = oldest.pending.result()
        except GpuLost:
            raise
        except EngineError as error:
            self._refuse(oldest, error)
        except Exception as error:
            log.exception("model %d cannot be computed", oldest.model.number)
            self._distrusted.add((oldest.model.number, oldest.model.precision))
            self._refuse(oldest, error)
        else:
            self._started.popleft()
            self._finish(oldest, answer=answer)

    def _refuse(self, request: Request, error: Exception) -> None:
        """Be done with one that cannot be computed, whether it was begun or not."""
        begun = next((one for one in self._started if one[1] is request), None)
        if begun is not None:
            self._started.remove(begun)
        self._finish(request, error=error)

    def _finish(
        self, request: Request, answer: Outputs | None = None, error: Exception | None = None
    ) -> None:
        request.answer, request.error, request.pending = answer, error, None
        self._done.append(request)
        self._wake()

    def _close_engines(self, *, only_gpu: bool = False) -> None:
        while self._started:
            self._finish_oldest()  # the engine that computes them is about to go
        for key, engine in list(self._engines.items()):
            if not (only_gpu and engine.backend == "openvino"):
                del self._engines[key]
                engine.close()

    def _engine(self, model: Model) -> Engine:
        key = (model.number, model.precision)
        engine = self._engines.get(key)
        if engine is None or key in self._distrusted or model.asked not in kinds_of(engine.backend):
            path = self._locate(model)
            # One at a time: on a small board a second model's memory is not there to be had.
            self._close_engines()
            self._distrusted.clear()
            engine = self._load(path, model)
            log.info(
                "model %d runs on %s %s (%s, %s)",
                model.number, engine.backend, engine.backend_version, engine.precision,
                engine.device,
            )  # fmt: skip
            self._engines[key] = engine
        return engine
