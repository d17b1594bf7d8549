"""Layout: where the labelled films of a folder are, and which class and split each is of.

Two layouts are read, `<root>/<class>/*` and `<root>/{train,val,test}/<class>/*`; the second also
where it lies in a folder of its own, and beside a copy of itself. No film is opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer import clutter
from trainer.data.labelled import TEST, TRAIN, VAL, Entry, Source, listed, stem_of
from trainer.errors import DatasetError

#: Names under which a split's folder is found, compared in lower case.
_SPLIT_FOLDERS = {"train": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "test": TEST}

#: A folder beside the classes whose name begins so is no class: `export --uncertain` sets films
#: apart in one.
APART = "_"

#: The file that names the classes, one a line.
LABELS = "labels.txt"

#: Folders that hold nothing but another folder, one in the other, in which splits are looked for.
_DEEPEST = 4


@dataclass(frozen=True, kw_only=True)
class _Laid:
    """How a folder is laid out."""

    #: The folder that holds the split folders, or the classes.
    root: Path
    #: (split, folder of classes); a split may have several.
    splits: tuple[tuple[str, Path], ...]
    #: The same of folders beside them that are laid out so too.
    copies: tuple[tuple[str, Path], ...] = ()


def read(root: Path, *, known: Sequence[str] = (), check_labels: bool = True) -> Source:
    """The labelled files of `root`. Raises DatasetError where the folder is not laid out so.

    `known` are the classes where another source, or a model, has said which there are; without them
    two are needed. `check_labels` is whether a labels.txt that disagrees is an error.
    """
    laid = _laid(root)
    labels = _labels(laid, known)
    if check_labels:
        for sentence in disagreements(root, known or labels):
            raise DatasetError(sentence)
    linked: list[str] = []
    entries = [
        Entry(
            file=file,
            name=name,
            split=split,
            stem=stem_of(file.relative_to(folder / name)).as_posix(),
            again=again,
        )
        for again, folders in ((False, laid.splits), (True, laid.copies))
        for split, folder in folders
        for name in labels
        for file in _files(folder / name, linked)
    ]
    return Source(
        root=laid.root,
        path=root,
        labels=labels,
        entries=tuple(entries),
        notes=tuple(_notes(laid, len(linked), sum(entry.again for entry in entries))),
    )


def found(root: Path) -> Path:
    """The folder that holds the split folders or the classes: `root`, or one below it."""
    return _laid(root).root


def classes(root: Path) -> tuple[str, ...]:
    """The class names of `root`, sorted, whatever is in them; raises DatasetError like `read`."""
    return _labels(_laid(root), ())


def disagreements(root: Path, labels: Sequence[str]) -> Iterator[str]:
    """A sentence for each labels.txt in `root` or its split folders that names other classes."""
    laid = _laid(root)
    for folder in dict.fromkeys((root, laid.root, *(folder for _, folder in laid.splits))):
        listing = folder / LABELS
        if not listing.is_file():
            continue
        lines = listing.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        given = tuple(line.strip() for line in lines if line.strip())
        if given != tuple(labels):
            yield (
                f"{listing} says {', '.join(given)}, the folders say {', '.join(labels)} (sorted "
                "by name, which is the order of the scores); correct labels.txt or remove it"
            )


def leavings(root: Path) -> Iterator[Path]:
    """Files below `root` that are skipped as clutter, less those with a name that is hidden.

    What cannot be listed has none.
    """
    ahead = [(root, False)]
    while ahead:
        folder, inside = ahead.pop()
        try:
            names, below = _listed(folder)
        except DatasetError:
            continue  # a bin is often root's own
        for name in names:
            if not name.startswith(".") and (inside or clutter.of_file(name)):
                yield folder / name
        ahead += [
            (folder / name, inside or clutter.of_folder(name) is not None)
            for name, is_link in below
            if not is_link and not name.startswith(".")
        ]


def _notes(laid: _Laid, linked: int, again: int) -> Iterator[str]:
    apart = [n for _, f in laid.splits for n in _folders(f, apart=True) if n.startswith(APART)]
    if apart:
        yield f"{len(apart)} folders are skipped: their names begin with {APART}."
    for split in (TRAIN, VAL, TEST):
        names = [folder.name for of, folder in laid.splits if of == split]
        if len(names) > 1:
            yield f"The folders {listed(f'{name}/' for name in names)} are read as one, {split}/."
    if again:
        yield f"{again} files lie in a copy of the folders, which is beside them, and count once."
    if linked:
        yield (
            f"{linked} linked folders in the folders of classes are not entered; to train on their "
            "films put them in, or give a manifest that names them."
        )


def _laid(root: Path) -> _Laid:
    """How a folder is laid out; raises DatasetError where it is in neither way."""
    if not root.is_dir():
        raise DatasetError(
            f"{root} is not a folder; give the folder that holds the class folders, or a manifest "
            "that ends in .csv"
        )
    names = _folders(root)
    splits = [(_SPLIT_FOLDERS[n.lower()], root / n) for n in names if n.lower() in _SPLIT_FOLDERS]
    others = [n for n in names if n.lower() not in _SPLIT_FOLDERS]
    if not splits:
        inner = [place for n in others if (place := _with_splits(root / n))]
        if len(inner) == len(others) == 1:
            return _laid(inner[0])  # an archive that was unpacked into a folder of its own
        if inner:
            raise DatasetError(
                f"{root} holds no classes; did you mean {root / inner[0]}?",
                shareable=f"{root} holds no classes; did you mean a folder in it?",
            )
        return _Laid(root=root, splits=((TRAIN, root),))
    if TRAIN not in {split for split, _ in splits}:
        raise DatasetError(
            f"{root} has {listed(names)} but no train/; add one, or remove the level",
            shareable=f"{root} has no train/; add one, or remove the level",
        )
    copies: list[tuple[str, Path]] = []
    strangers = []
    for name in others:
        place = _with_splits(root / name)
        if place is None:
            strangers.append(name)
        else:
            copy = _laid(place)
            copies += [*copy.splits, *copy.copies]
    if strangers:
        advice = "move the classes into train/, or remove the folders that do not belong"
        raise DatasetError(
            f"{root} has both train/ and {listed(strangers)}; {advice}",
            shareable=f"{root} has both train/ and {len(strangers)} other folders; {advice}",
        )
    return _Laid(root=root, splits=_in_order(splits), copies=_in_order(copies))


def _in_order(splits: Iterable[tuple[str, Path]]) -> tuple[tuple[str, Path], ...]:
    return tuple(sorted(splits, key=lambda one: (TRAIN, VAL, TEST).index(one[0])))


def _with_splits(folder: Path) -> Path | None:
    """The folder that holds split folders: this, or the innermost of some that hold one folder."""
    for _ in range(_DEEPEST):
        names = _folders(folder)
        if any(name.lower() in _SPLIT_FOLDERS for name in names):
            return folder
        if len(names) != 1:
            break
        folder /= names[0]
    return None


def _labels(laid: _Laid, known: Sequence[str]) -> tuple[str, ...]:
    """Sorted class names, the same in every split."""
    train = [folder for split, folder in laid.splits if split == TRAIN]
    labels = tuple(sorted({name for folder in train for name in _folders(folder)}))
    for split, folder in (*laid.splits, *laid.copies):
        unknown = set(_folders(folder)) - set(known or labels)
        if unknown:
            stray = "of no known class" if known else f"that {TRAIN}/ lacks"
            place = f"{split}/" if len(laid.splits) > 1 else "it"
            advice = f"give {place} the classes {listed(known or labels)}"
            raise DatasetError(
                f"{folder} has folders {stray}: {listed(unknown)}; {advice}",
                shareable=f"{folder} has {len(unknown)} folders {stray}; {advice}",
            )
    where = train[0]
    one = f"only the class {labels[0]}" if labels else "no class folders"
    if known and not labels:
        raise DatasetError(f"{where} has {one}; those of {listed(known)} are looked for")
    if not known and len(labels) < 2:
        raise DatasetError(
            f"{where} has {one}; two or more are needed, for example NORMAL/ and PNEUMONIA/"
        )
    return labels


def _folders(folder: Path, *, apart: bool = False) -> list[str]:
    """Names of the folders in one that may be classes or splits, sorted.

    A link that leads to where it lies, or above, is none.
    """
    return [
        name
        for name, is_link in _listed(folder, absent=False)[1]
        if clutter.of_folder(name) is None
        and (apart or not name.startswith(APART))
        and not (is_link and folder.resolve().is_relative_to((folder / name).resolve()))
    ]


def _files(folder: Path, linked: list[str]) -> Iterator[Path]:
    """The files below a class's folder, those of each folder first; links that are not entered go
    to `linked`."""
    ahead = [folder]
    while ahead:
        parent = ahead.pop()
        names, below = _listed(parent)
        yield from (parent / name for name in names if clutter.of_file(name) is None)
        below = [one for one in below if clutter.of_folder(one[0]) is None]
        linked += [name for name, is_link in below if is_link]
        ahead += [parent / name for name, is_link in reversed(below) if not is_link]


def _listed(folder: Path, *, absent: bool = True) -> tuple[list[str], list[tuple[str, bool]]]:
    """The names in a folder, sorted: of files, and of folders with whether they are links.

    `absent` is whether the folder need not be there. Raises DatasetError.
    """
    names, below = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _is_folder(entry):
                    below.append((entry.name, entry.is_symlink()))
                else:
                    names.append(entry.name)
    except OSError as error:
        if not (absent and isinstance(error, FileNotFoundError)):  # a split may lack a class
            raise DatasetError(
                f"{error.filename} cannot be listed: {error.strerror}",
                shareable=f"a folder of films cannot be listed: {error.strerror}",
            ) from error
    return sorted(names), sorted(below)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
