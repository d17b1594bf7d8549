"""Fixtures that every package's tests share: a clean environment, empty databases, a broker.

A server that is not installed skips its tests on a developer's machine and fails them in CI, where
nothing may go untested unnoticed. A GPU cannot be installed: what needs one is skipped wherever
there is none.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import servers
from tests.support.absent import absent
from worker.machine import gpu

# A run that was started in the background ignores Ctrl-C, and so would the commands it tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@functools.cache
def _no_gpu() -> str:
    return gpu.why_none()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What is marked `gpu` runs where there is one; asked once, and only where it matters."""
    if item.get_closest_marker("gpu") and _no_gpu():
        pytest.skip(_no_gpu())


@pytest.fixture(autouse=True)
def clean_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No setting of the caller's shell reaches a test, and none writes into the caller's home."""
    for name in [name for name in os.environ if name.startswith("PNEUMOQ_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PNEUMOQ_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """URL of a SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path}/pneumoq.db"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[servers.Postgres]:
    """One private PostgreSQL cluster for the whole run."""
    try:
        with servers.postgres() as cluster:
            yield cluster
    except servers.NotInstalled as error:
        absent(str(error))


@pytest.fixture
def postgres_url(postgres_server: servers.Postgres) -> Iterator[str]:
    """URL of a fresh, empty PostgreSQL database, dropped after the test."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest) -> str:
    """URL of a fresh, empty database; the test runs once on SQLite and once on PostgreSQL."""
    fixture = {"sqlite": "sqlite_url", "postgresql": "postgres_url"}[request.param]
    url: str = request.getfixturevalue(fixture)
    return url


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
