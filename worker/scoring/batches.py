"""Batches: where films' pixels land so that the engine can read them without a copy.

Shared memory is cut into a few batches of fixed capacity. Films get places in the batch that is
being filled; a batch goes to the engine once it is full (or nothing more is coming) and all its
films are decoded. A broken film leaves a hole, which is computed and ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from worker.decoding.pool import Film
from worker.scoring.engine_thread import Model

#: Largest S. Pages beyond the S in use are never touched and cost nothing.
MAX_SIDE = 1024


@dataclass(kw_only=True, eq=False)
class Batch:
    """Films that are computed together."""

    number: int
    model: Model
    size: int
    #: By place; None where decoding failed.
    films: list[Film | None] = field(default_factory=list)
    #: Films still being decoded.
    decoding: int = 0
    #: No more films are coming.
    closed: bool = False

    @property
    def ready(self) -> bool:
        """Whether the engine may have it."""
        return self.closed and not self.decoding


class Batches:
    """A few batches in one block of `uint8` memory."""

    def __init__(self, count: int, capacity: int) -> None:
        self.capacity = capacity
        self._bytes = capacity * MAX_SIDE * MAX_SIDE
        self._free = list(range(count))
        self.memory_bytes = count * self._bytes
        self._filling: Batch | None = None

    def place(self, model: Model, size: int) -> tuple[Batch, int] | None:
        """A batch with room for a film of this model, and the film's offset in the memory.

        None while all batches are in use. The caller appends the film to `films`. A batch that is
        being filled with films of another model must be closed first.
        """
        batch = self._filling
        if batch is None:
            if not self._free:
                return None
            # The one that was used last: memory that few batches suffice for stays untouched.
            batch = Batch(number=self._free.pop(), model=model, size=size)
            self._filling = batch
        offset = batch.number * self._bytes + len(batch.films) * size * size
        if len(batch.films) + 1 == self.capacity:
            self.close()
        return batch, offset

    def filling_another(self, model: Model) -> bool:
        """Whether a batch is being filled with films of another model."""
        return self._filling is not None and self._filling.model != model

    def close(self) -> Batch | None:
        """Let no more films into the batch that is being filled; returns it."""
        batch, self._filling = self._filling, None
        if batch is not None:
            batch.closed = True
        return batch

    def pixels(self, memory: NDArray[np.uint8], batch: Batch) -> NDArray[np.uint8]:
        """`uint8 [capacity, 1, S, S]`, a view."""
        start = batch.number * self._bytes
        shape = (self.capacity, 1, batch.size, batch.size)
        return memory[start : start + self.capacity * batch.size * batch.size].reshape(shape)

    def release(self, batch: Batch) -> None:
        """Its memory may be used again."""
        self._free.append(batch.number)
