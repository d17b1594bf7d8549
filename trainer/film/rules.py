"""Film: the bytes of one X-ray file become gray pixels, by a rule that has a version.

This is the only place where pixels are made. Training and scoring both call `decode`, and a model
file names the rule it was trained with, so the two cannot drift apart. What a file is is known by
its content: JPEG, PNG, DICOM, TIFF, BMP, WebP and GIF are read, whatever they are called.

Rule `gray-stretch-1`:

1. JPEG is decoded at the smallest DCT scale (1/8, 1/4, 1/2, 1) that still leaves both sides at
   least 1.5 × S, and of it only the luma. Against a full decode this changes the result by 0.3 gray
   levels on average and takes two thirds of the time (`python -m tests.bench.decoding.film`).
2. A DICOM's values become eight-bit gray by its modality LUT and its VOI LUT or first window; one
   without either is stretched from its least to its greatest value, padding left out, where it
   stores more than eight bits. MONOCHROME1 is inverted (`trainer.film.dicom`).
3. PNG and TIFF of 16-bit gray carry no window: they are stretched in the same way, from the least
   value that occurs to the greatest. Nothing is ever cut to the upper eight bits.
4. An EXIF orientation is applied. RGB of a gray film becomes ITU-R 601 luma; transparency is laid
   on black. A picture with colour in it is refused.
5. A film that now has fewer than 16 gray levels is refused as `blank`. Not before: the levels count
   that the network would be given, whatever they were in the file. Not after the next step: it
   makes many levels of two.
6. The whole film is stretched to S × S with Pillow's antialiased bilinear (triangle) filter.
   Nothing is cropped: disease reaches the border. Aspect is given up because most labelled sets
   have already given it up.

Models from elsewhere were trained to be given other pixels. Rules 2 to 5 and a full decode, then:

- `gray-nearest-1`: the whole film is stretched to S × S by taking one pixel for each, at
  `int(x * width / S)` in single precision, as jetson-inference's imageNet does.
- `gray-crop-1`: the short side becomes S by Pillow's bilinear filter, and of the long one the
  middle is kept, as torchvision's `Resize(S)` and `CenterCrop(S)` do.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Collection

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.card import Golden
from trainer.errors import FilmError
from trainer.film import content, damage, pictures
from trainer.film.refusals import MAX_PIXELS, MIN_SIDE, REFUSALS, Accepted, check_levels

__all__ = ["MAX_PIXELS", "MIN_SIDE", "REFUSALS", "check_golden", "decode", "golden"]

#: The rule that new models are trained with.
DEFAULT_RULE = "gray-stretch-1"

#: What the rule of an imported model is called where it is chosen.
IMPORTED = {"jetson-inference": "gray-nearest-1", "torchvision": "gray-crop-1"}

#: Times its short side that a film's long side may have before `gray-crop-1` shortens it.
LONGEST = 16

#: A reduced DCT scale must leave this many times S on both sides.
DRAFT_GAP = 1.5

#: Pillow and the DICOM readers warn about damage that becomes a FilmError here, or costs nothing.
_NOISE = (
    "ignore",
    None,
    Warning,
    re.compile(r"(PIL|pydicom|pylibjpeg|openjpeg|rle|jpeg_ls)\b"),
    0,
)


def decode(
    data: bytes,
    size: int,
    rule: str = DEFAULT_RULE,
    out: NDArray[np.uint8] | None = None,
    accept: Collection[str] = (),
    tags: dict[str, str] | None = None,
    overridden: set[str] | None = None,
) -> NDArray[np.uint8]:
    """Gray pixels of one film, `uint8 [size, size]`, 0 darkest to 255 brightest.

    Written into `out` (`uint8`, size² elements) where given. `accept` holds codes of REFUSALS that
    are no reason to refuse; those of them without which the film would have been refused are added
    to `overridden`. Of a DICOM, `tags` is filled with what it holds of `patient`, `study` and
    `accession`, in the clear and also where the film is then refused; no message repeats them.

    Raises FilmRefused with a code of REFUSALS, or with `blank`, `no_pixels`, `dicomdir` or
    `nested_archive`, which cannot be accepted; FilmError with `not_an_image`, `unsupported_format`,
    `truncated`, `corrupt`, `too_large`, `unsupported_pixels`, `rule_mismatch`; LookupError for a
    rule this build lacks; and MemoryError.
    """
    try:
        make = RULES[rule]
    except KeyError:
        raise LookupError(f"this build has no film rule {rule!r}, only {sorted(RULES)}") from None
    accepted = Accepted(accept)
    pixels = make(data, size, accepted, tags)
    if overridden is not None:
        overridden |= accepted.needed
    if out is None:
        return np.array(pixels)
    out[:] = pixels.reshape(out.shape)
    return out


def gray(data: bytes, accept: Collection[str] = ()) -> Image.Image:
    """One film in gray at its own size (mode `L`), upright: what every rule makes its pixels of.

    Raises what `decode` raises.
    """
    return _gray(data, None, Accepted(accept), None)


def field(rule: str, width: int, height: int, size: int) -> tuple[float, float, float, float]:
    """Which part of a film the pixels of a rule show: left, top, right and bottom, in pixels.

    `width` and `height` are those of `gray`. LookupError for a rule this build lacks.
    """
    if RULES[rule] is not _gray_crop_1:
        return 0, 0, width, height
    short, long = sorted((width, height))
    kept = min(long, LONGEST * short)
    longer = int(size * kept / short)
    # Of the long side `size` pixels of `longer`; what was cut off a strip before lies outside them.
    start = (long - kept) // 2 + round((longer - size) / 2) * kept / longer
    end = start + size * kept / longer
    return (0, start, width, end) if width <= height else (start, 0, end, height)


def _gray_stretch_1(
    data: bytes, size: int, accept: Accepted, tags: dict[str, str] | None
) -> NDArray[np.uint8]:
    gray = _gray(data, round(size * DRAFT_GAP), accept, tags)
    if gray.size != (size, size):
        gray = gray.resize((size, size), Image.Resampling.BILINEAR)
    return np.frombuffer(gray.tobytes(), np.uint8).reshape(size, size)


def _gray_nearest_1(
    data: bytes, size: int, accept: Accepted, tags: dict[str, str] | None
) -> NDArray[np.uint8]:
    gray = np.asarray(_gray(data, None, accept, tags))
    height, width = gray.shape
    place = np.arange(size, dtype=np.float32)
    # In single precision as on the GPU, which is a pixel off here and there.
    rows = (place * (np.float32(height) / np.float32(size))).astype(np.int64)
    columns = (place * (np.float32(width) / np.float32(size))).astype(np.int64)
    return np.asarray(gray[np.ix_(rows.clip(max=height - 1), columns.clip(max=width - 1))])


def _gray_crop_1(
    data: bytes, size: int, accept: Accepted, tags: dict[str, str] | None
) -> NDArray[np.uint8]:
    gray = _gray(data, None, accept, tags)
    short, long = sorted(gray.size)
    if long > LONGEST * short:  # of a strip only the middle, or the whole would not fit into memory
        left, top = ((side - min(side, LONGEST * short)) // 2 for side in gray.size)
        gray = gray.crop((left, top, gray.width - left, gray.height - top))
        short, long = sorted(gray.size)
    longer = int(size * long / short)
    wanted = (size, longer) if gray.width <= gray.height else (longer, size)
    if gray.size != wanted:
        gray = gray.resize(wanted, Image.Resampling.BILINEAR)
    left, top = (round((side - size) / 2) for side in wanted)
    return np.asarray(gray.crop((left, top, left + size, top + size)))


def _gray(
    data: bytes, draft: int | None, accept: Accepted, tags: dict[str, str] | None
) -> Image.Image:
    """The film in gray; a JPEG reduced as long as both sides keep `draft` pixels, if given.

    Every film that becomes pixels comes through here.
    """
    hush()
    kind = content.kind(data)
    try:
        if kind == "DICOM":
            from trainer.film import dicom  # takes a third of a second, and most archives hold none

            gray = dicom.read(data, accept, tags)
        elif kind:
            gray = pictures.read(data, kind, draft, accept)
        else:
            raise content.unreadable(data)
    except (FilmError, MemoryError):
        raise
    except Exception as error:
        # The decoders raise nearly anything for a damaged file: struct.error, KeyError, …
        raise damage.broken(kind, data, error) from error
    check_levels(gray)
    return gray


def hush() -> None:
    """Have the readers warn of nothing any more, before one of them is asked.

    For the whole process: setting and restoring filters around each film is not safe in threads.
    """
    if _NOISE not in warnings.filters:
        warnings.filterwarnings("ignore", module=_NOISE[3].pattern)


RULES: dict[
    str,
    Callable[[bytes, int, Accepted, dict[str, str] | None], NDArray[np.uint8]],
] = {
    DEFAULT_RULE: _gray_stretch_1,
    "gray-nearest-1": _gray_nearest_1,
    "gray-crop-1": _gray_crop_1,
}


#: Decoders may differ by rounding; two correct ones were never seen further apart than this.
GOLDEN_TOLERANCE = 2


def golden(rule: str = DEFAULT_RULE, size: int = 16) -> list[Golden]:
    """Golden vectors of a rule: a gray JPEG, a colour JPEG and a PNG, made here and now."""
    ramp = np.add.outer(np.arange(96), np.arange(128)) % 256
    gray = Image.fromarray(ramp.astype(np.uint8))
    colour = Image.merge("RGB", (gray, gray.rotate(180), gray.point([255 - i for i in range(256)])))
    vectors = []
    for image, kind in ((gray, "JPEG"), (colour, "JPEG"), (gray, "PNG")):
        buffer = io.BytesIO()
        image.save(buffer, kind, **({"quality": 60} if kind == "JPEG" else {"optimize": True}))
        film = buffer.getvalue()
        pixels = decode(film, size, rule, accept=("colour",))
        vectors.append(Golden(film=film, pixels=pixels))
    return vectors


def check_golden(vectors: list[Golden], rule: str) -> None:
    """Raise FilmError(`rule_mismatch`) where the rule makes other pixels here than it did then."""
    for number, vector in enumerate(vectors):
        ours = decode(vector.film, vector.pixels.shape[0], rule, accept=("colour",)).astype(
            np.int16
        )
        worst = int(np.abs(ours - vector.pixels).max())
        if worst > GOLDEN_TOLERANCE:
            raise FilmError(
                "rule_mismatch",
                f"golden film {number} of rule {rule} differs by {worst} gray levels here; "
                "this build decodes images differently from the one that trained the model",
            )
