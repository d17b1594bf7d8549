"""Refusals: which intact images are no films to be scored, and how large a film may be.

A refusal protects the meaning of a score: the model has seen single frontal chest films only. Who
knows better can accept a refusal by its code; then the item is scored wherever pixels can be made.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from trainer.errors import FilmError, FilmRefused

if TYPE_CHECKING:
    # Commands that only name the codes need not wait for Pillow to load.
    from PIL import Image

#: Codes that a caller may accept, and what each means.
REFUSALS = {
    "too_small": "a side is shorter than 32 pixels: an icon or a thumbnail",
    "colour": "a colour picture; films are gray, also where they are stored as RGB",
    "multi_frame": "several frames, pages or pictures in one file; accepted, the first is scored",
    "modality": "DICOM of another kind than a radiograph (CT, MR, US, …)",
    "body_part": "DICOM of another body part than the chest",
    "lateral": "DICOM of a lateral or oblique view",
    "for_processing": "DICOM of raw detector data, FOR PROCESSING and not FOR PRESENTATION",
    "polarity": "DICOM whose tags do not agree on which end is black; accepted, "
    "PhotometricInterpretation decides",
    "burned_in": "DICOM that says that text is burned into its pixels",
}

#: Films with more pixels than this are refused before anything is decoded. The largest detectors
#: in use make about 20 megapixels.
MAX_PIXELS = 100_000_000

#: Shorter sides are those of icons and thumbnails, not of films.
MIN_SIDE = 32


#: Larger than any number of pixels, bits or frames; those of patients have more digits.
_LARGEST = 999_999

#: A film has hundreds of gray levels; fewer than so many show nothing, or what is left of a film.
MIN_LEVELS = 16

#: Pixels per side that acquit an ordinary film, before all are counted.
_LEVELS_GRID = 8


class Accepted(frozenset[str]):
    """Codes of refusals that a caller overrides, and which of them one film needed."""

    def __init__(self, codes: Collection[str] = ()) -> None:
        super().__init__()
        #: Those without which the film would have been refused.
        self.needed: set[str] = set()


def refuse(code: str, found: str, accept: Accepted) -> None:
    """Raise FilmRefused saying what was found, unless the caller accepts `code`: noted there."""
    if code not in accept:
        raise FilmRefused(code, f"{found}; `pneumoq score --accept {code}` scores it all the same")
    accept.needed.add(code)


def shown(number: int) -> str:
    """A number that a film states, for a message: one that counts nothing may be a patient's."""
    return f"{number}" if abs(number) <= _LARGEST else "a number beyond all films"


def check_size(width: int, height: int, accept: Accepted) -> None:
    """Raise FilmError(`too_large`) or FilmRefused(`too_small`) for a film of these pixels."""
    if width * height > MAX_PIXELS:
        raise FilmError(
            "too_large",
            f"{shown(width)} × {shown(height)} pixels; at most {MAX_PIXELS:,} are decoded, so "
            "shrink it first",
        )
    if min(width, height) < MIN_SIDE:
        found = f"{shown(width)} × {shown(height)} pixels: an icon or a thumbnail, not a film"
        refuse("too_small", found, accept)


def check_levels(gray: Image.Image) -> None:
    """Raise FilmRefused(`blank`), which cannot be accepted, for a film of fewer than 16 levels.

    `gray` (mode `L`) is the film before it is resized.
    """
    from PIL import Image

    sample = gray.resize((_LEVELS_GRID, _LEVELS_GRID), Image.Resampling.NEAREST)
    if len(set(sample.tobytes())) >= MIN_LEVELS:
        return
    levels = sum(n > 0 for n in gray.histogram())
    if levels < MIN_LEVELS:
        found = "one gray" if levels == 1 else f"{levels} grays"
        raise FilmRefused(
            "blank",
            f"the film shows {found}, of which there is nothing to tell; at least {MIN_LEVELS} are "
            "scored, so export it again, with another window if it is not empty",
        )
