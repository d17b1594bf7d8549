"""Frozen films: the evaluation set that a schedule's models are compared on, night after night.

Chosen once and kept by content, and never trained on: neither the films nor others of the same
patients. A film may be moved, and its label corrected; one that was changed or removed is missing,
and is reported.
"""

from __future__ import annotations

import collections
import contextlib
import csv
import dataclasses
import hashlib
import io
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainer.data import gathering, patients, whose
from trainer.data.gathering import Gathered
from trainer.data.labelled import TEST, Film, listed
from trainer.data.names import CLEAR, Names
from trainer.data.patience import Patience
from trainer.data.whose import Whose
from trainer.errors import DatasetError

#: Fewer films of a class than this are no set to judge by; another way of choosing is taken.
LEAST = 20

#: Share of each class that is set apart where nothing else settles it; more where that makes fewer
#: than ENOUGH films of a class, up to the share MOST. With 100 films of a class, models that decide
#: alike on all but one or two can be shown not to be worse by 0.02.
FRACTION, ENOUGH, MOST = 0.15, 100, 0.4

_COLUMNS = ("path", "sha256", "label", "patient", "slice", "known_by")


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A film that models are judged by."""

    #: Absolute; a hash of it where names are hidden and it is known by its content alone.
    file: Path
    #: Hexadecimal.
    sha256: str
    #: Class.
    name: str
    patient: str
    #: The part of the films that it belongs to, where there are such.
    slice: str = ""
    #: Whether the file is DICOM, or is called so; not known of one that was kept.
    dicom: bool = False
    #: As of `labelled.Film`; of films that were chosen before it was kept nothing is said.
    known_by: str = field(default=whose.UNSAID, compare=False)


def of_source(
    path: Path, said: Whose = whose.BY_THEMSELVES, labels: Sequence[str] | None = None
) -> tuple[Judged, ...]:
    """The films of a labelled folder or manifest: those of its test split, or all without one.

    A manifest may have a column `slice`. `labels` are the classes that there may be, and `said` is
    how it is known whose the films are. Raises DatasetError.
    """
    # The pattern is for the films that are trained on, and these may be called otherwise.
    gathered = gathering.gather([path], said=dataclasses.replace(said, must_match=False))
    if labels is not None:
        _check_classes(path, gathered.labels, labels)
    films = patients.joined(gathered.films)
    test = [film for film in films if film.split == TEST]
    return _judged(gathered, test or films)


def choose(
    gathered: Gathered,
    *,
    learned: Collection[str] = (),
    fraction: float = FRACTION,
    seed: int = 0,
) -> tuple[Judged, ...]:
    """The films to be frozen, of those that are there now; always the same of the same films.

    Those of `test` where it has `LEAST` of each class; else of the patients of whom no film is in
    `learned` (contents that the champion was trained on), where those have `LEAST`; else of all.
    Of these, about `fraction` of each class, or more where that is too few. Raises DatasetError
    where patients are too few.
    """
    films = patients.joined(_certain(gathered.films))
    test = [film for film in films if film.split == TEST]
    if _fewest(test, gathered.labels) >= LEAST:
        return _judged(gathered, test)
    # In a small folder a larger share: with too few films nothing could ever be decided.
    smallest = max(1, _fewest(films, gathered.labels))
    share = max(fraction, min(MOST, ENOUGH / smallest))
    known = {film.patient for film in films if film.sha256 in learned}
    unknown = [film for film in films if film.patient not in known]
    if known and (fewest := _fewest(unknown, gathered.labels)) >= LEAST:
        # As many films as of all patients, if there are so many. Training does without them: it
        # has those that the champion was trained on.
        share = min(1.0, share * smallest / fewest)
        chosen = patients.first(unknown, gathered.labels, share, seed + 1)
    else:
        # Another seed than the validation's: the same patients would be held out of what is left.
        chosen = patients.held_out(films, gathered.labels, share, seed + 1)
    return _judged(gathered, [film for film in films if film.patient in chosen])


def set_apart(
    gathered: Gathered, films: Sequence[Judged], names: Names = CLEAR
) -> tuple[Gathered, tuple[str, ...]]:
    """The same films, of which none is trained on that is frozen or of a frozen film's patient.

    With sentences about how many; the gathered films have them among their notes. A frozen set
    from another folder is recognised by content, and by the names of patients.
    """
    contents = {film.sha256 for film in films}
    named = {names.same(film.patient) for film in films}
    joined = patients.joined(gathered.films)
    # By the names that films had before they were joined, too: a frozen film that is gone tonight
    # joins nothing, and its patient's other films are still known by the old name.
    theirs = {
        one.patient
        for film, one in zip(gathered.films, joined, strict=True)
        if film.sha256 in contents
        or names.same(film.patient) in named
        or names.same(one.patient) in named
    }
    apart = [film.patient in theirs for film in joined]
    moved = tuple(
        dataclasses.replace(film, split=TEST) if is_apart else film
        for film, is_apart in zip(gathered.films, apart, strict=True)
    )
    n = sum(film.sha256 in contents for film in joined)
    others = sum(apart) - n
    notes = []
    if n:
        notes.append(f"{_films(n)} set apart to compare models on and not trained on.")
    if others:
        notes.append(
            f"{_films(others)} not trained on either, being of the same patients as those that "
            "models are compared on."
        )
    return dataclasses.replace(gathered, films=moved, notes=(*gathered.notes, *notes)), tuple(notes)


def present(
    films: Sequence[Judged], gathered: Gathered, source: Path | None = None
) -> tuple[tuple[Judged, ...], tuple[Judged, ...]]:
    """Those that are still what they were, where they are now and under the labels that they have
    now, and those that are missing.

    They are looked for by content among the films gathered now and those of the `source` that they
    were chosen from, which has the say on their labels, and then where they were. Raises
    DatasetError where the source has a class that the models do not know.
    """
    here, names = _here(gathered)
    if source is not None:
        with contextlib.suppress(DatasetError):  # then they are missing, or where they were
            places, theirs = _here(gathering.gather([source], check_labels=False))
            here, names = places | here, names | theirs
    found: list[Judged] = []
    missing: list[Judged] = []
    patience = Patience()
    for film in films:
        file = here.get(film.sha256)
        if file is None and _is(film.file, film.sha256, patience):
            file = film.file
        if file is None:
            missing.append(film)
        else:
            name = names.get(film.sha256, film.name)
            found.append(dataclasses.replace(film, file=file, name=name))
    if source is not None:
        _check_classes(source, {film.name for film in found}, gathered.labels)
    return tuple(found), tuple(missing)


def _here(gathered: Gathered) -> tuple[dict[str, Path], dict[str, str]]:
    """By content: where each film is, and its class; no class of one that lies in two."""
    places = {film.sha256: gathered.root / film.path for film in gathered.films}
    certain = _certain(gathered.films)
    return places, {film.sha256: gathered.labels[film.label] for film in certain}


def relabelled(before: Iterable[Judged], now: Iterable[Judged]) -> int:
    """How many of the films now have another label than before."""
    names = {film.sha256: film.name for film in before}
    return sum(film.name != names.get(film.sha256, film.name) for film in now)


def _check_classes(path: Path, names: Collection[str], labels: Sequence[str]) -> None:
    if unknown := set(names) - set(labels):
        raise DatasetError(
            f"{path} has the classes {listed(unknown)}, which the models do not know; they know "
            f"{listed(labels)}"
        )


def digest(films: Iterable[Judged]) -> str:
    """SHA-256 that is equal exactly where contents, classes, patients and slices are."""
    lines = sorted(f"{f.sha256}\t{f.name}\t{f.patient}\t{f.slice}\n" for f in films)
    text = "frozen\n" + "".join(lines)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def kept(films: Iterable[Judged], names: Names) -> tuple[Judged, ...]:
    """Films with their patients as they are kept."""
    films = tuple(films)
    of_dicom = {film.patient for film in films if film.dicom}
    return tuple(
        dataclasses.replace(
            film, patient=names.patient(film.patient, dicom=film.patient in of_dicom)
        )
        for film in films
    )


def to_csv(films: Iterable[Judged], names: Names = CLEAR) -> str:
    """One line per film, with a header; paths as they are kept."""
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(_COLUMNS)
    for film in films:
        path = names.path(str(film.file), dicom=film.dicom)
        rows.writerow((path, film.sha256, film.name, film.patient, film.slice, film.known_by))
    return text.getvalue()


def from_csv(text: str) -> tuple[Judged, ...]:
    """What `to_csv` wrote."""
    rows = csv.DictReader(io.StringIO(text, newline=""))
    return tuple(
        Judged(
            file=Path(row["path"]), sha256=row["sha256"], name=row["label"],
            patient=row["patient"], slice=row["slice"], known_by=row.get("known_by", whose.UNSAID),
        )
        for row in rows
    )  # fmt: skip


def _certain(films: Sequence[Film]) -> list[Film]:
    """Films less those whose content lies in two classes."""
    classes = collections.defaultdict(set)
    for film in films:
        classes[film.sha256].add(film.label)
    return [film for film in films if len(classes[film.sha256]) == 1]


def _judged(gathered: Gathered, films: Iterable[Film]) -> tuple[Judged, ...]:
    """Films with what is kept of them, each content once and none that lies in two classes."""
    certain = {film.sha256 for film in _certain(gathered.films)}
    found: dict[str, Judged] = {}
    for film in films:
        if film.sha256 in certain:
            found.setdefault(
                film.sha256,
                Judged(
                    file=gathered.root / film.path,
                    sha256=film.sha256,
                    name=gathered.labels[film.label],
                    patient=film.patient,
                    slice=gathered.slices.get(film.path, ""),
                    dicom=film.dicom,
                    known_by=film.known_by,
                ),
            )
    if not found:
        raise DatasetError(f"{gathered.root} has no films to compare models on; add some")
    return tuple(found.values())


def _films(n: int) -> str:
    return "1 film is" if n == 1 else f"{n:,} films are"


def _fewest(films: Sequence[Film], labels: Sequence[str]) -> int:
    """Films of the class that has the fewest, copies not counted."""
    counts = collections.Counter({film.sha256: film.label for film in films}.values())
    return min(counts[label] for label in range(len(labels)))


def _is(file: Path, sha256: str, patience: Patience) -> bool:
    """Whether a file has this content."""
    try:
        return patience.with_(lambda: gathering.content_of(file)) == sha256
    except OSError:
        return False
