"""Layout: where the labelled films of a folder are, and which class and split each is of.

Two layouts are read, `<root>/<class>/*` and `<root>/{train,val,test}/<class>/*`. No film is opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainer.data.labelled import TEST, TRAIN, VAL, Entry, Source, listed, stem_of
from trainer.errors import DatasetError

#: Names under which a split's folder is found, compared in lower case.
_SPLIT_FOLDERS = {"train": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "test": TEST}

#: Files that desktop systems leave in folders.
_CLUTTER = frozenset({"thumbs.db", "desktop.ini", "__macosx"})

#: A folder beside the classes whose name begins so is no class: `export --uncertain` sets films
#: apart in one.
APART = "_"

#: The file that names the classes, one a line.
LABELS = "labels.txt"


def read(root: Path, *, known: Sequence[str] = (), check_labels: bool = True) -> Source:
    """The labelled files of `root`. Raises DatasetError where the folder is not laid out so.

    `known` are the classes where another source has said which there are; without them two are
    needed. `check_labels` is whether a labels.txt that disagrees is an error.
    """
    splits = _split_folders(root)
    labels = _labels(splits, known)
    if check_labels:
        for sentence in disagreements(root, known or labels):
            raise DatasetError(sentence)
    apart = [n for f in splits.values() for n in _folders(f, apart=True) if n.startswith(APART)]
    entries = [
        Entry(
            file=file,
            name=name,
            split=split,
            stem=stem_of(file.relative_to(folder / name)).as_posix(),
        )
        for split, folder in splits.items()
        for name in labels
        for file in _files(folder / name)
    ]
    skipped = f"{len(apart)} folders are skipped: their names begin with {APART}."
    notes = (skipped,) if apart else ()
    return Source(root=root, path=root, labels=labels, entries=tuple(entries), notes=notes)


def classes(root: Path) -> tuple[str, ...]:
    """The class names of `root`, sorted, whatever is in them; raises DatasetError like `read`."""
    return _labels(_split_folders(root), ())


def disagreements(root: Path, labels: Sequence[str]) -> Iterator[str]:
    """A sentence for each labels.txt in `root` or its split folders that names other classes."""
    splits = [root / n for n in _folders(root) if n.lower() in _SPLIT_FOLDERS]
    for folder in (root, *splits):
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


def _split_folders(root: Path) -> dict[str, Path]:
    """Folders whose children are classes, by split; the root itself where there are no splits."""
    if not root.is_dir():
        raise DatasetError(
            f"{root} is not a folder; give the folder that holds the class folders, or a manifest "
            "that ends in .csv"
        )
    names = _folders(root)
    splits = {_SPLIT_FOLDERS[n.lower()]: root / n for n in names if n.lower() in _SPLIT_FOLDERS}
    if not splits:
        inner = [n for n in names if any(c.lower() in _SPLIT_FOLDERS for c in _folders(root / n))]
        if inner:
            raise DatasetError(
                f"{root} holds no classes; did you mean {root / inner[0]}?",
                shareable=f"{root} holds no classes; did you mean a folder in it?",
            )
        return {TRAIN: root}
    if TRAIN not in splits:
        raise DatasetError(
            f"{root} has {listed(names)} but no train/; add one, or remove the level",
            shareable=f"{root} has no train/; add one, or remove the level",
        )
    others = [n for n in names if n.lower() not in _SPLIT_FOLDERS]
    if others:
        advice = "move the classes into train/, or remove the folders that do not belong"
        raise DatasetError(
            f"{root} has both train/ and {listed(others)}; {advice}",
            shareable=f"{root} has both train/ and {len(others)} other folders; {advice}",
        )
    return {split: splits[split] for split in (TRAIN, VAL, TEST) if split in splits}


def _labels(splits: dict[str, Path], known: Sequence[str]) -> tuple[str, ...]:
    """Sorted class names, the same in every split."""
    labels = tuple(_folders(splits[TRAIN]))
    for split, folder in splits.items():
        unknown = set(_folders(folder)) - set(known or labels)
        if unknown:
            whose = "the first folder" if known else f"{TRAIN}/"
            place = f"{split}/" if len(splits) > 1 else "it"
            advice = f"give {place} the classes {listed(known or labels)}"
            raise DatasetError(
                f"{folder} has {listed(unknown)}, which {whose} lacks; {advice}",
                shareable=f"{folder} has {len(unknown)} folders that {whose} lacks; {advice}",
            )
    found = f"only the class {labels[0]}" if labels else "no class folders"
    if known and not labels:
        raise DatasetError(f"{splits[TRAIN]} has {found}; those of {listed(known)} are looked for")
    if not known and len(labels) < 2:
        raise DatasetError(
            f"{splits[TRAIN]} has {found}; two or more are needed, for example NORMAL/ and "
            "PNEUMONIA/"
        )
    return labels


def _folders(folder: Path, *, apart: bool = False) -> list[str]:
    return sorted(
        p.name
        for p in folder.iterdir()
        if p.is_dir() and not is_clutter(p.name) and (apart or not p.name.startswith(APART))
    )


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(n for n in folders if not is_clutter(n))
        for name in sorted(names):
            if not is_clutter(name):
                yield Path(parent, name)


def _refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # a split may lack a class
        raise DatasetError(
            f"{error.filename} cannot be listed: {error.strerror}",
            shareable=f"a folder of films cannot be listed: {error.strerror}",
        ) from error


def is_clutter(name: str) -> bool:
    return name.startswith(".") or name.lower() in _CLUTTER
