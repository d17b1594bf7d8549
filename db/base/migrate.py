"""Schema changes are Alembic migrations; this runs them without an alembic.ini."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from db.base import database
from db.base.errors import NotMigrated

if TYPE_CHECKING:
    # Imported where it is used: looking at a current schema must not wait for Alembic to load.
    from alembic.config import Config

_MIGRATIONS = Path(__file__).parents[1] / "migrations"

#: The revision that this code is written for; a test holds it equal to the newest migration.
HEAD = "0005"


def config(engine: sa.Engine) -> Config:
    """An Alembic configuration that uses this engine."""
    from alembic.config import Config

    cfg = Config()
    cfg.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    cfg.attributes["engine"] = engine
    return cfg


def upgrade(engine: sa.Engine, revision: str = "head") -> None:
    """Bring the schema up to `revision`, creating it where there is none.

    Of several that do so at once the others wait; Unavailable where that takes too long.
    """
    from alembic import command

    database.patiently(lambda: command.upgrade(config(engine), revision))


def downgrade(engine: sa.Engine, revision: str) -> None:
    """Take the schema back to `revision` (`base`: remove everything)."""
    from alembic import command

    command.downgrade(config(engine), revision)


def current(engine: sa.Engine) -> str | None:
    """The schema's revision, or None where there is no schema."""
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def check(engine: sa.Engine) -> None:
    """Raise NotMigrated unless the schema is the one this code is written for."""
    found = current(engine)
    if found is None:
        raise NotMigrated("the database has no PneumoQ schema; run `pneumoq db upgrade`")
    if found != HEAD:
        raise NotMigrated(
            f"the database schema is {found}, this PneumoQ needs {HEAD}; "
            "stop the workers and run `pneumoq db upgrade`"
        )
