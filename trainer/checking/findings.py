"""Findings: what may be wrong with labelled films, each thing a sentence with an example."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trainer.checking import division, preview
from trainer.checking.acquired import Alike
from trainer.checking.preview import Preview
from trainer.data import gathering, manifest, whose
from trainer.data.dataset import VAL_FEW_PATIENTS, Dataset, few_choose
from trainer.data.gathering import Gathered
from trainer.data.labelled import TEST, TRAIN, VAL, Film, LeftOut, listed
from trainer.errors import DatasetError
from trainer.judging import metrics

#: Fewer patients than this in a class teach a network these patients.
FEW_PATIENTS = 50

#: A class with less than this share of the largest one's films is rare.
RARE = 0.1

#: A measure of the file that tells the classes apart with this AUROC is a shortcut.
SHORTCUT = 0.75

Level = Literal["bad", "doubt", "note"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was found."""

    #: `bad`: it cannot be trained on. `doubt`: it can, and the result may mislead. `note`: neither.
    level: Level
    #: A stable short word.
    code: str
    #: For a person, with an example.
    text: str
    #: The files that it is about, sorted; below the root.
    paths: tuple[str, ...] = ()


def manifest_classes(folder: Path, gathered: Gathered) -> Iterator[Finding]:
    """A manifest in a folder that says other classes than the folder does."""
    listing = folder / division.MANIFEST
    if not listing.is_file():
        return
    try:
        listed_as = {
            gathering.below(gathered.root, entry.file): entry.name
            for entry in manifest.read(listing, known=gathered.labels).entries
        }
    except DatasetError as error:
        yield Finding(level="note", code="manifest", text=str(error))
        return
    wrong = [
        film
        for film in gathered.films
        if film.path in listed_as and listed_as[film.path] != gathered.labels[film.label]
    ]
    if wrong:
        yield Finding(
            level="doubt",
            code="manifest",
            text=f"{listing} gives {_films(len(wrong))} another class than the folders do: "
            f"{wrong[0].path} is {listed_as[wrong[0].path]} there{_more(len(wrong) - 1)}; `train` "
            "takes what it is given, so remove the manifest or write a new one",
            paths=tuple(sorted(film.path for film in wrong)),
        )


def unreadable(files: Sequence[LeftOut]) -> Iterator[Finding]:
    by_code = collections.defaultdict(list)
    for file in files:
        by_code[file.code].append(file)
    for code, found in sorted(by_code.items()):
        yield Finding(
            level="doubt",
            code=code,
            text=f"{_films(len(found))} cannot be trained on and will be left out: "
            f"{found[0].path}: {found[0].reason}{_more(len(found) - 1)}",
            paths=tuple(sorted(file.path for file in found)),
        )


#: How films that are the same differ otherwise → level, and what to say of them.
_COPIES: dict[str, tuple[Level, str]] = {
    "classes": (
        "doubt",
        "lie in two classes and will be left out; put each film in the class it is of",
    ),
    "splits": (
        "doubt",
        "lie in two splits, so that what is learned is also judged by; remove them from one",
    ),
    "patients": ("note", "are copies of another under another name; they count as one patient's"),
    "": ("note", "are copies of another in the same class"),
}

#: The same for films that show one picture in other bytes.
_NEAR_COPIES: dict[str, tuple[Level, str]] = {
    "classes": (
        "doubt",
        "are nearly the same picture as one of another class; look at them and correct one",
    ),
    "splits": (
        "doubt",
        "are nearly the same picture as one in another split; divide anew with `pneumoq dataset "
        "split`, or remove them from one",
    ),
    "patients": (
        "doubt",
        "are nearly the same picture as one of another patient, so that one may be learned and the "
        "other judged by; `pneumoq dataset split` keeps them together",
    ),
    "": ("note", "are nearly the same picture as another of the same patient and class"),
}


