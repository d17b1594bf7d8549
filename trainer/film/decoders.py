"""Decoders: samples of a codestream, by the library that reads its kind.

JPEG of eight bits is Pillow's, JPEG of twelve and lossless JPEG are GDCM's, JPEG-LS is CharLS's and
JPEG 2000 OpenJPEG's. Each is loaded when the first film needs it. This module is imported before
anything of pydicom, and loads it: pydicom would load GDCM, 20 MB in each process that reads a film.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import JpegImagePlugin

from trainer.errors import FilmError
from trainer.film import damage
from trainer.film.codestream import Header, corrupt

#: `uint8` or `uint16`, `[rows, columns]` or `[rows, columns, samples]`; negative samples are two's
#: complements.
Samples = NDArray[np.uint8] | NDArray[np.uint16]


@contextlib.contextmanager
def _hidden(module: str) -> Iterator[None]:
    """To import `module` fails meanwhile, unless it was before."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


with _hidden("gdcm"):
    importlib.import_module("pydicom")

#: What the JPEG library in GDCM says of data that it had to make up, or to leave out.
_DAMAGE = ("Corrupt JPEG", "Premature end")

#: One at a time can listen to standard error.
_listening = threading.Lock()


def samples(frame: bytes, header: Header) -> Samples:
    """The samples of a codestream whose header was compared with what its data set promises.

    Raises FilmError with `corrupt`, `truncated` or `unsupported_pixels`, and whatever its library
    raises.
    """
    if not 1 <= header.bits <= 16:
        raise FilmError(
            "unsupported_pixels",
            f"the codestream has {header.bits} bits a sample, and at most 16 are read; export it "
            "as 8- or 16-bit gray",
        )
    decode = {
        "JPEG": _jpeg if header.bits == 8 else _gdcm,
        "JPEG lossless": _gdcm,
        "JPEG-LS": _jpeg_ls,
        "JPEG 2000": _jpeg_2000,
    }[header.kind]
    found = decode(frame, header)
    shape: tuple[int, ...] = header.rows, header.columns
    if header.samples > 1:
        shape = *shape, header.samples
    if found.size != np.prod(shape):
        raise corrupt("PixelData (7fe0,0010) has a codestream that holds other pixels than it says")
    return cast("Samples", found.reshape(shape))


def colours_of_jpeg(frame: bytes, *, rgb: bool) -> NDArray[np.uint8]:
    """Red, green and blue of a JPEG of eight bits, `uint8 [rows, columns, 3]`.

    `rgb`: it says nowhere that it holds these, and does. Raises FilmError with `corrupt` or
    `truncated`.
    """
    return _by_pillow(frame, rgb=rgb)


def _jpeg(frame: bytes, header: Header) -> Samples:
    return _by_pillow(frame, rgb=False)


def _by_pillow(frame: bytes, *, rgb: bool) -> NDArray[np.uint8]:
    try:
        image = JpegImagePlugin.jpeg_factory(io.BytesIO(frame))
        if rgb and "adobe_transform" not in image.info:
            image.draft("YCbCr", image.size)  # as it is stored
        image.decodermaxblock = len(frame)  # in one piece; of pieces Pillow copies what is left
        image.load()
        damage.check_jpeg(frame, image)
    except (FilmError, MemoryError):
        raise
    except Exception as error:
        raise damage.broken("JPEG", frame, error) from error
    return np.asarray(image)


def _jpeg_ls(frame: bytes, header: Header) -> Samples:
    import jpeg_ls

    decoded, found = jpeg_ls.decode_pixel_data(frame)
    pixels = np.frombuffer(decoded, _word(header))
    if header.samples > 1 and not found["interleave_mode"]:  # one component after the other
        planes = pixels.reshape(header.samples, header.rows, header.columns)
        pixels = np.ascontiguousarray(planes.transpose(1, 2, 0))
    return cast("Samples", pixels)


def _jpeg_2000(frame: bytes, header: Header) -> Samples:
    import openjpeg

    decoded = np.asarray(openjpeg.decode_pixel_data(frame, version=2))
    return decoded.view(np.uint8).view(_word(header))


def _gdcm(frame: bytes, header: Header) -> Samples:
    # Not `gdcm`, which is broken by any folder called dl in the path.
    import _gdcm.gdcmswig as gdcm

    codec = gdcm.JPEGCodec()
    codec.SetNumberOfDimensions(2)
    codec.SetDimensions((header.columns, header.rows, 1))
    codec.SetPlanarConfiguration(0)
    colour = gdcm.PhotometricInterpretation.GetPIType(
        "MONOCHROME2" if header.samples == 1 else "RGB"
    )
    codec.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(colour))
    allocated = 8 * _word(header).itemsize
    codec.SetPixelFormat(
        gdcm.PixelFormat(header.samples, allocated, header.bits, header.bits - 1, 0)
    )
    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(frame)
    fragments.AddFragment(fragment)
    encoded, decoded = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x10)), gdcm.DataElement()
    encoded.SetValue(fragments.__ref__())
    done, heard = _overheard(lambda: codec.Decode(encoded, decoded))
    if not done or any(word in heard for word in _DAMAGE):
        raise corrupt("PixelData (7fe0,0010) has a damaged codestream")
    # A byte may follow that makes the length even. Its own way would make of bytes a string.
    value = decoded.GetByteValue()
    length = header.rows * header.columns * header.samples * allocated // 8
    if int(str(value.GetLength())) < length:
        raise corrupt("PixelData (7fe0,0010) has a damaged codestream")
    found = (ctypes.c_uint8 * length).from_address(int(value.GetVoidPointer()))
    return np.array(found).view(_word(header))


def _word(header: Header) -> np.dtype[np.uint8] | np.dtype[np.uint16]:
    return np.dtype(np.uint8) if header.bits <= 8 else np.dtype("<u2")


def _overheard(call: Callable[[], bool]) -> tuple[bool, str]:
    """What a call returns, and what was written to standard error meanwhile.

    The JPEG library tells of damage nowhere else. What others wrote there is passed on.
    """
    with _listening:
        reader, writer = os.pipe()
        kept = -1
        try:
            os.set_blocking(writer, False)
            os.set_blocking(reader, False)
            kept = os.dup(2)
            os.dup2(writer, 2)
            try:
                result = call()
            finally:
                os.dup2(kept, 2)
            with contextlib.suppress(BlockingIOError):
                heard = b""
                heard = os.read(reader, 1 << 16)
        finally:
            for fd in (reader, writer, kept):
                if fd >= 0:
                    os.close(fd)
    others = [line for line in heard.splitlines(keepends=True) if b"JPEG" not in line]
    if others:
        os.write(2, b"".join(others))
    return result, heard.decode("latin-1")
