"""Bases: whole files of each kind, small ones, whose mutations are tried."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import uid

from tests.support import hostile
from tests.worker import archives

#: Rows and columns of the films.
SHAPE = (72, 88)

KINDS = ("DICOM", "JPEG", "PNG", "TIFF", "zip", "tar", "tar.gz", "tar.zst", "CSV")


@functools.cache
def of(kind: str) -> tuple[bytes, ...]:
    """Files of a kind."""
    makers: dict[str, Callable[[], list[bytes]]] = {
        "DICOM": _dicom, "JPEG": _jpeg, "PNG": _png, "TIFF": _tiff, "CSV": _csv,
    }  # fmt: skip
    return tuple(makers[kind]() if kind in makers else _archive(kind))


def film(seed: int = 5) -> np.ndarray:
    """`uint8 [72, 88]`."""
    return hostile.picture(*SHAPE, seed=seed)


def _dicom() -> list[bytes]:
    gray = film()
    twelve = np.rint(gray * (4095 / 255)).astype(np.uint16)
    bits = {"BitsStored": 12, "HighBit": 11}
    window = {"WindowCenter": "2048", "WindowWidth": "4096"}
    frame = hostile.encoded(Image.fromarray(gray), "JPEG", quality=90)
    return [
        hostile.dicom(gray),
        hostile.dicom(gray, uid.ImplicitVRLittleEndian),
        hostile.dicom(twelve, **bits, **window),
        hostile.dicom(twelve, **bits, RescaleSlope="2", RescaleIntercept="-1000",
                      WindowCenter="3000", WindowWidth="7000"),
        hostile.dicom((4095 - twelve).astype(np.uint16), **bits, **window,
                      PhotometricInterpretation="MONOCHROME1"),
        hostile.dicom(twelve.astype(np.int16) - 2048, **bits, WindowCenter="0",
                      WindowWidth="4096"),
        hostile.compressed(twelve, uid.RLELossless, **bits, **window),
        hostile.compressed(twelve, uid.JPEG2000Lossless, **bits, **window),
        hostile.encapsulating(frame, gray, uid.JPEGBaseline8Bit),
    ]  # fmt: skip


def _jpeg() -> list[bytes]:
    gray = Image.fromarray(film())
    colour = gray.convert("RGB")
    return [
        hostile.encoded(gray, "JPEG", quality=90),
        hostile.encoded(gray, "JPEG", quality=90, progressive=True),
        hostile.encoded(gray, "JPEG", quality=85, restart_marker_blocks=4),
        hostile.encoded(colour, "JPEG", quality=90),
        hostile.encoded(colour, "JPEG", quality=90, subsampling=0, progressive=True),
        hostile.encoded(colour, "JPEG", quality=80, comment=b"chest", dpi=(90, 90)),
    ]


def _png() -> list[bytes]:
    gray = Image.fromarray(film())
    deep = Image.fromarray(film().astype(np.uint16) * 257)
    whole = [
        hostile.encoded(image, "PNG", **options)
        for image, options in (
            (gray, {}), (gray, {"dpi": (90, 90)}), (gray.convert("RGB"), {}),
            (gray.convert("LA"), {}), (gray.convert("RGBA"), {}), (gray.convert("P"), {}),
            (deep, {}), (gray.quantize(16), {"bits": 4}), (gray, {"compress_level": 0}),
        )
    ]  # fmt: skip
    text = (b"tEXt", b"Comment\0chest"), (b"gAMA", bytes((0, 0, 0xB1, 0x8F)))
    return [*whole, hostile.with_chunks(whole[0], *text)]


def _tiff() -> list[bytes]:
    gray = Image.fromarray(film())
    deep = Image.fromarray(film().astype(np.uint16) * 257)
    return [
        hostile.encoded(image, "TIFF", **options)
        for image, options in (
            (gray, {}), (deep, {}), (gray, {"compression": "tiff_lzw"}),
            (gray, {"compression": "packbits"}), (gray, {"compression": "tiff_adobe_deflate"}),
            (deep, {"compression": "tiff_adobe_deflate"}), (gray.convert("RGB"), {}),
            (gray, {"compression": "jpeg"}), (gray, {"tiffinfo": {262: 0}}),
        )
    ]  # fmt: skip


def _archive(kind: str) -> list[bytes]:
    files = {
        "ward/one.png": hostile.encoded(Image.fromarray(film()[:32, :40]), "PNG"),
        "ward/two.jpg": hostile.encoded(Image.fromarray(film(6)[:32, :40]), "JPEG"),
        f"{'long' * 40}/three.png": b"three" * 90,
        "überblick/vier.png": bytes(700),
        "empty.png": b"",
    }
    makers = ("zip", "zip stored") if kind == "zip" else (kind,)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for n, maker in enumerate(makers):
            for more in ({}, {"five.txt": b"no film\n" * 300}):
                path = Path(folder) / f"{n}{len(more)}"
                found.append(archives.MAKERS[maker](path, {**files, **more}).read_bytes())
    return found


def _csv() -> list[bytes]:
    rows = "path,label,patient\nNORMAL/a.png,NORMAL,1\nPNEUMONIA/b.png,PNEUMONIA,2\n"
    rows += '"NORMAL/c, d.png",NORMAL,3\n\nPNEUMONIA/é.png,PNEUMONIA,\n'
    semicolons = "sep=;\r\n" + rows.replace(",", ";").replace("\n", "\r\n")
    return [
        rows.encode(),
        b"\xef\xbb\xbf" + semicolons.encode(),
        rows.encode("utf-16"),
        rows.replace(",", "\t").encode(),
        b"NORMAL/a.png\nPNEUMONIA/b.png\n# a list\n\n",
    ]
