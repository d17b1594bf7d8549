"""Curves: loss, accuracy and AUROC of a training job's epochs, in a few lines of a terminal.

Eight dots fit a character (Unicode's braille patterns). Validation is a line, training is dotted,
so that they differ without colour too. Knows no terminal: it gives lines of styled pieces.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: A text and its style, as rich names it.
Piece = tuple[str, str]

#: Lines of a plot, and its widest and narrowest, in characters.
HEIGHT, WIDEST, NARROWEST = 6, 48, 10

#: Characters of a terminal from which on accuracy has room between loss and AUROC.
WIDE = 120

#: Characters left of a plot that tell its scale, and between two plots.
SCALE, BETWEEN = 8, 2

VALIDATION, TRAINING, FAINT = "cyan", "yellow", "dim"

#: Bit of each dot of a braille character, by row and column (Unicode 15, section 21.1).
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_BLANK = 0x2800

#: Every so many columns of dots, training is drawn.
_DOTTED = 3


@dataclass(kw_only=True)
class _Canvas:
    """Dots, two across and four down in each character; the last to draw gives the style."""

    width: int
    bits: dict[tuple[int, int], int] = field(default_factory=dict)
    styles: dict[tuple[int, int], str] = field(default_factory=dict)

    def dot(self, x: int, y: int, style: str) -> None:
        """A dot, from the upper left."""
        cell = (y // 4, x // 2)
        self.bits[cell] = self.bits.get(cell, 0) | _DOTS[y % 4][x % 2]
        self.styles[cell] = style

    def line(self, row: int) -> list[Piece]:
        """One line of characters."""
        cells = [(row, column) for column in range(self.width)]
        return [(chr(_BLANK + self.bits.get(c, 0)), self.styles.get(c, "")) for c in cells]


def draw(rows: Sequence[Mapping[Any, Any]], epochs: int, width: int) -> list[list[Piece]]:
    """Lines that show the epochs so far, of `epochs` asked for, in `width` characters.

    No lines before the second epoch, and where there is no room.
    """
    named = [("loss", "loss"), ("AUROC", "auroc")]
    if width >= WIDE:
        named.insert(1, ("accuracy", "accuracy"))
    plot = min(WIDEST, (width - (len(named) - 1) * BETWEEN) // len(named) - SCALE)
    if len(rows) < 2 or plot < NARROWEST:
        return []
    last = max(epochs, rows[-1]["epoch"])
    plots = [_plot(title, name, rows, last, plot) for title, name in named]
    lines = [
        [
            piece
            for n, part in enumerate(parts)
            for piece in ([(" " * BETWEEN, "")] * (n > 0) + part)
        ]
        for parts in zip(*plots, strict=True)
    ]
    legend = [
        (" " * SCALE, ""),
        ("──", VALIDATION), (" validation  ", ""), ("┄┄", TRAINING), (" training  ", ""),
        (f"epoch {rows[-1]['epoch']} of {last}", FAINT),
    ]  # fmt: skip
    return [*lines, legend]


def _plot(
    title: str, name: str, rows: Sequence[Mapping[Any, Any]], last: int, width: int
) -> list[list[Piece]]:
    """A title and HEIGHT lines, each of SCALE + `width` characters."""
    points = {
        style: [(int(row["epoch"]), float(row[column])) for row in rows if _known(row[column])]
        for style, column in ((TRAINING, f"train_{name}"), (VALIDATION, f"val_{name}"))
    }
    values = [value for series in points.values() for _, value in series]
    low, high = min(values, default=0.0), max(values, default=1.0)
    if high - low < 1e-6:
        low, high = low - 0.5, high + 0.5
    canvas = _Canvas(width=width)
    for style, series in points.items():
        places = [
            (
                round((epoch - 1) / max(1, last - 1) * (2 * width - 1)),
                round((high - value) / (high - low) * (4 * HEIGHT - 1)),
            )
            for epoch, value in series
        ]
        _draw(canvas, places, style)
    now = points[VALIDATION][-1:]
    heading = f"{title}, validation {now[0][1]:.4f}" if now else title
    scale = {0: f"{high:.3f}", HEIGHT - 1: f"{low:.3f}"}
    return [
        [(" " * SCALE, ""), (f"{heading[:width]:<{width}}", "bold")],
        *(
            [(f"{scale.get(row, ''):>{SCALE - 2}} ", FAINT), ("│", FAINT), *canvas.line(row)]
            for row in range(HEIGHT)
        ),
    ]


def _draw(canvas: _Canvas, places: Sequence[tuple[int, int]], style: str) -> None:
    """A line through these places; dots on it where it is training's."""
    dotted = style == TRAINING
    for n, (x, y) in enumerate(places):
        canvas.dot(x, y, style)
        if n == 0:
            continue
        x0, y0 = places[n - 1]
        before = y0
        for at in range(x0, x + 1):
            now = round(y0 + (y - y0) * (at - x0) / max(1, x - x0))
            if not dotted:
                # Down or up to it, so that a steep line has no gaps.
                for level in range(min(before, now), max(before, now) + 1):
                    canvas.dot(at, level, style)
            elif at % _DOTTED == 0:
                canvas.dot(at, now, style)
            before = now


def _known(value: Any) -> bool:
    return value is not None and math.isfinite(value)
