"""References: what decoders that are not ours make of a file, where they succeed without a warning.

JPEG and DICOM by DCMTK, PNG and TIFF by what is here, archives by Python's own modules.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tests.fuzz import png as decoder
from tests.support import hostile

#: Levels that a film may differ by, per kind: rounding to gray, and of JPEG and windows besides.
TOLERANCE = {"PNG": 1, "JPEG": 2, "TIFF": 1, "DICOM": 2}

#: Warnings of DCMTK that say nothing about the pixels.
_HARMLESS = ("not a multiple of 2",)


def apart(film: np.ndarray, other: np.ndarray, kind: str) -> np.ndarray:
    """Which pixels two decoders of a kind do not agree on."""
    found = np.abs(film - other) > TOLERANCE[kind] + 0.5
    if kind == "JPEG":
        # Where a damaged table makes levels far beyond black or white each decoder has its own way
        # to bring them back: of such a block nothing is compared.
        beyond = (film % 255 == 0) | (other % 255 == 0)
        rows, columns = (-(-side // 8) for side in film.shape)
        blocks = np.zeros((rows * 8, columns * 8), np.bool_)
        blocks[: film.shape[0], : film.shape[1]] = beyond
        of_block = blocks.reshape(rows, 8, columns, 8).any(axis=(1, 3))
        found &= ~of_block.repeat(8, axis=0).repeat(8, axis=1)[: film.shape[0], : film.shape[1]]
    return found


def png(data: bytes) -> np.ndarray | None:
    """By the specification, `[H, W]`, on black where it is transparent."""
    try:
        found = decoder.decoded(data).astype(np.float64)
    except (decoder.Damaged, zlib.error, struct.error):
        return None
    if data[24] == 16:
        if found.shape[2] > 1:
            return None
        gray = found[..., 0]
        return np.asarray((gray - gray.min()) * 255 / (np.ptp(gray) or 1))
    colours = found[..., :3] if found.shape[2] > 2 else found[..., :1]
    gray = colours @ (0.299, 0.587, 0.114) if colours.shape[2] == 3 else colours[..., 0]
    return gray * found[..., -1] / 255 if found.shape[2] in (2, 4) else gray


def jpeg(data: bytes, folder: Path) -> np.ndarray | None:
    """The luma by DCMTK, of the size and the components that the frame header says."""
    frame = next((at for at in range(2, len(data) - 9) if data[at] == 0xFF
                  and data[at + 1] in (0xC0, 0xC1, 0xC2)), 0)  # fmt: skip
    rows, columns, samples = struct.unpack_from(">HHB", data, frame + 5)
    if not frame or samples not in (1, 3) or not rows or not columns:
        return None
    made = hostile.dataset(
        np.zeros((1, 1), np.uint8) if samples == 1 else np.zeros((1, 1, 3), np.uint8)
    )
    made.Rows, made.Columns = rows, columns
    if samples == 3:
        made.PhotometricInterpretation = "YBR_FULL_422"
    made.file_meta.TransferSyntaxUID = (
        "1.2.840.10008.1.2.4.55" if data[frame + 1] == 0xC2 else "1.2.840.10008.1.2.4.50"
    )
    made.PixelData = hostile.encapsulate([data])
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = True
    source, target = folder / "reference.dcm", folder / "reference.out"
    source.write_bytes(hostile.written(made))
    if not _clean("dcmdjpeg", "+cn", "+px", source, target):
        return None
    import pydicom

    words = np.frombuffer(pydicom.dcmread(target).PixelData, np.uint8)
    if samples == 3 and pydicom.dcmread(target).PlanarConfiguration:
        return words[: rows * columns].reshape(rows, columns).astype(np.float64)
    return words[: rows * columns * samples : samples].reshape(rows, columns).astype(np.float64)


def dicom(data: bytes, folder: Path) -> np.ndarray | None:
    """The film by DCMTK: the first VOI LUT or window, or what occurs where bits are many."""
    source, target = folder / "reference.dcm", folder / "reference.out"
    source.write_bytes(data)
    tags = subprocess.run(
        ["dcmdump", "+P", "0028,0101", "+P", "0028,1051", "+P", "0028,3010", str(source)],
        capture_output=True, text=True, errors="replace", check=False,
    ).stdout  # fmt: skip
    if "(0028,3010)" in tags:
        view = ("+Wl", "1")
    elif "(0028,1051) DS [" in tags:
        view = ("+Wi", "1")
    else:
        view = ("-W",) if "(0028,0101) US 8 " in tags else ("+Wm",)
    if not _clean("dcmj2pnm", "+op", *view, source, target):
        return None
    with Image.open(target) as image:
        return np.asarray(image.convert("L"), np.float64)


def _clean(program: str, *arguments: str | Path) -> bool:
    """Whether a program of DCMTK succeeds and warns of nothing that matters."""
    done = subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, errors="replace",
        timeout=60, check=False,
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if line.startswith(("W:", "E:", "F:"))]
    return not done.returncode and all(any(h in line for h in _HARMLESS) for line in said)


def has_dcmtk() -> bool:
    """Whether DCMTK is installed."""
    return all(map(shutil.which, ("dcmdjpeg", "dcmj2pnm", "dcmdump")))


def tiff(data: bytes) -> np.ndarray | None:
    """One page in strips of 8- or 16-bit gray or RGB, not compressed, deflated or PackBits."""
    order = "<" if data[:2] == b"II" else ">"
    try:
        entries = list(_tags(data, order))
        tags = dict(entries)
        if len(tags) < len(entries):
            return None  # which of two counts the specification does not say
        width, height = tags[256][0], tags[257][0]
        bits, compression = tags.get(258, [1])[0], tags.get(259, [1])[0]
        photometric, samples = tags[262][0], tags.get(277, [1])[0]
        plain = photometric in (0, 1, 2) and samples == (3 if photometric == 2 else 1)
        odd = {266, 274, 284, 317, 338, 339} & tags.keys()
        if (
            not plain
            or bits not in (8, 16)
            or compression not in (1, 8, 32773, 32946)
            or any(tags[tag][0] != 1 for tag in odd)
        ):
            return None
        strips = zip(tags[273], tags[279], strict=True)
        rows_of_strip = min(tags.get(278, [height])[0], height)
        whole = rows_of_strip * width * samples * bits // 8
        unpack = {1: bytes, 32773: _unpacked}.get(compression, zlib.decompress)
        pixels = b""
        for offset, count in strips:
            if offset + count > len(data):
                return None
            strip = unpack(data[offset : offset + count])
            if len(strip) < min(whole, height * width * samples * bits // 8 - len(pixels)):
                return None
            pixels += strip[:whole]
        kind = np.dtype("u1" if bits == 8 else order + "u2")
        found = np.frombuffer(pixels, kind, width * height * samples)
    except (KeyError, IndexError, ValueError, struct.error, zlib.error):
        return None
    planes = found.reshape(height, width, samples).astype(np.float64)
    gray = planes[..., 0] if samples == 1 else planes @ (0.299, 0.587, 0.114)
    if bits == 16:
        gray = (gray - gray.min()) * 255 / (np.ptp(gray) or 1)
        return 255 - gray if photometric == 0 else gray
    return 255 - gray if photometric == 0 else gray


#: Tags without which another picture would be read.
_NEEDED = {256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 338, 339}


def _tags(data: bytes, order: str) -> Iterator[tuple[int, list[int]]]:
    at = struct.unpack_from(order + "I", data, 4)[0]
    for n in range(struct.unpack_from(order + "H", data, at)[0]):
        tag, kind, count = struct.unpack_from(order + "HHI", data, at + 2 + 12 * n)
        if kind not in (1, 3, 4) or count > 4096:
            if tag in _NEEDED:
                raise ValueError("a tag that matters is of another kind")
            continue
        form = {1: "B", 3: "H", 4: "I"}[kind] * count
        place = at + 10 + 12 * n
        if struct.calcsize(order + form) > 4:
            place = struct.unpack_from(order + "I", data, place)[0]
        yield tag, list(struct.unpack_from(order + form, data, place))


def _unpacked(data: bytes) -> bytes:
    made, at = bytearray(), 0
    while at < len(data):
        head = data[at]
        if head < 128:
            made += data[at + 1 : at + 2 + head]
            at += 2 + head
        else:
            if head > 128:
                made += data[at + 1 : at + 2] * (257 - head)
            at += 2 if head > 128 else 1
    return bytes(made)


def archive(path: Path, kind: str) -> dict[str, bytes]:
    """Name → bytes of the members that Python's own modules read, of names that occur once."""
    found: dict[str, bytes] = {}
    with contextlib.suppress(Exception):
        if kind == "zip":
            with zipfile.ZipFile(path) as opened:
                once = Counter(info.filename for info in opened.infolist())
                for info in opened.infolist():
                    with contextlib.suppress(Exception):
                        if once[info.filename] == 1:
                            found[info.filename] = opened.read(info)
        else:
            file = io.BytesIO(_inflated(path, kind))
            with tarfile.open(fileobj=file, mode="r:") as opened:
                members = opened.getmembers()
                once = Counter(info.name for info in members)
                for info in members:
                    with contextlib.suppress(Exception):
                        inside = opened.extractfile(info) if info.isreg() else None
                        if inside is not None and once[info.name] == 1:
                            data = inside.read()
                            if len(data) == info.size:
                                found[info.name] = data
    return found


def _inflated(path: Path, kind: str) -> bytes:
    data = path.read_bytes()
    if kind == "tar.gz":
        return zlib.decompress(data, 31)
    if kind == "tar.zst":
        import zstandard

        return zstandard.ZstdDecompressor().decompress(data, max_output_size=1 << 26)
    return data
