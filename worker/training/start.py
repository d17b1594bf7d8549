"""Start: the model whose weights a training job begins from, and what that has learned.

It is written into the attempt's folder for the training process, which holds out other patients
first. An attempt that goes on from an earlier one's checkpoint takes what that one was told: so its
films are divided alike, whatever is known by now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from db.nightly import nights
from db.registry import models
from trainer import atomic
from trainer.data.learned import Learned
from worker.archive import apart
from worker.errors import ArchiveError

#: In the attempt's folder.
FILE = "learned.json"

#: Of no schedule: all films that a model has learned are asked for.
_NO_SCHEDULE = -1

#: How the SHA-256 of torchvision's file of ImageNet weights begins, by its name; it has seen no
#: chest film.
IMAGENET = "f37072fd"


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a training job begins from."""

    #: A model here, whether the job names it or a file of it; None for other weights.
    model: int | None = None
    #: Whether they are a file's that no model here has: what they have learned is not known.
    from_elsewhere: bool = False


def named(spec: Mapping[str, Any]) -> int | None:
    """The model that a job's spec names; None where it names none.

    The number is in the job's spec, so that each attempt begins from the same, whatever is
    promoted meanwhile.
    """
    start = spec.get("warm_start")
    # True is what is asked of a schedule; a job that still has it found no model to begin from.
    return None if isinstance(start, bool) or start is None else int(start)


def of(database: sa.Engine, spec: Mapping[str, Any], patience_s: float) -> Start:
    """What a job begins from; a file is looked for among those of the models here.

    Its disk or share is given up after `patience_s` seconds without an answer, and a file that
    cannot be read is the training process's to tell.
    """
    if (number := named(spec)) is not None:
        return Start(model=number)
    path = Path(str(spec.get("init", "")))
    if not path.is_absolute():  # imagenet or scratch: a submitted file has its whole path
        return Start()
    try:
        sha256 = str(apart.call(str(path), patience_s, content, str(path)))
    except (ArchiveError, OSError):
        return Start(from_elsewhere=True)
    if sha256.startswith(IMAGENET):
        return Start()
    owner = models.owner_of(database, sha256)
    return Start(model=owner, from_elsewhere=owner is None)


def content(path: str) -> Iterator[str | None]:
    """The SHA-256 of a file, hexadecimal; before it None, where it comes on."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            yield None
    yield digest.hexdigest()


def write(database: sa.Engine, start: Start, folder: Path, earlier: Path | None) -> Path | None:
    """Write what the start has learned, for an attempt in `folder`; None where nothing is said.

    `earlier` is the attempt that it goes on from, if any.
    """
    if earlier is not None:
        # One of an older release was told nothing, and held out whom it would.
        there = (earlier / FILE).is_file()
        text = (earlier / FILE).read_text(encoding="ascii") if there else ""
    elif start == Start():
        text = ""
    else:
        text = _learned(database, start).to_json()
    if not text:
        return None
    path = folder / FILE
    atomic.replace(path, text.encode("ascii"))
    return path


def _learned(database: sa.Engine, start: Start) -> Learned:
    if start.model is None:
        return Learned(complete=False)
    return Learned.of(
        nights.learned(database, [start.model], _NO_SCHEDULE),
        complete=not nights.from_elsewhere(database, start.model),
    )
