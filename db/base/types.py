"""Column types and SQL expressions that mean the same on SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """An instant in UTC: `timestamptz` on PostgreSQL, sortable ISO 8601 text on SQLite.

    SQLite keeps `2026-01-31T02:00:00.000Z`, so that text order is time order.
    """

    impl = sa.String
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(sa.TIMESTAMP(timezone=True))
        return dialect.type_descriptor(sa.String(24))

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(
                "a time without a zone cannot be stored; use datetime.now(timezone.utc)"
            )
        value = value.astimezone(timezone.utc)
        if dialect.name == "postgresql":
            return value
        return value.strftime("%Y-%m-%dT%H:%M:%S.") + f"{value.microsecond // 1000:03d}Z"

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        if isinstance(value, str):
            value = datetime.fromisoformat(value.replace("Z", "+00:00"))
        assert isinstance(value, datetime)
        return value.astimezone(timezone.utc)


#: A number of seconds, or an expression of SQL for one.
Seconds: TypeAlias = "float | sa.ColumnElement[float]"


class now(FunctionElement[datetime]):
    """The database's clock, `seconds` from now; leases never use any other clock.

    The seconds may be an expression of SQL.
    """

    type = UtcDateTime()
    inherit_cache = True

    def __init__(self, seconds: Seconds = 0.0) -> None:
        given = isinstance(seconds, sa.ColumnElement)
        super().__init__(seconds if given else sa.literal(float(seconds), sa.Float))


@compiles(now, "postgresql")  # type: ignore[no-untyped-call,untyped-decorator,unused-ignore]
def _now_postgresql(element: now, compiler: Any, **kw: Any) -> str:
    return f"(clock_timestamp() + make_interval(secs => {compiler.process(element.clauses, **kw)}))"


@compiles(now, "sqlite")  # type: ignore[no-untyped-call,untyped-decorator,unused-ignore]
def _now_sqlite(element: now, compiler: Any, **kw: Any) -> str:
    seconds = compiler.process(element.clauses, **kw)
    return f"strftime('%Y-%m-%dT%H:%M:%fZ', 'now', {seconds} || ' seconds')"


def moment(seconds: Seconds = 0.0) -> sa.ColumnElement[Any]:
    """The same clock to compare columns with.

    PostgreSQL reads it once a statement, and so can look into an index; `clock_timestamp()` itself
    would be read anew for every row. Where the seconds are of each row, so is the moment.
    """
    if isinstance(seconds, sa.ColumnElement):
        return now(seconds)
    return sa.select(now(seconds)).scalar_subquery()


def due(column: sa.ColumnElement[Any], longest_s: Seconds) -> sa.ColumnElement[bool]:
    """The condition under which a stored moment need not be waited for any more.

    It has come, or there is none. One that is further ahead than `longest_s`, the longest that
    anybody puts there, was written by a clock that was ahead then: nothing is left of it either.
    """
    return sa.or_(column.is_(None), column <= moment(), column > moment(longest_s))


def pending(column: sa.ColumnElement[Any], longest_s: Seconds) -> sa.ColumnElement[bool]:
    """The contrary of `due`: the moment is still to come, as far ahead as it can be at most."""
    return sa.and_(column > moment(), column <= moment(longest_s))


def lately(column: sa.ColumnElement[Any], within_s: float) -> sa.ColumnElement[bool]:
    """The condition under which something happened within so many seconds.

    What is further ahead than that was written by a clock that was ahead then, and nobody knows
    when.
    """
    return sa.and_(column > moment(-within_s), column <= moment(within_s))


#: A surrogate key; SQLite numbers only `INTEGER PRIMARY KEY` by itself.
BigId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

Json = sa.JSON().with_variant(JSONB(), "postgresql")
