"""Reading by a person's own SQL. The database itself refuses everything that is not reading.

SQLite: the file is opened read-only, and an authorizer allows SELECT, column reads and functions
only, so that ATTACH, PRAGMA, VACUUM INTO and the like never start.

PostgreSQL: the statement becomes the body of a function that lives in this transaction only and
belongs to a role that was granted nothing but SELECT. As the function is STABLE it can only select;
as it is SECURITY DEFINER nothing inside it can take back the role of the login, not even a
superuser's; the transaction is read-only while it runs, and is rolled back. `reader_url` replaces
that by a login of your own, whose rights are then the limit. What is left is what any login of that
server may do: use time and memory, hold advisory locks while it runs, and whatever functions the
administrator has given to everyone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from db.base import database
from db.base.errors import QueryRefused
from db.base.views import READER

if TYPE_CHECKING:
    import psycopg

#: Rows are fetched this many at a time.
FETCH = 1000

#: Steps of SQLite's machine between two looks for a signal: some milliseconds.
STEPS = 100_000

_ONLY_SELECT = "only reading is allowed here: one SELECT, WITH, VALUES or TABLE statement"

_ALLOWED = frozenset(
    {
        sqlite3.SQLITE_SELECT,
        sqlite3.SQLITE_READ,
        sqlite3.SQLITE_FUNCTION,
        sqlite3.SQLITE_RECURSIVE,
    }
)
#: Functions that reach outside the database file.
_FORBIDDEN_FUNCTIONS = frozenset(
    {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"}
)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Column names, and the rows as they come."""

    columns: list[str]
    rows: Iterator[tuple[Any, ...]]


@contextmanager
def run(url: str, statement: str, reader_url: str | None = None) -> Iterator[Answer]:
    """Run one reading statement; QueryRefused where the database refuses it or it is no SQL."""
    try:
        statement.encode()
    except UnicodeEncodeError as error:
        raise QueryRefused(f"the statement is not valid Unicode: {error}") from error
    if "\0" in statement:
        raise QueryRefused("the statement contains a NUL character")
    parsed = database.parse(reader_url or url)
    if parsed.get_backend_name() == "sqlite":
        with _sqlite(parsed, statement) as answer:
            yield answer
    else:
        with _postgresql(parsed, statement, take_role=reader_url is None) as answer:
            yield answer


def _authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    if action == sqlite3.SQLITE_FUNCTION and second in _FORBIDDEN_FUNCTIONS:
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY


@contextmanager
def _sqlite(url: sa.URL, statement: str) -> Iterator[Answer]:
    uri = Path(url.database or "").absolute().as_uri() + "?mode=ro"
    try:
        connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    except sqlite3.Error as error:
        raise QueryRefused(f"the database cannot be opened for reading: {error}") from error
    try:
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.execute("PRAGMA query_only = ON")
        with suppress(sqlite3.OperationalError):  # a SQLite without JSON
            # Table functions declare their columns when first used, which the authorizer refuses.
            connection.execute("SELECT 1 FROM json_each('[]'), json_tree('[]')")
        connection.set_authorizer(_authorize)
        # Python hears Ctrl-C only while it runs code of its own, and a query may take hours.
        connection.set_progress_handler(lambda: 0, STEPS)
        cursor = connection.execute(statement)
        if cursor.description is None:
            raise QueryRefused(f"the statement returns no rows; {_ONLY_SELECT}")
        yield Answer(columns=[c[0] for c in cursor.description], rows=_fetch(cursor))
    except (sqlite3.Error, sqlite3.Warning) as error:
        if str(error) == "interrupted":  # SQLite's word for what the signal raised in the handler
            raise KeyboardInterrupt from None
        raise QueryRefused(_sqlite_message(error)) from error
    finally:
        connection.close()


def _sqlite_message(error: Exception) -> str:
    text = str(error)
    if any(word in text for word in ("not authorized", "readonly", "prohibited", "one statement")):
        return f"{text}; {_ONLY_SELECT}"
    return text


