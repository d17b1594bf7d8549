"""OpenVINO on the processor.

Chosen over ONNX Runtime by measurement (2 cores, ResNet18 at 224 px, fp32: 60 against 59 films/s;
and OpenVINO alone runs bfloat16 and the symmetric int8 that TensorRT takes fast):
`python -m tests.bench.engines`.

    fp32   the fp32 file, as it is
    bf16   the fp32 file, its convolutions in bfloat16; twice as fast where the processor has it.
           Its `look` is computed apart, in fp32
    fp16   the fp16 file, its weights widened again: checks the file, and is no faster
    int8   the int8 file: its convolutions in 8-bit integers, the rest in float

A film's probability must not depend on its neighbours in the batch or on how many cores there are.
So every batch has the same shape, and each is computed by one thread from start to end; several
batches run side by side, one per thread.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer import card as cards
from trainer.card import Card
from worker.engine.base import Outputs
from worker.errors import EngineError


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pending:
    #: Each with the ports of its outputs by their names.
    requests: Sequence[tuple[Any, Mapping[str, Any]]]

    def result(self) -> Outputs:
        found = {}
        for request, ports in self.requests:
            request.wait()
            for name, port in ports.items():
                # Copies: the request's own buffers are used again by the next batch.
                found[name] = request.get_tensor(port).data.copy()
        return Outputs(
            scores=found[cards.SCORES],
            cam=found.get(cards.CAM),
            ood=found.get(cards.OOD),
            look=found.get(cards.LOOK),
        )


def runtime() -> Any:
    """OpenVINO without its telemetry, which would report to its makers at every import.

    It does without where its telemetry package cannot be imported. Nothing may leave a hospital's
    machine unasked, and the process that it forks to send with can hang the one that forked it. The
    converter of models, which we have no use for, is half of what an import takes.
    """
    for name in ("openvino_telemetry", "openvino.tools.ovc"):
        sys.modules[name] = None  # type: ignore[assignment]
    import openvino

    return openvino


@functools.cache
def core() -> Any:
    """The one `openvino.Core` of this process.

    Each Core gives the thread that makes it a stack for signals, and takes it away when it goes.
    Of two that overlap, the last one to go puts back the stack of the first, which is gone by
    then, and the next signal ends the process. This one never goes.
    """
    return runtime().Core()


def has_bf16(core: Any) -> bool:
    """Whether the processor multiplies bfloat16 itself, so that it is faster than fp32.

    AVX-512 BF16, AMX and ARM's; OpenVINO would also emulate it, slowly, when told to.
    """
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class CpuEngine:
    """A model file compiled for the processor."""

    backend = "openvino"

    def __init__(
        self, path: Path, card: Card, *, batch: int, threads: int, precision: str = "fp32"
    ) -> None:
        openvino = runtime()
        self.card = card
        self.batch = batch
        self.depth = threads
        self.precision = precision
        self.options = {"batch": batch, "threads": threads}
        self.backend_version = openvino.__version__.partition("-")[0]
        processor = core()
        self.device = processor.get_property("CPU", "FULL_DEVICE_NAME").strip()
        if precision == "bf16" and not has_bf16(processor):
            raise EngineError(
                f"{self.device} has no bfloat16 instructions (AVX-512 BF16, AMX or ARM BF16), so "
                "bf16 cannot be computed here; submit with --precision fp32 or int8"
            )

        def compiled(precision: str, *, look: bool | None) -> Any:
            """The file's model; where `look` is said, the part of it that is that output or not."""
            model = processor.read_model(path)
            model.reshape({cards.INPUT: [batch, card.channels, card.size, card.size]})
            for output in model.get_results():
                if look is not None and (cards.LOOK in output.input_value(0).get_names()) != look:
                    model.remove_result(output)
            options = {
                "INFERENCE_PRECISION_HINT": precision,
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": threads,
            }
            return processor.compile_model(model, "CPU", options)

        try:
            # What OpenVINO would choose is bfloat16 wherever the processor has it; that is for a
            # parity gate to allow. It would take it for all that is in a model.
            if precision != "bf16":
                models = [compiled("f32", look=None)]
            elif card.looks:
                models = [compiled("bf16", look=False), compiled("f32", look=True)]
            else:
                models = [compiled("bf16", look=None)]
        except RuntimeError as error:
            # The last of many lines is the cause; before it come places in OpenVINO's source.
            cause = str(error).strip().rpartition("\n")[2]
            raise EngineError(f"OpenVINO cannot compile {path.name}: {cause}") from error
        self._openvino = openvino
        outputs = [
            {name: port for port in model.outputs for name in port.get_names()} for model in models
        ]
        if cards.SCORES not in outputs[0]:
            raise EngineError(
                f"{path.name} has no output {cards.SCORES!r}: it is not a whole model"
            )
        self._requests = [
            [
                (model.create_infer_request(), ports)
                for model, ports in zip(models, outputs, strict=True)
            ]
            for _ in range(threads)
        ]
        self._next = 0

    def submit(self, pixels: NDArray[np.uint8], films: int | None = None) -> _Pending:
        """See Engine.submit. Always computes whole batches, for the same answer in any company."""
        requests = self._requests[self._next]
        self._next = (self._next + 1) % self.depth
        for request, _ in requests:
            request.set_input_tensor(self._openvino.Tensor(pixels, shared_memory=True))
            request.start_async()
        return _Pending(requests=requests)

    def close(self) -> None:
        """See Engine.close."""
        self._requests.clear()
