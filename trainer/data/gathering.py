"""Gathering: the films of one or several sources, hashed, with one label each.

What a folder or a manifest says is compared with the files: one that cannot be read is set aside,
one that is not what its manifest says is an error. Nothing is decoded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from trainer import regular, spelling
from trainer.data import layout, manifest, tagged, whose
from trainer.data.labelled import FIRST_NAMING, Entry, Film, LeftOut, Source, listed
from trainer.data.patience import Patience
from trainer.data.whose import Whose
from trainer.errors import DatasetError
from trainer.film import content

#: Files hashed at a time, how many of them by one thread before it is asked for more, and the
#: threads that do it: enough to keep a disk busy.
BATCH, TOGETHER, THREADS = 1024, 16, 4


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """Labelled films before they are divided."""

    #: What the films' paths are relative to.
    root: Path
    #: Class names, sorted.
    labels: tuple[str, ...]
    #: Sorted by path.
    films: tuple[Film, ...]
    #: Files that cannot be opened.
    unreadable: tuple[LeftOut, ...]
    #: Paths of the films that only a later source has.
    added: frozenset[str]
    #: Whether the first source chose its split film by film.
    settled: bool
    #: Sentences that a person should read.
    notes: tuple[str, ...]
    #: Path → the part of the films that it is of: as its manifest says, or, of several sources, the
    #: source's name.
    slices: Mapping[str, str] = field(default_factory=dict)


def gather(
    paths: Sequence[Path],
    *,
    said: Whose = whose.BY_THEMSELVES,
    corrections: Path | None = None,
    check_labels: bool = True,
) -> Gathered:
    """The films of folders and manifests; raises DatasetError.

    The first source says which classes there are, and `said` how it is known whose a film is.
    `check_labels` is whether a labels.txt that
    disagrees is an error.
    """
    sources: list[Source] = []
    for path in paths:
        known = sources[0].labels if sources else ()
        if manifest.is_one(path):
            sources.append(manifest.read(path, known=known))
        else:
            sources.append(layout.read(path, known=known, check_labels=check_labels))
    first, *others = sources
    root = first.root if not others else _common(source.root for source in sources)
    unreadable: list[LeftOut] = []
    notes = list(first.notes)
    readers = [whose.Reader(said, source.entries) for source in sources]
    tags: dict[str, dict[str, str]] = {}
    films = list(_films(first, first, root, readers[0], said, tags, unreadable))
    given = len(films)
    for source, reader in zip(others, readers[1:], strict=True):
        new = list(_films(source, first, root, reader, said, tags, unreadable))
        films, note = _merged(films, new, source)
        notes += [*source.notes, *note]
    added = frozenset(film.path for film in films[given:])
    _check_pattern(said, readers)
    if tags:
        films, note = tagged.owned(films, tags, said)
        notes += note
    if not films and not unreadable:
        raise DatasetError(f"{first.path} holds no films; put them in {first.path}/<class>/")
    if corrections is not None:
        films, note = _corrected(films, corrections, root, sources)
        notes += note
    return Gathered(
        root=root,
        labels=first.labels,
        films=tuple(sorted(films, key=lambda film: film.path)),
        unreadable=tuple(unreadable),
        added=added,
        settled=first.settled,
        notes=tuple(notes),
        slices={
            below(root, entry.file): name
            for source, its in zip(sources, _names(sources, root), strict=True)
            for entry in source.entries
            if (name := entry.slice or its)
        },
    )


def of_entries(entries: Sequence[Entry], said: Whose) -> list[Film]:
    """One source's films, hashed, with whose they are; those that cannot be opened are left out.

    They are numbered by no class: all labels are 0.
    """
    reader = whose.Reader(said, entries)
    tags: dict[str, dict[str, str]] = {}
    films = []
    for entry, sha256, kind, its, error in _hashed(entries, said):
        if error:
            continue
        path = str(entry.file)
        if its:
            tags[path] = its
        patient, known_by = reader(entry)
        films.append(
            Film(
                path=path, label=0, patient=patient, known_by=known_by, sha256=sha256,
                split=entry.split, dicom=content.may_be_dicom(path, kind),
            )
        )  # fmt: skip
    return tagged.owned(films, tags, said)[0] if tags else films


def classes(source: Path) -> tuple[str, ...]:
    """The class names of a folder or manifest, sorted; no film is opened. Raises DatasetError."""
    return manifest.read(source).labels if manifest.is_one(source) else layout.classes(source)


def _films(
    source: Source,
    first: Source,
    root: Path,
    patient_of: whose.Reader,
    said: Whose,
    tags: dict[str, dict[str, str]],
    unreadable: list[LeftOut],
) -> Iterator[Film]:
    """The films of one source, hashed; what cannot be opened goes to `unreadable`.

    What their tags say goes to `tags`, hashed, by path. Those that lie again in a copy of its
    folders are left out. Raises DatasetError where films are not what a manifest says, or the copy
    has others.
    """
    wrong: list[str] = []
    there: set[tuple[str, str]] = set()
    others: list[str] = []
    for entry, sha256, kind, its, error in _hashed(source.entries, said):
        path = below(root, entry.file)
        if entry.sha256 and sha256 != entry.sha256:
            wrong.append(f"{entry.file} {f'cannot be opened ({error})' if error else 'changed'}")
        elif error:
            reason = f"the file cannot be opened: {error}"
            unreadable.append(LeftOut(path=path, code="unreadable", reason=reason))
        elif entry.again:
            if (sha256, entry.name) not in there:
                others.append(path)
        else:
            there.add((sha256, entry.name))
            patient, known_by = patient_of(entry)
            if its:
                tags[path] = its
            yield Film(
                path=path,
                label=first.labels.index(entry.name),
                patient=patient,
                known_by=known_by,
                sha256=sha256,
                split=entry.split,
                dicom=content.may_be_dicom(path, kind),
            )
    if wrong:
        found = (
            f"{len(wrong)} of {len(source.entries)} films are not what {source.path} says they are"
        )
        advice = (
            "; bring those files back, or make a new manifest (its paths are relative to the "
            "folder that it lies in)"
        )
        raise DatasetError(f"{found}: {wrong[0]}{advice}", shareable=found + advice)
    if others:
        found = (
            f"{source.root} has both train/ and another folder with train/, which is no copy: "
            f"{len(others)} films are only there, or of another class"
        )
        advice = "; put them in their place, or give one of the folders by itself"
        raise DatasetError(f"{found}: {others[0]}{advice}", shareable=found + advice)


_Hashed = tuple[Entry, str, str, dict[str, str], str]


def _hashed(entries: Sequence[Entry], said: Whose) -> Iterator[_Hashed]:
    """Each entry with its file's SHA-256, the kind of its content and what its tags say, hashed, or
    with why it cannot be opened; in order."""
    patience = Patience()

    def of(entry: Entry) -> _Hashed:
        try:
            return entry, *patience.with_(lambda: _read(entry.file, said)), ""
        except OSError as error:
            return entry, "", "", {}, error.strerror or type(error).__name__
        except ValueError:
            return entry, "", "", {}, "no file can have such a name"

    def some(start: int) -> list[_Hashed]:
        return [of(entry) for entry in entries[start : start + TOGETHER]]

    starts = iter(range(0, len(entries), TOGETHER))
    with ThreadPoolExecutor(THREADS, thread_name_prefix="hash") as pool:
        while batch := list(islice(starts, BATCH // TOGETHER)):
            for hashed in pool.map(some, batch):
                yield from hashed


def content_of(file: Path) -> str:
    """A file's SHA-256, hexadecimal; raises OSError."""
    return _read(file, None)[0]


