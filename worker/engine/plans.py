"""Plans: what TensorRT built on this machine, kept in `PNEUMOQ_HOME/engines`.

A plan is code: whoever loads one runs it. So each is signed with a secret that only this machine
has, and one that carries another signature, or none, is not loaded but built anew. A plan is found
by a key over everything that it was made from. Two processes that want the same one build it once;
one that is killed while it builds leaves nothing that could be taken for a plan.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import hmac
import json
import logging
import os
import platform
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.errors import Stopped
from worker.engine import build as building
from worker.engine.build import Built, Options
from worker.engine.flavour import Flavour
from worker.engine.progress import Report, silent
from worker.errors import EngineError
from worker.gpu import Gpu

#: Raised when `build` makes something else of the same options; it is part of every key.
RECIPE = 1

#: First line of each file here.
MAGIC = b"PneumoQ engine 1\n"

SUFFIX = ".plan"

#: Bytes of the machine's secret.
SECRET_BYTES = 32

#: Seconds after which a half-written file is a dead process's: writing one takes moments.
ABANDONED_S = 3600.0

#: Seconds between two looks at whether another process is done.
POLL_S = 0.2

#: Where a board says which it is.
_BOARD = Path("/proc/device-tree/model")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A serialised engine of this machine."""

    data: bytes = field(repr=False)
    #: Of everything that it was made from, as hexadecimal digits.
    key: str
    #: Whether it was built just now, and in how many seconds it was, now or then.
    built: bool
    seconds: float
    path: Path
    #: Of this very plan; another one of the same key has another.
    signature: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A plan that is kept. What cannot be read of it, for it is damaged, is empty."""

    path: Path
    key: str
    #: Of the model file that it was built from.
    sha256: str
    #: `tensorrt` or `tensorrt_rtx`, and its version.
    flavour: str
    version: str
    gpu: str
    precision: str
    options: dict[str, Any]
    bytes: int
    #: Seconds that it took to build, and when it was built and last asked for, since 1970.
    seconds: float
    built_at: float
    used_at: float


def obtain(
    home: Path,
    onnx: Path,
    sha256: str,
    flavour: Flavour,
    gpu: Gpu,
    options: Options,
    report: Report = silent,
    stop: Callable[[], bool] = lambda: False,
) -> Plan:
    """The plan of a model file for this GPU: the one that is kept, or a new one.

    `sha256` is the file's. The GPU's context is current in the calling thread. Where another
    process builds the same plan its end is waited for. Raises EngineError, OutOfMemory and Stopped
    as `build.build` does, and EngineError where nothing can be kept in `home`.
    """
    ingredients = _ingredients(sha256, flavour, gpu, options)
    key = _key(ingredients)
    try:
        folder = _folder(home)
        secret = _secret(folder)
        kept = _kept(folder, key, secret)
        if kept is not None:
            return kept
        with _locked(folder / f"{key}.lock", report, stop):
            # Whoever held the lock may have built it.
            kept = _kept(folder, key, secret)
            if kept is not None:
                return kept
            _sweep(folder, key)
            path = _path(folder, key)
            path.unlink(missing_ok=True)
            _verify(onnx, sha256)
            built = _build(folder, secret, onnx, flavour, gpu, options, report, stop)
            about = {**ingredients, "seconds": round(built.seconds, 3), "built_at": time.time()}
            signature = _keep(path, about, built.plan, secret)
    except OSError as error:
        raise EngineError(
            f"engines cannot be kept in {home / 'engines'}: {error}; it must be a folder of the "
            "user that the worker runs as"
        ) from error
    return Plan(
        data=built.plan, key=key, built=True, seconds=built.seconds, path=path, signature=signature
    )


def forget(plan: Plan) -> None:
    """Throw away a plan that TensorRT does not load; one that was built since then stays."""
    with contextlib.suppress(OSError), plan.path.open("rb") as file:
        if file.readline() == MAGIC and file.readline().strip().decode() == plan.signature:
            plan.path.unlink(missing_ok=True)


def ls(home: Path) -> list[Entry]:
    """Every plan that is kept, the one that was asked for last first."""
    entries = []
    for path in (home / "engines").glob(f"*{SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):  # it was removed meanwhile
            entries.append(_entry(path))
    return sorted(entries, key=lambda entry: entry.used_at, reverse=True)


def remove(entry: Entry) -> None:
    """Remove a plan that is kept, if it still is; a worker that runs it keeps running."""
    entry.path.unlink(missing_ok=True)


def _ingredients(sha256: str, flavour: Flavour, gpu: Gpu, options: Options) -> dict[str, Any]:
    """All that makes one plan differ from another."""
    return {
        "recipe": RECIPE,
        "sha256": sha256,
        "flavour": flavour.name,
        "version": flavour.version,
        "gpu": gpu.name,
        "compute_capability": list(gpu.compute_capability),
        "platform": _platform(gpu),
        "options": options.as_dict(),
    }


def _platform(gpu: Gpu) -> str:
    """The system and processor; with an integrated GPU the board too.

    For the GPU of every Orin board is called Orin, however many cores and how much memory it has.
    """
    parts = [sys.platform, platform.machine()]
    if gpu.integrated:
        with contextlib.suppress(OSError):
            parts.append(_BOARD.read_text().rstrip("\0").strip())
    return " ".join(parts)


def _key(ingredients: dict[str, Any]) -> str:
    text = json.dumps(ingredients, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def _path(folder: Path, key: str) -> Path:
    return folder / f"{key}{SUFFIX}"


def _folder(home: Path) -> Path:
    """The folder, closed to everybody else."""
    folder = home / "engines"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)
    return folder


def _secret(folder: Path) -> bytes:
    """This machine's secret, made once; a new one where somebody else could have read it."""
    path = folder / "key"
    with _locked(folder / "key.lock"):
        try:
            status = path.stat()
            secret = path.read_bytes()
        except FileNotFoundError:
            return _make_secret(path)
        if len(secret) == SECRET_BYTES and not status.st_mode & 0o077:
            return secret
        _log.warning(
            "%s is damaged or was open to others; it is made anew, and so is every engine", path
        )
        return _make_secret(path)


