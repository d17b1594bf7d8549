"""Connecting to SQLite or PostgreSQL, and the two kinds of transaction: reading and writing."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    OperationalError,
    SQLAlchemyError,
    TimeoutError,
)
from sqlalchemy.sql.dml import ReturningInsert

from db.base.errors import Unavailable

log = logging.getLogger(__name__)

T = TypeVar("T")

#: SQLite waits this long for another process's write before it reports "locked".
BUSY_TIMEOUT_MS = 5_000

#: While the database is away whoever begins something waits for it for so many seconds. What is in
#: hand waits for longer: see `patient`.
PATIENCE_S = 60.0

#: A database that has not answered for this long is worth a line in the log.
SILENT_S = 5.0

#: PostgreSQL ends a transaction whose client was silent for so long: a stopped process must not
#: keep a job's row locked until it is continued.
IDLE_IN_TRANSACTION_S = 60

#: Silence on a TCP connection: when PostgreSQL's client begins to ask whether the server is still
#: there, how often, and how many times; a server without power closes no connection.
_KEEPALIVE = {
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}

#: PostgreSQL error classes that mean "try the whole transaction again": serialisation failure,
#: deadlock, lock not available, admin shutdown, crash shutdown, cannot connect now, disk full, too
#: many connections, idle in a transaction.
_PG_AGAIN = frozenset(
    {"40001", "40P01", "55P03", "57P01", "57P02", "57P03", "53100", "53300", "25P03"}
)


class Patience(NamedTuple):
    """For how long a database is waited for that is locked or gone."""

    #: After so many seconds it is not waited for any more …
    seconds: float
    #: … unless this says so: what was computed must not be lost because it takes longer.
    in_hand: Callable[[], bool] = lambda: False


def parse(url: str) -> sa.URL:
    """The parts of a URL; what follows `sqlite:///` is a path, whatever characters it has."""
    path = url.removeprefix("sqlite:///")
    return sa.make_url(url) if path == url else sa.URL.create("sqlite", database=path)


def connect(url: str, patience_s: float = 0.0) -> sa.Engine:
    """An engine for `sqlite:///path` or `postgresql://…`; nothing is opened until it is used.

    Whoever reads waits for a database that cannot be reached for up to `patience_s` seconds. Errors
    of SQL leave out the values, which may be names of films.
    """
    parsed = parse(url)
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() == "sqlite":
        engine = sa.create_engine(
            parsed, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000}, hide_parameters=True
        )
        event.listen(engine, "connect", _sqlite_connect)
        event.listen(engine, "begin", _sqlite_begin)
        engine.update_execution_options(pneumoq_reads=Patience(patience_s))
        return engine
    # Whoever waits for a row's lock must then see what the other wrote, whatever the server's
    # default is.
    engine = sa.create_engine(
        parsed,
        pool_pre_ping=True,
        isolation_level="READ COMMITTED",
        connect_args={"connect_timeout": 10, **_KEEPALIVE},
        hide_parameters=True,
    )
    event.listen(engine, "connect", _postgres_connect)
    engine.update_execution_options(pneumoq_reads=Patience(patience_s))
    return engine


def patient(
    engine: sa.Engine, seconds: float, in_hand: Callable[[], bool] = lambda: False
) -> sa.Engine:
    """The same database and connections, for which reads and writes wait otherwise.

    For so many seconds, and for as long as `in_hand` says so.
    """
    patience = Patience(seconds, in_hand)
    return engine.execution_options(pneumoq_reads=patience, pneumoq_writes=patience)


def _sqlite_connect(connection: Any, _: Any) -> None:
    # SQLAlchemy, not the driver, begins transactions: the driver's own BEGIN is deferred.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _postgres_connect(connection: Any, _: Any) -> None:
    # Not among the connection's options: a pooler between may refuse those.
    connection.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_IN_TRANSACTION_S}s'")
    connection.commit()


def _sqlite_begin(connection: sa.Connection) -> None:
    # A deferred transaction that reads and then writes fails at once when another wrote between.
    write = connection.get_execution_options().get("pneumoq_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that sees one state of the database throughout."""
    patience = engine.get_execution_options().get("pneumoq_reads", Patience(0.0))
    begun = (
        _begin_reading(engine)
        if patience == Patience(0.0)
        else patiently(lambda: _begin_reading(engine), patience)
    )
    with begun as connection:
        yield connection


