"""What SQLite 3.37 (JetPack 6) does not know yet, found in the SQL that is sent.

The machine that runs the tests has a newer SQLite, which would accept it.
"""

from __future__ import annotations

import re

import sqlalchemy as sa
from sqlalchemy import event

#: Construct → the SQLite version that brought it.
NEWER = {
    r"->>?": "3.38",
    r"\b(unixepoch|format)\s*\(": "3.38",
    r"\b(RIGHT|FULL)\s+(OUTER\s+)?JOIN\b": "3.39",
    r"\bIS\s+(NOT\s+)?DISTINCT\s+FROM\b": "3.39",
    r"\bunhex\s*\(": "3.41",
    r"'subsec(ond)?'": "3.42",
    r"\b(timediff|octet_length)\s*\(": "3.43",
    r"\b(concat|concat_ws|string_agg)\s*\(": "3.44",
    r"\bgroup_concat\s*\([^()]*\bORDER\s+BY\b": "3.44",
    r"\bjsonb\w*\s*\(": "3.45",
    r"\bjson_pretty\s*\(|\b\d+_\d+\b": "3.46",
    r"\bif\s*\(": "3.48",
}

_LITERAL = re.compile(r"'(?:[^']|'')*'")


def newer(statement: str) -> list[str]:
    """The constructs in a statement that SQLite 3.37 would refuse, each with its version."""
    # What is inside a literal is no SQL, except for the modifiers of time functions.
    code = _LITERAL.sub(lambda m: m[0] if m[0].startswith("'subsec") else "''", statement)
    return [
        f"{found[0]!r} needs SQLite {version}"
        for pattern, version in NEWER.items()
        if (found := re.search(pattern, code, re.IGNORECASE))
    ]


def watch(engine: sa.Engine) -> None:
    """From now on, a statement that SQLite 3.37 would refuse is an error on this engine."""

    def check(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        found = newer(statement)
        assert not found, f"{found} in: {statement}"

    event.listen(engine, "before_cursor_execute", check)
