"""The schema states which releases may use it, and this release heeds what a newer one states."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa

from db.base import migrate
from db.base.database import reading, write
from db.base.errors import NotMigrated
from db.base.schema import compatibility

#: A revision that this code does not know.
NEWER = "9999"


@pytest.fixture(autouse=True)
def release(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked here is asked by release 0.2.0, whatever the release of today is."""
    monkeypatch.setattr(migrate, "RELEASE", "0.2.0")
    monkeypatch.setattr(migrate, "OLDEST_RELEASE", "0.2.0")


def _states(engine: sa.Engine, *rows: tuple[str, str], revision: str = NEWER) -> None:
    """Make a schema of a revision that states this."""

    def change(connection: sa.Connection) -> None:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :r"), {"r": revision})
        connection.execute(sa.delete(compatibility))
        for of, oldest in rows:
            connection.execute(sa.insert(compatibility).values(revision=of, oldest_release=oldest))

    migrate.upgrade(engine)
    write(engine, change)


def _stated(engine: sa.Engine) -> list[tuple[str, str]]:
    with reading(engine) as connection:
        return [
            (r.revision, r.oldest_release) for r in connection.execute(sa.select(compatibility))
        ]


def _refused(engine: sa.Engine, said: str) -> None:
    """Neither checked nor upgraded, and left as it was."""
    before = (migrate.current(engine), _stated(engine))
    for attempt in (migrate.check, migrate.upgrade):
        with pytest.raises(NotMigrated, match=said):
            attempt(engine)
    assert (migrate.current(engine), _stated(engine)) == before


def test_an_upgraded_schema_states_the_oldest_release_that_may_use_it(empty: sa.Engine) -> None:
    migrate.upgrade(empty)

    assert _stated(empty) == [(migrate.HEAD, migrate.BLAKE3_RELEASE)]


def test_a_database_that_older_workers_were_in_admits_them_after_the_upgrade(
    empty: sa.Engine,
) -> None:
    migrate.upgrade(empty, "0018")
    write(
        empty,
        lambda c: c.exec_driver_sql(
            "INSERT INTO workers (id, host, pid, queues, versions, started_at, seen_at) VALUES "
            "('a', 'h', 1, '[]', '{}', CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)"
        ),
    )
    migrate.upgrade(empty)

    assert _stated(empty) == [(migrate.HEAD, migrate.OLDEST_RELEASE)]


@pytest.mark.parametrize("oldest", ["0.2.0", "0.2", "0.1.9", "0.2.0rc1", "0"])
def test_a_newer_schema_that_admits_this_release_is_used_and_left_as_it_is(
    empty: sa.Engine, oldest: str
) -> None:
    _states(empty, (NEWER, oldest))

    migrate.check(empty)
    migrate.upgrade(empty)

    assert (migrate.current(empty), _stated(empty)) == (NEWER, [(NEWER, oldest)])


@pytest.mark.parametrize("oldest", ["0.2.1", "0.10.0", "1", "1.0.0"])
def test_a_newer_schema_that_admits_only_later_releases_is_refused(
    empty: sa.Engine, oldest: str
) -> None:
    _states(empty, (NEWER, oldest))

    _refused(empty, f"releases before {re.escape(oldest)} may not use; this is 0.2.0; install Pne")


def test_a_newer_schema_that_states_nothing_is_refused(empty: sa.Engine) -> None:
    _states(empty)
    _refused(empty, f"is 9999, this PneumoQ needs {migrate.HEAD}; .*the release that upgraded")


def test_what_was_stated_of_an_older_revision_admits_nobody_to_a_newer_one(
    empty: sa.Engine,
) -> None:
    _states(empty, (migrate.HEAD, migrate.OLDEST_RELEASE))

    _refused(empty, "use the release that upgraded the database")


def test_a_statement_that_names_no_release_is_refused(empty: sa.Engine) -> None:
    _states(empty, (NEWER, "the newest"))

    _refused(empty, "names 'the newest' as the oldest release that may use it")


def test_a_schema_without_a_place_for_the_statement_is_refused_where_it_is_unknown(
    empty: sa.Engine,
) -> None:
    migrate.upgrade(empty, "0005")
    write(empty, lambda c: c.execute(sa.text("UPDATE alembic_version SET version_num = '9999'")))

    with pytest.raises(NotMigrated, match="use the release that upgraded the database"):
        migrate.check(empty)


def test_a_release_that_may_not_use_a_schema_it_knows_neither_uses_nor_readmits_itself(
    empty: sa.Engine,
) -> None:
    _states(empty, (migrate.HEAD, "0.3.0"), revision=migrate.HEAD)

    _refused(empty, "releases before 0.3.0 may not use")


def test_an_upgrade_admits_no_release_that_was_excluded(
    empty: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    _states(empty, (migrate.HEAD, "0.3.0"), revision=migrate.HEAD)
    monkeypatch.setattr(migrate, "RELEASE", "0.3.1")

    migrate.upgrade(empty)

    assert _stated(empty) == [(migrate.HEAD, "0.3.0")]


def test_a_database_without_a_schema_is_told_from_an_old_one(empty: sa.Engine) -> None:
    with pytest.raises(NotMigrated, match="has no PneumoQ schema; run `pneumoq db upgrade`"):
        migrate.check(empty)

    migrate.upgrade(empty, "0005")

    with pytest.raises(
        NotMigrated, match=f"is 0005, this PneumoQ needs {migrate.HEAD}; .*`pneumoq db upg"
    ):
        migrate.check(empty)
