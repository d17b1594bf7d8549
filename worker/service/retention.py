"""Retention on this machine: files that nothing will read again are removed, and models retired.

The database knows what a file belongs to. A file that it does not know stays, for the folder may
have served another database.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from db.base import database
from db.nightly import forgetting
from db.registry import retention
from trainer.data import cache
from worker.config import Settings
from worker.engine import plans

log = logging.getLogger(__name__)

#: Seconds after which a file that was never finished belongs to a process that was killed, and a
#: cache is no longer of a run that is just beginning.
ABANDONED_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Freed:
    """A file or folder that was removed, or would be."""

    path: Path
    size_bytes: int
    #: Why nothing will read it again.
    why: str


def of_schedules(settings: Settings, engine: sa.Engine, who: str) -> int:
    """A chore: of each training schedule the models beyond those it keeps are retired; how many."""
    retired = 0
    for schedule_id, keep in retention.surplus(engine):
        found = database.write(
            engine,
            lambda c, s=schedule_id, k=keep: retention.retire(c, k, who, s),  # type: ignore[misc]
        )
        for judged in found:
            if not judged.stays:
                log.info("model %d is retired: %s", judged.id, judged.why)
                retired += 1
    if retired:
        retention.free(engine, who)
    return retired


def hourly(settings: Settings, engine: sa.Engine, who: str) -> None:
    """A chore: bytes that nothing holds any more go, in the database and on this machine."""
    for model in retention.free(engine, who):
        log.info("model %d: %.1f MB removed from the database", model.id, model.size_bytes / 1e6)
    freed = tidy(settings, engine)
    if freed:
        size = sum(entry.size_bytes for entry in freed) / 1e6
        log.info("%d files and folders of no more use removed, %.1f MB", len(freed), size)
    forget_names(settings, engine)


def forget_names(settings: Settings, engine: sa.Engine) -> int:
    """Remove what names films of purged jobs and of removed schedules here; how many files."""
    folder = settings.home / "names"
    purged, removed = forgetting.over(engine) if folder.is_dir() else (set[int](), set[int]())
    forgotten = 0
    for kind, numbers in (("job", purged), ("schedule", removed)):
        for path in sorted(folder.glob(f"{kind}-*.csv")):
            number = path.name.removeprefix(f"{kind}-").partition(".")[0]
            if number.isdecimal() and int(number) in numbers:
                why = f"the {kind} is gone"
                forgotten += _remove(Freed(path=path, size_bytes=_size(path), why=why))
    if forgotten:
        log.info("%d files removed that named films of what is gone", forgotten)
    return forgotten


def tidy(
    settings: Settings,
    engine: sa.Engine,
    *,
    dry_run: bool = False,
    retiring: Sequence[int] = (),
) -> list[Freed]:
    """Remove what is of no more use in this machine's home; what was, or would be.

    What cannot be removed is logged, and stays. `retiring` are models that count as
    retired already.
    """
    freed = []
    for entry in [
        *_training(settings.home / "training", engine, retiring),
        *_models(settings.home, engine, retiring),
        *_caches(settings.home / "cache", engine),
    ]:
        if dry_run or _remove(entry):
            freed.append(entry)
    return freed


def _training(folder: Path, engine: sa.Engine, retiring: Sequence[int]) -> Iterator[Freed]:
    ended = retention.unneeded_training(engine, retiring) if folder.is_dir() else {}
    for path in sorted(folder.glob("job-*")):
        number = path.name.removeprefix("job-")
        if number.isdecimal() and int(number) in ended:
            why = f"of training job {number}: {ended[int(number)]}"
            yield Freed(path=path, size_bytes=_size(path), why=why)


def _models(home: Path, engine: sa.Engine, retiring: Sequence[int]) -> Iterator[Freed]:
    unused = retention.unused_files(engine, retiring)
    for path in sorted((home / "models").glob("*.onnx")):
        if path.stem in unused:
            yield Freed(path=path, size_bytes=_size(path), why="of a retired model")
    for path in sorted((home / "models").glob(".*")):
        if _age_s(path) > ABANDONED_S:
            yield Freed(path=path, size_bytes=_size(path), why="never finished")
    for entry in plans.ls(home):
        if entry.sha256 in unused:
            yield Freed(path=entry.path, size_bytes=entry.size_bytes, why="of a retired model")


def _caches(folder: Path, engine: sa.Engine) -> Iterator[Freed]:
    # A run may be about to read the oldest; one that begins later looks at what is there then.
    if not folder.is_dir() or retention.training_is_open(engine):
        return
    for path in cache.superfluous(folder, ABANDONED_S):
        why = (
            "never finished"
            if path.name.startswith(".")
            else f"decoded films or what was found in them; the {cache.KEPT_FILES} newest are kept"
        )
        yield Freed(path=path, size_bytes=_size(path), why=why)


def _remove(entry: Freed) -> bool:
    try:
        if entry.path.is_dir() and not entry.path.is_symlink():
            shutil.rmtree(entry.path)
        else:
            entry.path.unlink()
            if entry.path.suffix == plans.SUFFIX:
                entry.path.with_suffix(".lock").unlink(missing_ok=True)
    except FileNotFoundError:
        return False  # another worker of this machine was faster
    except OSError as error:
        log.warning("%s cannot be removed: %s", entry.path, error.strerror)
        return False
    return True


def _size(path: Path) -> int:
    """Bytes in a file or a folder."""
    size = 0
    for file in path.rglob("*") if path.is_dir() else (path,):
        with suppress(OSError):  # it is gone meanwhile
            size += file.lstat().st_size
    return size


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
