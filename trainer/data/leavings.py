"""Leavings: which films of earlier nights lie where clutter does, and are no films any more.

An older list of clutter was shorter: what lay in a recycle bin or among thumbnails was trained on.
Whoever compares the films of two nights does not take such files for films that were removed. They
are known by where they lay; where that is hidden, by what lies there still.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path

from trainer import clutter
from trainer.data import gathering, layout, manifest
from trainer.data.names import Names, is_hidden
from trainer.errors import DatasetError


class Leavings:
    """What is clutter in the folders of a dataset. A manifest has none: it names its films."""

    def __init__(self, sources: Iterable[Path], root: Path, names: Names) -> None:
        """`root` is what the paths of films are relative to, and `names` how they are kept."""
        self._folders = [_place(path) for path in sources if not manifest.is_one(path)]
        self._root = root
        self._names = dataclasses.replace(names, made={})

    def among(
        self, kept: Mapping[str, Collection[str]], classes: Mapping[str, str]
    ) -> frozenset[str]:
        """The contents, of these with their paths as they are kept, that lay nowhere else.

        `classes` has the class of each: a folder of clutter may have been taken for one.
        """
        return frozenset(
            content
            for content, paths in kept.items()
            if clutter.of_folder(classes.get(content, "")) is not None
            or (paths and all(map(self.has, paths)))
        )

    def has(self, path: str) -> bool:
        """Whether a path of a film, as it is kept, is that of clutter; the file need not be there.

        Relative to the root, or absolute.
        """
        if is_hidden(path):
            return path in self._hidden
        return any(
            clutter.reason(below) is not None
            for folder in self._folders
            if not Path(below := gathering.below(folder, self._root / path)).is_absolute()
        )

    @cached_property
    def _hidden(self) -> frozenset[str]:
        """Hashes of the paths of clutter that is there, as manifests and frozen films have them."""
        return frozenset(
            self._names.path(path, dicom=True)
            for folder in self._folders
            for file in layout.leavings(folder)
            for path in _as_kept(self._root, file)
        )


def _place(source: Path) -> Path:
    """The folder that a source's films lie in; the source itself where it cannot be read now."""
    try:
        return layout.found(source)
    except DatasetError:
        return source


def _as_kept(root: Path, file: Path) -> tuple[str, str]:
    """A file's path as a manifest has it, and as frozen films have it."""
    below = gathering.below(root, file)
    return below, str(root / below)


def sentence(films: int, judged: int) -> str:
    """What to say of so many films that were trained on, and that models were compared on."""
    found = []
    if films:
        found.append(
            f"{films:,} films of earlier nights lay in recycle bins, among thumbnails and the "
            "like, which are skipped from now on: they do not count as removed"
        )
    if judged:
        found.append(
            f"{judged:,} of the frozen films lay in such places, and models are not compared on "
            "them any more"
        )
    return "; ".join(found)


def paths_of(films: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Content → paths, of (content, path), less contents that have a path that is plainly a film's.

    What is left may be clutter: a hidden path, or one in which a name is that of clutter.
    """
    found: dict[str, list[str]] = {}
    plain: set[str] = set()
    for content, path in films:
        if is_hidden(path) or clutter.reason(path) is not None:
            found.setdefault(content, []).append(path)
        else:
            plain.add(content)
    return {content: paths for content, paths in found.items() if content not in plain}
