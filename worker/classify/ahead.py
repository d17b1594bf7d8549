"""Ahead: a film's answer is made ready while the command that wants it asks the database.

The command line loads SQLAlchemy, asks which model is meant and how it is computed, and meanwhile
another process (`child`) computes the film with what was used last, as a note in PNEUMOQ_HOME says.
Its answer is taken only where the database then names the same file, precision and engine; in any
other case it was computed in vain, and the command goes on as if nothing had been.

What is noted too is whether a film alone, in a batch of one, has the answer of a scoring job to the
last bit, on this processor and with this file and OpenVINO: then the other places of a batch are
not computed. The shape alone decides in which order numbers are added up, so films of noise tell.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import selectors
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from trainer import atomic
from trainer.errors import FilmError
from worker import config
from worker.classify.result import Result
from worker.config import Settings

#: Of `worker.decoding.supervisor`: codes of a film that took too long, and of one that ended what
#: decoded it; a test holds them equal.
TIMEOUT, DIED = "decoder_timeout", "decoder_died"

#: Where Linux says what the processors are, and which of its lines say what they can do; the last
#: five are ARM's.
_PROCESSORS = Path("/proc/cpuinfo")
_TELLING = (
    "vendor_id", "cpu family", "model", "model name", "stepping", "cache size", "flags",
    "Features", "CPU implementer", "CPU variant", "CPU part", "CPU revision",
)  # fmt: skip

#: What the child sends before it turns to the film, and when it is through with it.
AT_FILM, DECODED = "film", "decoded"

#: What was used before is noted of so many models, precisions and processors.
KEPT = 16

#: Bytes of the largest film that is worth a try; larger files are archives, or an error.
LARGEST = 64 << 20

#: Without a word for so long, in seconds, the child is given up; compiling takes less than one.
SILENT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Used:
    """What a film was computed with."""

    #: Of the model file, which is named by it.
    sha256: str
    precision: str
    #: OpenVINO's, as `EngineChoice.version` has it.
    version: str
    #: `processor`, as of where it was computed.
    processor: str
    #: Films in every batch of a scoring job.
    batch: int


def processor() -> str:
    """What decides by which instructions films are computed here, as a hash.

    Of two processors of one name, as virtual machines have them, one may have more of them.
    """
    lines: set[str] = set()
    with contextlib.suppress(OSError):
        text = _PROCESSORS.read_text(errors="replace")
        lines = {line for line in text.splitlines() if line.partition("\t")[0] in _TELLING}
    words = [platform.machine(), *sorted(lines), *sorted(config.instructions().items())]
    return hashlib.sha256(repr(words).encode()).hexdigest()[:16]


def path_of(home: Path, sha256: str) -> Path:
    """Where a model's file is kept."""
    return home / "models" / f"{sha256}.onnx"


def notes_of(home: Path) -> Path:
    """The file that says what was used last."""
    return home / "models" / "classified.json"


def noted(home: Path) -> list[tuple[Used, int]]:
    """What was used, the latest first, and how many films a batch has there for a film alone."""
    try:
        rows = json.loads(notes_of(home).read_text())
        found = [(Used(**row["used"]), int(row["alone"])) for row in rows]
        good = [(used, alone) for used, alone in found if alone in (1, used.batch)]
        return [one for one in good if re.fullmatch("[0-9a-f]{64}", one[0].sha256)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def note(home: Path, used: Used) -> None:
    """Note what was used. Where nothing can be written, the next film is not faster.

    Of what is new it is tried first whether a film alone needs a whole batch: that compiles twice.
    """
    before = noted(home)
    known = dict(before)
    if before and before[0][0] == used:
        return
    if used not in known:
        if not os.access(notes_of(home).parent, os.W_OK):
            return  # it would be tried each time
        known[used] = 1 if _alone_suffices(home, used) else used.batch
    latest = [used, *(one for one in known if one != used)][:KEPT]
    rows = [{"used": asdict(one), "alone": known[one]} for one in latest]
    with contextlib.suppress(OSError):
        atomic.replace(notes_of(home), json.dumps(rows).encode())


def _alone_suffices(home: Path, used: Used) -> bool:
    from worker.engine import alone

    try:
        return alone.agrees(path_of(home, used.sha256), used.precision, used.batch)
    except Exception:  # noqa: BLE001 - the film has its answer, whatever becomes of a trial
        return False


def forget(home: Path) -> None:
    """Nothing is computed ahead until something is noted again."""
    with contextlib.suppress(OSError):
        notes_of(home).unlink(missing_ok=True)


class Ahead:
    """A process that computes a film with what was used last. End it, whatever comes of it."""

    def __init__(self, settings: Settings, film: Path) -> None:
        """Begin, unless nothing is noted or there is no such film."""
        self._film_deadline_s = settings.film_deadline_s
        self._process: subprocess.Popen[bytes] | None = None
        found = noted(settings.home)
        if not found or settings.engine == "tensorrt" or not _is_small_file(film):
            return
        self._used, alone = found[0]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "worker.classify.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",  # a folder named like one of our packages must not be found first
            # It reads what anybody may have put there: no setting, and no secret.
            env=config.computing_environment()
            | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        asked = [
            os.getpid(), str(settings.home), str(film.absolute()), asdict(self._used), alone
        ]  # fmt: skip
        assert self._process.stdin is not None
        with contextlib.suppress(OSError), self._process.stdin as stdin:
            stdin.write(json.dumps(asked).encode() + b"\n")

    def end(self) -> None:
        """Compute no more."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def answer(self, wanted: Used) -> Result | None:
        """What the film's answer is; None where something else is wanted, or nothing came of it.

        Raises FilmError for what is no film, takes too long to be decoded, or ends what decodes it.
        """
        if self._process is None or self._used != wanted:
            return None
        at = ""
        for line in self._lines():
            if line is None:
                if at == AT_FILM:
                    took = f"{self._film_deadline_s:g} s (PNEUMOQ_FILM_DEADLINE_S)"
                    raise FilmError(TIMEOUT, f"decoding was given up after {took}")
                return None
            try:
                message = json.loads(line)
            except ValueError:
                return None
            if "at" in message:
                at = message["at"]
            elif "code" in message:
                raise FilmError(message["code"], message["text"])
            else:
                return Result(**{**message, "labels": tuple(message["labels"])})
        status = self._process.wait()
        # The system kills where memory is short, whoever took it.
        if at == AT_FILM and status < 0 and status != -signal.SIGKILL:
            raise FilmError(DIED, f"the process that decoded it ended by signal {-status}")
        return None

    def _lines(self) -> Iterator[bytes | None]:
        """Its lines as they come; None where there is none for long."""
        assert self._process is not None and self._process.stdout is not None
        fd = self._process.stdout.fileno()
        unread = b""
        with selectors.DefaultSelector() as selector:
            selector.register(fd, selectors.EVENT_READ)
            until = time.monotonic() + max(self._film_deadline_s, SILENT_S)
            while True:
                if not selector.select(max(0.0, until - time.monotonic())):
                    yield None
                    return
                data = os.read(fd, 1 << 16)
                if not data:
                    return
                *lines, unread = (unread + data).split(b"\n")
                yield from lines
                if lines:
                    until = time.monotonic() + self._film_deadline_s


def _is_small_file(film: Path) -> bool:
    try:
        status = film.stat()
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size <= LARGEST
