"""`pneumoq doctor`: is everything here that this machine needs, and what to do where it is not.

Each check is a function that returns what it found; nothing heavy is imported and nothing is made.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from db.base import database, migrate, workers
from db.base.errors import DatabaseError, NotMigrated
from db.nightly import schedules, unpromoted, watched
from scheduler import errors, session
from scheduler.checks import gpu, machine
from scheduler.checks.finding import Finding, ok, problem, warning
from scheduler.show import output
from worker import config
from worker.config import Settings
from worker.errors import ConfigError
from worker.machine import health, privacy

#: A broker that does not answer within this many seconds is taken to be gone.
BROKER_TIMEOUT_S = 3.0

#: File systems on which SQLite's locks and shared memory cannot be trusted.
NETWORK_FILE_SYSTEMS = (
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "fuse.sshfs",
    "ceph",
    "lustre",
)


@click.command("doctor")
@output.json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Check this machine and print every setting.

    Settings are environment variables. Each check is ok, a warning or a problem, and says what to
    do. The exit status is 1 where there is a problem.

    \b
    Examples:
      pneumoq doctor
      pneumoq doctor --json
    """
    findings: list[Finding] = []
    try:
        settings = session.settings()
        findings += examine(settings)
    except ConfigError as error:
        # The other checks would be of a place that nobody meant.
        settings = config.load({})
        findings.append(problem("settings", str(error), "mend the environment variable"))
    described = config.describe(settings)
    if as_json:
        checks = [vars(finding) for finding in findings]
        output.emit({"settings": described, "checks": checks}, as_json=True)
    else:
        _print(described, findings)
    if any(finding.status == "problem" for finding in findings):
        ctx.exit(errors.JOB_FAILED)


def _print(described: list[dict[str, str]], findings: list[Finding]) -> None:
    colours = {"ok": "green", "warning": "yellow", "problem": "red"}
    output.table(described, ["variable", "value", "set", "meaning"])
    click.echo()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        status = click.style(f"{finding.status:<7}", fg=colours[finding.status])
        advice = f": {finding.advice}" if finding.advice else ""
        click.echo(f"{status}  {finding.name:<{width}}  {output.printable(finding.found)}{advice}")
    click.echo("\nResearch software, not a medical device.")


def examine(settings: Settings) -> Iterator[Finding]:
    """All checks, in the order in which one would want to mend them."""
    yield ok("settings", "every variable is known and well formed")
    yield machine.python()
    yield from machine.libraries()
    yield from machine.extras(settings)
    yield machine.dicom()
    yield from machine.cpu()
    yield machine.decoders()
    yield from gpu.examine(settings)
    yield machine.disk(settings)
    yield site_key(settings)
    yield from database_and_workers(settings)
    yield broker(settings)


def site_key(settings: Settings) -> Finding:
    """Whether there is a key to hash patients and names with, and that no other machine has one."""
    variable = f"{config.PREFIX}SITE_KEY"
    if settings.site_key is not None:
        if len(settings.site_key) < privacy.SHORTEST_KEY:
            return problem(
                "site key", f"{variable} has fewer than {privacy.SHORTEST_KEY} characters",
                "it could be guessed; make one with: openssl rand -hex 32",
            )  # fmt: skip
        return ok("site key", f"set by {variable}")
    path = privacy.key_path(settings.home)
    if not path.exists():
        return ok("site key", "not made yet", f"the first worker makes {path}")
    if path.stat().st_mode & 0o077:
        return warning("site key", f"{path} can be read by others", f"chmod 600 {path}")
    return ok("site key", str(path), "keep a copy: without it hashes match no earlier ones")


def database_and_workers(settings: Settings) -> Iterator[Finding]:
    """Whether the database answers, its schema's revision, and the workers that it knows of."""
    try:
        engine = session.connect(settings)
    except ConfigError as error:
        yield problem("database", str(error), "mend the environment variable")
        return
    file = settings.database_path
    if file is not None:
        kind = _file_system(machine.nearest(file.parent))
        if kind in NETWORK_FILE_SYSTEMS:
            yield problem(
                "database", f"{file} is on a network file system ({kind})",
                "SQLite loses data there: move it to a local disk, or use PostgreSQL",
            )  # fmt: skip
        if not file.exists():
            yield ok("database", f"{file} is not there yet", "the first command makes it")
            yield from _live(None)
            return
    started = time.monotonic()
    refused: NotMigrated | None = None
    try:
        revision = migrate.current(engine)
        alive = None if revision is None else workers.alive(engine)
        try:
            migrate.check(engine)
        except NotMigrated as error:
            refused = error
    except (SQLAlchemyError, DatabaseError) as error:
        text = " ".join(str(getattr(error, "orig", error)).split())
        yield problem(
            "database", f"does not answer: {text}",
            f"see that the server of {config.PREFIX}DATABASE_URL runs and lets this user in",
        )  # fmt: skip
        return
    took_ms = (time.monotonic() - started) * 1000
    if revision is None and file is not None:
        yield ok("database", "answers, without a PneumoQ schema", "the first command makes it")
    elif refused is not None:
        yield problem("database", refused.found, refused.advice)
    else:
        newer = "" if revision == migrate.HEAD else f" (newer than {migrate.HEAD}, may be used)"
        yield ok(
            "database",
            f"{_server(engine)}, schema {revision}{newer}, answers in {took_ms:.0f} ms",
        )
    yield from _live(alive)
    if revision == migrate.HEAD:
        yield from _nights(engine)
        yield from _given_up(engine)


