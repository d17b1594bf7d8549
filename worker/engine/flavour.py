"""Flavour: which TensorRT is here, and what it logs while it works.

    tensorrt       Jetson (JetPack brings it) and servers
    tensorrt_rtx   RTX cards; it also builds where there is no GPU at all

One Python API, so that both are called alike. Nothing is imported before it is
asked for.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import logging
import re
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.errors import EngineError

#: In the order in which they are tried.
NAMES = ("tensorrt", "tensorrt_rtx")

#: The first `tensorrt` that this code is written for: JetPack 6's.
OLDEST = (10, 3)

#: Errors that are kept for whoever listens; the cause is among the last.
KEPT = 16

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Flavour:
    """One TensorRT that is loaded."""

    module: Any
    #: The module's name, one of NAMES.
    name: str
    version: str

    @property
    def messages(self) -> Any:
        """The logger that every builder and runtime of this flavour must be given."""
        return _messages(self.module)


def available() -> tuple[str, str] | None:
    """Name and version of the TensorRT that `load` would take; nothing is imported.

    The version is empty where it cannot be told without importing. None where there is none, or
    only one that is too old.
    """
    for name in NAMES:
        version = _installed(name)
        if version is not None and not _too_old(name, version):
            return name, version
    return None


def load(prefer: str | None = None) -> Flavour:
    """Import TensorRT: `prefer` where it is to be had, else the first of NAMES.

    Needs no driver, but whatever is made of it may: TensorRT's Runtime ends the process where there
    is none, so ask `worker.machine.gpu` first. Raises EngineError that says what is missing.
    """
    found = []
    for name in sorted(NAMES, key=lambda name: name != prefer):
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError) as error:  # OSError: a library that cannot be loaded
            found.append(f"{name}: {_one_line(str(error))}")
            continue
        version = str(module.__version__)
        if _too_old(name, version):
            oldest = ".".join(map(str, OLDEST))
            found.append(f"{name}: {version} is older than {oldest}, which JetPack 6 has")
            continue
        return Flavour(module=module, name=name, version=version)
    raise EngineError(
        f"TensorRT cannot be loaded ({'; '.join(found)}); on a Jetson make the virtual environment "
        "with --system-site-packages, which shows it JetPack's; elsewhere: pip install tensorrt, "
        "or tensorrt-rtx for an RTX card"
    )


def _installed(name: str) -> str | None:
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    for distribution in (name, f"{name}_cu13", f"{name}_cu12"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(distribution)
    # A system's package need not leave a distribution's metadata.
    if spec.origin is not None:
        with contextlib.suppress(OSError):
            text = Path(spec.origin).read_text(errors="replace")
            stated = re.search(r"^__version__ *= *[\"']([^\"']+)", text, re.MULTILINE)
            if stated:
                return stated[1]
    return ""


def _too_old(name: str, version: str) -> bool:
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if name != "tensorrt" or numbers is None:
        return False
    return (int(numbers[1]), int(numbers[2])) < OLDEST


def _one_line(text: str) -> str:
    return " ".join(text.split())


@functools.cache
def _messages(trt: Any) -> Any:
    """One logger for each module and process.

    TensorRT holds on to the first one that it is given and ignores others as long as anything made
    with that one lives; a second one would get nothing.
    """

    class Messages(trt.ILogger):  # type: ignore[misc]
        """Forwards what TensorRT logs to `logging`, and keeps its last errors.

        Its errors are warnings there: many belong to a way of computing that was tried and left.
        Whoever fails over one raises it.
        """

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._listeners: tuple[deque[str], ...] = ()
            self._lock = threading.Lock()

        def log(self, severity: Any, text: str) -> None:
            """Called by TensorRT, from any thread; nothing that is raised here would arrive."""
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                for listener in self._listeners:
                    listener.append(_one_line(text))
                _log.warning("TensorRT: %s", _one_line(text))
            elif severity == trt.ILogger.WARNING:
                _log.info("TensorRT: %s", _one_line(text))
            elif severity == trt.ILogger.INFO:
                _log.debug("TensorRT: %s", _one_line(text))

        @contextlib.contextmanager
        def errors(self) -> Iterator[deque[str]]:
            """The last errors of any thread since the block began, each in one line."""
            errors: deque[str] = deque(maxlen=KEPT)
            with self._lock:
                self._listeners += (errors,)
            try:
                yield errors
            finally:
                with self._lock:  # by identity: equal errors may be another's
                    self._listeners = tuple(one for one in self._listeners if one is not errors)

    return Messages()
