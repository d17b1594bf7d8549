"""Migrations only add, so that older releases go on working: each newer than 0005 is looked at."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import BatchOperations, Operations
from alembic.script import ScriptDirectory

from db.base import migrate, views
from db.base.database import reading
from db.base.schema import NOTICES
from tests.db.base import additive

Change = Callable[[Operations], None]

#: The schema of the release that knows no other.
FIRST = "0005"


def _revisions() -> list[tuple[str, str]]:
    """Revision before and revision, for every migration after `FIRST`."""
    scripts = ScriptDirectory(str(migrate.config(sa.create_engine("sqlite://")).get_main_option(
        "script_location"
    )))  # fmt: skip
    steps = list(scripts.iterate_revisions("head", FIRST))
    return [(str(step.down_revision), step.revision) for step in reversed(steps)]


@pytest.mark.parametrize(("before", "revision"), _revisions())
def test_a_migration_only_adds(empty: sa.Engine, before: str, revision: str) -> None:
    migrate.upgrade(empty, before)
    with reading(empty) as connection:
        was = additive.look(connection)

    migrate.upgrade(empty, revision)

    with reading(empty) as connection:
        assert additive.breaks(was, additive.look(connection)) == []


def _batch(table: str, change: Callable[[BatchOperations], object]) -> Change:
    """A change of one table: SQLite makes a new one in its place for most of them."""

    def run(op: Operations) -> None:
        with op.batch_alter_table(table) as batch:
            change(batch)

    return run


def _check(table: str, name: str, condition: str) -> Change:
    """A check in the place of the one of the same name."""

    def change(batch: BatchOperations) -> None:
        batch.drop_constraint(name, type_="check")
        batch.create_check_constraint(name, condition)

    return _batch(table, change)


def _another_key(batch: BatchOperations) -> None:
    batch.drop_constraint("pk_watched", type_="primary")
    batch.create_primary_key("pk_watched", ["path_hash"])


def _another_index(*columns: str) -> Change:
    def change(op: Operations) -> None:
        op.drop_index("ix_workers_seen_at", "workers")
        op.create_index("ix_workers_new", "workers", [*columns])

    return change


def _new_table(target: str, **options: str) -> Change:
    def change(op: Operations) -> None:
        op.create_table(
            "likes",
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("other", sa.BigInteger, sa.ForeignKey(target, **options)),  # type: ignore[arg-type]
        )

    return change


def _new_reference(nullable: bool) -> Change:
    def change(batch: BatchOperations) -> None:
        default = None if nullable else "1"
        batch.add_column(
            sa.Column("like", sa.BigInteger, nullable=nullable, server_default=default)
        )
        batch.create_foreign_key("fk_like", "jobs", ["like"], ["id"])
        batch.create_unique_constraint("uq_like", ["like"])

    return _batch("drift", change)


#: All but 'test'.
_EVENTS = ", ".join(repr(event) for event in NOTICES if event != "test")
_EVENT = "ck_notices_event"
_UNIQUE = "uq_engines_sha256_backend_backend_version_device_precision"

#: What a migration must not do → a migration that does it, and what is said of it.
BAD: dict[str, tuple[Change, str]] = {
    "drops a table": (lambda op: op.drop_table("drift"), "^table drift is gone"),
    "renames a table": (lambda op: op.rename_table("drift", "d"), "^table drift is gone"),
    "drops a column": (
        lambda op: op.drop_column("models", "reference"),
        "models: column reference is gone",
    ),
    "renames a column": (
        lambda op: op.execute("ALTER TABLE drift RENAME COLUMN detail TO words"),
        "drift: column detail is gone",
    ),
    "makes a column shorter": (
        _batch("evaluations", lambda b: b.alter_column("split", type_=sa.String(16))),
        r"evaluations: column split was .*64.* and is .*16",
    ),
    "gives a column another type": (
        _batch("drift", lambda b: b.alter_column("n", type_=sa.Text())),
        "drift: column n was",
    ),
    "forbids NULL": (
        _batch("drift", lambda b: b.alter_column("unusual_p", nullable=False)),
        "drift: column unusual_p was",
    ),
    "drops a default": (
        _batch("watched", lambda b: b.alter_column("attempts", server_default=None)),
        "watched: column attempts was",
    ),
    "wants a new column filled in": (
        _batch("drift", lambda b: b.add_column(sa.Column("mood", sa.Text(), nullable=False))),
        "drift: new column mood can neither",
    ),
    "narrows a check": (
        _check("notices", _EVENT, f"event IN ({_EVENTS})"),
        f"notices: check {_EVENT} was",
    ),
    "turns a check round": (
        _check("notices", _EVENT, f"event NOT IN ({_EVENTS}, 'test')"),
        f"notices: check {_EVENT} was",
    ),
    "has another column checked": (
        _check("notices", _EVENT, f"last_error IN ({_EVENTS}, 'test')"),
        f"notices: check {_EVENT} was",
    ),
    "adds a condition to a check": (
        _check("notices", _EVENT, f"event IN ({_EVENTS}, 'test') AND attempts < 9"),
        f"notices: check {_EVENT} was",
    ),
    "drops a check": (
        _batch("notices", lambda b: b.drop_constraint(_EVENT, type_="check")),
        f"notices: check {_EVENT} is gone",
    ),
    "adds a check": (
        _batch("drift", lambda b: b.create_check_constraint("ck_drift_n", "n > 0")),
        r"drift: new check ck_drift_n of \['n'\]",
    ),
    "makes unique by a constraint": (
        _batch("drift", lambda b: b.create_unique_constraint("uq_drift", ["model_id"])),
        r"drift: \('model_id',\) must be unique now",
    ),
    "makes unique by an index": (
        lambda op: op.create_index("ix_unique", "drift", ["model_id"], unique=True),
        r"drift: \('model_id',\) must be unique now",
    ),
    "makes unique what has a default": (
        _new_reference(nullable=False),
        r"drift: \('like',\) must be unique now",
    ),
    "lets what was unique be double": (
        _batch("engines", lambda b: b.drop_constraint(_UNIQUE, type_="unique")),
        r"engines: \('sha256', .*\) need no longer be unique",
    ),
    "changes a key": (_batch("watched", _another_key), "watched: the primary key was"),
    "adds a foreign key": (
        _batch("proofs", lambda b: b.create_foreign_key("fk_w", "workers", ["worker_id"], ["id"])),
        r"proofs: new foreign key of \('worker_id',\)",
    ),
    "drops a foreign key": (
        _batch("drift", lambda b: b.drop_constraint("fk_drift_model_id_models", "foreignkey")),
        r"drift: the foreign key of \('model_id',\) to models is gone",
    ),
    "drops an index": (
        lambda op: op.drop_index("ix_workers_seen_at", "workers"),
        "workers: index ix_workers_seen_at is gone",
    ),
    "puts an index of other columns in the place of one": (
        _another_index("host", "seen_at"),
        "workers: index ix_workers_seen_at is gone",
    ),
    "holds rows fast that are deleted": (
        _new_table("evaluations.id"),
        "likes: its foreign key to evaluations keeps",
    ),
}

#: What it may do.
GOOD: dict[str, Change] = {
    "adds a column that may be NULL": lambda op: op.add_column(
        "jobs", sa.Column("mood", sa.Text(), nullable=True)
    ),
    "adds a column with a default": lambda op: op.add_column(
        "predictions", sa.Column("mood", sa.Text(), nullable=False, server_default="calm")
    ),
    "adds a table": _new_table("jobs.id"),
    "adds a table whose rows go with others": _new_table("evaluations.id", ondelete="CASCADE"),
    "adds an index": lambda op: op.create_index("ix_new", "predictions", ["probability"]),
    "replaces an index": _another_index("seen_at", "host"),
    "widens a check": _check("notices", _EVENT, f"event IN ({_EVENTS}, 'test', 'other')"),
    "adds a unique reference that may be NULL": _new_reference(nullable=True),
}


def _after(database: sa.Engine, change: Change) -> list[str]:
    """What `additive` says of a change to today's schema, which is then taken back."""
    with database.connect() as connection:
        connection = connection.execution_options(pneumoq_write=True)
        with connection.begin() as transaction:
            before = additive.look(connection)
            views.drop(connection)  # as before any migration
            change(Operations(MigrationContext.configure(connection)))
            after = additive.look(connection)
            transaction.rollback()
    return additive.breaks(before, after)


@pytest.mark.parametrize("what", BAD)
def test_a_migration_is_refused_that(database: sa.Engine, what: str) -> None:
    change, said = BAD[what]
    found = _after(database, change)
    assert any(re.search(said, sentence) for sentence in found), found


@pytest.mark.parametrize("what", GOOD)
def test_a_migration_is_let_pass_that(database: sa.Engine, what: str) -> None:
    assert _after(database, GOOD[what]) == []
