"""Looking inside: what a network's tensors hold while films go through it, on the processor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer import card as cards
from trainer import folded
from trainer.errors import Stopped
from trainer.modelfile import quantise
from worker.engine import cpu
from worker.errors import EngineError

#: Films at a time: activations are some hundred times larger than films.
BATCH = 4


def sample(
    network: folded.Network,
    films: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    *,
    threads: int,
    stop: Callable[[], bool] = lambda: False,
) -> quantise.Sample:
    """What the activations of an fp32 network look like on films `uint8 [1, S, S]` each.

    Raises EngineError where OpenVINO refuses the network, and Stopped when `stop` says so.
    """
    names = network.activations
    core = cpu.core()
    try:
        compiled = core.compile_model(
            core.read_model(network.observable()),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "f32",
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
            },
        )
    except RuntimeError as error:
        cause = str(error).strip().rpartition("\n")[2]
        raise EngineError(f"OpenVINO cannot compile the network: {cause}") from error
    ports: dict[str, Any] = {name: compiled.output(name) for name in names}
    request = compiled.create_infer_request()
    found = quantise.Sample()
    for start in range(0, len(films), BATCH):
        if stop():
            raise Stopped("stopped while activations were looked at")
        part = np.ascontiguousarray(films[start : start + BATCH])
        request.infer({cards.INPUT: part})
        found.add({name: request.get_tensor(port).data for name, port in ports.items()}, part)
    return found