def copies(films: Sequence[Film], seen: dict[str, Preview]) -> Iterator[Finding]:
    """Films of equal content, and films that show the same picture in other bytes."""
    by_content = collections.defaultdict(list)
    for film in films:
        by_content[film.sha256].append(film)
    copies = [group for group in by_content.values() if len(group) > 1]
    near = [
        [film for sha256 in group for film in by_content[sha256]]
        for group in preview.same_pictures(seen)
    ]
    for code, groups, sentences in (
        ("copies", copies, _COPIES),
        ("near_copies", near, _NEAR_COPIES),
    ):
        kinds = collections.defaultdict(list)
        for group in groups:
            kinds[_difference(group)].append(group)
        for kind, (level, what) in sentences.items():
            if kind in kinds:
                yield _about(level, f"{code}_of_{kind}" if kind else code, kinds[kind], what)


def _difference(group: Sequence[Film]) -> str:
    """The worst way in which films that are the same differ."""
    for what, n in (
        ("classes", len({film.label for film in group})),
        ("splits", len({film.split for film in group})),
        ("patients", len({film.patient for film in group})),
    ):
        if n > 1:
            return what
    return ""


def _about(level: Level, code: str, groups: Sequence[Sequence[Film]], what: str) -> Finding:
    films = [film for group in groups for film in group]
    a, b = groups[0][0].path, groups[0][-1].path
    return Finding(
        level=level,
        code=code,
        text=f"{_films(len(films))} {what}: {a} and {b}{_more(len(groups) - 1, ' groups')}",
        paths=tuple(sorted(film.path for film in films)),
    )


def unknown_patients(films: Sequence[Film]) -> Iterator[Finding]:
    """That nothing says whose films are, or that their names prove it."""
    theirs = tuple(sorted(film.path for film in films if film.known_by not in whose.KNOWN))
    if why := whose.stop(films):
        yield Finding(level="bad", code="patients_unknown", text=why, paths=theirs)
    elif whose.state(films) == "unknown":
        text = next(iter(whose.notes(films)))
        yield Finding(level="doubt", code="patients_unknown", text=text, paths=theirs)
    for text in whose.several(films):
        theirs = tuple(sorted(film.path for film in films if film.known_by == whose.SEVERAL))
        yield Finding(level="doubt", code="patients_of_one_name", text=text, paths=theirs)


def patients(films: Sequence[Film]) -> Iterator[Finding]:
    """Patients on two sides of the split that the folders make."""
    sides = collections.defaultdict(set)
    for film in films:
        sides[film.patient].add(film.split)
    for one, other in ((TRAIN, VAL), (TRAIN, TEST), (VAL, TEST)):
        both = {patient for patient, splits in sides.items() if {one, other} <= splits}
        if both:
            theirs = [f for f in films if f.patient in both and f.split in (one, other)]
            yield Finding(
                level="doubt",
                code=f"patients_in_{one}_and_{other}",
                text=f"{len(both)} patients have films in both {one}/ and {other}/, so that "
                f"{other}/ flatters: {min(both)}{_more(len(both) - 1)}; divide anew with "
                "`pneumoq dataset split`, or correct --patient-pattern if the names mislead",
                paths=tuple(sorted(film.path for film in theirs)),
            )


def balance(gathered: Gathered) -> Iterator[Finding]:
    """Classes with too few films or patients, and names that differ by a slip."""
    alike = collections.defaultdict(list)
    for name in gathered.labels:
        alike["".join(name.casefold().split())].append(name)
    for names in alike.values():
        if len(names) > 1:
            yield Finding(
                level="doubt",
                code="alike_classes",
                text=f"the classes {listed(names)} differ only as they are written; if they are "
                "one, put their films together",
            )
    pool = [film for film in gathered.films if film.split != TEST]
    counts = collections.Counter(film.label for film in pool)
    most = max(counts.values(), default=0)
    for label, name in enumerate(gathered.labels):
        patients = len({film.patient for film in pool if film.label == label})
        if 0 < patients < FEW_PATIENTS:
            yield Finding(
                level="doubt",
                code="few_patients",
                text=f"{name} has {patients} patients, fewer than {FEW_PATIENTS}: a network learns "
                "them by heart, and its validation rests on a handful; add films",
            )
        if 0 < counts[label] < RARE * most:
            yield Finding(
                level="doubt",
                code="rare_class",
                text=f"{name} has {counts[label]} films, less than a tenth of the largest class; "
                "look at its sensitivity, not at the accuracy",
            )


