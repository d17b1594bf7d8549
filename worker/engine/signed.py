"""Signed: files of this machine that nobody else can have written.

What TensorRT is given to load is code. A file here says what it is, holds it, and carries an
HMAC-SHA256 of both under a secret that only this machine's user can read. It is written in one
step: after a crash there is the old file, the new one or none, never half of one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trainer import atomic
from trainer.errors import Stopped

#: First line of each file; the signature is the second, what it says of itself the third.
MAGIC = b"PneumoQ engine 1\n"

#: Bytes of the machine's secret.
SECRET_BYTES = 32

#: Seconds between two looks at whether another process is done.
POLL_S = 0.2

#: Seconds after which a half-written file is a dead process's: writing one takes moments.
ABANDONED_S = 3600.0

_log = logging.getLogger(__name__)


class NotOurs(Exception):
    """A file that this machine did not write, or not so."""


def secret(folder: Path) -> bytes:
    """This machine's secret, made once; a new one where somebody else could have read it.

    Closes the folder to everybody else. Raises OSError.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)
    path = folder / "key"
    with locked(folder / "key.lock"):
        try:
            found, mode = path.read_bytes(), path.stat().st_mode
        except FileNotFoundError:
            return _make(path)
        if len(found) == SECRET_BYTES and not mode & 0o077:
            return found
        _log.warning(
            "%s is damaged or was open to others; it is made anew, and so is every engine", path
        )
        return _make(path)


def read(path: Path, key: bytes) -> tuple[dict[str, Any], bytes, str]:
    """What a file says about itself, what it holds, and its signature, which was verified first.

    Raises NotOurs, and OSError.
    """
    whole = path.read_bytes()
    head = re.match(re.escape(MAGIC) + rb"([0-9a-f]{64})\n", whole)
    if head is None:
        raise NotOurs("it is no file of PneumoQ's, or only the beginning of one")
    signature = head[1].decode()
    if not hmac.compare_digest(_sign(key, memoryview(whole)[head.end() :]), signature):
        raise NotOurs("it is damaged, or another machine built it")
    end = whole.index(b"\n", head.end())
    return json.loads(whole[head.end() : end]), whole[end + 1 :], signature


def write(path: Path, about: dict[str, Any], data: bytes, key: bytes) -> str:
    """Write a file, and return its signature.

    Where there is no room the file is left out, and the log says so: what it holds serves all the
    same, and is made anew the next time.
    """
    head = json.dumps(about, sort_keys=True).encode() + b"\n"
    signature = _sign(key, head, data)
    try:
        _replace(path, MAGIC, signature.encode() + b"\n", head, data)
    except OSError as error:
        _log.warning("engine %s cannot be kept, and will be built anew: %s", path.name, error)
    return signature


def preview(path: Path) -> tuple[str, dict[str, Any]]:
    """A file's signature and what it claims about itself, unverified; empty where it is damaged.

    Raises OSError.
    """
    with path.open("rb") as file:
        if file.readline() == MAGIC:
            signature = file.readline(80).decode(errors="replace").strip()
            with contextlib.suppress(ValueError):
                about = json.loads(file.readline(1 << 16))
                return signature, about if isinstance(about, dict) else {}
    return "", {}


def sweep(folder: Path, path: Path) -> None:
    """Remove what killed processes had begun to write; of `path` all, so hold its lock."""
    for part in folder.glob(".*"):
        with contextlib.suppress(FileNotFoundError):
            abandoned = time.time() - part.stat().st_mtime > ABANDONED_S
            if abandoned or atomic.is_part_of(part, path):
                part.unlink()


@contextlib.contextmanager
def locked(
    path: Path,
    waiting: Callable[[], None] = lambda: None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Held by one thread of one process at a time, until the block's end or its process's.

    `waiting` is called again and again while another holds it. Raises Stopped when `stop` says so
    meanwhile, and OSError.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if stop():
                    raise Stopped("stopped while another process built the engine") from None
                waiting()
                time.sleep(POLL_S)
        yield
    finally:
        os.close(fd)


def _make(path: Path) -> bytes:
    made = secrets.token_bytes(SECRET_BYTES)
    _replace(path, made)
    return made


def _sign(key: bytes, *parts: memoryview | bytes) -> str:
    made = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        made.update(part)
    return made.hexdigest()


def _replace(path: Path, *parts: bytes) -> None:
    """Replace a file in one step, readable to nobody else; raises OSError."""
    with atomic.replacing(path, private=True, sync=True) as part, part.open("wb") as file:
        file.writelines(parts)
