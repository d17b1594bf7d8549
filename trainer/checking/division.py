"""Division: labelled films divided into train, val and test by patient, beside the originals.

No film is moved or changed: a division is a manifest, or a folder of hard links.
"""

from __future__ import annotations

import collections
import dataclasses
import errno
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer import atomic
from trainer.checking import preview
from trainer.data import dataset, gathering, layout, manifest, patients, whose
from trainer.data.dataset import Dataset
from trainer.data.decoding import Decoder
from trainer.data.labelled import TEST, TRAIN, VAL, Film, stem_of
from trainer.data.whose import Whose
from trainer.errors import DatasetError

#: The manifest's name in a folder of hard links.
MANIFEST = "manifest.csv"


@dataclass(frozen=True, kw_only=True)
class Division:
    """Films on three sides, and what kept some of them together."""

    data: Dataset
    #: Groups of films that show one picture and had different patients.
    joined: int


def divide(
    paths: Sequence[Path],
    *,
    val: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    said: Whose = whose.BY_THEMSELVES,
    corrections: Path | None = None,
    decoder: Decoder | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Division:
    """All readable films, of each class about `val` and `test` of them held out by patient.

    Whatever splits there were are given up. Films that are nearly the same picture count as one
    patient's; for that each film is decoded once, by `decoder` or two threads. The same films, seed
    and shares give the same division. `said` is how it is known whose a film is. Raises
    DatasetError.
    """
    if not (val > 0 and test >= 0 and val + test < 1):
        raise DatasetError(
            f"val {val} and test {test} leave nothing to train on; give shares like 0.1 and 0.1"
        )
    gathered = gathering.gather(paths, said=said, corrections=corrections)
    dataset.check_patients(gathered)
    # In one pool: test films are judged anew.
    pool = [dataclasses.replace(film, split=TRAIN) for film in gathered.films]
    gathered = dataclasses.replace(gathered, films=tuple(pool), settled=False, added=frozenset())
    # Which class is the disease makes no difference here, and is not asked.
    data = dataset.settle(gathered, val_fraction=val, seed=seed, positive=gathered.labels[-1])
    seen, broken = preview.at(data.root, data.films, decoder=decoder, report=report)
    data = data.without(broken)
    patient_of = {film.sha256: film.patient for film in data.films}
    groups = [[patient_of[sha256] for sha256 in group] for group in preview.same_pictures(seen)]
    films = patients.together(
        data.films, [(str(n), patient) for n, group in enumerate(groups) for patient in group]
    )
    joined = sum(len(set(group)) > 1 for group in groups)
    sides: dict[str, str] = {}
    for split, share in ((TEST, test), (VAL, val / (1 - test))):
        others = [film for film in films if film.patient not in sides]
        if share:
            held_out = patients.held_out(others, data.labels, share, seed)
            sides |= dict.fromkeys(held_out, split)
    films = [dataclasses.replace(film, split=sides.get(film.patient, TRAIN)) for film in films]
    return Division(data=dataclasses.replace(data, films=tuple(films)), joined=joined)


def write_manifest(data: Dataset, path: Path) -> None:
    """Write the division as a manifest; its paths are relative where the films are below it."""
    if path.exists():
        raise DatasetError(f"{path} is there already; give another name")
    if not path.absolute().parent.is_dir():
        raise DatasetError(f"{path}: there is no folder {path.parent}; make it first")
    films = [
        dataclasses.replace(film, path=gathering.below(path.parent, data.root / film.path))
        for film in data.films
    ]
    manifest.write(path, _told(films), data.labels)


def _told(films: Sequence[Film]) -> list[Film]:
    """Films without the patients that nothing tells, as whoever reads the manifest must be told.

    One who has films of several names, for they show one picture, stays.
    """
    called = collections.defaultdict(set)
    for film in films:
        called[film.patient].add(stem_of(Path(film.path)).name)
    return [
        film
        if film.known_by in whose.KNOWN or len(called[film.patient]) > 1
        else dataclasses.replace(film, patient="")
        for film in films
    ]


def write_folder(data: Dataset, folder: Path, *, copy: bool = False) -> None:
    """Write the division as `folder/{train,val,test}/<class>/`, with a manifest and labels.txt.

    Films are hard links to the originals, or copies. The folder is whole or not there; it must be
    empty before.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise DatasetError(f"{folder} is not empty; give a new folder")
    if folder.exists() and not folder.is_dir():
        raise DatasetError(f"{folder} is a file; give a new folder")
    if not folder.absolute().parent.is_dir():
        raise DatasetError(
            f"{folder}: there is no folder {folder.absolute().parent}; make it first"
        )
    taken: set[str] = set()
    films: list[Film] = []
    with atomic.new_folder(folder) as part:
        for film in data.films:
            name = _free(f"{film.split}/{data.labels[film.label]}", film, data.labels, taken)
            place = part / name
            place.parent.mkdir(parents=True, exist_ok=True)
            _put((data.root / film.path).resolve(), place, copy=copy)
            films.append(dataclasses.replace(film, path=name))
        (part / layout.LABELS).write_text("".join(f"{name}\n" for name in data.labels))
        films.sort(key=lambda film: film.path)
        manifest.write(part / MANIFEST, _told(films), data.labels)


def _free(folder: str, film: Film, labels: Sequence[str], taken: set[str]) -> str:
    """A path for the film that no other has; the patient is read from it as from its own."""
    stem = manifest.below_class(Path(film.path), labels)
    name, number = f"{folder}/{stem}", 2
    while name in taken:
        name, number = f"{folder}/{number}/{stem}", number + 1
    taken.add(name)
    return name


def _put(file: Path, place: Path, *, copy: bool) -> None:
    if copy:
        shutil.copy2(file, place)
        return
    try:
        os.link(file, place)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        raise DatasetError(
            f"{file} cannot be hard-linked to {place.parent} ({error.strerror}); give a folder on "
            "the same file system, or --manifest FILE.csv, or --copy"
        ) from error
