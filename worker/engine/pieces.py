"""Batches that were cut for a GPU, computed by the processor's engine in batches of its own size.

Where a worker falls back to the processor for one model, films still come in the GPU's batches. The
answers are those of a worker without a GPU, to the last bit.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.engine.base import Engine, Outputs, Pending


@dataclass(frozen=True, slots=True)
class _Computed:
    outputs: Outputs

    def result(self) -> Outputs:
        return self.outputs


class InPieces:
    """An engine of larger batches than the one inside, which it owns."""

    #: A batch is computed when it is submitted, by all of the inner engine's lanes.
    depth = 1

    def __init__(self, inner: Engine, batch: int) -> None:
        self._inner = inner
        self.batch = batch
        self.card = inner.card
        self.backend = inner.backend
        self.backend_version = inner.backend_version
        self.device = inner.device
        self.precision = inner.precision
        self.options: dict[str, Any] = inner.options

    def submit(self, pixels: NDArray[np.uint8], films: int | None = None) -> _Computed:
        """See Engine.submit. Pieces without a wanted film are not computed."""
        wanted = len(pixels) if films is None else films
        inner = self._inner
        pending: deque[tuple[Pending, NDArray[np.uint8]]] = deque()
        found: list[Outputs] = []
        for start in range(0, wanted, inner.batch):
            if len(pending) == inner.depth:
                found.append(pending.popleft()[0].result())
            piece = pixels[start : start + inner.batch]
            if len(piece) < inner.batch:
                whole = np.zeros((inner.batch, *pixels.shape[1:]), np.uint8)
                whole[: len(piece)] = piece
                piece = whole
            pending.append((inner.submit(piece), piece))
        found.extend(batch.result() for batch, _ in pending)
        cams = [one.cam for one in found if one.cam is not None]
        oods = [one.ood for one in found if one.ood is not None]
        looks = [one.look for one in found if one.look is not None]
        return _Computed(
            Outputs(
                scores=np.concatenate([one.scores for one in found]),
                cam=np.concatenate(cams) if cams else None,
                ood=np.concatenate(oods) if oods else None,
                look=np.concatenate(looks) if looks else None,
            )
        )

    def close(self) -> None:
        """See Engine.close."""
        self._inner.close()
