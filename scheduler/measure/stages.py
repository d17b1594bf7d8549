"""Stages of scoring, each measured by itself on this machine with the parts that workers use.

Decoding runs in the workers' own decoder processes, inference in their engine, writing through
`results.commit`. Knows nothing of the queue or the terminal; `scratch.py` measures all of it
together, as a real job.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import selectors
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from functools import partial
from typing import NamedTuple

import sqlalchemy as sa

from db.base import database
from db.queue import jobs, leases, listings, results
from db.queue.results import Cam, Prediction
from db.work import claims, endings
from scheduler.measure.survey import Located
from trainer.card import Card
from worker import archive
from worker.config import Settings
from worker.decoding import protocol, reading
from worker.decoding.pool import Decoded, Decoders, Film, OnGpu
from worker.engine import Engine, speed
from worker.errors import MemberError

#: Films that go through before a measurement of decoding begins.
WARM_FILMS = 64
#: Batches that are computed before a measurement of inference begins.
WARM_BATCHES = 4
#: Films whose pixels have room at once, per decoder process: more than it can have waiting.
ROOM = 4 * protocol.REQUEST_FILMS
#: Reading and hashing are measured for so many seconds, on so many films at most, which the system
#: has in memory then.
PLUMBING_S, PLUMBING_FILMS = 0.5, 256
#: Writing is measured on this many shards of this many films; the size is that of a large job's.
WRITE_SHARDS, WRITE_FILMS = 16, 1024
#: Backends that compute on the processor that also decodes.
ON_CPU = ("openvino",)
#: A map as a ResNet18 at 224 px leaves it, kept for every fourth film.
CAM = Cam(height=7, width=7, low=-4.0, high=9.0, data=bytes(range(49)))


class Decoding:
    """Decoder processes over films that go round and round."""

    def __init__(
        self, settings: Settings, card: Card, films: Sequence[Located], accept: Sequence[str] = ()
    ) -> None:
        self._card = card
        self.films = films
        #: Processes.
        self.decoders = settings.decoders + (settings.decode == "gpu")
        self._accept = tuple(accept)
        self._next = 0
        bytes_each = card.size * card.size
        self._room = [n * bytes_each for n in range(ROOM * self.decoders)]
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._decoders = Decoders(
            settings.decoders,
            len(self._room) * bytes_each,
            deadline_s=settings.film_deadline_s,
            limit_mb=settings.film_memory_mb,
            gpu=OnGpu() if settings.decode == "gpu" else None,
        )
        self._decoders.selector.register(self._wake_fd, selectors.EVENT_READ)

    @property
    def count(self) -> int:
        """Films of one round."""
        return len(self.films)

    def wake(self) -> None:
        """Let `run` ask `may` again; another thread may call it."""
        os.eventfd_write(self._wake_fd, 1)

    def run(
        self,
        count: int,
        *,
        may: Callable[[], bool] = lambda: True,
        done: Callable[[Decoded], None] = lambda decoded: None,
    ) -> float:
        """Decode the next `count` films; the seconds it took.

        `may` is asked before each film is handed out, and `done` told of each that came through.
        """
        given = through = 0
        started = time.perf_counter()
        while through < count:
            films: list[Film] = []
            while given < count and self._room and self._decoders.wants(len(films)) and may():
                films.append(self._film(self._room.pop()))
                given += 1
            self._decoders.give(films)
            for decoded in self._decoders.collect(0.25):
                self._room.append(decoded.film.offset)
                through += 1
                done(decoded)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake_fd)
        return time.perf_counter() - started

    def _film(self, offset: int) -> Film:
        number = self._next % len(self.films)
        self._next += 1
        place, member = self.films[number]
        return Film(
            token=number,
            place=place,
            member=member,
            rule=self._card.film_rule,
            size=self._card.size,
            offset=offset,
            accept=self._accept,
        )

    def close(self) -> None:
        """End the processes."""
        self._decoders.close()
        os.close(self._wake_fd)


class Inference:
    """An engine in a thread of its own, as a worker has it, that is kept busy with batches."""

    def __init__(self, opened: AbstractContextManager[Engine]) -> None:
        """`opened` is entered and left in that thread."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._opened = opened
        self.engine: Engine = self._thread.submit(opened.__enter__).result()

    def start(
        self, batches: int, before: Callable[[], None], after: Callable[[], None]
    ) -> Future[float]:
        """Begin to compute so many batches; see `worker.engine.speed.compute`."""
        return self._thread.submit(speed.compute, self.engine, batches, before=before, after=after)

    def run(self, batches: int) -> float:
        """Compute so many batches; the seconds it took."""
        return self.start(batches, lambda: None, lambda: None).result()

    def close(self) -> None:
        """Let go of the engine."""
        self._thread.submit(self._opened.__exit__, None, None, None).result()
        self._thread.shutdown()


