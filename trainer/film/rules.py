"""Film: the bytes of one X-ray file become gray pixels, by a rule that has a version.

This is the only place where pixels are made. Training and scoring both call `decode`, and a model
file names the rule it was trained with, so the two cannot drift apart. What a file is is known by
its content: JPEG, PNG, DICOM, TIFF, BMP, WebP and GIF are read, whatever they are called.

Rule `gray-stretch-1`:

1. JPEG is decoded at the smallest DCT scale (1/8, 1/4, 1/2, 1) that still leaves both sides at
   least 1.5 × S, and of it only the luma. Against a full decode this changes the result by 0.3 gray
   levels on average and takes two thirds of the time (`python -m tests.bench.film`).
2. A DICOM's values become eight-bit gray by its modality LUT and its VOI LUT or first window; one
   without either is stretched from its least to its greatest value, padding left out, where it
   stores more than eight bits. MONOCHROME1 is inverted (`trainer.film.dicom`).
3. PNG and TIFF of 16-bit gray carry no window: they are stretched in the same way, from the least
   value that occurs to the greatest. Nothing is ever cut to the upper eight bits.
4. An EXIF orientation is applied. RGB of a gray film becomes ITU-R 601 luma; transparency is laid
   on black. A picture with colour in it is refused.
5. The whole film is stretched to S × S with Pillow's antialiased bilinear (triangle) filter.
   Nothing is cropped: disease reaches the border. Aspect is given up because most labelled sets
   have already given it up.

Models from elsewhere were trained to be given other pixels. Rules 2 to 4 and a full decode, then:

- `gray-nearest-1`: the whole film is stretched to S × S by taking one pixel for each, at
  `int(x * width / S)` in single precision, as jetson-inference's imageNet does.
- `gray-crop-1`: the short side becomes S by Pillow's bilinear filter, and of the long one the
  middle is kept, as torchvision's `Resize(S)` and `CenterCrop(S)` do.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
from collections.abc import Callable, Collection

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, PngImagePlugin

from trainer.card import Golden
from trainer.errors import FilmError
from trainer.film import codestream, content, damage, grayscale
from trainer.film.refusals import MAX_PIXELS, MIN_SIDE, REFUSALS, Accepted, check_size, refuse

__all__ = ["MAX_PIXELS", "MIN_SIDE", "REFUSALS", "check_golden", "decode", "golden"]

#: The rule that new models are trained with.
DEFAULT_RULE = "gray-stretch-1"

#: What the rule of an imported model is called where it is chosen.
IMPORTED = {"jetson-inference": "gray-nearest-1", "torchvision": "gray-crop-1"}

#: Times its short side that a film's long side may have before `gray-crop-1` shortens it.
LONGEST = 16

#: A reduced DCT scale must leave this many times S on both sides.
DRAFT_GAP = 1.5

#: Second bytes of the frame headers of arithmetic-coded JPEG (ITU-T T.81, table B.1).
_ARITHMETIC = frozenset({0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})

#: Modes that become gray by `convert`, and those that are laid on black first.
_GRAY_MODES = frozenset({"L", "RGB", "YCbCr", "P", "1"})
_ALPHA_MODES = frozenset({"LA", "RGBA", "RGBX", "La", "RGBa", "PA"})

#: Modes in which a picture has no colour to show.
_COLOURLESS = frozenset({"L", "1", "LA", "La"})

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

#: Where Pillow finds an orientation; a film without any of these has none.
_ORIENTED = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")

#: Bytes below which no image of 32 × 32 pixels is complete.
_SHORTEST = 40

#: TIFF tag 262, and its value for which 0 is white (TIFF 6.0, section 8).
_PHOTOMETRIC = 262
_WHITE_IS_ZERO = 0

#: Pillow and the DICOM readers warn about damage that becomes a FilmError here, or costs nothing.
_NOISE = (
    "ignore",
    None,
    Warning,
    re.compile(r"(PIL|pydicom|pylibjpeg|libjpeg|openjpeg|rle)\b"),
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

    Raises FilmRefused with a code of REFUSALS, or with `no_pixels`, `dicomdir` or `nested_archive`,
    which cannot be accepted; FilmError with `not_an_image`, `unsupported_format`, `truncated`,
    `corrupt`, `too_large`, `unsupported_pixels`, `rule_mismatch`; LookupError for a rule this build
    lacks; and MemoryError.
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
    """The film in gray; a JPEG reduced as long as both sides keep `draft` pixels, if given."""
    hush()
    kind = content.kind(data)
    try:
        if kind == "JPEG":
            return _jpeg(data, draft, accept)
        if kind == "DICOM":
            from trainer.film import dicom  # takes a third of a second, and most archives hold none

            return dicom.read(data, accept, tags)
        if kind:
            return _picture(data, kind, accept)
        raise content.unreadable(data)
    except (FilmError, MemoryError):
        raise
    except Exception as error:
        # The decoders raise nearly anything for a damaged file: struct.error, KeyError, …
        raise _broken(kind, data, error) from error


def hush() -> None:
    """Have the readers warn of nothing any more, before one of them is asked.

    For the whole process: setting and restoring filters around each film is not safe in threads.
    """
    if _NOISE not in warnings.filters:
        warnings.filterwarnings("ignore", module=_NOISE[3].pattern)


def _jpeg(data: bytes, draft: int | None, accept: Accepted) -> Image.Image:
    # The plugin itself, because Image.open tries and checks what is settled here.
    image = JpegImagePlugin.jpeg_factory(io.BytesIO(data))
    check_size(*image.size, accept)
    _check_single(image, accept)
    if image.mode not in ("L", "RGB"):
        raise FilmError("unsupported_pixels", _pixels_message(image.mode))
    # Whether arithmetic coding is read depends on how Pillow was built, and it never fails.
    if data[codestream.find_frame(data) + 1] in _ARITHMETIC:
        raise FilmError(
            "unsupported_format", "arithmetic-coded JPEG is not read; convert it to PNG"
        )
    target = (draft, draft) if draft else None
    if image.mode == "L":
        image.draft("L", target)
    else:
        # Decoded as it is stored: the luma is that of a decode to `L`, bit by bit, and the chroma
        # shows whether this is a film at all.
        image.draft("RGB" if is_stored_as_rgb(image) else "YCbCr", target)
    # In one piece: of a stream Pillow copies what is left of each 64 KiB, a fiftieth of the time.
    image.decodermaxblock = len(data)
    image.load()
    if image.mode == "L":
        return _upright(image, image)
    if grayscale.is_coloured(image):
        refuse("colour", _COLOUR_FOUND, accept)
    luma = image.getchannel(0) if image.mode == "YCbCr" else image.convert("L")
    return _upright(luma, image)


def is_stored_as_rgb(image: Image.Image) -> bool:
    """Whether a three-component JPEG holds R, G and B, by the test of libjpeg (jdapimin.c)."""
    if "jfif" in image.info:
        return False
    if "adobe_transform" in image.info:
        return bool(image.info["adobe_transform"] == 0)
    return [layer[0] for layer in getattr(image, "layer", ())] == list(b"RGB")


def _picture(data: bytes, kind: str, accept: Accepted) -> Image.Image:
    """Gray of anything but JPEG and DICOM."""
    if kind == "WEBP":
        damage.check_webp(data, accept)
    file = io.BytesIO(data)
    image = (
        PngImagePlugin.PngImageFile(file) if kind == "PNG" else Image.open(file, formats=(kind,))
    )
    check_size(*image.size, accept)
    _check_single(image, accept)
    deep = any(";16" in str(tile.args) or ";12" in str(tile.args) for tile in image.tile)
    if deep and (image.mode.startswith("I;16") or image.mode == "I"):
        image.load()
        damage.check_rows(data, kind, image)
        white_is_zero = kind == "TIFF" and _photometric(image) == _WHITE_IS_ZERO
        return _upright(grayscale.stretched(np.asarray(image), inverted=white_is_zero), image)
    # Of 16 bits of colour or transparency Pillow would keep the upper eight and say nothing.
    if deep or image.mode not in _GRAY_MODES | _ALPHA_MODES:
        raise FilmError("unsupported_pixels", _pixels_message("16-bit" if deep else image.mode))
    image.load()
    damage.check_rows(data, kind, image)
    layers: Image.Image = image
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        layers = image.convert("RGBA")
        layers = Image.alpha_composite(Image.new("RGBA", layers.size, (0, 0, 0, 255)), layers)
    if image.mode not in _COLOURLESS and grayscale.is_coloured(layers):
        refuse("colour", _COLOUR_FOUND, accept)
    return _upright(layers if layers.mode == "L" else layers.convert("L"), image)


_COLOUR_FOUND = "the picture shows colour, so it is a photograph or a drawing and no film"


def _check_single(image: Image.Image, accept: Accepted) -> None:
    if getattr(image, "is_animated", False):
        refuse("multi_frame", "several frames, pages or pictures in one file", accept)
        image.seek(0)


def _photometric(image: Image.Image) -> object:
    return getattr(image, "tag_v2", {}).get(_PHOTOMETRIC)


def _upright(gray: Image.Image, image: Image.Image) -> Image.Image:
    """The film as its EXIF orientation says it was taken; as it is where the EXIF is damaged."""
    turn = _turn(image)
    return gray if turn is None else gray.transpose(turn)


def is_upright(image: Image.Image) -> bool:
    """Whether an opened picture is stored as it was taken."""
    return _turn(image) is None


def _turn(image: Image.Image) -> Image.Transpose | None:
    if not any(key in image.info for key in _ORIENTED):
        return None
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except (TypeError, ValueError, SyntaxError, OSError, struct.error):
        return None


def _pixels_message(mode: str) -> str:
    if mode.startswith("I") or mode in ("F", "16-bit"):
        return (
            f"{mode} pixels hold more than 8 bits in a form without a known window; convert it to "
            "8-bit gray, or keep it as DICOM"
        )
    return f"{mode} pixels are not those of an X-ray film; convert it to gray"


def _broken(kind: str, data: bytes, error: Exception) -> FilmError:
    """The FilmError for what a decoder said about damaged data."""
    message = re.sub(r" <_io.*>", "", str(error))
    if "out of memory" in message:
        raise MemoryError from error
    if isinstance(error, Image.DecompressionBombError):
        return FilmError("too_large", "more pixels than any X-ray detector makes; shrink it first")
    if "-bit layers" in message:
        return FilmError("unsupported_pixels", _pixels_message("16-bit"))
    # Pillow makes SyntaxErrors of what goes wrong in a header.
    ended = (EOFError, IndexError, struct.error)
    cut = isinstance(error, ended) or isinstance(error.__cause__, ended) or len(data) < _SHORTEST
    # A header without a frame, or with nothing after it.
    headless = ("truncated", "cannot load", "not identified") if kind == "JPEG" else ("truncated",)
    cut = cut or any(word in message.lower() for word in headless)
    return FilmError(
        "truncated" if cut else "corrupt",
        f"the {kind} image cannot be decoded ({type(error).__name__}: {message[:120]}); copy it "
        "again from where it came from",
    )


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
