"""What a search for groups found, kept in a file: a run that goes on, or runs again on the same
films, need not look at each of them anew.

The file is only taken where everything is as it was: films, labels, patients, what decodes and
scales films, and the program that looks at them. What is damaged is found out by its checksums, and
looked for anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from trainer import acquisition, atomic
from trainer.acquisition.groups import Group
from trainer.acquisition.looks import Looks
from trainer.acquisition.marks import Marks
from trainer.acquisition.one_sided import OneSided
from trainer.acquisition.search import Searched
from trainer.data.cache import SEARCHED, Pixels
from trainer.data.labelled import Film
from trainer.film import content

#: Changes where the file's arrays mean something else.
LAYOUT = 1

#: What reading a file raises that is absent, damaged or another program's.
DAMAGED = (
    OSError, EOFError, KeyError, ValueError, TypeError, RuntimeError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip

Arrays = dict[str, NDArray[Any]]


def searched(
    pixels: Pixels, films: Sequence[Film], classes: int, make: Callable[[], Searched]
) -> Searched:
    """What was found in these films before, or else what `make` finds; of pixels that lie in no
    folder nothing is kept. Raises what `make` raises."""
    if pixels.folder is None:
        return make()
    path = pixels.folder / f"{_name(pixels, films, classes)}{SEARCHED}"
    with contextlib.suppress(*DAMAGED):
        return _read(path)
    found = make()
    # Where there is no room for it, the next run only takes longer.
    with contextlib.suppress(OSError), atomic.replacing(path) as part, part.open("wb") as opened:
        np.savez(opened, **_arrays(found))  # type: ignore[arg-type]  # the hint takes no mapping
    return found


def _name(pixels: Pixels, films: Sequence[Film], classes: int) -> str:
    about = [LAYOUT, pixels.size, pixels.rule, content.READERS, classes]
    digest = hashlib.sha256(json.dumps([*about, np.__version__, PIL.__version__]).encode())
    for source in sorted(Path(acquisition.__path__[0]).glob("*.py")):
        digest.update(source.read_bytes())
    whose = [(film.sha256, film.label, film.patient) for film in films]
    digest.update(json.dumps(whose).encode())
    return digest.hexdigest()[:32]


def _arrays(found: Searched) -> Arrays:
    looks = found.looks
    arrays: Arrays = {
        f"marks {field.name}": getattr(looks.marks, field.name)
        for field in dataclasses.fields(Marks)
    }
    arrays |= {name: getattr(looks, name) for name in _OF_LOOKS}
    arrays |= {"ends film": looks.ends[0], "ends place": looks.ends[1]}
    about = []
    for number, one in enumerate(found.named):
        arrays |= {f"{number} films": one.group.films, f"{number} counts": one.counts}
        if one.group.boxes is not None:
            arrays[f"{number} boxes"] = one.group.boxes
        about.append(
            {
                "group": {name: getattr(one.group, name) for name in ("look", "what", "exact")},
                "one": {name: getattr(one, name) for name in ("label", "patients", "chance")},
            }
        )
    words = json.dumps({"small": looks.small, "named": about})
    arrays["about"] = np.frombuffer(words.encode(), np.uint8)
    return arrays


#: Arrays of Looks that are kept as they are.
_OF_LOOKS = ("frames", "sharpness", "tone", "sizes")


def _read(path: Path) -> Searched:
    with path.open("rb") as opened:
        # Before a damaged shape has room made for it.
        if (damaged := zipfile.ZipFile(opened).testzip()) is not None:
            raise ValueError(f"{damaged} is damaged")
        opened.seek(0)
        with np.load(opened, allow_pickle=False) as file:
            arrays: Mapping[str, NDArray[Any]] = {name: file[name] for name in file.files}
    about = json.loads(arrays["about"].tobytes())
    marks = Marks(
        **{field.name: arrays[f"marks {field.name}"] for field in dataclasses.fields(Marks)}
    )
    looks = Looks(
        marks=marks,
        small=about["small"],
        ends=(arrays["ends film"], arrays["ends place"]),
        **{name: arrays[name] for name in _OF_LOOKS},
    )
    named = [
        OneSided(
            group=Group(
                **one["group"],
                films=arrays[f"{number} films"],
                boxes=arrays.get(f"{number} boxes"),
            ),
            counts=arrays[f"{number} counts"],
            **one["one"],
        )
        for number, one in enumerate(about["named"])
    ]
    return Searched(looks, named)
