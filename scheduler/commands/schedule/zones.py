"""A schedule's times: in its own zone, in UTC, and which zone this machine is in."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa

from worker import config
from worker.errors import ConfigError
from worker.schedules import timetable


def local_zone(etc: Path = Path("/etc")) -> str:
    """This machine's time zone by its IANA name; UTC where it does not tell."""
    named: list[str | None] = [config.time_zone()]
    with contextlib.suppress(OSError):
        named.append(str((etc / "localtime").resolve()).partition("zoneinfo/")[2])
    with contextlib.suppress(OSError, UnicodeDecodeError):
        named.append((etc / "timezone").read_text("utf-8").strip())
    for name in filter(None, named):
        with contextlib.suppress(ConfigError):
            timetable.zone(name)
            return name
    return "UTC"


def next_(row: Mapping[str, Any] | sa.RowMapping, at: datetime) -> datetime | None:
    """When a schedule runs next; None where it is paused, or its zone is not known here."""
    if row["paused"]:
        return None
    try:
        return timetable.following(row["cron"], row["tz"], at)
    except ConfigError as error:
        click.echo(f"{row['name']} does not run on this machine: {error}", err=True)
        return None


def there(moment: datetime, tz: str) -> str:
    """A time as the clocks of a zone show it."""
    return f"{moment.astimezone(timetable.zone(tz)):%Y-%m-%d %H:%M}"


def both(moment: datetime | None, tz: str) -> str:
    """A time in a zone and in UTC; `?` where there is none that this machine knows of."""
    if moment is None:
        return "?"
    utc = f"{moment.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"
    local = there(moment, tz)
    return utc if utc == f"{local} UTC" else f"{local} in {tz} ({utc})"
