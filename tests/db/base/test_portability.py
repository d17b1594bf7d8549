"""The watch over SQLite 3.37 sees what it should, and nothing else."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from db.base import views
from db.base.database import write
from tests.db.base import portability


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT spec ->> '$.a' FROM jobs",
        "SELECT * FROM a FULL OUTER JOIN b ON a.x = b.x",
        "SELECT * FROM a WHERE x IS NOT DISTINCT FROM y",
        "SELECT unixepoch()",
        "SELECT strftime('%s', 'now', 'subsec')",
        "SELECT string_agg(name, ',') FROM jobs",
        "SELECT group_concat(name ORDER BY id) FROM jobs",
    ],
)
def test_what_sqlite_3_37_does_not_know_is_noticed(
    sqlite_database: sa.Engine, statement: str
) -> None:
    with pytest.raises(AssertionError, match="needs SQLite"):
        write(sqlite_database, lambda c: c.exec_driver_sql(statement))


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO t (a) VALUES (1) ON CONFLICT DO NOTHING RETURNING a",
        "SELECT count(*) FILTER (WHERE a > 1) FROM t LEFT JOIN u ON u.a = t.a",
        "SELECT 'a ->> b, string_agg(c)' FROM t",
        *(view.select for view in views.VIEWS),
    ],
)
def test_what_sqlite_3_37_knows_is_let_through(statement: str) -> None:
    assert portability.newer(statement) == []


def test_foreign_keys_are_enforced(database: sa.Engine) -> None:
    with pytest.raises(IntegrityError):
        write(
            database,
            lambda c: c.execute(
                sa.text("INSERT INTO model_labels (model_id, label_no, name) VALUES (99, 0, 'x')")
            ),
        )