def _read(file: Path, said: Whose | None) -> tuple[str, str, dict[str, str]]:
    """A file's SHA-256, hexadecimal, the kind of its content, and what its tags say, hashed; raises
    OSError."""
    tags: dict[str, str] = {}
    digest = hashlib.sha256()
    with open(file, "rb", opener=regular.opener) as opened:
        head = block = opened.read(1 << 20)
        while block:
            digest.update(block)
            block = opened.read(1 << 20)
        kind = content.kind(head)
        if kind == "DICOM" and said is not None and said.reads_tags:
            opened.seek(0)
            tags = {what: said.tag(what, value) for what, value in _identity(opened).items()}
    return digest.hexdigest(), kind, tags


def _identity(opened: BinaryIO) -> dict[str, str]:
    """What a DICOM file says of its patient and study, in the clear."""
    from trainer.film import dicom, rules  # which take a third of a second

    rules.hush()
    return dicom.identity(opened)


def _check_pattern(said: Whose, readers: Sequence[whose.Reader]) -> None:
    """Refuse a pattern that matches no film: each would be taken for a patient of its own."""
    searched = sum(reader.searched for reader in readers)
    if not said.must_match or not searched or any(reader.matched for reader in readers):
        return
    if said.naming <= FIRST_NAMING:  # whose jobs go on as they did
        return
    stem = next(reader.example for reader in readers if reader.searched)
    found = f"--patient-pattern {said.pattern} matches none of {searched:,} films"
    advice = "it is searched in a film's path below its class folder, without suffix"
    raise DatasetError(f"{found}; {advice}, for example in {stem}", shareable=f"{found}; {advice}")


