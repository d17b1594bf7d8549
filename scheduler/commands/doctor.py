"""`pneumoq doctor`: is everything here that this machine needs, and what to do where it is not.

Each check is a function that returns what it found; nothing heavy is imported and nothing is made.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from db import database, migrate, workers
from db.errors import DatabaseError
from scheduler import errors, output, session
from worker import config, privacy
from worker.config import Settings
from worker.errors import ConfigError

#: Less free disk than this is a problem, and a warning, in GiB.
DISK_PROBLEM_GIB, DISK_WARNING_GIB = 1, 10
#: The oldest SQLite whose SQL the schema keeps to; JetPack 6 has it.
SQLITE_OLDEST = (3, 37, 0)
#: A broker that does not answer within this many seconds is taken to be gone.
BROKER_TIMEOUT_S = 3.0

#: What each extra brings, by distribution.
EXTRAS = {
    "train": (("torch", "torchvision"), "this machine cannot train"),
    "postgres": (("psycopg",), "this machine cannot use PostgreSQL"),
}
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
#: What decodes DICOM, by distribution, and which transfer syntaxes.
DICOM = {
    "pydicom": "uncompressed",
    "pylibjpeg-rle": "RLE",
    "pylibjpeg-libjpeg": "JPEG, JPEG lossless, JPEG-LS",
    "pylibjpeg-openjpeg": "JPEG 2000",
}
#: Instructions that make a precision faster than fp32; one of them is enough.
FAST = {
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "int8": ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"),
}
#: Instructions that the CPU engine computes int8 and bf16 with.
CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8",
                "asimddp", "i8mm", "bf16")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found."""

    name: str
    #: `ok`, `warning` (it works, with a limit) or `problem` (it does not work).
    status: str
    found: str
    #: What to do; empty where nothing need be done.
    advice: str = ""


def ok(name: str, found: str, advice: str = "") -> Finding:
    """It is as it should be."""
    return Finding(name=name, status="ok", found=found, advice=advice)


def warning(name: str, found: str, advice: str) -> Finding:
    """It works, with a limit."""
    return Finding(name=name, status="warning", found=found, advice=advice)


