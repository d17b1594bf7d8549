"""TensorRT: plans run through PyCUDA.

Films go through lanes. Each has a stream, pinned memory and an execution context of its own, so
that while one lane's films are copied to the GPU another's are computed and a third's answers come
back; the weights are there once. A lane's buffers are made when the engine is opened and are never
made again.

A batch for which the GPU is too small is computed in pieces, one after the other in its lane;
whoever submits it does not see that.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer import card as cards
from trainer.card import Card
from worker.engine import flavour as flavours
from worker.engine import lost, plans
from worker.engine.base import Outputs
from worker.engine.build import OUT_OF_MEMORY, Options
from worker.engine.device import Buffer, Device, Stream
from worker.engine.progress import Report, silent
from worker.errors import EngineError, OutOfMemory
from worker.machine.gpu import Gpu

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tensor:
    """What goes into the network or comes out of it."""

    name: str
    dtype: Any
    #: Of one film.
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of one film."""
        return int(np.prod(self.shape) * np.dtype(self.dtype).itemsize)


class TensorRtEngine:
    """A model file compiled by TensorRT for one GPU. Opened, used and closed in one thread."""

    def __init__(
        self,
        path: Path,
        card: Card,
        *,
        gpu: Gpu,
        home: Path,
        batch: int,
        precision: str,
        workspace_mb: int,
        lanes: int = 3,
        report: Report = silent,
    ) -> None:
        """Builds where `home` holds no plan of this file for this GPU, and calls `report`.

        Where memory is short there are fewer lanes, then fewer films in a piece. Raises EngineError
        where TensorRT, PyCUDA or the GPU refuses, OutOfMemory where not even single films fit, and
        GpuLost.
        """
        self.card = card
        self.batch = batch
        self.precision = precision
        self.device = gpu.device
        self._path = path
        options = Options(
            precision=precision,
            size=card.size,
            channels=card.channels,
            max_batch=batch,
            workspace_mb=workspace_mb,
        )
        self._flavour = flavours.load()
        self.backend = self._flavour.name
        self.backend_version = self._flavour.version
        self._runtime: Any = None
        self._engine: Any = None
        self._lanes: list[_Lane] = []
        self._next = 0
        self._device = Device(gpu)
        try:
            options = self._fit(home, options, lanes, report)
        except BaseException as error:
            _let_go(error)
            self.close()
            raise
        self.depth = len(self._lanes)
        self.options = {**options.as_dict(), "batch": batch, "lanes": self.depth}

    def submit(self, pixels: NDArray[np.uint8], films: int | None = None) -> _Pending:
        """See Engine.submit. Computes the wanted films and no others; `pixels` is free at once."""
        lane = self._lanes[self._next]
        self._next = (self._next + 1) % self.depth
        wanted = len(pixels) if films is None else films
        lane.start(pixels, wanted)
        return _Pending(lane=lane, films=wanted)

    def close(self) -> None:
        """See Engine.close."""
        try:
            self._release()
        finally:
            self._device.close()

    def _fit(self, home: Path, options: Options, lanes: int, report: Report) -> Options:
        """Load the plan and open the lanes, for as many films at once as there is memory for."""
        while True:
            try:
                self._load(home, options, report)
                self._open(options.max_batch, lanes)
                return options
            except OutOfMemory as error:
                _let_go(error)
                self._release()
                if options.max_batch == 1:
                    raise
                fewer = options.max_batch // 2
                log.warning(
                    "too little GPU memory for %d films at once; trying %d: %s",
                    options.max_batch, fewer, error,
                )  # fmt: skip
            options = dataclasses.replace(options, max_batch=fewer)

    def _load(self, home: Path, options: Options, report: Report) -> None:
        """Make the engine of the plan that is kept, or of a new one where that is refused."""
        sha256 = hashlib.sha256(self._path.read_bytes()).hexdigest()
        gpu = self._device.gpu
        with self._flavour.messages.errors() as errors:
            for _ in range(2):
                plan = plans.obtain(home, self._path, sha256, self._flavour, gpu, options, report)
                # What was built or opened before may have left errors behind.
                errors.clear()
                if self._runtime is None:
                    self._runtime = self._flavour.module.Runtime(self._flavour.messages)
                self._engine = self._runtime.deserialize_cuda_engine(plan.data)
                if self._engine is not None:
                    return
                if any(OUT_OF_MEMORY.search(error) for error in errors):
                    raise OutOfMemory(f"{self.device}: {errors[-1]}")
                plans.forget(plan)
                if plan.built:
                    break
                log.warning("TensorRT refuses the plan %s; it is built again", plan.path.name)
            raise EngineError(
                f"TensorRT {self.backend_version} does not load what it built of "
                f"{self._path.name} for {self.device}: {_last(errors)}"
            )

    def _open(self, piece: int, lanes: int) -> None:
        """Open the lanes and let each compute once: what is made at the first call is made now."""
        films, *answers = _tensors(self._flavour.module, self._engine, self.card, piece, self._path)
        pieces = -(-self.batch // piece)
        for number in range(lanes):
            try:
                self._lanes.append(
                    _Lane(self._device, self._flavour, self._engine, films, answers, pieces, piece)
                )
                nothing = np.zeros((self.batch, *films.shape), np.uint8)
                self._lanes[-1].start(nothing, self.batch)
                self._lanes[-1].finish(self.batch)
            except OutOfMemory as error:
                if number == 0:
                    raise
                _let_go(error)
                if len(self._lanes) > number:
                    self._lanes.pop().close()
                log.warning(
                    "GPU memory is short: %d of %d batches at once: %s", number, lanes, error
                )
                break
        # Copies that TensorRT began elsewhere are done before other streams need what they bring.
        self._device.synchronize()

    def _release(self) -> None:
        """Everything but the context, in the order in which one thing needs the other."""
        if self._lanes:
            with contextlib.suppress(EngineError):  # a GPU that is lost finishes nothing
                self._device.synchronize()
        while self._lanes:
            self._lanes.pop().close()
        self._engine = None
        self._runtime = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pending:
    lane: _Lane
    films: int

    def result(self) -> Outputs:
        found = self.lane.finish(self.films)
        return Outputs(
            scores=found[cards.SCORES],
            cam=found.get(cards.CAM),
            ood=found.get(cards.OOD),
            look=found.get(cards.LOOK),
        )


class _Lane:
    """One of several ways through the engine; a batch at a time."""

    def __init__(
        self,
        device: Device,
        flavour: flavours.Flavour,
        engine: Any,
        films: _Tensor,
        answers: Sequence[_Tensor],
        pieces: int,
        piece: int,
    ) -> None:
        self._device = device
        self._messages = flavour.messages
        self._films = films
        self._answers = answers
        self._piece = piece
        #: Films of the piece that the context is set to.
        self._rows = 0
        self._buffers: dict[str, Buffer] = {}
        self._context: Any = None
        self._stream: Stream | None = None
        try:
            device.require(int(engine.device_memory_size_v2))
            with self._messages.errors() as errors:
                self._context = engine.create_execution_context()
                if self._context is None:
                    raise self._failure(errors, "no execution context")
            for tensor in (films, *answers):
                self._buffers[tensor.name] = device.buffer(pieces, piece * tensor.nbytes)
            self._stream = device.stream()
        except BaseException:
            self.close()
            raise

    def start(self, pixels: NDArray[np.uint8], wanted: int) -> None:
        """Enqueue the first `wanted` films of a batch. Raises OutOfMemory and GpuLost."""
        stream, films = self._stream, self._films
        assert stream is not None
        with self._device.speaking(), self._messages.errors() as errors:
            for number, begin in enumerate(range(0, wanted, self._piece)):
                rows = min(self._piece, wanted - begin)
                buffer = self._buffers[films.name]
                place = buffer.view(number, films.dtype, (rows, *films.shape))
                np.copyto(place, pixels[begin : begin + rows])
                buffer.to_gpu(number, rows * films.nbytes, stream)
                self._enqueue(number, rows, stream, errors)
                for tensor in self._answers:
                    self._buffers[tensor.name].to_host(number, rows * tensor.nbytes, stream)
            stream.mark()

    def finish(self, wanted: int) -> dict[str, NDArray[np.float32]]:
        """Wait for the films; their answers by name, copied out of the pinned memory."""
        assert self._stream is not None
        with self._device.speaking():
            self._stream.wait()
        found = {}
        for tensor in self._answers:
            parts = [
                self._buffers[tensor.name].view(
                    number, tensor.dtype, (min(self._piece, wanted - begin), *tensor.shape)
                )
                for number, begin in enumerate(range(0, wanted, self._piece))
            ]
            found[tensor.name] = np.concatenate(parts)
        return found

    def close(self) -> None:
        """Free what the lane has. Nothing of it may be pending."""
        self._context = None
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        while self._buffers:
            self._buffers.popitem()[1].close()

    def _enqueue(self, number: int, rows: int, stream: Stream, errors: Sequence[str]) -> None:
        # No name for the context but the lane's: an error's frames would keep it.
        if rows != self._rows:
            if not self._context.set_input_shape(self._films.name, (rows, *self._films.shape)):
                raise self._failure(errors, f"{rows} films are refused")
            self._rows = rows
        for name, buffer in self._buffers.items():
            if not self._context.set_tensor_address(name, buffer.address(number)):
                raise self._failure(errors, f"the memory of {name} is refused")
        if not self._context.execute_async_v3(stream.handle):
            self._rows = 0
            raise self._failure(errors, "films cannot be computed")

    def _failure(self, errors: Sequence[str], what: str) -> EngineError:
        text = f"{self._device.gpu.device}: {what}: {_last(errors)}"
        if any(OUT_OF_MEMORY.search(error) for error in errors):
            return OutOfMemory(text)
        return lost.failure(self._device.gpu, text)


def _let_go(error: BaseException | None) -> None:
    """Empty the frames that an error came through: what they hold would outlive the context."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def _last(errors: Sequence[str]) -> str:
    return errors[-1] if errors else "TensorRT does not say why"


def _tensors(trt: Any, engine: Any, card: Card, piece: int, path: Path) -> list[_Tensor]:
    """The engine's tensors, the films first. Raises EngineError unless they are the card's."""

    def shape(name: str) -> tuple[int, ...]:
        return tuple(engine.get_tensor_shape(name))

    names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
    inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
    film = (card.channels, card.size, card.size)
    if inputs != [cards.INPUT] or shape(cards.INPUT) != (-1, *film):
        raise _other(path, f"films {[(name, shape(name)) for name in inputs]}")
    if engine.get_tensor_dtype(cards.INPUT) != trt.DataType.UINT8:
        raise _other(path, f"films of {engine.get_tensor_dtype(cards.INPUT)}")
    least, _, most = engine.get_tensor_profile_shape(cards.INPUT, 0)
    if least[0] != 1 or most[0] < piece:
        raise _other(path, f"{least[0]} to {most[0]} films at once")
    found = [_Tensor(name=cards.INPUT, dtype=np.uint8, shape=film)]
    dimensions = {cards.SCORES: 1, cards.CAM: 2, cards.OOD: 0, cards.LOOK: 1}
    for name in names:
        if name == cards.INPUT:
            continue
        rest = shape(name)[1:]
        if (
            len(rest) != dimensions.get(name)
            or engine.get_tensor_dtype(name) != trt.DataType.FLOAT
            or any(length < 1 for length in rest)
        ):
            raise _other(path, f"{name} {engine.get_tensor_dtype(name)} {shape(name)}")
        found.append(_Tensor(name=name, dtype=np.float32, shape=rest))
    if (len(card.labels),) not in [t.shape for t in found if t.name == cards.SCORES]:
        raise _other(path, f"no {cards.SCORES} of {len(card.labels)} classes")
    return found


def _other(path: Path, found: str) -> EngineError:
    return EngineError(
        f"what TensorRT built of {path.name} is not what its card says ({found}); it was changed: "
        "import it again"
    )
