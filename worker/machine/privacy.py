"""Keyed hashes: what names a patient leaves the site only as a number that the site can check.

The key never leaves the site's machines. Without it a hash cannot be traced back, and nobody can
find out by trying which patient it stands for; with it, equal things have equal hashes, so that
results roll up by study.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import os
import secrets
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from worker.config import Settings
from worker.errors import ConfigError

What = Literal["patient", "study", "accession", "name"]

#: Bytes of a hash: 128 bits, as 32 hexadecimal digits.
HASH_BYTES = 16

#: Bytes by which one seal differs from another of the same.
_NONCE_BYTES = 16

#: Fewer characters than this can be guessed.
SHORTEST_KEY = 16

#: BLAKE2b takes keys up to this length; longer secrets are hashed to it.
_KEY_BYTES = 64


class Privacy:
    """Hashes under one site's key."""

    def __init__(self, key: bytes) -> None:
        self._key = hashlib.blake2b(key, digest_size=_KEY_BYTES).digest()

    def hash(self, what: What, value: str) -> str:
        """32 hexadecimal digits; the same value as something else has another hash."""
        return hashlib.blake2b(
            value.encode("utf-8", "surrogateescape"),
            digest_size=HASH_BYTES,
            key=self._key,
            person=what.encode(),
        ).hexdigest()

    def seal(self, data: bytes) -> bytes:
        """Bytes that only this site can read again, by `unseal`."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        hidden = self._with_stream(nonce, data)
        return nonce + self._proof(nonce + hidden) + hidden

    def unseal(self, sealed: bytes) -> bytes | None:
        """What `seal` was given; None where it was by another site, or is damaged."""
        nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        proof, hidden = rest[:HASH_BYTES], rest[HASH_BYTES:]
        if not hmac.compare_digest(proof, self._proof(nonce + hidden)):
            return None
        return self._with_stream(nonce, hidden)

    def _with_stream(self, nonce: bytes, data: bytes) -> bytes:
        """Bytes xor those that the key and the nonce give: the same again takes it back."""
        stream = hashlib.shake_256(b"seal" + self._key + nonce).digest(len(data))
        mixed = int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")
        return mixed.to_bytes(len(data), "big")

    def _proof(self, data: bytes) -> bytes:
        return hashlib.blake2b(data, digest_size=HASH_BYTES, key=self._key, person=b"seal").digest()

    def key_of_manifests(self) -> bytes:
        """The key under which training hashes names: from it the site's own cannot be found."""
        return hashlib.blake2b(
            b"", digest_size=_KEY_BYTES, key=self._key, person=b"manifests"
        ).digest()


def load(settings: Settings) -> Privacy:
    """Hashes under the site's key: PNEUMOQ_SITE_KEY, or a file in the home, made at first use.

    Raises ConfigError where there is neither, or the key could be guessed.
    """
    if settings.site_key is not None:
        if len(settings.site_key) < SHORTEST_KEY:
            raise ConfigError(
                f"PNEUMOQ_SITE_KEY has fewer than {SHORTEST_KEY} characters and could be guessed; "
                "make one with: openssl rand -hex 32"
            )
        return Privacy(settings.site_key.encode())
    path = key_path(settings.home)
    try:
        _make(path)
        key = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the site's key cannot be kept in {path} ({error.strerror}); set PNEUMOQ_SITE_KEY"
        ) from error
    if len(key) < SHORTEST_KEY:
        raise ConfigError(f"{path} is damaged; restore it, or hashes will match no earlier ones")
    return Privacy(key)


def key_path(home: Path) -> Path:
    """Where the key is kept that nobody set."""
    return home / "site.key"


def _make(path: Path) -> None:
    """Make a key unless there is one, in one step whoever else does."""
    if path.exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(fd, secrets.token_hex(32).encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass  # another process was first: its key is the key
    finally:
        temporary.unlink()


def keep_names(home: Path, job_id: int, rows: Iterable[tuple[int | str, str, str]]) -> None:
    """Append (item_no, name in the database, name in the archive) to the job's map in the home.

    The map stays on the machine that read the films. A shard that was scored twice is in it twice.
    """
    _write(_folder(home) / f"job-{job_id}.csv", rows, os.O_APPEND)


def of_manifest(made: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Rows for `keep_names` of what the hashes in a manifest stand for, which have no item_no."""
    return (("", hashed, name) for hashed, name in made.items())


def names_of_manifest(home: Path, job_id: int) -> dict[str, str]:
    """What the hashes in a training's manifest stand for, as far as this machine knows it."""
    try:
        with (home / "names" / f"job-{job_id}.csv").open(newline="", encoding="utf-8") as file:
            return {row[1]: row[2] for row in csv.reader(file) if len(row) == 3 and not row[0]}
    except OSError:
        return {}


def keep_left_out(home: Path, job_id: int, rows: Iterable[tuple[str, str, str]]) -> Path:
    """Keep (path, code, reason) of the files that a training does without; returns where."""
    path = _folder(home) / f"job-{job_id}.left-out.csv"
    _write(path, rows, os.O_TRUNC)
    return path


def keep_untaken(home: Path, schedule_id: int, rows: Iterable[tuple[str, str]]) -> Path:
    """Keep (path, reason) of files that a schedule's latest look did not take; returns where."""
    path = _folder(home) / f"schedule-{schedule_id}.csv"
    _write(path, rows, os.O_TRUNC)
    return path


def where(home: Path, path: Path) -> str:
    """Where something is kept, in words that hold no path of this machine's."""
    return f"PNEUMOQ_HOME/{path.relative_to(home)} on {socket.gethostname()}"


def _folder(home: Path) -> Path:
    folder = home / "names"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _write(path: Path, rows: Iterable[tuple[object, ...]], how: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | how | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        csv.writer(file).writerows(rows)
