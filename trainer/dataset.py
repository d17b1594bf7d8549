"""Dataset: a folder of labelled films becomes a manifest, split by patient.

Two layouts are read, `<root>/<class>/*` and `<root>/{train,val,test}/<class>/*`. Files are hashed
here but never decoded, and nothing is moved or written. Needs the standard library only, no torch.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import hashlib
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import DatasetError

TRAIN, VAL, TEST = "train", "val", "test"

#: Names under which a split's folder is found, compared in lower case.
_SPLIT_FOLDERS = {"train": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "test": TEST}

#: Files that desktop systems leave in folders.
_CLUTTER = frozenset({"thumbs.db", "desktop.ini", "__macosx"})

#: The class that is the disease where nobody says otherwise, compared in lower case.
DEFAULT_POSITIVE = "pneumonia"

#: A val/ folder chooses the model only when it is at least this large; the most used public set
#: ships one of 16 films, on which every epoch looks the same.
VAL_MIN_FILMS = 100
VAL_MIN_PER_CLASS = 20

#: At most this share of films (or this many, in a small folder) may be unreadable: more is not a
#: few broken films but a wrong folder.
UNREADABLE_SHARE = 0.05
UNREADABLE_MIN = 5

#: How a file is named for its patient:
#:
#:     person123_bacteria_456.jpeg, patient0012_1.jpeg    person123, patient0012
#:     IM-0115-0001.jpeg, NORMAL2-IM-0115-0001.jpeg       im0115, both: they may be one patient
#:     00000013_005.png                                   00000013
#:
#: A patient may also be a folder, `patient00007/study1/view1.jpg`. Where nothing matches, each stem
#: is a patient of its own.
PATIENT = re.compile(
    r"(?:^|[^a-z])(?P<word>person|patient|subject|im)[-_ ]?(?P<number>\d+)"
    r"|(?:^|/)(?P<nih>\d{8})_\d{3}$",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Film:
    """One labelled file."""

    #: Path below the root, with `/`.
    path: str
    #: Index into `Dataset.labels`.
    label: int
    #: Films with the same patient are never split; films of equal content share one too.
    patient: str
    #: SHA-256 of the file, hexadecimal.
    sha256: str
    #: `train`, `val` or `test`.
    split: str


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """One file that is not trained on, and why."""

    #: Path below the root, with `/`.
    path: str
    #: FilmError's code, or `two_labels` for content that lies in two classes.
    code: str
    #: For a person.
    reason: str


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A labelled folder as it was when it was read."""

    root: Path
    #: Class names, sorted; a film's label is an index into it.
    labels: tuple[str, ...]
    #: The class whose probability is reported: the disease.
    positive: str
    #: Sorted by path.
    films: tuple[Film, ...]
    left_out: tuple[LeftOut, ...] = ()
    #: Sentences that a person should read before trusting the result.
    notes: tuple[str, ...] = ()

    @property
    def positive_index(self) -> int:
        """The label that is the disease."""
        return self.labels.index(self.positive)

    @property
    def hash(self) -> str:
        """SHA-256 of the manifest: equal exactly when paths, contents, labels and splits are."""
        lines = sorted(
            f"{film.path}\t{film.sha256}\t{self.labels[film.label]}\t{film.split}\n"
            for film in self.films
        )
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def of(self, split: str) -> tuple[Film, ...]:
        """The films of one split, in the order of `films`."""
        return tuple(film for film in self.films if film.split == split)

    def count(self, split: str) -> dict[str, int]:
        """Films per class name in one split."""
        counts = collections.Counter(film.label for film in self.of(split))
        return {name: counts[label] for label, name in enumerate(self.labels)}

    def without(self, left_out: Sequence[LeftOut]) -> Dataset:
        """The same dataset less these files; raises DatasetError where too little is left."""
        if not left_out:
            return self
        allowed = max(UNREADABLE_MIN, int(UNREADABLE_SHARE * len(self.films)))
        if len(left_out) > allowed:
            codes = collections.Counter(file.code for file in left_out)
            raise DatasetError(
                f"{len(left_out)} of {len(self.films)} films in {self.root} cannot be read "
                f"({_listed(f'{n} × {code}' for code, n in codes.items())}), more than the "
                f"{allowed} that are left out quietly; the first is {left_out[0].path}: "
                f"{left_out[0].reason}"
            )
        gone = {file.path for file in left_out}
        films = tuple(film for film in self.films if film.path not in gone)
        _check_trainable(self.root, films, self.labels)
        for split in (TRAIN, VAL):
            for name, n in dataclasses.replace(self, films=films).count(split).items():
                if n == 0:
                    raise DatasetError(
                        f"no readable film of class {name} is left for {split}; replace the broken "
                        f"files, the first of which is {left_out[0].path}: {left_out[0].reason}"
                    )
        return dataclasses.replace(self, films=films, left_out=(*self.left_out, *left_out))

    def write_csv(self, path: Path) -> None:
        """The manifest as CSV, one line per film, replaced in one step."""
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            with part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
                rows = csv.writer(file)
                rows.writerow(("path", "label", "patient", "sha256", "split"))
                for film in self.films:
                    name = self.labels[film.label]
                    rows.writerow((film.path, name, film.patient, film.sha256, film.split))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def read(
    root: Path,
    *,
    val_fraction: float = 0.12,
    seed: int = 0,
    positive: str | None = None,
    patient_pattern: str | None = None,
) -> Dataset:
    """The labelled folder `root`, split into train, val and (never trained on) test by patient.

    `val_fraction` is the share of each class that is held out. `patient_pattern` is a regular
    expression searched in a file's path below its class folder, without suffix; its group
    `patient`, or first group, or whole match is the patient. Raises DatasetError where the folder
    cannot be trained on.
    """
    if not 0.0 < val_fraction < 1.0:
        raise DatasetError(
            f"val_fraction is {val_fraction}; give a share between 0 and 1, like 0.12"
        )
    patient_of = _patient_reader(patient_pattern)
    splits = _split_folders(root)
    labels = _labels(root, splits)
    films: list[Film] = []
    left_out: list[LeftOut] = []
    for split, folder in splits.items():
        for label, name in enumerate(labels):
            for file in _files(folder / name):
                path = file.relative_to(root).as_posix()
                stem = file.relative_to(folder / name).with_suffix("").as_posix()
                try:
                    sha256 = _sha256(file)
                except OSError as error:
                    reason = f"the file cannot be opened: {error.strerror}"
                    left_out.append(LeftOut(path=path, code="unreadable", reason=reason))
                    continue
                films.append(
                    Film(
                        path=path, label=label, patient=patient_of(stem), sha256=sha256, split=split
                    )
                )
    if not films:
        raise DatasetError(f"{root} holds no films; put them in {root}/<class>/")
    films.sort(key=lambda film: film.path)

    notes: list[str] = []
    contradictions = _contradictions(films)
    if contradictions:
        notes.append(
            f"{len(contradictions)} files are left out because the same content lies in two "
            f"classes, for example {contradictions[0].path}."
        )
        gone = {file.path for file in contradictions}
        films = [film for film in films if film.path not in gone]
    films = _joined_by_content(films)
    _check_trainable(root, films, labels)
    films, more = _split(films, labels, val_fraction, seed)
    dataset = Dataset(
        root=root,
        labels=labels,
        positive=_positive(positive, labels),
        films=tuple(films),
        notes=(*notes, *more, *_leaks(films)),
    )
    dataset = dataset.without(left_out)
    return dataclasses.replace(dataset, left_out=(*contradictions, *left_out))


