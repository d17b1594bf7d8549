"""Contact sheet: some films of each group that looks acquired alike, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from trainer import regular
from trainer.acquisition import sheet
from trainer.checking.acquired import Alike
from trainer.film import rules

#: Films of a group's own class; the rest of a row is for those of others.
SHOWN = 5


def draw(root: Path, groups: Sequence[Alike]) -> Image.Image:
    """Films of each group, of its class first. Their paths are below `root`.

    Raises OSError or FilmError where a film changed since it was looked at.
    """
    rows = []
    for group in groups:
        chosen = [*_spread(group.films[group.label], SHOWN, group.label)]
        for label, paths in group.films.items():
            if label != group.label:
                chosen += _spread(paths, sheet.COLUMNS - len(chosen), label)
        counts = ", ".join(f"{len(paths):,} {of}" for of, paths in group.films.items() if paths)
        tiles = [
            sheet.Tile(
                film=rules.decode(regular.contents(root / film), sheet.TILE),
                name=label,
                box=group.boxes.get(film),
            )
            for film, label in chosen
        ]
        rows.append(sheet.Row(heading=f"Films with {group.what}: {counts}", films=tiles))
    return sheet.draw(rows)


def _spread(paths: Sequence[str], most: int, name: str) -> list[tuple[str, str]]:
    """No more than so many of them, from first to last, each with its class."""
    n = min(len(paths), most)
    return [(paths[i * len(paths) // n], name) for i in range(n)]
