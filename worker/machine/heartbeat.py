"""The heartbeat: one thread that keeps a worker's leases alive and notices those it lost.

How the machine is, is read by another thread: a driver that gives no answer delays no renewal.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from db.base import database, workers
from db.base.errors import LeaseLost
from db.queue import leases
from db.queue.leases import Lease, Shard

log = logging.getLogger(__name__)

#: A lease is renewed this many times before it would run out.
RENEWALS_PER_LEASE = 5

#: Never renew less often: it is also how soon a cancelled job is noticed.
LONGEST_BEAT_S = 2.0

#: How often it is looked at how the machine is, in seconds.
HEALTH_S = 10.0

#: A reading that takes longer than this, in seconds, is told of: it takes milliseconds.
SILENT_S = 30.0

Held = Shard | Lease
_Key = tuple[int, int | None, int]


def _key(held: Held) -> _Key:
    return (held.job_id, held.shard_no if isinstance(held, Shard) else None, held.token)


class Heartbeat:
    """Renews what is held until it is released. Thread safe."""

    def __init__(
        self,
        engine: sa.Engine,
        worker_id: str,
        *,
        lease_s: float,
        health: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        """`health` returns how the machine is; it may never come back."""
        self._engine = engine
        self._worker_id = worker_id
        self._lease_s = lease_s
        self._beat_s = min(lease_s / RENEWALS_PER_LEASE, LONGEST_BEAT_S)
        self._health = health
        #: Since when there was no answer, while one is waited for (time.monotonic).
        self._health_asked: float | None = None
        #: What was read and is not in the row yet.
        self._found: Mapping[str, Any] | None = None
        #: Whether the row says anything, and whether that there is no answer.
        self._told = self._silent = False
        #: What the row's `engine` is to be, where it is not yet.
        self._status: str | None = None
        self._lock = threading.Lock()
        self._held: dict[_Key, Held] = {}
        self._lost: set[_Key] = set()
        self._ended = threading.Event()
        #: time.monotonic() of when it was begun to renew all that was held then.
        self._beaten_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()
        if self._health is not None:
            # Nobody waits for its end.
            threading.Thread(
                target=self._read, args=(self._health,), name="health", daemon=True
            ).start()

    def hold(self, held: Held) -> None:
        """Keep this lease alive from now on."""
        with self._lock:
            self._held[_key(held)] = held

    def release(self, held: Held) -> None:
        """Stop renewing it."""
        with self._lock:
            self._held.pop(_key(held), None)
            self._lost.discard(_key(held))

    def lost(self, held: Held) -> bool:
        """Whether it turned out to be somebody else's, or its job has ended."""
        with self._lock:
            return _key(held) in self._lost

    @property
    def overdue(self) -> bool:
        """Whether a lease that is held may run out soon, or has, as it was not renewed for long."""
        with self._lock:
            held = any(key not in self._lost for key in self._held)
            return held and time.monotonic() - self._beaten_at > self._lease_s / 2

    def set_status(self, text: str) -> None:
        """Put what the worker computes with, and does, into its row from the next beat on."""
        with self._lock:
            self._status = text

    def end(self) -> None:
        """Beat no more."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._beat_s):
            try:
                self.beat()
            except Exception as error:
                # Without its heart this worker would claim, lose and claim again for ever.
                if database.away(error):
                    # The leases may run out meanwhile; every write is fenced: nothing is at risk.
                    log.warning("the heartbeat could not reach the database: %s", error)
                else:
                    log.exception("a heartbeat failed; the next one comes in its time")

    def _read(self, health: Callable[[], Mapping[str, Any]]) -> None:
        while True:
            self._ask(health)
            if self._ended.wait(HEALTH_S):
                return

    def _ask(self, health: Callable[[], Mapping[str, Any]]) -> None:
        """Read once how the machine is, for the row."""
        with self._lock:
            self._health_asked = time.monotonic()
        found: Mapping[str, Any] = {}
        try:
            found = health()
        except Exception:
            log.exception("how the machine is cannot be read; the next time comes")
        with self._lock:
            self._health_asked, self._silent = None, False
            self._found = found if found or self._told else None
            self._told = bool(found)

    def _how_it_is(self) -> Mapping[str, Any] | None:
        """What is to be put into the row, if anything; the lock is held."""
        asked = self._health_asked
        if asked is not None and not self._silent and time.monotonic() - asked >= SILENT_S:
            log.warning("the GPU's driver has told nothing of its health for %g s", SILENT_S)
            self._silent = self._told = True
            self._found = {"silent": "the GPU's driver gives no answer"}
        return self._found

    def beat(self) -> None:
        """Renew everything once; raises what the database raises that is away."""
        began = time.monotonic()
        with self._lock:
            held = [h for k, h in self._held.items() if k not in self._lost]
            status = self._status
            health = self._how_it_is()

        def renew(connection: sa.Connection) -> list[Held]:
            workers.seen(connection, self._worker_id, health, status)
            shards = [h for h in held if isinstance(h, Shard)]
            return list(leases.renew_shards(connection, shards, self._lease_s))

        gone = database.write(self._engine, renew, patience_s=self._lease_s)
        with self._lock:
            if self._status == status:
                self._status = None
            if self._found is health:
                self._found = None
        for lease in (h for h in held if isinstance(h, Lease)):
            try:
                database.write(
                    self._engine,
                    lambda c, lease=lease: leases.renew(c, lease, self._lease_s),  # type: ignore[misc]
                    patience_s=self._lease_s,
                )
            except LeaseLost:
                gone.append(lease)
        with self._lock:
            self._beaten_at = max(self._beaten_at, began)
            self._lost.update(_key(g) for g in gone if _key(g) in self._held)
