"""Sheet: groups of films as one picture, a row each, for a person to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

#: Side of a film, and what lies between films, in pixels.
TILE, GAP = 160, 6

#: Films of a row.
COLUMNS = 8

#: Height of a row's heading, and its letters' size.
HEADING, LETTERS = 26, 15

#: Gray of the sheet, of letters, and the colour that marks are framed in.
PAPER, INK, FRAME = (24, 24, 24), (235, 235, 235), (255, 176, 0)


@dataclass(frozen=True)
class Tile:
    """One film."""

    #: uint8 [TILE, TILE].
    film: NDArray[np.uint8]
    #: Its class.
    name: str
    #: Top, left, height and width of a mark as shares of the side.
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Row:
    """One group."""

    heading: str
    films: Sequence[Tile]


def draw(rows: Sequence[Row]) -> Image.Image:
    """The groups' films in RGB, each under its heading and over its class."""
    font = ImageFont.load_default(size=LETTERS)
    height = HEADING + TILE + HEADING
    sheet = Image.new("RGB", (COLUMNS * (TILE + GAP) + GAP, len(rows) * height + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        y = number * height + GAP
        pen.text((GAP, y), row.heading, fill=INK, font=font)
        for column, tile in enumerate(row.films[:COLUMNS]):
            x, top = GAP + column * (TILE + GAP), y + HEADING
            sheet.paste(Image.fromarray(tile.film), (x, top))
            pen.text((x, top + TILE + 2), tile.name, fill=INK, font=font)
            if tile.box is not None:
                down, right, high, wide = (round(TILE * share) for share in tile.box)
                first = (x + max(0, right - 3), top + max(0, down - 3))
                last = (x + min(TILE - 1, right + wide + 3), top + min(TILE - 1, down + high + 3))
                pen.rectangle((*first, *last), outline=FRAME)
    return sheet
