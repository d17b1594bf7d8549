"""Feed: how decoded films reach the device that trains on them, a batch at a time.

On a processor they are taken from the memory-mapped file. A GPU keeps all of them where they fit;
elsewhere each batch is gathered in pinned memory and copied in a stream of its own, while the batch
before it is being computed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.data.cache import Pixels
from trainer.network import device as devices

#: Films that are copied at once when all of them are brought to the device.
_CHUNK = 256


def open(films: Pixels, device: torch.device, *, batch: int) -> Feed:
    """The feed that suits the device: with all films on a GPU where steps of `batch` still fit."""
    resident = device.type == "cuda" and devices.fits(
        films.planes.nbytes, devices.free_bytes(device), batch=batch, size=films.size
    )
    return Feed(films, device, resident=resident)


class Feed:
    """Batches of films on one device."""

    def __init__(self, films: Pixels, device: torch.device, *, resident: bool = False) -> None:
        """With `resident` all films are brought to the device now, if its memory suffices."""
        self._films = films
        self._device = device
        self._planes = _brought(films, device) if resident else None

    @property
    def resident(self) -> bool:
        """Whether all films are on the device."""
        return self._planes is not None

    @property
    def description(self) -> str:
        """How films get there, as the end of a sentence for a person."""
        if self._device.type != "cuda":
            return ""
        return ", films on the device" if self.resident else ", films copied batch by batch"

    def batches(self, rows: NDArray[np.int64], batch: int) -> Iterator[Tensor]:
        """These planes in order, `uint8 [batch, 1, S, S]` each, the last one perhaps shorter.

        A batch is good until the next one is asked for.
        """
        if self._planes is not None:
            places = devices.send(torch.from_numpy(rows), self._device)
            for some in torch.split(places, batch):
                yield self._planes[some][:, None]
        elif self._device.type == "cuda":
            yield from self._streamed(rows, batch)
        else:
            for start in range(0, len(rows), batch):
                yield torch.from_numpy(self._films.take(rows[start : start + batch]))

    def _streamed(self, rows: NDArray[np.int64], batch: int) -> Iterator[Tensor]:
        """Two buffers on either side: one is filled while the other is computed with."""
        planes, size = self._films.planes, self._films.size
        shape = (batch, size, size)
        hosts = [torch.empty(shape, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
        theirs = [torch.empty(shape, dtype=torch.uint8, device=self._device) for _ in range(2)]
        copied, used = [_event(), _event()], [_event(), _event()]
        computing = torch.cuda.current_stream(self._device)
        copying = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # torch has no hint
        # Whoever had the buffers' memory before may still be computing with it.
        copying.wait_stream(computing)
        for number, start in enumerate(range(0, len(rows), batch)):
            some = rows[start : start + batch]
            turn, n = number % 2, len(some)
            # Of an event that was not recorded yet nobody waits.
            copied[turn].synchronize()
            # Without a mode numpy gathers into a buffer of its own first.
            np.take(planes, some, axis=0, out=hosts[turn].numpy()[:n], mode="clip")
            with torch.cuda.stream(copying):
                copying.wait_event(used[turn])
                theirs[turn][:n].copy_(hosts[turn][:n], non_blocking=True)
                copied[turn].record(copying)
            computing.wait_event(copied[turn])
            yield theirs[turn][:n, None]
            used[turn].record(computing)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch has no hint


def _brought(films: Pixels, device: torch.device) -> Tensor | None:
    """All planes on the device, `uint8 [films, S, S]`; None where they do not fit after all."""
    try:
        planes = torch.empty(films.planes.shape, dtype=torch.uint8, device=device)
        for start in range(0, len(films.planes), _CHUNK):
            part = np.array(films.planes[start : start + _CHUNK])
            planes[start : start + len(part)].copy_(torch.from_numpy(part))
    except RuntimeError as error:
        if not devices.out_of_memory(error):
            raise
        return None
    return planes
