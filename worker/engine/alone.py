"""Whether a film in a batch of one has the answer that it has among others, to the last bit.

Scoring computes all batches in one shape. In another shape a processor's library may choose other
kernels, which add numbers up in another order. That follows from shapes and processor, and not from
the numbers: so it shows on a batch of films of noise, of which each has hundreds of outputs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.engine.base import Outputs
from worker.engine.choose import open_engine


def agrees(path: Path, precision: str, batch: int) -> bool:
    """Compare on the processor a file's batches of one with those of `batch`.

    Raises EngineError as `open_engine`.
    """
    whole = open_engine(path, batch=batch, threads=1, precision=precision)
    card = whole.card
    noise = np.random.default_rng(0).integers(
        0, 256, (batch, card.channels, card.size, card.size), np.uint8
    )
    expected = whole.submit(noise).result()
    whole.close()
    single = open_engine(path, batch=1, threads=1, precision=precision)
    found = [single.submit(noise[n : n + 1]).result() for n in range(batch)]
    single.close()
    values = np.unique(np.concatenate([part.ravel() for part in _parts(expected)]))
    # Of a network that is sure of noise, zeros and ones would tell nothing.
    telling = np.count_nonzero((values != 0) & (values != 1)) >= batch
    return bool(telling) and all(
        whole[n].tobytes() == alone[0].tobytes()
        for n, one in enumerate(found)
        for whole, alone in zip(_parts(expected), _parts(one), strict=True)
    )


def _parts(outputs: Outputs) -> list[NDArray[np.float32]]:
    parts = (outputs.scores, outputs.cam, outputs.ood, outputs.look)
    return [part for part in parts if part is not None]
