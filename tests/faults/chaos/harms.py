"""The harms themselves: how each kind is done to a running service, and how it is over."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import redis
import sqlalchemy as sa

from tests.faults import harm
from tests.faults.chaos.sequence import INSTANT, KINDS, LASTING, Strike
from tests.support import processes, servers
from tests.support.broken import clock, disk, mounts
from tests.support.broken.clock import Clock
from tests.support.service import Service, signalled
from tests.support.site import Site
from worker import config

T = TypeVar("T")

#: While one of these lasts the database cannot be asked.
_NO_ANSWER = ("database away", "database locked")

#: By how much a clock is wrong, in seconds: a time server's correction, a wrong time zone.
STEPS_S = (-7200.0, -90.0, 90.0, 7200.0)


@dataclass(kw_only=True)
class Harms:
    """One service, all that it stands on, and what is done to it. Used by one thread."""

    here: Site
    service: Service
    share: mounts.Share
    #: What all of the service's processes tell the time by; None where it cannot be stepped.
    clock: Clock | None
    #: Folder of the service and of a SQLite file: a small disk.
    home_disk: Path
    #: PostgreSQL, the small disk that its files are on, and its clock.
    cluster: servers.Postgres | None = None
    cluster_disk: Path | None = None
    cluster_clock: Clock | None = None

    def __post_init__(self) -> None:
        #: What lasts now, and until when (time.monotonic).
        self.lasting = ""
        self._until = 0.0
        self._stack = ExitStack()
        self._holders: list[int] = []
        #: A decoder was killed while what lasts now did.
        self._shot = False

    def kinds(self) -> dict[str, str]:
        """Each kind of harm → why it cannot be done here; empty where it can."""
        missing = dict.fromkeys(KINDS, "")
        if self.cluster is None:
            missing["database away"] = "SQLite is a file, which can only be locked"
        if self.clock is None:
            missing["clock stepped"] = "libfaketime is not installed (apt-get install libfaketime)"
        return missing

    def holders(self) -> list[int]:
        """Process ids of living workers that hold leases of shards.

        While the database cannot be asked nobody's lease can change there: as it was before.
        """
        if self.lasting not in _NO_ANSWER:
            try:
                rows = self.here.rows(
                    "SELECT DISTINCT w.pid FROM shards s JOIN workers w ON w.id = s.worker_id "
                    "WHERE s.state = 'leased'"
                )
            except sa.exc.DBAPIError:
                if self.lasting != "disk full":
                    return []
            else:
                self._holders = sorted(row.pid for row in rows)
        alive = set(self.service.workers())
        return [pid for pid in self._holders if pid in alive]

    def begin(self, strike: Strike) -> str:
        """Strike, while a worker holds a lease; what was done, in words."""
        holders = self.holders()
        if not holders:
            raise RuntimeError("no shard is leased")
        done = _METHODS[strike.kind](self, strike, holders)
        if isinstance(done, str):
            return done
        self.lasting, self._until = strike.kind, time.monotonic() + strike.lasts_s
        return f"{self._stack.enter_context(done)}, for {strike.lasts_s:.1f} s"

    def look(self) -> None:
        """End what has lasted long enough. To be called often."""
        if self.lasting and time.monotonic() >= self._until:
            self.end()

    def end(self) -> None:
        """End what lasts."""
        self._stack.close()
        self.lasting, self._shot = "", False

    # What is over at once

    def _worker_killed(self, strike: Strike, holders: list[int]) -> str:
        victim = _one_of(holders, strike.luck)
        signalled(signal.SIGKILL, victim)
        return f"worker {victim}"

    def _decoder_killed(self, strike: Strike, holders: list[int]) -> str:
        found = [pid for worker in holders for pid in self.service.decoders(worker)]
        if not found:
            raise RuntimeError("no decoder is at work")
        if self._shot:
            # Two that end at one film, which hangs meanwhile, are that film's fault by the rules.
            raise RuntimeError(f"one was killed already: {self.lasting}")
        self._shot = bool(self.lasting)
        victim = _one_of(found, strike.luck)
        signalled(signal.SIGKILL, victim)
        return f"decoder {victim}"

    def _beat_killed(self, strike: Strike, holders: list[int]) -> str:
        found = self.service.beats()
        if not found:
            raise RuntimeError("there is no beat now")
        signalled(signal.SIGKILL, *found)
        return f"beat {found[0]}"

    def _stack_killed(self, strike: Strike, holders: list[int]) -> str:
        self.service.kill()
        return "all of it"

    def _broker_killed(self, strike: Strike, holders: list[int]) -> str:
        found = self.service.brokers()
        if not found:
            raise RuntimeError("there is no broker now")
        signalled(signal.SIGKILL, *found)
        return f"broker {found[0]}"

    def _broker_flushed(self, strike: Strike, holders: list[int]) -> str:
        socket = config.broker_folder(self.here.settings.home) / "valkey.sock"
        with redis.Redis(unix_socket_path=str(socket), socket_timeout=1.0) as client:
            try:
                client.flushall()
            except redis.RedisError as error:
                raise RuntimeError(f"the broker cannot be flushed now: {error}") from error
        return "the broker"

    # What lasts

    @contextmanager
    def _worker_stopped(self, strike: Strike, holders: list[int]) -> Iterator[str]:
        victim = _one_of(holders, strike.luck)
        # A machine that sleeps takes the decoders with it, a debugger only the worker.
        asleep = self.service.decoders(victim) if strike.manner < 0.5 else []
        signalled(signal.SIGSTOP, victim, *asleep)
        yield f"worker {victim}" + (" and its decoders" if asleep else "")
        signalled(signal.SIGCONT, *asleep, victim)

    @contextmanager
    def _database_away(self, strike: Strike, holders: list[int]) -> Iterator[str]:
        assert self.cluster is not None and self.cluster.pid is not None
        if strike.manner < 0.5:
            self.cluster.stop(signal.SIGQUIT)
            yield "it crashed"
            self.cluster.start()
        else:
            frozen = [self.cluster.pid, *processes.children(self.cluster.pid, "postgres")]
            signalled(signal.SIGSTOP, *frozen)
            yield "it hangs"
            signalled(signal.SIGCONT, *frozen)

    @contextmanager
    def _database_locked(self, strike: Strike, holders: list[int]) -> Iterator[str]:
        with harm.locked(self.here, "shards", "jobs"):
            yield "nobody else can write"

    @contextmanager
    def _source_unmounted(self, strike: Strike, holders: list[int]) -> Iterator[str]:
        if strike.manner < 0.5:
            self.share.unmount()
            yield "it is not there"
        else:
            self.share.die()
            yield "its connection is lost"
            self.share.unmount()
        self.share.mount()

    @contextmanager
    def _source_hung(self, strike: Strike, holders: list[int]) -> Iterator[str]:
        names = _one_of(("*", "films", "films/*", "films.zip", "films.tar.gz"), strike.luck)
        self.share.hangs(names=names)
        yield f"{names} gives no answer"
        self.share.recovers()

    @contextmanager
    def _disk_full(self, strike: Strike, holders: list[int]) -> Iterator[str]:
        victims = [self.home_disk, *filter(None, [self.cluster_disk])]
        victim = _one_of(victims, strike.luck)
        ballast = disk.fill(victim)
        yield "the service's" if victim == self.home_disk else "the database's"
        ballast.unlink()
        if self.cluster is not None and not self.cluster.running:
            # Out of room for its log the server ends itself, and stays so until its owner comes.
            self.cluster.start()

    @contextmanager
    def _clock_stepped(self, strike: Strike, holders: list[int]) -> Iterator[str]:
        clocks = [c for c in (self.clock, self.cluster_clock) if c is not None]
        victim, by = _one_of(clocks, strike.luck), _one_of(STEPS_S, strike.manner)
        victim.step(by)
        yield f"the {'service' if victim is self.clock else 'database'}'s by {by:+.0f} s"
        victim.step(0)


Method = Callable[[Harms, Strike, list[int]], "str | AbstractContextManager[str]"]

_METHODS: dict[str, Method] = {
    kind: getattr(Harms, f"_{kind.replace(' ', '_')}") for kind in (*INSTANT, *LASTING)
}


def _one_of(choices: Sequence[T], luck: float) -> T:
    return choices[int(luck * len(choices))]


@contextmanager
def own_clock() -> Iterator[Clock | None]:
    """A clock to be stepped, or None where there is no library for it."""
    if clock.library() is None:
        yield None
        return
    with servers.short_folder("pneumoq-clock-") as place:
        place.chmod(0o755)  # PostgreSQL is another account's
        yield Clock(place / "clock")
    clock.tidy()
