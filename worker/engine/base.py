"""The interface of an engine, and what a network answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    # Commands that only choose an engine need not wait for it to load.
    import numpy as np
    from numpy.typing import NDArray

    from trainer.card import Card

#: Of a film of which that was answered.
NOT_FINITE = (
    "the model answers with what is no number (NaN or infinite); score with --precision fp32, and "
    "if that does not help, by another model"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outputs:
    """What the network answered on a batch of N films. The arrays are the caller's to keep."""

    #: `float32 [N, C]`, calibrated probabilities.
    scores: NDArray[np.float32]
    #: `float32 [N, h, w]`, class-activation map of the positive class in logits.
    cam: NDArray[np.float32] | None
    #: `float32 [N]`, distance from the training films.
    ood: NDArray[np.float32] | None
    #: `float32 [N, G]`, how much films look acquired like the card's groups.
    look: NDArray[np.float32] | None = None

    @property
    def finite(self) -> NDArray[np.bool_]:
        """Of each film whether all that was answered are numbers, `bool [N]`; else it has no score.

        A network may compute too large numbers, above all in few bits, or be damaged.
        """
        import numpy as np

        finite = np.isfinite(self.scores).all(axis=1)
        if self.ood is not None:
            finite = finite & np.isfinite(self.ood)
        if self.cam is not None:
            finite = finite & np.isfinite(self.cam).all(axis=(1, 2))
        if self.look is not None:
            finite = finite & np.isfinite(self.look).all(axis=1)
        return np.asarray(finite, np.bool_)


class Pending(Protocol):
    """A batch that is being computed."""

    def result(self) -> Outputs:
        """Wait for the batch. Call it once, in the order of `submit`."""
        ...


class Engine(Protocol):
    """A network ready to compute, on one device, used by one thread."""

    card: Card
    #: Films in every batch; a shorter one is filled up by the caller.
    batch: int
    #: Batches that may be pending at once.
    depth: int
    backend: str
    backend_version: str
    device: str
    precision: str
    #: How it was made: columns of the engines table that are worth keeping.
    options: dict[str, Any]

    def submit(self, pixels: NDArray[np.uint8], films: int | None = None) -> Pending:
        """Start on `uint8 [batch, 1, S, S]`, which must stay as it is until the result is there.

        Only the first `films` rows (all where None) are wanted. An engine may compute the others
        too, and answer with more rows than asked for. Raises GpuLost.
        """
        ...

    def close(self) -> None:
        """Release the device's memory."""
        ...


def identity(engine: Engine) -> dict[str, str]:
    """Which engine it is: the columns of the engines table by which it is found there."""
    return {
        "backend": engine.backend,
        "backend_version": engine.backend_version,
        "device": engine.device,
        "precision": engine.precision,
    }
