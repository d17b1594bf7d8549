"""The films that a training began with, kept for the attempt or the night on which it goes on.

Films come in, and go. What was begun is trained to its end on the films that were there when it
began; their pixels are decoded already.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from trainer import atomic
from trainer.data.frozen import Judged
from trainer.data.gathering import Gathered
from trainer.data.labelled import Film, LeftOut
from trainer.judging.gate import Reason
from worker.training.night_child import Films

#: In the attempt's folder.
FILE = "films.json"


def keep(folder: Path, films: Films) -> None:
    """Write down the films that an attempt trains on, and those that its model is judged by."""
    text = json.dumps(dataclasses.asdict(films), default=_plain)
    folder.mkdir(parents=True, exist_ok=True)
    atomic.replace(folder / FILE, text.encode())


def kept(folder: Path) -> Films | None:
    """What an earlier attempt kept in its folder; None where it kept nothing."""
    path = folder / FILE
    if not path.is_file():
        return None
    values: dict[str, Any] = json.loads(path.read_text())
    for name in ("judged", "learned", "missing", "cleared"):
        values[name] = tuple(Judged(**one | {"file": Path(one["file"])}) for one in values[name])
    values["against"] = tuple(Reason(**one) for one in values["against"])
    gathered = values["gathered"]
    values["gathered"] = Gathered(
        **gathered
        | {
            "root": Path(gathered["root"]),
            "labels": tuple(gathered["labels"]),
            "films": tuple(Film(**film) for film in gathered["films"]),
            "unreadable": tuple(LeftOut(**file) for file in gathered["unreadable"]),
            "added": frozenset(gathered["added"]),
            "notes": tuple(gathered["notes"]),
        }
    )
    return Films(**values)


def _plain(value: object) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is not kept")
