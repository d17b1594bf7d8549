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
class Row:
    """One group."""

    heading: str
    #: Up to COLUMNS films, uint8 [TILE, TILE], each with its class.
    films: Sequence[tuple[NDArray[np.uint8], str]]
    #: Top, left, height and width of a mark as shares of the side.
    box: tuple[float, float, float, float] | None = None


def draw(rows: Sequence[Row]) -> Image.Image:
    """The groups' films in RGB, each under its heading and over its class."""
    font = ImageFont.load_default(size=LETTERS)
    height = HEADING + TILE + HEADING
    sheet = Image.new("RGB", (COLUMNS * (TILE + GAP) + GAP, len(rows) * height + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        y = number * height + GAP
        pen.text((GAP, y), row.heading, fill=INK, font=font)
        for column, (film, name) in enumerate(row.films[:COLUMNS]):
            x = GAP + column * (TILE + GAP)
            sheet.paste(Image.fromarray(film), (x, y + HEADING))
            pen.text((x, y + HEADING + TILE + 2), name, fill=INK, font=font)
            if row.box is not None:
                top, left, high, wide = (round(TILE * share) for share in row.box)
                corner = (x + max(0, left - 3), y + HEADING + max(0, top - 3))
                end = (
                    x + min(TILE - 1, left + wide + 3),
                    y + HEADING + min(TILE - 1, top + high + 3),
                )
                pen.rectangle((*corner, *end), outline=FRAME)
    return sheet