def _nights(engine: sa.Engine) -> Iterator[Finding]:
    """Schedules whose nights have promoted nothing for so long that hooks have a notice of it."""
    for row in schedules.listing(engine):
        limit = unpromoted.notice_after(row["spec"])
        if row["kind"] != "train" or not limit:
            continue
        with database.reading(engine) as connection:
            found = unpromoted.in_a_row(connection, row["id"], row["spec"])
        if found.nights >= limit:
            yield warning(
                f"schedule {row['name']}",
                found.sentence,
                f"`pneumoq schedule show {row['name']}` says why",
            )


def _given_up(engine: sa.Engine) -> Iterator[Finding]:
    """Schedules of which files in a watched folder are given up."""
    for row in schedules.listing(engine):
        files = len(watched.given_up(engine, row["id"]))
        if files:
            yield warning(
                f"schedule {row['name']}",
                f"{files} files in its folders are given up, after {watched.MAX_ATTEMPTS} attempts "
                "each, and not scored",
                f"copy them again; `pneumoq schedule show {row['name']}` says where they are named",
            )


def _server(engine: sa.Engine) -> str:
    with database.reading(engine) as connection:
        if engine.dialect.name == "sqlite":
            return f"SQLite {sqlite3.sqlite_version}"
        version = connection.execute(sa.text("SHOW server_version")).scalar()
        return f"PostgreSQL {version}"


def _file_system(folder: Path) -> str:
    """Type of the file system that a folder is on; empty where the system does not tell."""
    try:
        lines = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    resolved = folder.resolve()
    best, kind = -1, ""
    for line in lines:
        _, point, type_, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if resolved.is_relative_to(point) and len(point) >= best:
            best, kind = len(point), type_
    return kind


def _live(alive: list[sa.RowMapping] | None) -> Iterator[Finding]:
    if not alive:
        yield warning("workers", "none", "jobs wait until one runs: start `pneumoq up`")
    for worker in alive or []:
        name = f"worker {worker['queues']}"
        computes = f" with {worker['engine']}" if worker["engine"] else ""
        found = (
            f"process {worker['pid']} on {worker['host']}{computes}, "
            f"since {output.when(worker['started_at'])}"
        )
        state = worker["health"] or {}
        if state:
            found = f"{found}; {health.text(state)}"
        if "throttled" in state:
            yield warning(name, found, "its GPU is slowed down: see to its cooling and power")
        elif "left_behind" in state:
            yield warning(name, found, "its log names the disk or share: see to that")
        elif "silent" in state:
            yield warning(name, found, "see to the driver; dmesg says what it met")
        else:
            yield ok(name, found)


def broker(settings: Settings) -> Finding:
    """Whether the broker answers, and whether it would throw messages away."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    name = "broker, embedded" if settings.embedded_broker else "broker"
    url = settings.broker_url
    if url.startswith("redis+socket://"):
        url = "unix://" + url.partition("://")[2].replace("virtual_host=", "db=")
    try:
        client = redis.Redis.from_url(
            url,
            socket_timeout=BROKER_TIMEOUT_S,
            socket_connect_timeout=BROKER_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            client.ping()
            return _answering(client, name)
        finally:
            client.close()
    except (redis.RedisError, OSError, ValueError) as error:
        if settings.embedded_broker:
            return warning(name, "not running", "start `pneumoq up`")
        return problem(
            name, f"does not answer: {error}", f"see that {config.PREFIX}BROKER_URL is right"
        )


def _answering(client: Any, name: str) -> Finding:
    """A broker that answers: its version, and its policy when memory is full."""
    import redis

    info = client.info("server")
    what = "Valkey" if "valkey_version" in info else "Redis"
    found = f"{what} {info.get('valkey_version') or info.get('redis_version')} answers"
    try:
        policy = client.config_get("maxmemory-policy").get("maxmemory-policy", "noeviction")
    except redis.ResponseError:
        # A managed server may not show its configuration.
        return ok(name, found)
    if policy != "noeviction":
        return warning(
            name, f"{found}, but drops keys when memory is full ({policy})",
            "set its maxmemory-policy to noeviction",
        )  # fmt: skip
    return ok(name, found)