def _split_folders(root: Path) -> dict[str, Path]:
    """Folders whose children are classes, by split; the root itself where there are no splits."""
    if not root.is_dir():
        raise DatasetError(f"{root} is not a folder; give the folder that holds the class folders")
    names = _folders(root)
    splits = {_SPLIT_FOLDERS[n.lower()]: root / n for n in names if n.lower() in _SPLIT_FOLDERS}
    if not splits:
        inner = [n for n in names if any(c.lower() in _SPLIT_FOLDERS for c in _folders(root / n))]
        if inner:
            raise DatasetError(f"{root} holds no classes; did you mean {root / inner[0]}?")
        return {TRAIN: root}
    if TRAIN not in splits:
        raise DatasetError(
            f"{root} has {_listed(names)} but no train/; add one, or remove the level"
        )
    others = [n for n in names if n.lower() not in _SPLIT_FOLDERS]
    if others:
        raise DatasetError(
            f"{root} has both train/ and {_listed(others)}; move the classes into train/, "
            "or remove the folders that do not belong"
        )
    return {split: splits[split] for split in (TRAIN, VAL, TEST) if split in splits}


def _labels(root: Path, splits: dict[str, Path]) -> tuple[str, ...]:
    """Sorted class names, the same in every split and in labels.txt."""
    labels = tuple(_folders(splits[TRAIN]))
    if len(labels) < 2:
        found = f"only the class {labels[0]}" if labels else "no class folders"
        raise DatasetError(
            f"{splits[TRAIN]} has {found}; two or more are needed, for example NORMAL/ and "
            "PNEUMONIA/"
        )
    for split, folder in splits.items():
        unknown = set(_folders(folder)) - set(labels)
        if unknown:
            raise DatasetError(
                f"{folder} has {_listed(unknown)}, which {TRAIN}/ lacks; "
                f"give {split}/ the classes {_listed(labels)}"
            )
    listing = root / "labels.txt"
    if listing.is_file():
        lines = listing.read_text(encoding="utf-8", errors="replace").splitlines()
        listed = tuple(line.strip() for line in lines if line.strip())
        if listed != labels:
            raise DatasetError(
                f"{listing} says {', '.join(listed)}, the folders say {', '.join(labels)} (sorted "
                "by name, which is the order of the scores); correct labels.txt or remove it"
            )
    return labels


