"""The pipeline: films in, outcomes out.

Decoder processes write films' pixels into batches in shared memory, and the engine thread computes
them where they lie. Pixels are written once and never copied. Knows nothing of the database, of
jobs or of leases: who gives it films derives from `Run` a class that keeps what becomes of them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from trainer.card import Card
from worker.archive import Member
from worker.config import Settings
from worker.decoding.pool import Decoded, Decoders, Film, OnGpu, Place
from worker.decoding.protocol import Hash
from worker.engine import Engine, EngineChoice, Outputs
from worker.scoring.batches import Batch, Batches
from worker.scoring.engine_thread import EngineThread, Model, Request

log = logging.getLogger(__name__)

#: More films are wanted when the decoders have work left for so long, in seconds: claiming and
#: opening a shard take a few hundredths of one.
HUNGRY_S = 0.15

#: Batches beside those in the engine's lanes: enough that a message to a decoder is not cut short
#: where films are quick. Slow ones never fill them, and what is not touched costs nothing.
AHEAD = 16

#: Offset of a film of which only the content is wanted.
UNPLACED = -1


@dataclass(kw_only=True, eq=False)
class Run(ABC):
    """Films of one source that one model scores, on their way through."""

    card: Card
    model: Model
    place: Place
    members: list[Member]
    #: What the films' content hashes are.
    hash: Hash
    #: Codes of refusals that are overridden.
    accept: tuple[str, ...] = ()
    #: Indexes into `members` whose content must be known before it is decided whether to decode.
    unread: deque[int] = field(default_factory=deque)
    #: Indexes into `members` that were not handed to a decoder yet.
    waiting: deque[int] = field(default_factory=deque)
    #: Films handed to the decoders and not back yet.
    decoding: int = 0
    #: Whatever comes back is dropped.
    abandoned: bool = False

    @property
    def unfed(self) -> int:
        """Films that the decoders have not been given yet."""
        return len(self.unread) + len(self.waiting)

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Whether every film has its outcome."""

    @abstractmethod
    def read(self, index: int, decoded: Decoded) -> None:
        """Film `index` is back from a decoder; where that failed, this is its outcome."""

    @abstractmethod
    def scored(self, indexes: list[int], rows: list[int], outputs: Outputs) -> None:
        """Films `indexes` are these rows of an engine's outputs."""


R = TypeVar("R", bound=Run)


@dataclass(frozen=True)
class Read(Generic[R]):
    """The contents of all `unread` films of a run are known: those to be decoded may wait now."""

    run: R


@dataclass(frozen=True)
class Scored(Generic[R]):
    """Some films of a run were computed."""

    run: R


@dataclass(frozen=True)
class Failed(Generic[R]):
    """Films of a run could not be computed, or what came of them not be taken; it was dropped."""

    run: R
    #: GpuLost where they were being computed when the GPU was lost: they may be to blame. No
    #: EngineError where nobody foresaw it.
    error: Exception


