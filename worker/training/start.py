"""Start: the model whose weights a training job begins from, and what that has learned.

It is written into the attempt's folder for the training process, which holds out other patients
first. An attempt that goes on from an earlier one's checkpoint takes what that one was told: so its
films are divided alike, whatever is known by now.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from db.nightly import nights
from trainer import atomic
from trainer.data.learned import Learned

#: In the attempt's folder.
FILE = "learned.json"

#: Of no schedule: all films that a model has learned are asked for.
_NO_SCHEDULE = -1


def of(spec: Mapping[str, Any]) -> int | None:
    """The model that a job's spec says; None for another start.

    The number is in the job's spec, so that each attempt begins from the same, whatever is
    promoted meanwhile.
    """
    start = spec.get("warm_start")
    # True is what is asked of a schedule; a job that still has it found no model to begin from.
    return None if isinstance(start, bool) or start is None else int(start)


def write(
    database: sa.Engine, start: int | None, folder: Path, earlier: Path | None
) -> Path | None:
    """Write what the start has learned, for an attempt in `folder`; None where nothing is said.

    `earlier` is the attempt that it goes on from, if any.
    """
    if earlier is not None:
        # One of an older release was told nothing, and held out whom it would.
        there = (earlier / FILE).is_file()
        text = (earlier / FILE).read_text(encoding="ascii") if there else ""
    else:
        text = "" if start is None else _learned(database, start).to_json()
    if not text:
        return None
    path = folder / FILE
    atomic.replace(path, text.encode("ascii"))
    return path


def _learned(database: sa.Engine, start: int) -> Learned:
    return Learned.of(
        nights.learned(database, [start], _NO_SCHEDULE),
        complete=not nights.from_elsewhere(database, start),
    )
