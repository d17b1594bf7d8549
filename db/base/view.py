"""What a public view is, and the few words of its SQL that differ between the databases."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Word → how SQLite and PostgreSQL say it. Most are used as functions of a column.
_WORDS = {
    # A moment's day in UTC, as text: 2026-01-31.
    r"UTC_DAY\(([\w.]+)\)": (
        r"substr(\1, 1, 10)",
        r"to_char(\1 AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
    ),
    # What a JSON object has under a key: a number, or NULL.
    r"JSON_NUMBER\(([\w.]+), (\w+)\)": (
        r"json_extract(\1, '$.\2')",
        r"CAST(\1 ->> '\2' AS double precision)",
    ),
    # The same of a text.
    r"JSON_TEXT\(([\w.]+), (\w+)\)": (r"json_extract(\1, '$.\2')", r"(\1 ->> '\2')"),
    # All sources, each by an index of its `uri`: PostgreSQL has one of short paths, one of long.
    r"ALL_SOURCES\b": (
        "sources",
        "(SELECT job_id, source_no, uri, paths FROM sources WHERE octet_length(uri) <= 2600 "
        "UNION ALL "
        "SELECT job_id, source_no, uri, paths FROM sources WHERE octet_length(uri) > 2600)",
    ),
    # Whether a JSON object has a key.
    r"JSON_HAS\(([\w.]+), (\w+)\)": (
        r"(json_type(\1, '$.\2') IS NOT NULL)",
        r"(\1 -> '\2' IS NOT NULL)",
    ),
}


@dataclass(frozen=True, kw_only=True)
class View:
    """One public view."""

    name: str
    #: What a row is.
    comment: str
    #: Column name → meaning, in order.
    columns: dict[str, str]
    #: The SELECT behind it; its columns are named as above.
    select: str
    #: That of PostgreSQL, where it has one of its own.
    postgresql: str | None = None

    def rendered(self, dialect: str) -> str:
        """The SELECT in the words of a database: `sqlite` or `postgresql`."""
        own = self.postgresql if dialect == "postgresql" else None
        return render(own or self.select, dialect)


def render(sql: str, dialect: str) -> str:
    """SQL in the words of a database: `sqlite` or `postgresql`."""
    for pattern, words in _WORDS.items():
        sql = re.sub(pattern, words[dialect == "postgresql"], sql)
    return sql
