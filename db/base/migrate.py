"""Schema changes are Alembic migrations; this runs them without an alembic.ini.

A release may use any schema that says so: see `check`. What a migration may do so that older
releases go on working is written in `db.migrations`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from db.base import database
from db.base.errors import NotMigrated
from db.base.schema import compatibility, site

if TYPE_CHECKING:
    # Imported where it is used: looking at a current schema must not wait for Alembic to load.
    from alembic.config import Config

_MIGRATIONS = Path(__file__).parents[1] / "migrations"

#: The revision that this code is written for; a test holds it equal to the newest migration.
HEAD = "0022"

#: The release that this code is; a test holds it equal to the version in pyproject.toml.
RELEASE = "0.3.0"

#: The oldest release whose workers and commands may use the schema at `HEAD`. Raised only where an
#: older one would do harm or fail, though the migrations only add: its workers are then stopped
#: before the upgrade.
OLDEST_RELEASE = "0.2.0"

#: The oldest release that knows films by what a database that begins today does: an older one would
#: score them anew and keep them twice.
BLAKE3_RELEASE = "0.3.0"


def config(engine: sa.Engine) -> Config:
    """An Alembic configuration that uses this engine."""
    from alembic.config import Config

    cfg = Config()
    cfg.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    cfg.attributes["engine"] = engine
    return cfg


def upgrade(engine: sa.Engine, revision: str = "head") -> None:
    """Bring the schema up to `revision`, creating it where there is none.

    A newer schema that this release may use stays as it is. Of several that upgrade at once the
    others wait. Raises NotMigrated where this release is too old for the schema, and Unavailable
    where waiting takes too long.
    """

    def once() -> None:
        from alembic import command

        found = current(engine)
        if found is None or not _newer(engine, found):
            command.upgrade(config(engine), revision)

    database.patiently(once)


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
    """Raise NotMigrated unless this release may use the schema.

    It may use the one it is written for, and a newer one that names this release or an older one
    as the oldest that may. A newer one that names none is refused.
    """
    found = current(engine)
    if found is None:
        raise NotMigrated("the database has no PneumoQ schema", "run `pneumoq db upgrade`")
    if not _newer(engine, found) and found != HEAD:
        raise NotMigrated(
            f"the database schema is {found}, this PneumoQ needs {HEAD}",
            f"stop the workers of releases before {OLDEST_RELEASE} and run `pneumoq db upgrade`",
        )


def state(connection: sa.Connection) -> None:
    """Write into the schema at `HEAD` which releases may use it; never fewer than it excludes."""
    stated = connection.execute(sa.select(compatibility.c.oldest_release)).scalars().all()
    hashes = connection.execute(sa.select(site.c.content_hash)).scalars().all()
    asked = [BLAKE3_RELEASE] if "blake3" in hashes else []
    oldest = max((OLDEST_RELEASE, *asked, *stated), key=_numbers)
    connection.execute(sa.delete(compatibility))
    connection.execute(
        sa.insert(compatibility).values(revision=HEAD, oldest_release=oldest),
    )


def _newer(engine: sa.Engine, found: str) -> bool:
    """Whether the schema is newer than this code; NotMigrated where this release may not use it."""
    newer = found not in {path.name.partition("_")[0] for path in _MIGRATIONS.glob("versions/*_*")}
    oldest = _oldest_release(engine, found)
    if oldest is None and newer:
        raise NotMigrated(
            f"the database schema is {found}, this PneumoQ needs {HEAD}",
            f"release {RELEASE} does not know {found}: use the release that upgraded the database",
        )
    if oldest is not None and _numbers(oldest) > _numbers(RELEASE):
        raise NotMigrated(
            f"the database schema is {found}, which releases before {oldest} may not use; "
            f"this is {RELEASE}",
            f"install PneumoQ {oldest} or later",
        )
    return newer


def _oldest_release(engine: sa.Engine, revision: str) -> str | None:
    """What the schema states, or None where it states nothing of this revision."""
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table(compatibility.name):
            return None
        return connection.execute(
            sa.select(compatibility.c.oldest_release).where(compatibility.c.revision == revision)
        ).scalar()


def _numbers(release: str) -> tuple[int, ...]:
    """`0.10.0` → (0, 10): in the order of releases; what follows the numbers does not count."""
    found = re.match(r"\d+(\.\d+)*", release)
    if found is None:
        raise NotMigrated(
            f"the database names {release!r} as the oldest release that may use it",
            "use the release that upgraded the database",
        )
    numbers = [int(number) for number in found[0].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
