"""Where a name may stand: the table of docs/concepts/patient-data.md, and all that is looked at.

Kinds of tokens: `source`, a part of a path that a person gave; `film`, of the name of an image
below it; `dicom`, the same of a DICOM file; `hidden`, of either where names are hashed; `text`,
what is written in a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from tests.privacy.hospital import Hospital
from tests.support.tokens import found


class May(NamedTuple):
    """Tokens of these kinds may stand there, for a reason."""

    place: str
    kinds: frozenset[str]
    why: str


def _may(place: str, kinds: str, why: str) -> May:
    return May(place, frozenset(kinds.split()), why)


#: Whatever is found anywhere else fails the test.
ALLOWED = (
    _may("column sources.uri", "source", "workers find the source by it"),
    _may("column sources.fingerprint", "source", "of a folder and a film it is the path"),
    _may("column sources.paths", "film dicom", "of a list that no file holds: what it names"),
    _may("column sources.listed", "source film dicom hidden", "what a list named: workers read it"),
    _may("column jobs.spec", "source", "what was asked for"),
    _may("column schedules.spec", "source", "what was asked for"),
    _may("column datasets.root", "source", "where a person gave it"),
    _may("column datasets.manifest", "source film", "which film is of which patient"),
    _may("column shard_listings.listing", "source film dicom hidden", "the film is found by it"),
    _may("column pages.path", "source", "which page, export or folder was written where"),
    _may("column watched.path", "source film dicom", "a file is taken once, and found by it"),
    *(
        _may(f"column {table}.name", "film source", "films that are no DICOM keep their names")
        for table in ("predictions", "refusals", "item_errors")
    ),
    *(
        _may(f"column {sentence}", "source", "which source cannot be read")
        for sentence in (
            "jobs.reason", "job_events.detail", "runs.reason", "shards.last_error",
            "sources.trouble", "outages.reason",
        )
    ),
    _may("home names/*", "film dicom hidden source", "the map, which stays on site"),
    _may("home training/*/left_out.json", "film dicom hidden source", "a run goes on without them"),
    _may("home training/*/films.json", "film dicom hidden source", "a run goes on with them"),
    _may("home training/*/learned.json", "film", "patients whom the start has learned"),
    _may("home training/*/night.json", "source film", "the manifest of the frozen films"),
)  # fmt: skip


def wrong(hospital: Hospital) -> list[str]:
    """Each token that stands where it may not, in words."""
    faults = set()
    known: dict[bytes, set[tuple[str, str]]] = {}
    for place, data in everywhere(hospital):
        content = hashlib.blake2b(data, digest_size=16).digest()
        if content not in known:  # a model's file lies in several places
            known[content] = found(data)
        for token, how in known[content]:
            kind = hospital.tokens.kind(token)
            if not any(fnmatch(place, may.place) and kind in may.kinds for may in ALLOWED):
                faults.add(f"{place}: {hospital.tokens.of.get(token, token)} as {how}")
    return sorted(faults)


def everywhere(hospital: Hospital) -> Iterator[tuple[str, bytes]]:
    """(place, bytes) of all that is kept or was sent."""
    yield from _columns(hospital.here.engine)
    yield from _broker(hospital)
    for body in hospital.posted:
        yield "webhook", body
    yield "command", hospital.told.read_bytes() if hospital.told.exists() else b""
    yield from _files("exported", hospital.exported)
    home = hospital.here.settings.home
    yield from _files("home", home)
    for log in sorted(hospital.here.logs.glob("*.log")):
        yield f"log {log.name}", log.read_bytes()


def _columns(engine: sa.Engine) -> Iterator[tuple[str, bytes]]:
    """Every value of every table, as it is stored and in pieces as a whole."""
    tables = sa.MetaData()
    with engine.connect() as connection:
        # The rows of a partition are those of its table.
        parts: set[str] = set()
        if engine.dialect.name == "postgresql":
            query = sa.text("SELECT relname FROM pg_class WHERE relispartition")
            parts = set(connection.execute(query).scalars())
        tables.reflect(connection, only=lambda name, _: name not in parts)
        for table in tables.sorted_tables:
            # A token may lie across two chunks of a model's file.
            order = sorted(table.primary_key.columns, key=lambda column: str(column.name))
            pieces: dict[str, bytes] = {}
            for row in connection.execute(sa.select(table).order_by(*order)).mappings():
                for column, value in row.items():
                    place = f"column {table.name}.{column}"
                    if table.name == "model_chunks" and column == "data":
                        key = f"{place} of {row['sha256']}"
                        pieces[key] = pieces.get(key, b"") + _bytes(value)
                    else:
                        yield place, _bytes(value)
            yield from pieces.items()


def _bytes(value: object) -> bytes:
    if isinstance(value, bytes | memoryview):
        return bytes(value)
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    return json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "surrogateescape")


def _broker(hospital: Hospital) -> Iterator[tuple[str, bytes]]:
    """All keys and values, and all that ever were: its file is only appended to."""
    client = hospital.broker.client()
    try:
        for key in client.scan_iter():
            kind = client.type(key).decode()
            value = {
                "string": lambda k: client.get(k),
                "list": lambda k: client.lrange(k, 0, -1),
                "hash": lambda k: client.hgetall(k),
                "set": lambda k: client.smembers(k),
                "zset": lambda k: client.zrange(k, 0, -1, withscores=True),
                "stream": lambda k: client.xrange(k),
            }[kind](key)
            yield "broker", key + b"\n" + _flat(value)
    finally:
        client.close()
    for path in sorted(hospital.broker.folder.rglob("*")):
        if path.is_file():
            yield f"broker file {path.name}", path.read_bytes()


def _flat(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, dict):
        value = list(value.items())
    if isinstance(value, list | tuple | set):
        return b"\n".join(_flat(one) for one in value)
    return str(value).encode()


def _files(place: str, folder: Path) -> Iterator[tuple[str, bytes]]:
    """Files below a folder, and what they are called."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        yield f"{place}'s names", name.encode("utf-8", "surrogateescape")
        # The database's own files hold what its columns hold, and what they held.
        if path.is_file() and not name.startswith("pneumoq.db"):
            yield f"{place} {name}", path.read_bytes()
