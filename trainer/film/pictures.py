"""Pictures: JPEG, PNG, TIFF, BMP, WebP and GIF become gray at their own size, by Pillow.

Knows nothing of sizes that are wanted, apart from how far a JPEG may be reduced while it is
decoded, and nothing of DICOM.
"""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin

from trainer.errors import FilmError
from trainer.film import codestream, damage, grayscale
from trainer.film.refusals import Accepted, check_size, refuse

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

#: TIFF tag 262, and its value for which 0 is white (TIFF 6.0, section 8).
_PHOTOMETRIC = 262
_WHITE_IS_ZERO = 0

_COLOUR_FOUND = "the picture shows colour, so it is a photograph or a drawing and no film"


def read(data: bytes, kind: str, draft: int | None, accept: Accepted) -> Image.Image:
    """The film in gray, upright; a JPEG reduced as long as both sides keep `draft`, if given.

    Raises FilmError and FilmRefused, and for damaged files whatever Pillow raises: see
    `damage.broken`.
    """
    if kind == "JPEG":
        return _jpeg(data, draft, accept)
    try:
        return _picture(data, kind, accept)
    except (FilmError, MemoryError):
        raise
    except Exception:
        needed = damage.needed_of_png(data) if kind == "PNG" else data
        if len(needed) == len(data):
            raise
        return _picture(needed, kind, accept)


def _jpeg(data: bytes, draft: int | None, accept: Accepted) -> Image.Image:
    # The plugin itself, because Image.open tries and checks what is settled here.
    image = JpegImagePlugin.jpeg_factory(io.BytesIO(data))
    check_size(*image.size, accept)
    _check_single(image, accept)
    if image.mode not in ("L", "RGB"):
        raise FilmError("unsupported_pixels", damage.pixels_message(image.mode))
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
    damage.check_jpeg(data, image)
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
        _load(image, kind)
        damage.check_rows(data, kind, image)
        white_is_zero = kind == "TIFF" and _photometric(image) == _WHITE_IS_ZERO
        return _upright(grayscale.stretched(np.asarray(image), inverted=white_is_zero), image)
    # Of 16 bits of colour or transparency Pillow would keep the upper eight and say nothing.
    if deep or image.mode not in _GRAY_MODES | _ALPHA_MODES:
        raise FilmError(
            "unsupported_pixels", damage.pixels_message("16-bit" if deep else image.mode)
        )
    _load(image, kind)
    damage.check_rows(data, kind, image)
    layers: Image.Image = image
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        layers = image.convert("RGBA")
        layers = Image.alpha_composite(Image.new("RGBA", layers.size, (0, 0, 0, 255)), layers)
    if image.mode not in _COLOURLESS and grayscale.is_coloured(layers):
        refuse("colour", _COLOUR_FOUND, accept)
    return _upright(layers if layers.mode == "L" else layers.convert("L"), image)


def _load(image: Image.Image, kind: str) -> None:
    """Decode an opened picture. Two headers leave Pillow with other pixels than it says."""
    image.load()
    if image.im.mode != image.mode:
        raise FilmError(
            "corrupt", f"the {kind} has two headers that contradict each other; export it again"
        )


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