def held_out(data: Dataset) -> Iterator[Finding]:
    """That too few patients choose the model, of a class that has enough."""
    pool, held = collections.defaultdict(set), collections.defaultdict(set)
    for film in data.films:
        if film.split != TEST:
            pool[film.label].add(film.patient)
        if film.split == VAL:
            held[film.label].add(film.patient)
    enough = [label for label, theirs in pool.items() if len(theirs) >= FEW_PATIENTS]
    if any(len(held[label]) < VAL_FEW_PATIENTS for label in enough):
        for text in few_choose(data.films, data.labels):
            yield Finding(level="doubt", code="few_held_out", text=text)


def shortcuts(
    gathered: Gathered, data: Dataset | None, seen: dict[str, Preview]
) -> Iterator[Finding]:
    """Traits of the files that give the class away without a look at the lungs."""
    if data is None:
        return
    films = [f for f in data.films if f.sha256 in seen]
    previews = [seen[film.sha256] for film in films]
    kinds = {
        name: size for name, size in _kind_shares(gathered, seen).items() if size[1] >= SHORTCUT
    }
    if len({kind for kind, _ in kinds.values()}) > 1:
        yield Finding(
            level="doubt",
            code="formats_differ",
            text="the classes come in different formats ("
            + listed(f"{name} {kind}" for name, (kind, _) in kinds.items())
            + "), which were made differently: a network may learn that; bring them in one",
        )
    truth = np.array([film.label == data.positive_index for film in films], dtype=np.bool_)
    width = np.array([g.width for g in previews], dtype=np.float64)
    height = np.array([g.height for g in previews], dtype=np.float64)
    measures = (("size", width * height), ("shape", width / np.maximum(height, 1)))
    for what, values in measures:
        apart = _apart(values, truth)
        if apart >= SHORTCUT:
            yield Finding(
                level="doubt",
                code=f"{what}_differs",
                text=f"the {what} of the file alone tells {data.positive} from the rest with AUROC "
                f"{apart:.2f}: a network may learn how films were processed instead of what they "
                "show; judge it on films of another source",
            )


def alike(gathered: Gathered, groups: Sequence[Alike]) -> Iterator[Finding]:
    """Films that look acquired alike and are nearly all of one class."""
    total = len({film.sha256 for film in gathered.films})
    for group in groups:
        n, its = sum(map(len, group.films.values())), len(group.films[group.label])
        others = listed(name for name in gathered.labels if name != group.label)
        yield Finding(
            level="doubt",
            code="acquired_alike",
            text=f"{_films(n)} of {group.patients} patients ({n / total:.1%} of all) have "
            f"{group.what}, and {'all' if its == n else f'{its:,}'} of them are {group.label}: a "
            f"network may learn that in the place of the disease, and call whatever has it "
            f"{group.label}. Look at them (--sheet FILE.png); add films of {others} that were made "
            "so, leave these out, or judge the model on films of another source",
            paths=tuple(sorted(path for paths in group.films.values() for path in paths)),
        )


def _kind_shares(gathered: Gathered, seen: dict[str, Preview]) -> dict[str, tuple[str, float]]:
    """By class its most frequent format, and that one's share of its films."""
    shares = {}
    for label, name in enumerate(gathered.labels):
        kinds = collections.Counter(
            seen[f.sha256].kind for f in gathered.films if f.label == label and f.sha256 in seen
        )
        for kind, n in kinds.most_common(1):
            shares[name] = (kind, n / kinds.total())
    return shares


def _apart(values: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """AUROC in whichever direction is the better one; 0.5 where there is nothing to compare."""
    if truth.all() or not truth.any():
        return 0.5
    found = metrics.auroc(values, truth)
    return max(found, 1 - found)


def _films(n: int) -> str:
    return f"{n:,} film" if n == 1 else f"{n:,} films"


def _more(n: int, of: str = "") -> str:
    return f" (and {n:,} more{of})" if n > 0 else ""
