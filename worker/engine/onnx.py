"""ONNX Runtime: the model file as it is, on a GPU that has no TensorRT.

    fp32, fp16   as the file says
    int8         the file's 8-bit weights, computed in float: right, and no faster

Every call has the same shape, whole batches, so that the algorithms are chosen once and a film's
neighbours do not matter. They are chosen by cuDNN's rules (HEURISTIC), not by a race (EXHAUSTIVE):
the same ones each time, so that what a gate allowed is what runs, and without the race's memory.

Films are handed over from ordinary memory. Pinning them would save little: they are bytes, a
quarter of what a network's floats are, and one lane's are copied while another's are computed.
"""

from __future__ import annotations

import logging
import re
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer import card as cards
from trainer.card import Card
from worker.engine import lost
from worker.engine.base import Outputs
from worker.errors import EngineError, OutOfMemory
from worker.machine import gpu as gpus
from worker.machine.gpu import Gpu

log = logging.getLogger(__name__)

#: What is computed, and by whom.
PRECISIONS = ("fp32", "fp16", "int8")
_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"

#: How ONNX Runtime, CUDA, cuDNN and cuBLAS say that memory is short; none has a code that arrives.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|failed to allocate memory|bad_?alloc|CUDNN_STATUS_ALLOC_FAILED"
    r"|CUBLAS_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pending:
    future: Future[Outputs]

    def result(self) -> Outputs:
        return self.future.result()


class OnnxEngine:
    """A model file in ONNX Runtime, on a GPU or on the processor."""

    backend = "onnxruntime"

    def __init__(
        self,
        path: Path,
        card: Card,
        *,
        gpu: Gpu | None,
        batch: int,
        precision: str = "fp32",
        threads: int = 1,
        lanes: int = 2,
    ) -> None:
        """On `gpu`, or on the processor with `threads` threads where it is None.

        `lanes` batches are computed at once. Raises EngineError where ONNX Runtime refuses the file
        or the GPU, and OutOfMemory where not even single films fit.
        """
        self.card = card
        self.batch = batch
        self.depth = lanes
        self.precision = precision
        self.device = "CPU" if gpu is None else gpu.device
        self._gpu = gpu
        self._name = path.name
        if precision not in PRECISIONS:
            raise EngineError(
                f"ONNX Runtime computes a model in {', '.join(PRECISIONS)}, not in {precision!r}; "
                "submit with one of these"
            )
        ort = _runtime(gpu)
        self.backend_version = str(ort.__version__)
        self._session = self._open(ort, path, threads)
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._check()
        #: Films of one call; fewer than `batch` where memory is short.
        self._piece = batch
        self.options = {"batch": batch, "piece": batch, "lanes": lanes}
        self._pool = ThreadPoolExecutor(lanes, thread_name_prefix="onnx")
        try:
            # What is short of memory or of a library is so now, and not in the middle of a job.
            films = np.zeros((batch, card.channels, card.size, card.size), np.uint8)
            for pending in [self.submit(films) for _ in range(lanes)]:
                pending.result()
        except BaseException:
            self.close()
            raise

    def submit(self, pixels: NDArray[np.uint8], films: int | None = None) -> _Pending:
        """See Engine.submit. Computes as many whole calls as the wanted films need."""
        wanted = len(pixels) if films is None else films
        return _Pending(future=self._pool.submit(self._compute, pixels, wanted))

    def close(self) -> None:
        """See Engine.close. Batches that are pending are finished first."""
        self._pool.shutdown()
        self._session = None

    def _open(self, ort: Any, path: Path, threads: int) -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        # Cores that wait for the GPU decode films.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors; what it warns of is for whoever writes networks
        try:
            session = ort.InferenceSession(
                str(path), options, providers=_providers(self._gpu), enable_fallback=0
            )
        except Exception as error:
            raise self._error(error, "opened") from error
        # It goes on with the processor where the GPU's libraries cannot be loaded.
        if self._gpu is not None and _CUDA not in session.get_providers():
            raise EngineError(
                f"ONNX Runtime {self.backend_version} cannot use {self.device}: its CUDA libraries "
                "cannot be loaded (what it logged names one); install the CUDA and cuDNN that it "
                "was made for"
            )
        return session

    def _check(self) -> None:
        (image, *others) = self._session.get_inputs()
        if others or image.name != cards.INPUT or cards.SCORES not in self._outputs:
            raise EngineError(f"{self._name} is not a whole model: no {cards.INPUT} or no scores")
        expected = [self.card.channels, self.card.size, self.card.size]
        if image.type != "tensor(uint8)" or image.shape[1:] != expected:
            raise EngineError(
                f"{self._name} takes {image.type} {image.shape}, and its card says "
                f"tensor(uint8) {['N', *expected]}: it was changed; import it again"
            )

    def _compute(self, pixels: NDArray[np.uint8], wanted: int) -> Outputs:
        found: list[list[NDArray[np.float32]]] = []
        done = 0
        while done < wanted:
            piece = self._piece
            try:
                found.append(
                    self._session.run(self._outputs, {cards.INPUT: pixels[done : done + piece]})
                )
            except Exception as error:
                failure = self._error(error, "run")
                if not isinstance(failure, OutOfMemory) or piece == 1:
                    raise failure from error
                self._halve(piece)
            else:
                done += piece
        parts = dict(zip(self._outputs, map(np.concatenate, zip(*found, strict=True)), strict=True))
        return Outputs(
            scores=parts[cards.SCORES],
            cam=parts.get(cards.CAM),
            ood=parts.get(cards.OOD),
            look=parts.get(cards.LOOK),
        )

    def _halve(self, piece: int) -> None:
        """Compute fewer films at once from now on; another lane may have found the same."""
        if self._piece == piece:
            self._piece = self.options["piece"] = piece // 2
            log.warning(
                "%s has too little memory for %d films at once; it computes %d",
                self.device, piece, self._piece,
            )  # fmt: skip

    def _error(self, error: Exception, doing: str) -> EngineError:
        """What ONNX Runtime raised, as one of ours."""
        if isinstance(error, EngineError):
            return error
        cause = " ".join(str(error).split())
        text = f"{self._name} cannot be {doing} by ONNX Runtime on {self.device}: {cause}"
        if _OUT_OF_MEMORY.search(cause):
            return OutOfMemory(text)
        if self._gpu is not None and doing == "run":
            return lost.failure(self._gpu, text)
        return EngineError(text)


def _runtime(gpu: Gpu | None) -> Any:
    """ONNX Runtime, of the kind that is needed. Raises EngineError that says what to install."""
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            f"ONNX Runtime cannot be loaded ({error}); pip install onnxruntime-gpu"
        ) from error
    if gpu is None:
        return onnxruntime
    if _CUDA not in onnxruntime.get_available_providers():
        raise EngineError(
            f"this ONNX Runtime ({onnxruntime.__version__}) was made without CUDA; pip uninstall "
            "onnxruntime, then pip install onnxruntime-gpu"
        )
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA's libraries, where pip brought them
    gpus.wait_asleep(gpu)
    return onnxruntime


def _providers(gpu: Gpu | None) -> list[Any]:
    if gpu is None:
        return [_CPU]
    cuda = {
        "device_id": str(gpu.index),
        # By powers of two it would take twice what it needs of a small board's memory.
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        # TF32 rounds to 10 bits, and a GPU and a CPU may differ by 1e-4.
        "use_tf32": "0",
    }
    return [(_CUDA, cuda), _CPU]