def _positive(wanted: str | None, labels: tuple[str, ...]) -> str:
    if wanted is not None:
        if wanted not in labels:
            raise DatasetError(f"the positive class {wanted} is none of {_listed(labels)}")
        return wanted
    return next((n for n in labels if n.lower() == DEFAULT_POSITIVE), labels[-1])


class _patient_reader:
    """Calls as a function from a path without suffix to its patient."""

    def __init__(self, pattern: str | None) -> None:
        try:
            self._pattern = PATIENT if pattern is None else re.compile(pattern)
        except re.error as error:
            raise DatasetError(
                f"the patient pattern {pattern!r} is no regular expression: {error}"
            ) from error
        self._own = pattern is None

    def __call__(self, stem: str) -> str:
        match = self._pattern.search(stem)
        if match is None:
            return stem
        if self._own:
            return match["nih"] or match["word"].lower() + match["number"]
        if "patient" in self._pattern.groupindex:
            return match["patient"] or stem
        return (match[1] if self._pattern.groups else match[0]) or stem


def _contradictions(films: Sequence[Film]) -> list[LeftOut]:
    """Files whose content lies in more than one class."""
    labels = collections.defaultdict(set)
    for film in films:
        labels[film.sha256].add(film.label)
    return [
        LeftOut(path=f.path, code="two_labels", reason="the same content lies in another class")
        for f in films
        if len(labels[f.sha256]) > 1
    ]


