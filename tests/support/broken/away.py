"""A database that goes away and comes back: a server that ends, or a file that is locked."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from db.base import database
from tests.support import servers

#: What everybody's patience is made of, in seconds, so that no test needs to wait long.
PATIENCE_S = 0.2


@dataclass(frozen=True)
class Breakable:
    """A database of today's schema that a test can take away."""

    url: str
    cluster: servers.Postgres | None = None

    @contextmanager
    def away(self) -> Iterator[None]:
        """Nobody can write meanwhile; on PostgreSQL nobody can read either."""
        if self.cluster is not None:
            self.cluster.stop(signal.SIGQUIT)
            yield
            self.cluster.start()
            return
        path = self.url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(path, isolation_level=None)) as holder:
            holder.execute("PRAGMA busy_timeout = 60000")
            holder.execute("BEGIN IMMEDIATE")
            yield
            holder.rollback()


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on nobody waits for longer than PATIENCE_S for a database."""
    monkeypatch.setattr(database, "PATIENCE_S", PATIENCE_S)
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 20)


def sqlite(folder: Path, migrated: Path) -> Breakable:
    """A copy of a migrated SQLite file."""
    path = folder / "breakable.db"
    path.write_bytes(migrated.read_bytes())
    return Breakable(f"sqlite:///{path}")