def outlast(engine: sa.Engine, work: Callable[[], T]) -> T:
    """Run `work`, which may be repeated, again and again while the database is locked or gone.

    As patiently as reads of this engine, and also where the database goes in the midst of one.
    """
    return patiently(work, engine.get_execution_options().get("pneumoq_reads", Patience(0.0)))


def _begin_reading(engine: sa.Engine) -> sa.Connection:
    connection = engine.connect()
    try:
        if engine.dialect.name == "postgresql":
            connection = connection.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
            # Who reads locks nobody out, and may wait for a person who reads on.
            connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        else:
            connection.begin()
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that writes: all of the block is kept, or nothing."""
    with engine.connect() as connection:
        connection = connection.execution_options(pneumoq_write=True)
        with connection.begin():
            yield connection


def write(
    engine: sa.Engine, work: Callable[[sa.Connection], T], patience_s: float | None = None
) -> T:
    """Run `work` in a writing transaction, again and again while the database is locked or gone.

    `work` must be safe to repeat. What it did is rolled back first, unless the connection broke
    just when it was committed: then it is repeated upon itself. Raises Unavailable after
    `patience_s` seconds; where it is None, as patiently as the engine says.
    """
    patience = engine.get_execution_options().get("pneumoq_writes")

    def once() -> T:
        with writing(engine) as connection:
            return work(connection)

    return patiently(once, patience if patience_s is None else Patience(patience_s))


def patiently(work: Callable[[], T], patience: Patience | None = None) -> T:
    """Run `work`, again and again while the database is locked or gone: for PATIENCE_S, or as said.

    Raises Unavailable.
    """
    if patience is None:
        patience = Patience(PATIENCE_S)
    began = time.monotonic()
    delay_s = 0.02
    warned = False
    while True:
        try:
            return work()
        except SQLAlchemyError as error:
            if not away(error):
                raise
            reason = getattr(error, "orig", error)
            waited_s = time.monotonic() - began
            if waited_s >= patience.seconds and not patience.in_hand():
                raise Unavailable(
                    f"the database did not answer for {waited_s:.0f} s: {reason}"
                ) from error
            if waited_s >= SILENT_S and not warned:
                warned = True
                log.warning("the database does not answer; trying on: %s", reason)
        # Full jitter, so that workers that were locked out together do not return together.
        time.sleep(random.uniform(delay_s / 2, delay_s))
        delay_s = min(delay_s * 2, 2.0)


def find_or_insert(
    connection: sa.Connection, find: sa.Select[Any], insert: ReturningInsert[Any]
) -> tuple[int, bool]:
    """The number that `find` finds, else that of the row inserted now; and whether it was inserted.

    Of two that insert the same at the same moment, the second gets the first one's row.
    """
    found = connection.execute(find).scalar()
    if found is None:
        try:
            with connection.begin_nested():
                return int(connection.execute(insert).scalar_one()), True
        except IntegrityError:
            found = connection.execute(find).scalar()
            if found is None:
                raise
    return int(found), False


def away(error: BaseException) -> bool:
    """Whether an error says that the database does not answer now: no job's fault, and no shard's.

    It is locked, gone, starting, full, or was waited for long enough; nothing was wrong.
    """
    # TimeoutError: all connections of this process are in use, by those who wait.
    if isinstance(error, (Unavailable, TimeoutError)):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    if getattr(error.orig, "sqlstate", None) in _PG_AGAIN:
        return True
    if not isinstance(error, OperationalError):
        return False
    text = str(error.orig).lower()
    if "sqlite3" in type(error.orig).__module__:
        return any(
            w in text for w in ("locked", "busy", "disk is full", "disk i/o", "unable to open")
        )
    # psycopg raises OperationalError without a state when the server cannot be reached.
    return getattr(error.orig, "sqlstate", None) is None