class Plumbing(NamedTuple):
    """What a film takes beside the film rule and the engine, in milliseconds of one core."""

    read: float
    checksum: float
    hash: float


def plumbing(films: Sequence[Located]) -> Plumbing:
    """Read, check and hash films of one archive or folder, as decoders do, for PLUMBING_S."""
    clock, spent, count = time.thread_time, [0.0, 0.0, 0.0], 0
    place = films[0].place
    end = time.monotonic() + PLUMBING_S
    with contextlib.closing(archive.open_reader(place.kind, place.uri)) as reader:
        for film in itertools.cycle(films):
            if count >= len(films) and time.monotonic() > end:
                break
            count += 1
            began = clock()
            with contextlib.suppress(MemberError):
                data = reader.read(film.member)
                at = clock()
                spent[0] += at - began
                if film.member.crc is not None:
                    zlib.crc32(data)
                    checked = clock() - at
                    # Reading has checked it already.
                    spent[0] -= checked
                    spent[1] += checked
                    at += checked
                reading.content_hash(data)
                spent[2] += clock() - at
    return Plumbing(*(1e3 * seconds / count for seconds in spent))


class _Over(Exception):
    """The other half has ended early."""


def both(decoding: Decoding, inference: Inference, films: int) -> float:
    """Decode and compute so many films at the same time; the seconds until both are through.

    The two share the machine and a count, and nothing else: a batch is computed once as many films
    have been decoded, and decoding is never further ahead than a worker's memory would let it.
    """
    batch = inference.engine.batch
    batches = -(-films // batch)
    decoded = threading.Semaphore(0)
    room = threading.Semaphore((inference.engine.depth + 3) * batch)
    over = threading.Event()

    def before() -> None:
        for _ in range(batch):
            decoded.acquire()
        if over.is_set():
            raise _Over

    def after() -> None:
        room.release(batch)
        decoding.wake()

    def ended(future: Future[float]) -> None:
        if future.exception() is not None:
            # Decoding waits for room that nobody would make.
            room.release(batches * batch)
            decoding.wake()

    started = time.perf_counter()
    inferred = inference.start(batches, before, after)
    inferred.add_done_callback(ended)
    try:
        decoding.run(
            batches * batch,
            may=lambda: room.acquire(blocking=False),
            done=lambda _: decoded.release(),
        )
    except BaseException:
        # Inference waits for films that will not come.
        over.set()
        decoded.release(batch)
        wait([inferred])
        raise
    inferred.result()
    return time.perf_counter() - started


class Writing:
    """Outcomes as a worker commits them, into a database that is thrown away afterwards."""

    def __init__(self, engine: sa.Engine, model_id: int, precision: str, name: str) -> None:
        self._engine = engine
        self._model_id = model_id
        self._precision = precision
        self._name = name

    def run(self) -> float:
        """Commit the shards of one job; the seconds that the commits took."""
        seconds = 0.0
        for shard in self._plan():
            outcomes = [self._outcome(shard.first_item + n) for n in range(shard.n_items)]
            started = time.perf_counter()
            database.write(self._engine, partial(results.commit, shard=shard, outcomes=outcomes))
            seconds += time.perf_counter() - started
            database.write(
                self._engine, partial(endings.close_if_done, job_id=shard.job_id, who="bench")
            )
        return seconds

    def _plan(self) -> Iterator[leases.Shard]:
        source = {"uri": "/films", "kind": "folder", "fingerprint": "/films", "content_id": None}

        def plan(connection: sa.Connection) -> None:
            jobs.submit(
                connection, kind="score", spec={}, submitted_by="bench", model_id=self._model_id,
                precision=self._precision, priority=100, source_rows=[source],
            )  # fmt: skip
            claimed = claims.claim_job(connection, "score", "bench", 3600.0)
            assert claimed is not None
            new = listings.NewShard(source_no=0, n_items=WRITE_FILMS, listing=b"")
            listings.add(connection, claimed.lease, [new] * WRITE_SHARDS)
            listings.complete(connection, claimed.lease, {})

        database.write(self._engine, plan)
        for _ in range(WRITE_SHARDS):
            shard = database.write(self._engine, lambda c: claims.claim_shard(c, "bench", 3600.0))
            assert shard is not None
            yield shard

    def _outcome(self, item_no: int) -> Prediction:
        positive = item_no % 4 == 0
        return Prediction(
            item_no=item_no,
            name=f"{self._name}-{item_no}",
            label_no=int(positive),
            probability=(item_no % 997) / 997,
            positive=positive,
            ood=1.0,
            cam=CAM if positive else None,
            content=os.urandom(16),
        )