def _make_secret(path: Path) -> bytes:
    secret = secrets.token_bytes(SECRET_BYTES)
    _replace(path, secret)
    return secret


def _kept(folder: Path, key: str, secret: bytes) -> Plan | None:
    """The plan that is kept under a key, if there is one and this machine built it."""
    path = _path(folder, key)
    try:
        about, data, signature = _read(path, secret)
        if _key({name: about[name] for name in about.keys() - {"seconds", "built_at"}}) != key:
            raise _NotOurs("it was built for something else")
    except FileNotFoundError:
        return None
    except (_NotOurs, OSError) as error:
        _log.warning("engine %s is not loaded but built anew: %s", path.name, error)
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # `ls` says when it was last asked for
    return Plan(
        data=data, key=key, built=False, seconds=about["seconds"], path=path, signature=signature
    )


def _build(
    folder: Path,
    secret: bytes,
    onnx: Path,
    flavour: Flavour,
    gpu: Gpu,
    options: Options,
    report: Report,
    stop: Callable[[], bool],
) -> Built:
    """Build, with the timings of earlier builds of this version on this GPU."""
    of = {"flavour": flavour.name, "version": flavour.version, "platform": _platform(gpu)}
    of |= {"gpu": gpu.name, "compute_capability": list(gpu.compute_capability)}
    path = folder / f"{_key(of)}.timing"
    timing = None
    try:
        about, found, _ = _read(path, secret)
        if about == of:
            timing = found
    except FileNotFoundError:
        pass
    except (_NotOurs, OSError) as error:
        _log.warning("timings %s are not used: %s", path.name, error)
    built = building.build(
        flavour,
        onnx,
        options,
        timing=timing,
        target=building.target_for(flavour, gpu.compute_capability),
        report=report,
        stop=stop,
    )
    if built.timing is not None:
        _keep(path, of, built.timing, secret)
    return built


