"""What a migration does to a schema that an older release could not live with.

Two looks at a database, before the migration and after, are compared: nothing of the first may be
missing, changed or held more tightly in the second. `db.migrations` has the rule in words. What a
migration does to rows is not seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

#: Releases delete rows of these: what newly refers to one must not hold its rows fast.
LOSE_ROWS = frozenset(
    {
        *("rollups", "shard_listings", "shards", "sources", "job_events", "films", "epochs"),
        *("evaluations", "engines", "model_chunks", "workers"),
        *("predictions", "cams", "refusals", "item_errors", "labels", "identities"),
    }
)

#: Of `IN`, as SQLite keeps it and as PostgreSQL does.
_LIST = re.compile(
    r"(?P<column>\w+) IN \((?P<sqlite>.*)\)"
    r"|(?P<column_pg>\(?\w+\)?(::text)?) = ANY \(\(?ARRAY\[(?P<postgresql>.*?)\]\)?(::text\[\])?\)"
)
_LITERALS = re.compile(r"'[^']*'(::[a-z ]+)?(, '[^']*'(::[a-z ]+)?)*")


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table as the database describes it; comments left out."""

    #: Name → type, whether it may be NULL, default.
    columns: dict[str, tuple[str, bool, str | None]]
    primary_key: tuple[str, ...]
    #: Columns, table, its columns → what happens when the row there is deleted.
    foreign_keys: dict[tuple[tuple[str, ...], str, tuple[str, ...]], str]
    #: Columns of UNIQUE constraints and of unique indexes (with their condition).
    unique: frozenset[tuple[tuple[str, ...], str]]
    #: Name → condition.
    checks: dict[str, str]
    #: Name → columns or expressions, condition; unique ones left out.
    indexes: dict[str, tuple[tuple[str, ...], str]]


def look(connection: sa.Connection) -> dict[str, Table]:
    """Every table of a database by name, PostgreSQL's partitions left out."""
    inspector = sa.inspect(connection)
    return {
        name: _table(inspector, name)
        for name in inspector.get_table_names()
        if not re.search(r"_p\d+$", name)
    }


def _table(inspector: sa.Inspector, name: str) -> Table:
    indexes = {
        str(index["name"]): (
            tuple(str(c) for c in index.get("expressions", index["column_names"])),
            bool(index["unique"]),
            str({k: str(v) for k, v in index.get("dialect_options", {}).items() if "where" in k}),
        )
        for index in inspector.get_indexes(name)
        if "duplicates_constraint" not in index
    }
    return Table(
        columns={
            column["name"]: (
                str(column["type"]),
                column["nullable"],
                None if column["default"] is None else str(column["default"]),
            )
            for column in inspector.get_columns(name)
        },
        primary_key=tuple(inspector.get_pk_constraint(name)["constrained_columns"]),
        foreign_keys={
            (
                tuple(key["constrained_columns"]),
                key["referred_table"],
                tuple(key["referred_columns"]),
            ): str(key.get("options", {}).get("ondelete", ""))
            for key in inspector.get_foreign_keys(name)
        },
        unique=frozenset(
            {
                *((tuple(u["column_names"]), "") for u in inspector.get_unique_constraints(name)),
                *((columns, where) for columns, unique, where in indexes.values() if unique),
            }
        ),
        checks={
            str(check["name"]): " ".join(check["sqltext"].split())
            for check in inspector.get_check_constraints(name)
        },
        indexes={
            index: (columns, where)
            for index, (columns, unique, where) in indexes.items()
            if not unique
        },
    )


def breaks(before: dict[str, Table], after: dict[str, Table]) -> list[str]:
    """What an older release could not live with, a sentence each; empty where all was added."""
    found = [f"table {name} is gone" for name in before.keys() - after.keys()]
    for name, table in after.items():
        if name in before:
            found += [f"{name}: {what}" for what in _breaks(before[name], table)]
        for key, ondelete in table.foreign_keys.items():
            target = key[1]
            if name in before and key in before[name].foreign_keys:
                continue
            if target in LOSE_ROWS & before.keys() and ondelete not in ("CASCADE", "SET NULL"):
                found.append(
                    f"{name}: its foreign key to {target} keeps rows there from being deleted; "
                    "say ON DELETE CASCADE or SET NULL"
                )
    return sorted(found)


def _breaks(before: Table, after: Table) -> Iterator[str]:
    new = {name: c for name, c in after.columns.items() if name not in before.columns}
    for name, column in before.columns.items():
        if name not in after.columns:
            yield f"column {name} is gone"
        elif after.columns[name] != column:
            yield f"column {name} was {column} and is {after.columns[name]}"
    for name, (_, nullable, default) in new.items():
        if not nullable and default is None:
            yield f"new column {name} can neither be NULL nor has it a default"
    if after.primary_key != before.primary_key:
        yield f"the primary key was {before.primary_key} and is {after.primary_key}"

    for columns, target, _ in before.foreign_keys.keys() - after.foreign_keys.keys():
        yield f"the foreign key of {columns} to {target} is gone"
    for columns, target, _ in after.foreign_keys.keys() - before.foreign_keys.keys():
        if not any(new.get(column, ("", False, ""))[1:] == (True, None) for column in columns):
            yield f"new foreign key of {columns}, which older releases fill in, to {target}"
    for columns, _ in before.unique - after.unique:
        yield f"{columns} need no longer be unique"
    for columns, _ in after.unique - before.unique:
        if not any(new.get(column, ("", False, ""))[1:] == (True, None) for column in columns):
            yield f"{columns} must be unique now"

    for name, text in before.checks.items():
        if name not in after.checks:
            yield f"check {name} is gone"
        elif after.checks[name] != text and not _wider(text, after.checks[name]):
            yield f"check {name} was `{text}` and is `{after.checks[name]}`: not seen to be wider"
    for name in after.checks.keys() - before.checks.keys():
        mentioned = set(re.findall(r"\w+", after.checks[name])) & before.columns.keys()
        if mentioned:
            yield f"new check {name} of {sorted(mentioned)}, which older releases fill in"

    fresh = [columns for name, (columns, _) in after.indexes.items() if name not in before.indexes]
    for name, (columns, _) in before.indexes.items():
        if name not in after.indexes and not any(other[0] == columns[0] for other in fresh):
            yield f"index {name} is gone and no new one begins with {columns[0]}"


def _wider(before: str, after: str) -> bool:
    """Whether a check of the form `column IN (…)` only has further values."""
    was, now = _values(before), _values(after)
    return was is not None and now is not None and was[0] == now[0] and was[1] <= now[1]


def _values(check: str) -> tuple[str, set[str]] | None:
    found = _LIST.fullmatch(_bare(check))
    if found is None:
        return None
    literals: Any = found["sqlite"] or found["postgresql"]
    if not literals or not _LITERALS.fullmatch(literals):
        return None
    return found["column"] or found["column_pg"], set(re.findall(r"'[^']*'", literals))


def _bare(check: str) -> str:
    """A condition without the brackets around all of it."""
    while check.startswith("(") and check.endswith(")"):
        depth = 0
        for place, sign in enumerate(check):
            depth += (sign == "(") - (sign == ")")
            if depth == 0 and place < len(check) - 1:
                return check
        check = check[1:-1]
    return check
