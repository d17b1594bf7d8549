"""Film: the bytes of one X-ray file become gray pixels, by a rule that has a version.

This is the only place where pixels are made. Training and scoring both call `decode`, and a model
file names the rule it was trained with, so the two cannot drift apart. Needs Pillow and NumPy only.

Rule `gray-stretch-1`:

1. JPEG is decoded straight to its luma (`L`), at the smallest DCT scale (1/8, 1/4, 1/2, 1) that
   still leaves both sides at least 1.5 × S. Against a full decode this changes the result by 0.3
   gray levels on average and takes two thirds of the time (`python -m tests.bench.film`).
2. An EXIF orientation is applied. Colour becomes ITU-R 601 luma; transparency is laid on black.
3. The whole film is stretched to S × S with Pillow's antialiased bilinear (triangle) filter.
   Nothing is cropped: disease reaches the border. Aspect is given up because most labelled sets
   have already given it up.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from trainer.errors import FilmError, FilmRefused

#: Films with more pixels than this are refused before anything is decoded. The largest detectors
#: in use make about 20 megapixels.
MAX_PIXELS = 100_000_000

#: Shorter sides are those of icons and thumbnails, not of films.
MIN_SIDE = 32

#: The rule that new models are trained with.
DEFAULT_RULE = "gray-stretch-1"

#: Formats that the rule reads, as Pillow names them.
FORMATS = ("JPEG", "PNG")

#: A reduced DCT scale must leave this many times S on both sides.
DRAFT_GAP = 1.5

#: Eight-bit modes, and how each becomes gray.
_GRAY_MODES = frozenset({"L", "RGB", "P", "1"})
_ALPHA_MODES = frozenset({"LA", "RGBA", "La", "RGBa", "PA"})


#: EXIF tag 274 and what undoes each of its values (EXIF 2.3, section 4.6.4).
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(
    data: bytes, size: int, rule: str = DEFAULT_RULE, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Gray pixels of one film, `uint8 [size, size]`, 0 darkest to 255 brightest as stored.

    Written into `out` (`uint8`, size² elements) where given.

    Raises FilmError with one of the codes `not_an_image`, `unsupported_format`, `truncated`,
    `corrupt`, `too_large`, `unsupported_pixels`, `rule_mismatch`; FilmRefused with `too_small`; and
    LookupError for a rule this build lacks.
    """
    try:
        make = RULES[rule]
    except KeyError:
        raise LookupError(f"this build has no film rule {rule!r}, only {sorted(RULES)}") from None
    pixels = make(data, size)
    if out is None:
        return pixels
    out[:] = pixels.reshape(out.shape)
    return out


def _gray_stretch_1(data: bytes, size: int) -> NDArray[np.uint8]:
    if not data:
        raise FilmError("truncated", "the file is empty")
    with warnings.catch_warnings():
        # Pillow warns about damaged EXIF and large images; the size is checked below instead.
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return _pixels(image, size)
        except UnidentifiedImageError:
            raise _not_readable(data) from None
        except Image.DecompressionBombError:
            raise FilmError("too_large", "more pixels than any X-ray detector makes") from None
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            if isinstance(error, FilmError):
                raise
            code = "truncated" if "truncated" in str(error).lower() else "corrupt"
            raise FilmError(code, f"the image cannot be decoded: {error}") from error


def _pixels(image: Image.Image, size: int) -> NDArray[np.uint8]:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise FilmError(
            "too_large", f"{width} × {height} pixels; at most {MAX_PIXELS:,} are decoded"
        )
    if min(width, height) < MIN_SIDE:
        raise FilmRefused(
            "too_small", f"{width} × {height} pixels: an icon or a thumbnail, not a film"
        )
    # Of 16 bits of colour or transparency Pillow would keep the upper eight and say nothing.
    if any(";16" in str(tile.args) for tile in getattr(image, "tile", ())):
        raise FilmError("unsupported_pixels", _pixels_message("I;16"))
    target = round(size * DRAFT_GAP)
    if image.mode in ("L", "RGB"):
        image.draft("L", (target, target))
    image.load()
    if image.mode not in _GRAY_MODES and image.mode not in _ALPHA_MODES:
        raise FilmError("unsupported_pixels", _pixels_message(image.mode))
    upright = _upright(image)
    if upright.mode in _ALPHA_MODES or "transparency" in upright.info:
        layers = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", layers.size, (0, 0, 0, 255)), layers)
    gray = upright if upright.mode == "L" else upright.convert("L")
    if gray.size != (size, size):
        gray = gray.resize((size, size), Image.Resampling.BILINEAR)
    return np.array(gray, dtype=np.uint8)


def _upright(image: Image.Image) -> Image.Image:
    """The film as its EXIF orientation says it was taken; as it is where the EXIF is damaged."""
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except (TypeError, ValueError, SyntaxError, OSError, struct.error):
        return image
    return image if turn is None else image.transpose(turn)


def _pixels_message(mode: str) -> str:
    if mode.startswith("I") or mode == "F":
        return f"{mode} pixels (more than 8 bits); convert to 8 bits with a known window first"
    return f"{mode} pixels are not those of an X-ray film; only gray or RGB is read"


def _not_readable(data: bytes) -> FilmError:
    for offset, magic, name in _SIGNATURES:
        if data[offset : offset + len(magic)] == magic:
            return FilmError(
                "unsupported_format", f"{name} is not read yet; convert it to JPEG or PNG"
            )
    if data[:2] == b"\xff\xd8" or data[:8] == b"\x89PNG\r\n\x1a\n":
        return FilmError("truncated", f"the image ends inside its header ({len(data)} bytes)")
    return FilmError("not_an_image", f"neither JPEG nor PNG; it begins with {data[:12]!r}")


#: What a file that is no film may be instead, by its first bytes.
_SIGNATURES = (
    (128, b"DICM", "DICOM"),
    (0, b"II*\x00", "TIFF"),
    (0, b"MM\x00*", "TIFF"),
    (0, b"BM", "BMP"),
    (8, b"WEBP", "WebP"),
    (0, b"GIF8", "GIF"),
    (0, b"%PDF", "PDF"),
    (0, b"PK\x03\x04", "a zip archive inside the archive"),
)

RULES: dict[str, Callable[[bytes, int], NDArray[np.uint8]]] = {DEFAULT_RULE: _gray_stretch_1}


@dataclass(frozen=True, kw_only=True)
class Golden:
    """One golden vector: these bytes must give these pixels wherever the rule is implemented."""

    #: An encoded film of a few hundred bytes.
    film: bytes
    #: What the rule made of it, `uint8 [size, size]`.
    pixels: NDArray[np.uint8]


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
        vectors.append(Golden(film=film, pixels=decode(film, size, rule)))
    return vectors


def check_golden(vectors: list[Golden], rule: str) -> None:
    """Raise FilmError(`rule_mismatch`) where the rule makes other pixels here than it did then."""
    for number, vector in enumerate(vectors):
        ours = decode(vector.film, vector.pixels.shape[0], rule).astype(np.int16)
        worst = int(np.abs(ours - vector.pixels).max())
        if worst > GOLDEN_TOLERANCE:
            raise FilmError(
                "rule_mismatch",
                f"golden film {number} of rule {rule} differs by {worst} gray levels here; "
                "this build decodes images differently from the one that trained the model",
            )