def _verify(onnx: Path, sha256: str) -> None:
    """Raises EngineError unless the file is the one whose plan will carry its hash."""
    with onnx.open("rb") as file:
        digest = hashlib.sha256()
        for part in iter(functools.partial(file.read, 1 << 20), b""):
            digest.update(part)
    if digest.hexdigest() != sha256:
        raise EngineError(f"{onnx.name} has changed since it was fetched; fetch it again")


class _NotOurs(Exception):
    """A file that this machine did not write, or not so."""


def _read(path: Path, secret: bytes) -> tuple[dict[str, Any], bytes, str]:
    """What a file here says about itself, what it holds, and its signature.

    Nothing of it is believed before its signature was. Raises _NotOurs, and OSError.
    """
    whole = path.read_bytes()
    head = re.match(re.escape(MAGIC) + rb"([0-9a-f]{64})\n", whole)
    if head is None:
        raise _NotOurs("it is not a file of PneumoQ, or was cut short")
    signed = memoryview(whole)[head.end() :]
    signature = head[1].decode()
    if not hmac.compare_digest(_sign(signed, secret), signature):
        raise _NotOurs("it is damaged, or another machine built it")
    end = whole.index(b"\n", head.end())
    return json.loads(whole[head.end() : end]), whole[end + 1 :], signature


def _sign(signed: memoryview | bytes, secret: bytes) -> str:
    return hmac.new(secret, signed, hashlib.sha256).hexdigest()


def _keep(path: Path, about: dict[str, Any], data: bytes, secret: bytes) -> str:
    """Write a file here and return its signature.

    Where that fails the engine serves all the same, and is built anew the next time.
    """
    signed = json.dumps(about, sort_keys=True).encode() + b"\n" + data
    signature = _sign(signed, secret)
    try:
        _replace(path, MAGIC + signature.encode() + b"\n" + signed)
    except OSError as error:
        _log.warning("engine %s cannot be kept, and will be built anew: %s", path.name, error)
    return signature


def _replace(path: Path, data: bytes) -> None:
    """Replace a file in one step, readable to nobody else; raises OSError."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # a Jetson is switched off at the wall
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _sweep(folder: Path, key: str) -> None:
    """Remove what killed processes had begun to write: under the lock of `key`, all of its own."""
    for part in folder.glob(".*"):
        with contextlib.suppress(FileNotFoundError):
            abandoned = time.time() - part.stat().st_mtime > ABANDONED_S
            if abandoned or part.name.startswith(f".{key}{SUFFIX}."):
                part.unlink()


@contextlib.contextmanager
def _locked(
    path: Path, report: Report = silent, stop: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Held by one process and thread at a time, until the block's end or its process's.

    Raises Stopped where `stop` says so while another holds it.
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
                report("another process is building it", 0, 0)
                time.sleep(POLL_S)
        yield
    finally:
        os.close(fd)


def _entry(path: Path) -> Entry:
    """What a plan says about itself; its signature is not looked at. Raises FileNotFoundError."""
    status = path.stat()
    about: dict[str, Any] = {}
    with path.open("rb") as file:
        if file.readline() == MAGIC:
            file.readline()
            with contextlib.suppress(ValueError):
                about = json.loads(file.readline())
    options = about.get("options", {})
    return Entry(
        path=path,
        key=path.name.removesuffix(SUFFIX),
        sha256=about.get("sha256", ""),
        flavour=about.get("flavour", ""),
        version=about.get("version", ""),
        gpu=about.get("gpu", ""),
        precision=options.get("precision", ""),
        options=options,
        bytes=status.st_size,
        seconds=about.get("seconds", 0.0),
        built_at=about.get("built_at", status.st_mtime),
        used_at=status.st_mtime,
    )
