"""Fixtures that every package's tests share: a clean environment, empty databases, a broker.

A server that is not installed skips its tests on a developer's machine and fails them in CI, where
nothing may go untested unnoticed. A GPU cannot be installed: what needs one is skipped wherever
there is none.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import psycopg
import pytest
import sqlalchemy as sa

from db.base import database, migrate
from tests.support import once, order, servers, soak
from tests.support.absent import absent
from worker.machine import gpu

#: Under which name durations are recorded.
RUN = "test" if soak.RUN is soak.Run.QUICK else "soak"

# A run that was started in the background ignores Ctrl-C, and so would the commands it tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Workers go behind what a person waits for. The tests go there too: else those that compute would
# take the processor from the workers that other tests wait for.
os.nice(max(0, 10 - os.nice(0)))


@functools.cache
def _no_gpu() -> str:
    return gpu.why_none()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", type=int, help="run one part of the soak only, from 1 on")
    parser.addoption(
        "--record-durations", action="store_true", help=f"write {order.FILE.name} anew"
    )


def pytest_configure(config: pytest.Config) -> None:
    hypothesis.settings.register_profile(
        "run",
        max_examples=soak.repetitions(quick=30, full=500, part=100),
        derandomize="CI" in os.environ,
        deadline=None,
    )
    hypothesis.settings.load_profile("run")
    if config.getoption("--record-durations") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Recorder(config))


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups afterwards
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep what belongs to this run, what takes longest first."""
    chosen, others = soak.of_this_run(items)
    number = config.getoption("--part")
    if number is not None:
        all_parts, chosen = chosen, order.part(chosen, number)
        kept = set(chosen)
        others += [item for item in all_parts if item not in kept]
    config.hook.pytest_deselected(items=others)
    items[:] = order.longest_first(chosen, RUN)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have to say also where they pass: `record_property("printed", text)`."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "call":
                for name, text in report.user_properties:
                    if name == "printed":
                        terminalreporter.write_line(str(text))


class _Recorder:
    """Keeps what each test took."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._took: list[tuple[str, str, float]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._took.append((report.nodeid, str(report.when), report.duration))

    def pytest_sessionfinish(self) -> None:
        order.record(RUN, len(self._config.getoption("tx")) or 1, self._took)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What is marked `gpu` runs where there is one; asked once, and only where it matters."""
    if item.get_closest_marker("gpu") and _no_gpu():
        pytest.skip(_no_gpu())


@pytest.fixture(autouse=True)
def clean_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No setting of the caller's shell reaches a test, and none writes into the caller's home.

    What computes has one thread: tests run beside each other, and a second thread of one would only
    wait, spinning, for the first.
    """
    for name in [name for name in os.environ if name.startswith("PNEUMOQ_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PNEUMOQ_HOME", str(tmp_path_factory.mktemp("home")))
    for name in ("PNEUMOQ_TRAIN_THREADS", "PNEUMOQ_ENGINE_THREADS"):
        monkeypatch.setenv(name, "1")


@pytest.fixture(autouse=True)
def closed_connections(clean_environment: None) -> Iterator[None]:
    """A test leaves no connection to PostgreSQL open, and what its threads leave is closed here.

    A thread that outlives its test returns its connection to a pool that was disposed of already.
    Nobody would close it, and the warning about it would fail whichever test came later.
    """
    #: Those made in this test; whether a thread of the test's had it last.
    opened: weakref.WeakKeyDictionary[psycopg.Connection[object], bool] = (
        weakref.WeakKeyDictionary()
    )

    def made(connection: object, _: object) -> None:
        if isinstance(connection, psycopg.Connection):
            opened[connection] = False

    def taken(connection: object, _: object, __: object) -> None:
        if isinstance(connection, psycopg.Connection) and connection in opened:
            opened[connection] = threading.current_thread() is not threading.main_thread()

    sa.event.listen(sa.Pool, "connect", made)
    sa.event.listen(sa.Pool, "checkout", taken)
    yield
    sa.event.remove(sa.Pool, "connect", made)
    sa.event.remove(sa.Pool, "checkout", taken)
    left = [connection for connection in opened if not connection.closed]
    forgotten = sum(not opened[connection] for connection in left)
    for connection in left:
        connection.close()
    assert not forgotten, "the test leaves connections open: dispose of its engine"


@pytest.fixture(scope="session", autouse=True)
def shared(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The test processes of this run share what `once` makes."""
    once.share(tmp_path_factory.getbasetemp())


@pytest.fixture
def empty_sqlite_url(tmp_path: Path) -> str:
    """URL of a SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path}/pneumoq.db"


@pytest.fixture(scope="session")
def migrated_sqlite() -> Path:
    """A SQLite file with today's schema and no rows, to be copied."""
    return once.made("migrated.db", lambda path: _migrate(f"sqlite:///{path}"))


@pytest.fixture
def sqlite_url(empty_sqlite_url: str, migrated_sqlite: Path) -> str:
    """URL of a fresh SQLite database with today's schema and no rows."""
    shutil.copy(migrated_sqlite, empty_sqlite_url.removeprefix("sqlite:///"))
    return empty_sqlite_url


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[servers.Postgres]:
    """One private PostgreSQL cluster for this process; it keeps nothing through a power cut."""
    try:
        with servers.memory_folder("pneumoq-pg-") as data, servers.postgres(data) as cluster:
            yield cluster
    except servers.NotInstalled as error:
        absent(str(error))


@pytest.fixture
def empty_postgres_url(postgres_server: servers.Postgres) -> Iterator[str]:
    """URL of a fresh, empty PostgreSQL database, dropped after the test."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: servers.Postgres) -> Iterator[str]:
    """Name of a PostgreSQL database with today's schema and no rows, to be copied."""
    with postgres_server.database() as url:
        _migrate(url)
        yield str(sa.make_url(url).database)


@pytest.fixture
def postgres_url(postgres_server: servers.Postgres, migrated_postgres: str) -> Iterator[str]:
    """URL of a fresh PostgreSQL database with today's schema and no rows, dropped afterwards."""
    with postgres_server.database(migrated_postgres) as url:
        yield url


def _migrate(url: str) -> None:
    engine = database.connect(url)
    migrate.upgrade(engine)
    engine.dispose()


def _one_of_both(request: pytest.FixtureRequest, prefix: str) -> str:
    url: str = request.getfixturevalue(f"{prefix}{request.param}_url")
    return url


BOTH = ["sqlite", pytest.param("postgres", id="postgresql", marks=pytest.mark.postgres)]


@pytest.fixture(params=BOTH)
def database_url(request: pytest.FixtureRequest) -> str:
    """URL of a fresh database with today's schema; once on SQLite and once on PostgreSQL."""
    return _one_of_both(request, "")


@pytest.fixture(params=BOTH)
def empty_database_url(request: pytest.FixtureRequest) -> str:
    """URL of a fresh, empty database; the test runs once on SQLite and once on PostgreSQL."""
    return _one_of_both(request, "empty_")


@pytest.fixture
def valkey() -> Iterator[servers.Valkey]:
    """A private server of the program that the product brings along; the test may kill it."""
    with servers.valkey(servers.valkey_program()) as server:
        yield server


@pytest.fixture(params=["valkey", "redis"])
def broker(request: pytest.FixtureRequest) -> Iterator[servers.Valkey]:
    """A private broker; the test runs once on Valkey and once on the machine's Redis."""
    program = {"valkey": servers.valkey_program, "redis": servers.redis_program}[request.param]
    try:
        with servers.valkey(program()) as server:
            yield server
    except servers.NotInstalled as error:
        absent(str(error))