def problem(name: str, found: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(name=name, status="problem", found=found, advice=advice)


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
    yield python()
    yield from libraries()
    yield from extras(settings)
    yield dicom()
    yield from cpu()
    yield from gpu()
    yield disk(settings)
    yield site_key(settings)
    yield from database_and_workers(settings)
    yield broker(settings)


def python() -> Finding:
    """The interpreter and the operating system."""
    return ok("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def libraries() -> Iterator[Finding]:
    """What PneumoQ requires, and whether it is installed; versions come from metadata only."""
    try:
        own = importlib.metadata.distribution("pneumoq")
    except importlib.metadata.PackageNotFoundError:
        yield problem("pneumoq", "not installed", "pip install pneumoq")
        return
    yield ok("pneumoq", own.version)
    found, absent = [], []
    for requirement in own.requires or []:
        if "extra ==" in requirement:
            continue
        name = re.split(r"[\s\[<>=!~;(]", requirement, maxsplit=1)[0]
        version = _version(name)
        if version is None:
            absent.append(name)
        else:
            found.append(f"{name} {version}")
    yield ok("libraries", ", ".join(found))
    if absent:
        yield problem("libraries", f"{', '.join(absent)} missing", "pip install pneumoq again")
    if sqlite3.sqlite_version_info < SQLITE_OLDEST:
        oldest = ".".join(map(str, SQLITE_OLDEST))
        yield problem(
            "sqlite", sqlite3.sqlite_version, f"PneumoQ needs {oldest}; use a newer Python build"
        )
    else:
        yield ok("sqlite", sqlite3.sqlite_version)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def extras(settings: Settings) -> Iterator[Finding]:
    """Optional parts: what is installed, and what this machine cannot do without the rest."""
    for extra, (distributions, without) in EXTRAS.items():
        versions = {name: _version(name) for name in distributions}
        found = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
        absent = [name for name, version in versions.items() if version is None]
        name = f"extra {extra}"
        if not absent:
            yield ok(name, found)
            continue
        advice = f"{without}; if it should: pip install 'pneumoq[{extra}]'"
        if extra == "postgres" and settings.database_url.startswith("postgres"):
            yield problem(name, "not installed", f"pip install 'pneumoq[{extra}]'")
        elif found:
            yield warning(name, f"{found}, but not {', '.join(absent)}", advice)
        else:
            yield ok(name, "not installed", advice)


def dicom() -> Finding:
    """Whether every transfer syntax that chest films come in can be decoded."""
    versions = {name: _version(name) for name in DICOM}
    absent = [DICOM[name] for name, version in versions.items() if version is None]
    if absent:
        return problem(
            "dicom",
            f"no decoder of {', '.join(absent)}",
            "install PneumoQ anew: pip install pneumoq",
        )
    return ok("dicom", f"read with pydicom {versions['pydicom']}: {', '.join(DICOM.values())}")


def cpu() -> Iterator[Finding]:
    """The processor, and the precisions that it has instructions for."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        yield ok("cpu", platform.processor() or platform.machine())
        return
    listed = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    flags = set(listed[1].split()) if listed else set()
    model = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    features = [feature for feature in CPU_FEATURES if feature in flags]
    using = f", with {', '.join(features)}" if features else ""
    yield ok("cpu", f"{model[1] if model else platform.machine()}{using}")
    fast = [precision for precision, needs in FAST.items() if flags.intersection(needs)]
    slow = [precision for precision in FAST if precision not in fast]
    yield ok(
        "precisions",
        f"fast here: {', '.join(['fp32', *fast])}",
        f"{' and '.join(slow)} would gain little on this processor" if slow else "",
    )


def gpu() -> Iterator[Finding]:
    """NVIDIA GPUs, as the kernel lists them."""
    names = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        model = re.search(r"^Model:\s*(.*)$", file.read_text(errors="replace"), re.MULTILINE)
        names.append(model[1] if model else "NVIDIA GPU")
    board = Path("/proc/device-tree/model")
    if board.exists():
        name = board.read_text(errors="replace").strip("\0\n")
        names += [name] if "Jetson" in name or "NVIDIA" in name else []
    if not names:
        yield ok("gpu", "none", "films are scored by the CPU")
    else:
        yield ok("gpu", ", ".join(names), "training uses it; films are scored by the CPU so far")


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


def disk(settings: Settings) -> Finding:
    """Free space where PneumoQ keeps its files."""
    folder = _nearest(settings.home)
    free_gib = shutil.disk_usage(folder).free / 2**30
    found = f"{free_gib:,.1f} GiB free in {folder}"
    advice = f"free some, or move {config.PREFIX}HOME"
    if free_gib < DISK_PROBLEM_GIB:
        return problem("disk", found, advice)
    if free_gib < DISK_WARNING_GIB:
        return warning("disk", found, advice)
    return ok("disk", found)


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def database_and_workers(settings: Settings) -> Iterator[Finding]:
    """Whether the database answers, its schema's revision, and the workers that it knows of."""
    try:
        engine = session.connect(settings)
    except ConfigError as error:
        yield problem("database", str(error), "mend the environment variable")
        return
    file = settings.database_path
    if file is not None:
        kind = _file_system(_nearest(file.parent))
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
    try:
        revision = migrate.current(engine)
        alive = None if revision is None else workers.alive(engine)
    except (SQLAlchemyError, DatabaseError) as error:
        text = " ".join(str(getattr(error, "orig", error)).split())
        yield problem(
            "database", f"does not answer: {text}",
            f"see that the server of {config.PREFIX}DATABASE_URL runs and lets this user in",
        )  # fmt: skip
        return
    took_ms = (time.monotonic() - started) * 1000
    if revision is None:
        found = "answers, without a PneumoQ schema"
        if file is not None:
            yield ok("database", found, "the first command makes it")
        else:
            yield problem("database", found, "run `pneumoq db upgrade`")
    elif revision != migrate.HEAD:
        yield problem(
            "database", f"schema {revision}, this PneumoQ needs {migrate.HEAD}",
            "stop the workers and run `pneumoq db upgrade`",
        )  # fmt: skip
    else:
        yield ok("database", f"{_server(engine)}, schema {revision}, answers in {took_ms:.0f} ms")
    yield from _live(alive)


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
        computes = f" with {worker['engine']}" if worker["engine"] else ""
        yield ok(
            f"worker {worker['queues']}",
            f"process {worker['pid']} on {worker['host']}{computes}, "
            f"since {output.when(worker['started_at'])}",
        )


def broker(settings: Settings) -> Finding:
    """Whether the broker answers, and whether it would throw messages away."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    name = "broker, embedded" if settings.embedded_broker else "broker"
    url = settings.broker_url
    if url.startswith(("redis+socket://", "unix://")):
        url = "unix://" + url.partition("://")[2].replace("virtual_host=", "db=")
    elif not url.startswith(("redis://", "rediss://")):
        return ok(name, "not checked: its URL is not one of a single Redis or Valkey")
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
