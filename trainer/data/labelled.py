"""Labelled: one film with its label, and what a source of such films holds before it is divided.

A source is a folder (trainer.data.layout) or a manifest (trainer.data.manifest). Nothing here reads
a file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePath

TRAIN, VAL, TEST = "train", "val", "test"

#: Version of how patients and the disease are known by names. A job keeps the one that it was
#: submitted under; what says none is of the first, that of release 0.2.0 and before. By the second
#: everything that stands in a patient's place was a patient, of another than any PatientID's.
FIRST_NAMING, SECOND_NAMING, NAMING = 1, 2, 3


@dataclass(frozen=True, kw_only=True)
class Film:
    """One labelled file."""

    #: Path below the dataset's root, with `/`; absolute where the file lies elsewhere.
    path: str
    #: Index into `Dataset.labels`.
    label: int
    #: Films with the same patient are never split; films of equal content share one too.
    patient: str
    #: SHA-256 of the file, hexadecimal.
    sha256: str
    #: `train`, `val` or `test`.
    split: str
    #: Whether the file may be DICOM, by `trainer.film.content.may_be_dicom`.
    dicom: bool = False
    #: What says whose it is, see trainer.data.whose; empty where nothing does.
    known_by: str = field(default="", compare=False)


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """One file that is not trained on, and why."""

    #: Path as in `Film`.
    path: str
    #: FilmError's code, or `two_labels` for content that lies in two classes.
    code: str
    #: For a person.
    reason: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of a source, as its place or its line says; the file was not opened."""

    #: Where it is.
    file: Path
    #: Its class.
    name: str
    #: `train`, `val` or `test`.
    split: str
    #: What the patient is read from: the path below the class folder, without suffix (`stem_of`).
    stem: str
    #: The patient, where the source says so.
    patient: str = ""
    #: The content, where the source says so, hexadecimal: it must be so still.
    sha256: str = ""
    #: The part of the films that it is of, where the source says so.
    slice: str = ""
    #: Whether it lies in a copy of the source's folders: then its content is in those too.
    again: bool = False


@dataclass(frozen=True, kw_only=True)
class Source:
    """The labelled files of one folder or manifest."""

    #: What its paths are relative to.
    root: Path
    #: What a person gave.
    path: Path
    #: Class names, sorted.
    labels: tuple[str, ...]
    entries: tuple[Entry, ...]
    #: Whether its split was chosen film by film, and is to be kept.
    settled: bool = False
    #: Sentences that a person should read.
    notes: tuple[str, ...] = ()


def stem_of(path: PurePath) -> PurePath:
    """A path without its suffix; what ends it in numbers is part of a UID, and stays."""
    return path.with_suffix("") if path.suffix[1:2].isalpha() else path


def listed(names: Iterable[str]) -> str:
    """Names in a sentence, sorted."""
    return ", ".join(sorted(names))