@contextmanager
def _postgresql(url: sa.URL, statement: str, take_role: bool) -> Iterator[Answer]:
    import psycopg

    url = url.set(drivername="postgresql+psycopg")
    _, options = url.get_dialect()().create_connect_args(url)
    options = {"connect_timeout": 10, **options, "client_encoding": "utf8"}
    try:
        with psycopg.connect(**options) as connection:
            try:
                if take_role:
                    _take_role(connection, url)
                else:
                    connection.read_only = True
                connection.execute("SET LOCAL TimeZone TO 'UTC'")
                # Of a plan over a hundred partitions most is never run: compiling it takes longer
                # than running it, and reading a whole table in parallel looks cheaper than it is.
                connection.execute("SET LOCAL jit TO off")
                connection.execute("SET LOCAL max_parallel_workers_per_gather TO 0")
                columns, types = _describe(connection, statement)
                if take_role:
                    statement = _enclose(connection, statement, types)
                # A cursor on the server: of a large answer, only FETCH rows are here at a time.
                with connection.cursor("answer") as cursor:
                    try:
                        cursor.execute(statement.encode())
                    except psycopg.errors.SyntaxError:
                        # It parses by itself but not in DECLARE CURSOR FOR.
                        raise QueryRefused(_ONLY_SELECT) from None
                    yield Answer(columns=columns, rows=_fetch(cursor))
            finally:
                connection.rollback()
    except psycopg.Error as error:
        raise QueryRefused(_postgresql_message(error)) from error


def _take_role(connection: psycopg.Connection, url: sa.URL) -> None:
    import psycopg
    from psycopg import sql

    try:
        connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(READER)))
    except (psycopg.errors.InvalidParameterValue, psycopg.errors.InsufficientPrivilege) as error:
        raise QueryRefused(
            f"{_postgresql_message(error)}; ask your administrator for: CREATE ROLE {READER}; "
            f"GRANT {READER} TO {url.username or 'you'}; then run `pneumoq db upgrade`"
        ) from error


def _describe(connection: psycopg.Connection, statement: str) -> tuple[list[str], list[int]]:
    """Column names and type numbers of a statement, which is parsed alone and not run."""
    from psycopg import pq

    # The extended protocol parses exactly one statement.
    for result in (
        connection.pgconn.prepare(b"", statement.encode()),
        described := connection.pgconn.describe_prepared(b""),
    ):
        if result.status != pq.ExecStatus.COMMAND_OK:
            message = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"no answer"
            raise QueryRefused(_one_line(message.decode(errors="replace")))
    columns = range(described.nfields)
    if not columns:
        raise QueryRefused(f"the statement returns no rows; {_ONLY_SELECT}")
    return [(described.fname(n) or b"").decode() for n in columns], [
        described.ftype(n) for n in columns
    ]


def _enclose(connection: psycopg.Connection, statement: str, types: list[int]) -> str:
    """Make the statement a function that cannot leave the reader's role; returns how to call it."""
    import psycopg
    from psycopg import sql

    # A function has no columns of pseudo-types (a row, pg_stats' anyarray): they come as text.
    named = connection.execute(
        "SELECT CASE t.typtype WHEN 'p' THEN 'text' ELSE format_type(t.oid, NULL) END "
        "FROM unnest(%s::oid[]) WITH ORDINALITY AS c (type, n) JOIN pg_type t ON t.oid = c.type "
        "ORDER BY c.n",
        [types],
    ).fetchall()
    columns = ", ".join(f"c{n} {name}" for n, (name,) in enumerate(named))
    try:
        connection.execute(
            sql.SQL(
                "CREATE FUNCTION pg_temp.answer() RETURNS TABLE ({}) "
                "LANGUAGE sql STABLE SECURITY DEFINER AS {}"
            ).format(sql.SQL(columns), sql.Literal(statement))
        )
    except psycopg.errors.InvalidFunctionDefinition:
        raise QueryRefused(_ONLY_SELECT) from None
    connection.execute("SET TRANSACTION READ ONLY")
    return "SELECT * FROM pg_temp.answer()"


def _postgresql_message(error: psycopg.Error) -> str:
    return _one_line(error.diag.message_primary or str(error) or type(error).__name__)


def _one_line(text: str) -> str:
    if "non-volatile function" in text:
        return _ONLY_SELECT
    if "multiple commands" in text:
        return f"more than one statement; {_ONLY_SELECT}"
    return " ".join(text.split())


def _fetch(cursor: Any) -> Iterator[tuple[Any, ...]]:
    while rows := cursor.fetchmany(FETCH):
        yield from rows