class Pipeline(Generic[R]):
    """Decoders and an engine, which stay warm between runs. Used by one thread, but for `wake`.

    `add` a run, then `feed` and `step` until it is among those that `through` returns.
    """

    def __init__(
        self,
        settings: Settings,
        choice: EngineChoice,
        locate: Callable[[Model], Path],
        load: Callable[[Path, Model], Engine],
    ) -> None:
        """`locate` and `load` as of `EngineThread`; `choice` says how batches are cut."""
        self._batches = Batches(choice.lanes + AHEAD, choice.batch)
        self._decoders = Decoders(
            settings.decoders,
            self._batches.memory_bytes,
            deadline_s=settings.film_deadline_s,
            limit_mb=settings.film_memory_mb,
            gpu=OnGpu() if settings.decode == "gpu" else None,
        )
        self._waking = threading.Lock()
        self._closed = False
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._decoders.selector.register(self._wake_fd, selectors.EVENT_READ)
        self._engine = EngineThread(locate, load, self.wake)
        #: What is on its way through, in the order in which it came.
        self.runs: list[R] = []
        self._computing: dict[Request, Batch] = {}
        #: Whose contents are known, until `step` says so.
        self._known: deque[R] = deque()
        #: What could not be taken of a decoder's answers, until `step` says so.
        self._failed: deque[Failed[R]] = deque()

    def wake(self) -> None:
        """End the wait of `step`. To be called from any thread, also after `close`."""
        with self._waking:
            # After `close` the number may be another file's.
            if not self._closed:
                os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        """End the engine and the decoders."""
        self._engine.close()
        self._decoders.close()
        with self._waking:
            os.close(self._wake_fd)
            self._closed = True

    def release_gpu(self) -> None:
        """Close the engines that hold a GPU's memory; what comes next opens one anew."""
        self._engine.release_gpu()

    @property
    def hungry(self) -> bool:
        """Whether the films of another run are wanted soon."""
        ahead = self._batches.capacity + self._decoders.films_in(HUNGRY_S)
        return sum(run.unfed for run in self.runs) < ahead

    # In

    def add(self, run: R) -> None:
        """Let a run's films through, after those of the runs before it."""
        self.runs.append(run)

    def feed(self, *, more: bool) -> None:
        """Give films to the decoders while they are hungry and there is room for their pixels.

        Where `more` are about to come a batch that is not full waits for them.
        """
        films: list[Film] = []
        for run in self.runs:
            while run.unread and self._decoders.wants(len(films)):
                index = run.unread.popleft()
                run.decoding += 1
                films.append(_film(run, index, None, UNPLACED))
        for run in self.runs:
            if run.waiting and self._batches.filling_another(run.model):
                self._flush()
            while run.waiting and self._decoders.wants(len(films)):
                placed = self._batches.place(run.model, run.card.size)
                if placed is None:
                    break
                batch, offset = placed
                film = _film(run, run.waiting.popleft(), batch, offset)
                batch.films.append(film)
                batch.decoding += 1
                run.decoding += 1
                films.append(film)
            if run.waiting:
                break  # one run after another, or two models would fill batches in turns
        self._decoders.give(films)
        if not more and not any(run.unfed for run in self.runs):
            self._flush()

    def drop(self, run: R) -> None:
        """Let no more films of a run through; what comes back of it is dropped."""
        run.abandoned = True
        run.waiting.clear()
        run.unread.clear()
        for film in self._decoders.forget(lambda f: f.token[0] is run):
            _, _, batch, place = film.token
            run.decoding -= 1
            if batch is not None:
                batch.films[place] = None
                batch.decoding -= 1
                self._compute(batch)

    # Out

    def step(self, timeout_s: float) -> Iterator[Read[R] | Scored[R] | Failed[R]]:
        """Wait for something to happen, at most so long, and deal with all that did.

        Yields what the caller may have to do something about. After that it raises what ended the
        engine, if it has ended: GpuLost where another process may go on.
        """
        for decoded in self._decoders.collect(timeout_s):
            self._decoded(decoded)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)
        while self._failed:
            yield self._failed.popleft()
        while self._known:
            yield Read(self._known.popleft())
        for request in self._engine.finished():
            yield from self._computed(request)

    def through(self) -> list[R]:
        """Take out the runs that are complete, or were dropped and are at no decoder any more."""
        found = [r for r in self.runs if r.complete or (r.abandoned and not r.decoding)]
        for run in found:
            self.runs.remove(run)
        return found

    def take_all(self) -> list[R]:
        """Take out all runs, unfinished: for whoever gives no more films."""
        found, self.runs = self.runs, []
        return found

    def _decoded(self, decoded: Decoded) -> None:
        run, index, batch, place = decoded.film.token
        run.decoding -= 1
        if not run.abandoned:
            try:
                run.read(index, decoded)
            except Exception as error:
                log.exception("what came of a film cannot be taken")
                self.drop(run)
                self._failed.append(Failed(run, error))
        if batch is None:
            if not (run.unread or run.decoding or run.abandoned or run.complete):
                self._known.append(run)
            return
        batch.decoding -= 1
        if decoded.failure is not None:
            batch.films[place] = None
        self._compute(batch)

    def _flush(self) -> None:
        batch = self._batches.close()
        if batch is not None:
            self._compute(batch)

    def _compute(self, batch: Batch) -> None:
        if not batch.ready:
            return
        if not any(batch.films):
            self._batches.release(batch)
            return
        pixels = self._batches.pixels(self._decoders.pixels, batch)
        request = Request(model=batch.model, pixels=pixels, films=len(batch.films))
        self._computing[request] = batch
        self._engine.submit(request)

    def _computed(self, request: Request) -> Iterator[Scored[R] | Failed[R]]:
        batch = self._computing.pop(request)
        # Films of a batch come from one run, or from two where one ended and the next began.
        found: dict[R, tuple[list[int], list[int]]] = {}
        for row, film in enumerate(batch.films):
            if film is not None:
                run, index, _, _ = film.token
                indexes, rows = found.setdefault(run, ([], []))
                indexes.append(index)
                rows.append(row)
        for run, (indexes, rows) in found.items():
            if run.abandoned:
                continue
            error = request.error
            if request.answer is not None:
                try:
                    run.scored(indexes, rows, request.answer)
                except Exception as unforeseen:
                    log.exception("what model %d says of films cannot be taken", run.model.number)
                    error = unforeseen
                else:
                    yield Scored(run)
                    continue
            assert error is not None
            self.drop(run)
            yield Failed(run, error)
        self._batches.release(batch)


def _film(run: Run, index: int, batch: Batch | None, offset: int) -> Film:
    """A film to be decoded into its place of a batch, or only to be read."""
    return Film(
        token=(run, index, batch, 0 if batch is None else len(batch.films)),
        place=run.place,
        member=run.members[index],
        rule=run.card.film_rule,
        size=run.card.size,
        offset=offset,
        accept=run.accept,
        hash=run.hash,
    )