def _joined_by_content(films: Sequence[Film]) -> list[Film]:
    """Films whose patients are one wherever two of them share a file's content (union-find)."""
    parent: dict[str, str] = {}

    def find(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = key = parent[parent[key]]
        return key

    first: dict[str, str] = {}
    for film in films:
        here, there = find(film.patient), find(first.setdefault(film.sha256, film.patient))
        # The smaller name stays, so that the result does not depend on the order.
        parent[max(here, there)] = min(here, there)
    return [dataclasses.replace(film, patient=find(film.patient)) for film in films]


def _check_trainable(root: Path, films: Iterable[Film], labels: tuple[str, ...]) -> None:
    patients = collections.defaultdict(set)
    for film in films:
        if film.split != TEST:
            patients[film.label].add(film.patient)
    for label, name in enumerate(labels):
        if not patients[label]:
            raise DatasetError(
                f"class {name} in {root} has no readable films; add some or remove it"
            )
        if len(patients[label]) < 2:
            raise DatasetError(
                f"all films of class {name} in {root} are of one patient; at least two are needed, "
                "one to train on and one to check with (see patient_pattern if the names mislead)"
            )


def _split(
    films: Sequence[Film], labels: tuple[str, ...], val_fraction: float, seed: int
) -> tuple[list[Film], list[str]]:
    """Films with train and val settled, and a sentence about how."""
    given = [film for film in films if film.split == VAL]
    why = _why_not_enough(given, films, labels)
    if given and not why:
        return list(films), [f"The {len(given)} films of val/ choose the model, as they are."]

    pool = [film for film in films if film.split != TEST]
    held_out = _held_out(pool, labels, val_fraction, seed)
    settled = [
        film
        if film.split == TEST
        else dataclasses.replace(film, split=VAL if film.patient in held_out else TRAIN)
        for film in films
    ]
    n = sum(film.split == VAL for film in settled)
    kept = (
        f"{n} of {len(pool)} films ({len(held_out)} patients) are held out of training by patient"
    )
    if given:
        return settled, [f"val/ does not choose the model because {why}; instead {kept}."]
    return settled, [f"{kept[0].upper()}{kept[1:]}."]


def _why_not_enough(given: Sequence[Film], films: Sequence[Film], labels: tuple[str, ...]) -> str:
    """Why a val/ folder cannot choose the model; empty where it can."""
    counts = collections.Counter(film.label for film in given)
    fewest = min(range(len(labels)), key=lambda label: counts[label])
    shared = {f.patient for f in given} & {f.patient for f in films if f.split == TRAIN}
    if len(given) < VAL_MIN_FILMS:
        return f"it has {len(given)} films, fewer than {VAL_MIN_FILMS}"
    if counts[fewest] < VAL_MIN_PER_CLASS:
        return f"it has {counts[fewest]} films of {labels[fewest]}, fewer than {VAL_MIN_PER_CLASS}"
    if shared:
        return f"{len(shared)} of its patients are in train/ too, for example {min(shared)}"
    return ""


def _held_out(
    pool: Sequence[Film], labels: tuple[str, ...], val_fraction: float, seed: int
) -> set[str]:
    """Patients for validation: of each class about `val_fraction` of its films.

    Patients are ordered by a hash of their name, so that a folder that grows keeps nearly all
    patients where they were.
    """
    films_of = collections.defaultdict(list)
    for film in pool:
        films_of[film.patient].append(film.label)
    #: Patients that training keeps, per class.
    staying = collections.Counter(label for found in films_of.values() for label in set(found))
    held_out: set[str] = set()
    for label in range(len(labels)):
        mine = [p for p, found in films_of.items() if label in found]
        mine.sort(key=lambda p: hashlib.sha256(f"{seed}\0{p}".encode("utf-8", "replace")).digest())
        wanted = val_fraction * sum(films_of[p].count(label) for p in mine)
        have = sum(films_of[p].count(label) for p in mine if p in held_out)
        for patient in mine:
            if have > 0 and have >= wanted:
                break
            classes = set(films_of[patient])
            if patient not in held_out and all(staying[c] > 1 for c in classes):
                held_out.add(patient)
                staying.subtract(classes)
                have += films_of[patient].count(label)
        if have == 0:
            raise DatasetError(
                f"the patients of class {labels[label]} cannot be split, because training needs "
                "each of them for another class; add patients"
            )
    return held_out


def _leaks(films: Sequence[Film]) -> Iterator[str]:
    """Sentences about test films that are in training as well."""
    seen = {film.sha256 for film in films if film.split != TEST}
    n = sum(film.split == TEST and film.sha256 in seen for film in films)
    if n:
        yield f"{n} films of test/ are in the training folders too; do not judge a model by them."


def _folders(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not _is_clutter(p.name))


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(n for n in folders if not _is_clutter(n))
        for name in sorted(names):
            if not _is_clutter(name):
                yield Path(parent, name)


def _refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # a split may lack a class
        raise DatasetError(f"{error.filename} cannot be listed: {error.strerror}") from error


def _is_clutter(name: str) -> bool:
    return name.startswith(".") or name.lower() in _CLUTTER


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
