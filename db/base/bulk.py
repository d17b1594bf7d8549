"""Many rows at once, by the fastest way each database has: `executemany`, or COPY.

Rows are plain tuples in the order of the columns; values are what the driver takes, so JSON comes
as text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

if TYPE_CHECKING:
    import psycopg

Row = tuple[Any, ...]


def insert(
    connection: sa.Connection, table: str, columns: Sequence[str], rows: Sequence[Row]
) -> None:
    """Insert rows; IntegrityError where a key is there already."""
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        _copy(connection, table, tuple(columns), rows)
    else:
        connection.exec_driver_sql(_insert(table, tuple(columns)), list(rows))


def array(values: Iterable[bytes | int | str]) -> str:
    """An array as PostgreSQL reads it, for `%s::bytea[]` and the like: the driver takes several
    times as long to write one."""
    return f"{{{','.join([_element(value) for value in values])}}}"


def _element(value: bytes | int | str) -> str:
    if isinstance(value, bytes):
        return rf'"\\x{value.hex()}"'
    if isinstance(value, int):
        return str(value)
    escaped = value.replace("\\", r"\\").replace('"', r"\"")
    return f'"{escaped}"'


@cache
def _insert(table: str, columns: tuple[str, ...]) -> str:
    places = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})"  # noqa: S608  # constants


def _copy(
    connection: sa.Connection, table: str, columns: tuple[str, ...], rows: Sequence[Row]
) -> None:
    statement = f"COPY {table} ({', '.join(columns)}) FROM STDIN"
    raw: psycopg.Connection = connection.connection.driver_connection  # type: ignore[assignment]
    dialect = connection.dialect
    driver: Any = dialect.loaded_dbapi
    try:
        with raw.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            for row in rows:
                copy.write_row(row)
    except driver.Error as error:
        # SQLAlchemy does not see what is done behind its back, and callers know only its errors.
        gone = dialect.is_disconnect(error, connection.connection.dbapi_connection, None)
        wrapped = DBAPIError.instance(
            statement, None, error, driver.Error, connection_invalidated=gone, dialect=dialect
        )
        if gone:
            connection.invalidate(error)
        raise wrapped from error
