"""Checkup: whether a labelled folder or manifest is fit to train on, in words.

Everything that training would read is read as training reads it, and each film is decoded once.
Nothing is written.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.acquisition.looks import Looks
from trainer.checking import acquired, findings, preview
from trainer.checking.acquired import Alike
from trainer.checking.findings import Finding, Level
from trainer.checking.preview import Preview
from trainer.data import classes, dataset, gathering, layout, manifest, whose
from trainer.data.dataset import Dataset
from trainer.data.decoding import Decoder
from trainer.data.gathering import Gathered
from trainer.data.labelled import TEST, TRAIN, VAL
from trainer.data.whose import Whose
from trainer.errors import DatasetError

#: Shares of films that `train` holds out by default.
VAL_FRACTION = 0.12


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the films of one class are as stored, in pixels."""

    #: Films that were decoded.
    films: int
    #: Medians.
    width: int
    height: int
    #: The shortest side of all.
    shortest: int
    #: Films per format: JPEG, PNG, DICOM, …
    kinds: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Checkup:
    """What was found in a labelled folder or manifest."""

    #: None where it could not be read at all.
    root: Path | None
    #: Split → class → films that can be read, as the folders or the manifest say.
    films: dict[str, dict[str, int]]
    patients: int
    #: `known`, `folders` where folders are taken for patients, or `unknown`.
    patients_are: str
    #: The class that is the disease; None where the names do not say, so that `train` will ask.
    positive: str | None
    #: By class.
    sizes: dict[str, Sizes]
    findings: tuple[Finding, ...]
    #: Files that cannot be read or decoded, sorted; below the root.
    unreadable: tuple[str, ...] = ()
    #: Films that look acquired alike and are nearly all of one class, the clearest first.
    groups: tuple[Alike, ...] = ()

    @property
    def worst(self) -> Level:
        """The level of the worst finding; `note` where there is none."""
        levels = {finding.level for finding in self.findings}
        return "bad" if "bad" in levels else "doubt" if "doubt" in levels else "note"

    @property
    def verdict(self) -> str:
        """The outcome in a word or two."""
        return {"bad": "not usable", "doubt": "usable, but", "note": "ready"}[self.worst]


def check(
    paths: Sequence[Path],
    *,
    said: Whose = whose.BY_THEMSELVES,
    corrections: Path | None = None,
    positive: str | None = None,
    decoder: Decoder | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
    gathered: Gathered | None = None,
) -> Checkup:
    """Look at what `train` would read; what is wrong becomes findings, not errors.

    `said` is how it is known whose a film is.
    `positive` is the class that is the disease, where its name does not say so. `decoder` is
    two threads where none is given; `report` gets how many films were decoded, of how many.
    `gathered` is what these paths hold, where it was read already.
    """
    found: list[Finding] = []
    try:
        gathered = gathered or gathering.gather(
            paths, said=said, corrections=corrections, check_labels=False
        )
    except DatasetError as error:
        return Checkup(
            root=None, films={}, patients=0, patients_are="", positive=None, sizes={},
            findings=(Finding(level="bad", code="unusable", text=str(error)),),
        )  # fmt: skip
    for path in paths:
        if not manifest.is_one(path):
            for sentence in layout.disagreements(path, gathered.labels):
                found.append(Finding(level="bad", code="labels_txt", text=sentence))
            found += findings.manifest_classes(layout.found(path), gathered)
    looks: list[Looks] = []
    seen, broken = preview.at(
        gathered.root, gathered.films, decoder=decoder, report=report, looks=looks
    )
    unreadable = [*gathered.unreadable, *broken]
    found += findings.unreadable(unreadable)
    gone = {file.path for file in broken}
    left = dataclasses.replace(
        gathered, films=tuple(film for film in gathered.films if film.path not in gone)
    )
    data: Dataset | None = None
    try:
        positive = classes.disease(gathered.labels, positive)
    except DatasetError as error:
        found.append(Finding(level="doubt", code="positive_unknown", text=str(error)))
        positive = None
    try:
        data = dataset.settle(
            gathered, val_fraction=VAL_FRACTION, seed=0, positive=positive or gathered.labels[-1]
        )
        data = data.without(broken)
    except DatasetError as error:
        found.append(Finding(level="bad", code="unusable", text=str(error)))
    found += findings.copies(gathered.films, seen)
    unsure = [*findings.unknown_patients(gathered.films)]
    unsure += findings.held_out(data) if data is not None else ()
    found += [*unsure, *findings.patients(gathered.films)]
    found += findings.balance(left)
    sizes = _sizes(gathered, seen)
    found += findings.shortcuts(gathered, data, seen)
    alike = acquired.find(gathered, list(seen), looks)
    found += findings.alike(gathered, alike)
    found += [
        Finding(level="note", code="note", text=note)
        for note in (data or gathered).notes
        if all(note != finding.text for finding in unsure)
    ]
    return Checkup(
        root=gathered.root,
        films=_counts(gathered, gone),
        patients=len({film.patient for film in left.films}),
        patients_are=whose.state(gathered.films),
        positive=positive,
        sizes=sizes,
        findings=tuple(sorted(found, key=lambda f: ("bad", "doubt", "note").index(f.level))),
        unreadable=tuple(sorted(file.path for file in unreadable)),
        groups=alike,
    )


def _sizes(gathered: Gathered, seen: dict[str, Preview]) -> dict[str, Sizes]:
    sizes = {}
    for label, name in enumerate(gathered.labels):
        mine = [seen[f.sha256] for f in gathered.films if f.label == label and f.sha256 in seen]
        if mine:
            sizes[name] = Sizes(
                films=len(mine),
                width=int(np.median([g.width for g in mine])),
                height=int(np.median([g.height for g in mine])),
                shortest=min(min(g.width, g.height) for g in mine),
                kinds=dict(collections.Counter(g.kind for g in mine)),
            )
    return sizes


def _counts(gathered: Gathered, gone: Collection[str]) -> dict[str, dict[str, int]]:
    """Films by split and class, less those of these paths."""
    counts = collections.Counter(
        (film.split, film.label) for film in gathered.films if film.path not in gone
    )
    splits = {film.split for film in gathered.films}
    return {
        split: {name: counts[split, label] for label, name in enumerate(gathered.labels)}
        for split in (TRAIN, VAL, TEST)
        if split in splits
    }