def _merged(films: list[Film], new: list[Film], source: Source) -> tuple[list[Film], list[str]]:
    """Films with those of a later source after them: content that is there takes its label."""
    given: dict[str, set[int]] = {}
    for film in new:
        given.setdefault(film.sha256, set()).add(film.label)
    # A source that contradicts itself corrects nothing: its films are added and then left out.
    takes = {sha256: labels.pop() for sha256, labels in given.items() if len(labels) == 1}
    here = {film.sha256 for film in films} & takes.keys()
    n = sum(film.label != takes.get(film.sha256, film.label) for film in films)
    relabelled = [
        dataclasses.replace(film, label=takes.get(film.sha256, film.label)) for film in films
    ]
    again = [film for film in new if film.sha256 in here]
    note = f"{len(again)} films of a later source are there already"
    note += f"; {n} get the label that it gives them." if n else ", with the same label."
    return [*relabelled, *(f for f in new if f.sha256 not in here)], [note] if again else []


def _corrected(
    films: list[Film], corrections: Path, root: Path, sources: Sequence[Source]
) -> tuple[list[Film], list[str]]:
    """Films with the labels of a CSV; content counts, so that all its copies follow."""
    labels = sources[0].labels
    by_path = {film.path: film for film in films}
    contents = {film.sha256 for film in films}
    roots = [*dict.fromkeys(source.root for source in sources), corrections.parent]
    takes: dict[str, tuple[int, int]] = {}
    for line, path, sha256, name in manifest.corrections(corrections):
        where = f"{corrections}, line {line}"
        name = spelling.found(spelling.of_windows(name), labels.__contains__)
        if name not in labels:
            raise DatasetError(f"{where}: the label {name!r} is none of {listed(labels)}")
        if not sha256:
            meant = spelling.found(
                path, lambda p: any(below(root, r / p) in by_path for r in roots)
            )
            found = {by_path[p].sha256 for r in roots if (p := below(root, r / meant)) in by_path}
            if len(found) > 1:
                raise DatasetError(
                    f"{where}: {path} is a film in several folders; give its absolute path",
                    shareable=f"{where}: the film is in several folders; give its absolute path",
                )
            sha256 = found.pop() if found else ""
        if sha256 not in contents:
            of = f"is no film of {', '.join(str(s.path) for s in sources)}"
            raise DatasetError(
                f"{where}: {path or sha256} {of}; correct the line or remove it",
                shareable=f"{where}: it {of}; correct the line or remove it",
            )
        label = labels.index(name)
        if takes.setdefault(sha256, (label, line))[0] != label:
            raise DatasetError(
                f"{where}: the film has another label in line {takes[sha256][1]}; remove one"
            )
    n = sum(film.label != takes.get(film.sha256, (film.label, 0))[0] for film in films)
    changed = [
        dataclasses.replace(film, label=takes.get(film.sha256, (film.label, 0))[0])
        for film in films
    ]
    return changed, [f"The corrections give {n} films another label."]


def _names(sources: Sequence[Source], root: Path) -> list[str]:
    """What each of several sources is called; where two are called the same, its path below root.

    A single source needs no name.
    """
    if len(sources) == 1:
        return [""]
    names = [s.path.stem if manifest.is_one(s.path) else s.path.absolute().name for s in sources]
    return [
        name if names.count(name) == 1 else below(root, source.path)
        for name, source in zip(names, sources, strict=True)
    ]


def below(root: Path, file: Path) -> str:
    """A path below the root, with `/`; absolute where it lies elsewhere."""
    place, base = _absolute(file), _absolute(root)
    if place == base:
        return "."
    inside = f"{base.rstrip('/')}/"
    return place[len(inside) :] if place.startswith(inside) else place


def _absolute(path: Path) -> str:
    # Not resolve(): a link is a name like any other. A string: to make paths of tens of thousands
    # of films takes longer than to hash them.
    return os.path.normpath(path.absolute())


def _common(roots: Iterable[Path]) -> Path:
    return Path(os.path.commonpath([_absolute(root) for root in roots]))
