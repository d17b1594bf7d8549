"""Plans: what TensorRT built on this machine, kept in `PNEUMOQ_HOME/engines`.

A plan is found by a key over everything that it was made from. One that this machine did not build
is not loaded but built anew: a plan is code. Two processes that want the same one build it once;
one that is killed while it builds leaves nothing that could be taken for a plan.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worker.engine import build as building
from worker.engine import signed
from worker.engine.build import Built, Options
from worker.engine.flavour import Flavour
from worker.engine.progress import Report, silent
from worker.errors import EngineError
from worker.machine.gpu import Gpu

#: Raised when `build` makes something else of the same options; it is part of every key.
RECIPE = 1

SUFFIX = ".plan"

#: What the file of a plan says of it besides what is in its key.
_BESIDES = ("seconds", "built_at")

#: Where a board says which it is.
_BOARD = Path("/proc/device-tree/model")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A serialised engine of this machine."""

    data: bytes = field(repr=False)
    #: Of everything that it was made from, in hexadecimal digits.
    key: str
    #: Whether it was built just now.
    built: bool
    #: How long it took to build, whenever that was.
    seconds: float
    path: Path
    #: Of this very plan; another one under the same key has another.
    signature: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A plan that is kept. What a damaged one does not say is empty."""

    path: Path
    key: str
    #: Of the model file that it was built from.
    sha256: str
    #: `tensorrt` or `tensorrt_rtx`, and its version.
    flavour: str
    version: str
    gpu: str
    precision: str
    #: Of the build, as `Options.as_dict` has them.
    options: dict[str, Any]
    size_bytes: int
    #: Seconds that it took to build.
    seconds: float
    #: When it was built, and last asked for: seconds since 1970.
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

    `sha256` is the file's. The GPU's context is current in the calling thread. While another
    process builds the same plan, its end is waited for. Raises EngineError, OutOfMemory and Stopped
    as `build.build` does, and EngineError where nothing can be kept in `home`.
    """
    folder = home / "engines"
    ingredients = _ingredients(sha256, flavour, gpu, options)
    key = _key(ingredients)
    path = folder / f"{key}{SUFFIX}"
    try:
        secret = signed.secret(folder)
        _lock(path).touch()
    except OSError as error:
        raise EngineError(
            f"engines cannot be kept in {folder}: {error.strerror or error}; give that folder to "
            "the user that the worker runs as"
        ) from error
    kept = _kept(path, key, secret)
    if kept is not None:
        return kept
    waiting = functools.partial(report, "another process is building it", 0, 0)
    with signed.locked(_lock(path), waiting, stop):
        # Whoever held the lock may have built it.
        kept = _kept(path, key, secret, quiet=True)
        if kept is not None:
            return kept
        signed.sweep(folder, path)
        path.unlink(missing_ok=True)
        _verify(onnx, sha256)
        built = _build(folder, secret, onnx, flavour, gpu, options, report, stop)
        about = {**ingredients, "seconds": round(built.seconds, 3), "built_at": time.time()}
        signature = signed.write(path, about, built.plan, secret)
    return Plan(
        data=built.plan, key=key, built=True, seconds=built.seconds, path=path, signature=signature
    )


def forget(plan: Plan) -> None:
    """Throw away a plan that TensorRT does not load; one that was built since then stays."""
    with contextlib.suppress(OSError):
        if signed.preview(plan.path)[0] == plan.signature:
            plan.path.unlink(missing_ok=True)


def ls(home: Path) -> list[Entry]:
    """Every plan that is kept, the one that was last asked for first."""
    entries = []
    for path in (home / "engines").glob(f"*{SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):  # it was removed meanwhile
            entries.append(_entry(path))
    return sorted(entries, key=lambda entry: entry.used_at, reverse=True)


def remove(entry: Entry) -> None:
    """Remove a plan that is kept, if it still is. An engine that was made of it keeps running."""
    entry.path.unlink(missing_ok=True)
    # Should somebody wait for this lock just now, two may build at once: both plans are good.
    _lock(entry.path).unlink(missing_ok=True)


def _ingredients(sha256: str, flavour: Flavour, gpu: Gpu, options: Options) -> dict[str, Any]:
    """All that makes one plan differ from another."""
    return {
        "recipe": RECIPE,
        "sha256": sha256,
        **_device(flavour, gpu),
        "options": options.as_dict(),
    }


def _device(flavour: Flavour, gpu: Gpu) -> dict[str, Any]:
    """What builds, and for what."""
    return {
        "flavour": flavour.name,
        "version": flavour.version,
        "gpu": gpu.name,
        "compute_capability": list(gpu.compute_capability),
        "platform": _platform(gpu),
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


def _lock(path: Path) -> Path:
    return path.with_suffix(".lock")


def _kept(path: Path, key: str, secret: bytes, quiet: bool = False) -> Plan | None:
    """The plan in a file, if there is one and this machine built it.

    Why a file is not taken is logged, unless `quiet`.
    """
    try:
        about, data, signature = signed.read(path, secret)
        if _key({name: value for name, value in about.items() if name not in _BESIDES}) != key:
            raise signed.NotOurs("it was built of something else")
    except FileNotFoundError:
        return None
    except (signed.NotOurs, OSError) as error:
        if not quiet:
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
    device = _device(flavour, gpu)
    path = folder / f"{_key(device)}.timing"
    timing = None
    try:
        about, found, _ = signed.read(path, secret)
        timing = found if about == device else None
    except FileNotFoundError:
        pass
    except (signed.NotOurs, OSError) as error:
        _log.warning("timings %s are not used but measured anew: %s", path.name, error)
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
        signed.write(path, device, built.timing, secret)
    return built


def _verify(onnx: Path, sha256: str) -> None:
    """Raises EngineError unless the file is the one whose hash its plan will carry."""
    try:
        found = hashlib.sha256(onnx.read_bytes()).hexdigest()
    except OSError as error:
        raise EngineError(f"{onnx.name} cannot be read: {error.strerror}") from error
    if found != sha256:
        raise EngineError(f"{onnx.name} has changed since it was fetched; fetch it again")


def _entry(path: Path) -> Entry:
    """What a plan claims about itself, unverified. Raises FileNotFoundError."""
    status = path.stat()
    about = signed.preview(path)[1]
    options = about.get("options", {})
    return Entry(
        path=path,
        key=path.stem,
        sha256=about.get("sha256", ""),
        flavour=about.get("flavour", ""),
        version=about.get("version", ""),
        gpu=about.get("gpu", ""),
        precision=options.get("precision", ""),
        options=options,
        size_bytes=status.st_size,
        seconds=about.get("seconds", 0.0),
        built_at=about.get("built_at", status.st_mtime),
        used_at=status.st_mtime,
    )
