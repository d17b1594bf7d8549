"""What every command needs first: settings, a database that is up to date, and who is asking."""

from __future__ import annotations

import getpass
import os
import socket
from pathlib import Path

import click
import sqlalchemy as sa

from db.base import database as connecting
from db.base import migrate
from worker import config, urls
from worker.config import Settings
from worker.errors import ConfigError

#: What a job's number may be; no larger one can be stored.
JOB = click.IntRange(1, 2**63 - 1)

#: How many rows may be asked for: no job has more items.
ROWS = click.IntRange(1, 2**31 - 1)


def settings() -> Settings:
    """The settings of this process's environment; ConfigError where one is malformed."""
    return config.load()


def database(chosen: Settings | None = None) -> sa.Engine:
    """The database of these settings, or of this process's; this release may use its schema.

    SQLite without a schema gets its folder (for the owner's eyes only) and schema here, silently.
    Raises NotMigrated for an old schema, for one that this release may not use, and for PostgreSQL
    without one; ConfigError where the URL is not that of a SQLite file or a PostgreSQL database.
    """
    chosen = chosen or settings()
    engine = connect(chosen)
    if chosen.database_path is not None:
        make_private_folder(chosen.database_path.parent)
        if migrate.current(engine) is None:
            migrate.upgrade(engine)
    migrate.check(engine)
    return engine


def connect(chosen: Settings, variable: str = f"{config.PREFIX}DATABASE_URL") -> sa.Engine:
    """An engine for the database of these settings; nothing is opened or made yet.

    Within a command its connections are closed when the command ends. ConfigError as in `database`,
    naming the variable that the URL is from.
    """
    urls.check_database(variable, chosen.database_url)
    try:
        engine = connecting.connect(chosen.database_url)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{variable} names PostgreSQL, whose driver is not installed: "
            "pip install 'pneumoq[postgres]'"
        ) from error
    command = click.get_current_context(silent=True)
    if command is not None:
        command.find_root().call_on_close(engine.dispose)
    return engine


def make_private_folder(folder: Path) -> None:
    """Make a folder that only its owner can enter; one that is there already is left as it is."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def who() -> str:
    """The person asking, as `user@host`; what jobs and events are signed with."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # A container may run under a number that has no name.
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
