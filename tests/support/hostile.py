"""Hostile films: files that must each come to one outcome, and good ones in unusual forms.

All are made here, from code. `bad_files` are truncated, damaged, disguised, bombs, or intact images
that are no chest films; `good_variants` are one and the same chest-like picture in every form that
is read. A DICOM's patient is PATIENT, whose name and number no message may repeat.
"""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydicom import uid
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from tests.support import lossless

#: Tags of every DICOM made here that identify its patient.
PATIENT = {
    "PatientName": "Secretive^Zebedee",
    "PatientID": "MRN-7781234",
    "StudyInstanceUID": "1.2.826.0.1.3680043.9.7133.1.99",
    "AccessionNumber": "ACC-556677",
}

CHEST = (200, 240)  # rows and columns of the picture


@dataclass(frozen=True, kw_only=True)
class Bad:
    """One file, and what must be said of it."""

    name: str
    data: bytes
    outcome: Literal["error", "refused"]
    #: FilmError's code.
    code: str


@dataclass(frozen=True, kw_only=True)
class Good:
    """One file that must give the pixels of `picture()`, within `tolerance` gray levels."""

    name: str
    data: bytes
    #: Largest mean difference after shrinking to 64 × 64.
    tolerance: float


def picture(rows: int = CHEST[0], columns: int = CHEST[1], seed: int = 5) -> np.ndarray:
    """A smooth gray picture with some grain, `uint8 [rows, columns]`, from 0 to 255."""
    y, x = np.mgrid[0:rows, 0:columns]
    lungs = np.exp(-(((x / columns - 0.3) / 0.14) ** 2) - ((y / rows - 0.5) / 0.3) ** 2)
    lungs += np.exp(-(((x / columns - 0.7) / 0.14) ** 2) - ((y / rows - 0.5) / 0.3) ** 2)
    grain = np.random.default_rng(seed).normal(0, 0.01, (rows, columns))
    body = 0.8 - 0.6 * lungs + 0.2 * y / rows + grain
    body -= body.min()
    return np.rint(body / body.max() * 255).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photograph() -> Image.Image:
    """A picture full of colour."""
    gray = Image.fromarray(picture())
    return Image.merge("RGB", (gray, gray.rotate(180), gray.point([255 - i for i in range(256)])))


def dataset(
    pixels: np.ndarray | None = None, syntax: str = uid.ExplicitVRLittleEndian, **tags: Any
) -> FileDataset:
    """A DX chest film of PATIENT; `tags` are set last, and removed where None."""
    pixels = picture() if pixels is None else pixels
    meta = FileMetaDataset()
    encoding = uid.UID(syntax)
    made = FileDataset(
        "", {}, b"\0" * 128, meta, encoding.is_implicit_VR, encoding.is_little_endian
    )
    values: dict[str, Any] = {
        "SOPClassUID": uid.DigitalXRayImageStorageForPresentation,
        "SOPInstanceUID": "1.2.826.0.1.3680043.9.7133.1.1",
        "Modality": "DX",
        "PresentationIntentType": "FOR PRESENTATION",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
        **PATIENT,
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1 if pixels.ndim == 2 else 3,
        "PhotometricInterpretation": "MONOCHROME2" if pixels.ndim == 2 else "RGB",
        "BitsAllocated": 8 * pixels.itemsize,
        "BitsStored": 8 * pixels.itemsize,
        "HighBit": 8 * pixels.itemsize - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
    }
    if pixels.ndim == 3:
        values["PlanarConfiguration"] = 0
    for keyword, value in {**values, **tags}.items():
        if value is not None:
            setattr(made, keyword, value)
    big = syntax == uid.ExplicitVRBigEndian
    made.PixelData = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<")).tobytes()
    made["PixelData"].VR = "OW"
    if big and pixels.itemsize == 1:
        made["PixelData"].VR = "OB"
    meta.MediaStorageSOPClassUID = made.get("SOPClassUID", uid.SecondaryCaptureImageStorage)
    meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    meta.TransferSyntaxUID = uid.UID(syntax)
    return made


def put(made: Dataset, keyword: str, vr: str | None, value: bytes) -> None:
    """Set a tag to bytes under a VR, whatever that makes of them."""
    tag = Tag(tag_for_keyword(keyword) or 0)
    made[tag] = RawDataElement(tag, vr, len(value), value, 0, vr is None, True)


def written(made: FileDataset, *, preamble: bool = True) -> bytes:
    """A data set as a file, with or without the preamble and the file meta group."""
    syntax = made.file_meta.TransferSyntaxUID
    buffer = io.BytesIO()
    if preamble:
        made.save_as(buffer, enforce_file_format=True)
    else:
        bare = Dataset(made)
        bare.save_as(
            buffer, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian
        )
    return buffer.getvalue()


def dicom(
    pixels: np.ndarray | None = None, syntax: str = uid.ExplicitVRLittleEndian, **tags: Any
) -> bytes:
    """A DX chest film of PATIENT as a file."""
    return written(dataset(pixels, syntax, **tags))


def compressed(pixels: np.ndarray, syntax: str, **tags: Any) -> bytes:
    """The same, compressed by pydicom's encoder of `syntax`."""
    made = dataset(pixels, **tags)
    made.compress(syntax, generate_instance_uid=False)
    return written(made)


def encapsulating(frame: bytes, pixels: np.ndarray, syntax: str, **tags: Any) -> bytes:
    """The same around a codestream that was made elsewhere."""
    made = dataset(pixels, **tags)
    made.file_meta.TransferSyntaxUID = uid.UID(syntax)
    made.PixelData = encapsulate([frame])
    made["PixelData"].is_undefined_length = True
    return written(made)


def png(header: bytes, *bodies: tuple[bytes, bytes]) -> bytes:
    """A PNG of an IHDR and further chunks, with right checksums."""
    chunks = ((b"IHDR", header), *bodies, (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def with_chunks(data: bytes, *chunks: tuple[bytes, bytes], sound: bool = True) -> bytes:
    """A PNG with further chunks behind its header; of the wrong checksum where not `sound`."""
    found = png(b"", *chunks)[33 - 13 : -12]
    if not sound:
        found = found[:-1] + bytes([found[-1] ^ 1])
    return data[:33] + found + data[33:]


def tiff(*entries: tuple[int, int, int, int], after: bytes = b"", following: int = 0) -> bytes:
    """A little-endian TIFF of one directory: tag, type, count and value of each entry."""
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", following) + after


def bad_files() -> list[Bad]:
    """Malformed and hostile files, and images that are no chest films."""
    makers = (_errors_of_content, _errors_of_images, _errors_of_dicom)
    errors = [
        Bad(name=name, data=data, outcome="error", code=code)
        for make in makers
        for name, code, data in make()
    ]
    refusals = [
        Bad(name=name, data=data, outcome="refused", code=code)
        for make in (_refused_images, _refused_dicom)
        for name, code, data in make()
    ]
    return errors + refusals


_Made = Iterator[tuple[str, str, bytes]]


def _errors_of_content() -> _Made:
    page = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body></body></html>"
    yield "empty.jpg", "truncated", b""
    yield "page.dcm", "not_an_image", page
    yield "page_in_utf16.png", "not_an_image", page.decode().encode("utf-16")
    yield "report.pdf.jpg", "not_an_image", b"%PDF-1.7\n" + b"x" * 300
    yield "report.txt.png", "not_an_image", b"Zebedee Secretive, MRN-7781234: no finding\n" * 20
    yield "letter_latin1.jpg", "not_an_image", "Thorax p.a. für Herrn Müller\n".encode("latin-1")
    yield "settings.json", "not_an_image", b'{"films": []}'
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"
    yield "pointer.png", "not_an_image", pointer
    yield "._film.jpg", "not_an_image", b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X" + bytes(200)
    yield "zeros.dcm", "not_an_image", bytes(4096)
    noise = np.random.default_rng(9).integers(0, 256, 5000, np.uint8).tobytes()
    yield "noise.dcm", "not_an_image", b"\x08\x00\x05\x00" + noise
    yield "program.jpg", "not_an_image", b"\x7fELF\x02\x01\x01" + bytes(500)
    yield "film.heic", "unsupported_format", b"\0\0\0\x18ftypheic" + bytes(200)
    yield "film.jp2", "unsupported_format", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(200)
    yield "volume.nii", "unsupported_format", struct.pack("<i", 348) + bytes(340) + b"n+1\0" + noise


def _errors_of_images() -> _Made:
    gray = Image.fromarray(picture())
    jpeg = encoded(gray, "JPEG", quality=90)
    segments = {"quantisation": 0xDB, "frame": 0xC0, "huffman": 0xC4, "scan": 0xDA}
    for name, marker in segments.items():
        at = jpeg.index(bytes((0xFF, marker)))
        yield f"cut_before_{name}.jpg", "truncated", jpeg[:at]
        yield f"cut_in_{name}.jpg", "truncated", jpeg[: at + 7]
    yield "cut_in_the_pixels.jpg", "truncated", jpeg[: len(jpeg) // 2]
    progressive = encoded(gray, "JPEG", progressive=True)
    yield "cut_progressive.jpg", "truncated", progressive[: len(progressive) * 2 // 3]
    table = bytearray(jpeg)
    at = jpeg.index(b"\xff\xc4")
    table[at + 5 : at + 21] = b"\xff" * 16  # more codes of each length than there are
    yield "bad_huffman_table.jpg", "corrupt", bytes(table)
    lossless = bytearray(jpeg)
    lossless[jpeg.index(b"\xff\xc0") + 1] = 0xC3
    yield "hierarchical.jpg", "corrupt", bytes(lossless).replace(b"\xff\xc3", b"\xff\xc5")
    yield "arithmetic.jpg", "unsupported_format", bytes(lossless).replace(b"\xff\xc3", b"\xff\xc9")
    deep = bytearray(jpeg)
    deep[jpeg.index(b"\xff\xc0") + 4] = 12
    yield "twelve_bits.jpg", "unsupported_pixels", bytes(deep)
    huge = bytearray(jpeg)
    at = jpeg.index(b"\xff\xc0")
    huge[at + 5 : at + 9] = struct.pack(">HH", 65_000, 65_000)
    yield "bomb.jpg", "too_large", bytes(huge)
    yield "cmyk.jpg", "unsupported_pixels", encoded(Image.new("CMYK", (99, 99)), "JPEG")
    two = bytearray(jpeg)
    two[jpeg.index(b"\xff\xc0") + 9] = 2
    yield "two_components.jpg", "unsupported_pixels", bytes(two)
    colour = encoded(gray.convert("RGB"), "JPEG")
    for name, whole in (("gray", jpeg), ("colour", colour), ("progressive", progressive)):
        for share in (50, 90):
            half = whole[: len(whole) * share // 100]
            yield f"cut_{name}_{share}_then_zeros.jpg", "truncated", half + bytes(9 * len(whole))
            yield f"cut_{name}_{share}_then_another.jpg", "corrupt", half + jpeg
            if name != "progressive":
                yield f"cut_{name}_{share}_then_an_end.jpg", "truncated", half + b"\xff\xd9"
    scans = [at for at in range(len(progressive)) if progressive[at : at + 2] == b"\xff\xda"]
    lacking = progressive[: scans[-1]] + b"\xff\xd9"
    yield "without_its_last_scan.jpg", "truncated", lacking

    small = encoded(gray, "PNG")
    for name, marker in (("header", b"IHDR"), ("pixels", b"IDAT"), ("end", b"IEND")):
        at = small.index(marker)
        if name != "end":  # every pixel is there by then
            yield f"cut_before_{name}.png", "truncated", small[: at - 4]
            yield f"cut_in_{name}.png", "truncated", small[: at + 6]
    wrong = bytearray(small)
    wrong[30] ^= 0xFF
    yield "bad_crc.png", "corrupt", bytes(wrong)
    flipped = bytearray(small)
    flipped[small.index(b"IDAT") + 3000] ^= 0x10
    yield "bad_pixels_crc.png", "corrupt", bytes(flipped)
    side = struct.pack(">2I5B", 50_000, 50_000, 8, 0, 0, 0, 0)
    yield "bomb.png", "too_large", png(side, (b"IDAT", zlib.compress(bytes(1 << 20), 9)))
    few = struct.pack(">2I5B", 64, 64, 8, 0, 0, 0, 0)
    yield "too_few_rows.png", "truncated", png(few, (b"IDAT", zlib.compress(bytes(65 * 9))))
    for colour, channels in ((2, 3), (4, 2), (6, 4)):
        header = struct.pack(">2I5B", 64, 64, 16, colour, 0, 0, 0)
        rows = zlib.compress(64 * (b"\0" + bytes(64 * channels * 2)))
        yield f"sixteen_bits_of_{channels}.png", "unsupported_pixels", png(header, (b"IDAT", rows))
    palette, plain = (struct.pack(">2I5B", 64, 64, 8, colour, 0, 0, 0) for colour in (3, 0))
    body = (b"IDAT", zlib.compress(b"".join(b"\0" + bytes(range(n, n + 64)) for n in range(64))))
    two = png(palette, (b"PLTE", bytes(range(256)) * 3), (b"IHDR", plain), body)
    yield "two_headers.png", "corrupt", two
    note = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(80 << 20), 9)
    yield "xmp_bomb.png", "corrupt", with_chunks(small, (b"iTXt", note))
    yield "bad_transparency_crc.png", "corrupt", with_chunks(small, (b"tRNS", b"\0\1"), sound=False)
    yield (
        "bad_note_and_pixels.png",
        "corrupt",
        with_chunks(bytes(flipped), (b"pHYs", bytes(9)), sound=False),
    )

    yield "floating.tif", "unsupported_pixels", encoded(Image.new("F", (99, 99), 0.5), "TIFF")
    yield "integers.tif", "unsupported_pixels", encoded(Image.new("I", (99, 99), 70_000), "TIFF")
    ordinary = encoded(gray, "TIFF")
    yield "cut_in_header.tif", "truncated", ordinary[:6]
    yield (
        "cut_in_directory.tif",
        "truncated",
        ordinary[: struct.unpack_from("<I", ordinary, 4)[0] + 9],
    )
    layout = (
        (256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
        (273, 4, 1, 200), (277, 3, 1, 1), (278, 4, 1, 64), (279, 4, 1, 4096),
    )  # fmt: skip
    yield "cut_in_the_pixels.tif", "truncated", tiff(*layout, after=bytes(2000))
    bomb = ((256, 4, 1, 60_000), (257, 4, 1, 60_000), *layout[2:])
    yield "bomb.tif", "too_large", tiff(*bomb, after=bytes(8000))
    yield "no_pixels.tif", "corrupt", tiff(*layout[:5])
    bitmap = bytearray(encoded(gray, "BMP"))
    bitmap[18:26] = struct.pack("<ii", -70_000, -70_000)
    yield "negative.bmp", "too_large", bytes(bitmap)
    bitmap[18:26] = struct.pack("<ii", 2**31 - 1, 2**31 - 1)
    yield "bomb.bmp", "too_large", bytes(bitmap)
    yield "cut.bmp", "truncated", encoded(gray, "BMP")[:9000]
    yield "cut.webp", "truncated", encoded(gray.convert("RGB"), "WEBP")[:700]
    claim = b"WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\xff\x3f" * 2 + bytes(20)
    yield "bomb.webp", "too_large", b"RIFF" + struct.pack("<I", len(claim)) + claim
    # Pillow finds nothing wrong with this size, and would make room for it.
    claim = b"WEBPVP8X\x0a\0\0\0\0\0\0\0" + (12_000 - 1).to_bytes(3, "little") * 2 + bytes(20)
    yield "large.webp", "too_large", b"RIFF" + struct.pack("<I", len(claim)) + claim
    yield "cut.gif", "truncated", encoded(gray, "GIF")[:5000]


def _errors_of_dicom() -> _Made:
    chest = dicom()
    made = dataset()
    size = len(made.PixelData)
    yield "cut_in_preamble.dcm", "truncated", chest[:133]
    yield "cut_in_meta.dcm", "truncated", chest[:190]
    yield "cut_in_tags.dcm", "truncated", chest[: len(chest) - size - 60]
    yield "cut_before_pixels.dcm", "truncated", chest[: len(chest) - size - 12]
    yield "cut_in_pixels.dcm", "truncated", chest[: len(chest) - size // 2]
    yield "bomb.dcm", "too_large", dicom(Rows=65_535, Columns=65_535)
    yield "no_rows.dcm", "corrupt", dicom(Rows=0)
    yield "odd_bits.dcm", "unsupported_pixels", dicom(BitsAllocated=12, BitsStored=12, HighBit=11)
    yield "thirty_two_bits.dcm", "unsupported_pixels", dicom(picture().astype(np.uint32))
    yield "bits_beyond.dcm", "corrupt", dicom(BitsStored=9, HighBit=8)
    yield "four_samples.dcm", "unsupported_pixels", dicom(SamplesPerPixel=4)
    short = Dataset()
    short.LUTDescriptor, short.LUTData = [256, 0, 8], [1, 2, 3]
    short["LUTDescriptor"].VR, short["LUTData"].VR = "US", "US"
    yield "short_lut.dcm", "corrupt", dicom(VOILUTSequence=Sequence([short]))
    yield (
        "unknown_syntax.dcm",
        "unsupported_pixels",
        chest.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0"),
    )
    floating = dataset()
    floating.FloatPixelData = np.ones(CHEST, np.float32).tobytes()
    del floating.PixelData
    yield "floating.dcm", "unsupported_pixels", written(floating)
    absurd = struct.pack("<HH2sHI", 0x0019, 0x1001, b"OB", 0, 0xFFFF_FFF0)
    at = chest.index(b"\x28\x00\x02\x00US")
    yield "absurd_length.dcm", "truncated", chest[:at] + absurd + chest[at:]
    level = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + struct.pack(
        "<HH2sHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF
    )
    nest = struct.pack("<HH2sHI", 0x0019, 0x1001, b"SQ", 0, 0xFFFFFFFF) + level * 5000
    yield "deep_sequence.dcm", "corrupt", chest[:at] + nest + chest[at:]

    pixels = picture()
    jpeg2000 = compressed(pixels, uid.JPEG2000Lossless)
    yield "cut.j2k.dcm", "truncated", jpeg2000[: len(jpeg2000) * 2 // 3]
    start = jpeg2000.index(b"\xff\x4f\xff\x51")
    grown = bytearray(jpeg2000)
    grown[start + 8 : start + 16] = struct.pack(">II", 60_000, 60_000)
    yield "bomb.j2k.dcm", "corrupt", bytes(grown)
    runs = compressed(pixels, uid.RLELossless)
    yield "cut.rle.dcm", "truncated", runs[: len(runs) // 2]
    # Its decoder takes what fits and says nothing, or panics where there are more bits.
    header = struct.pack("<16I", 1, 64, *[0] * 14)
    beyond = header + (b"\x7e" + bytes(127)) * (pixels.size // 127 + 1)
    yield "beyond.rle.dcm", "corrupt", encapsulating(beyond, pixels, uid.RLELossless)
    frame = encoded(Image.fromarray(pixels), "JPEG")
    whole = encapsulating(frame, pixels, uid.JPEGBaseline8Bit)
    yield "cut.jpeg.dcm", "truncated", whole[: len(whole) - len(frame) // 2]
    half = frame[: len(frame) // 2]
    yield "half_a_frame.dcm", "truncated", encapsulating(half, pixels, uid.JPEGBaseline8Bit)
    yield "no_frame.dcm", "corrupt", encapsulating(b"no codestream", pixels, uid.JPEGLSLossless)
    bomb = dataset(syntax=uid.DeflatedExplicitVRLittleEndian)
    bomb.PixelData = bytes(64)
    meta = written(bomb)
    body = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    zeros = b"".join(body.compress(bytes(1 << 20)) for _ in range(300)) + body.flush()
    end = 144 + struct.unpack_from("<I", meta, 140)[0]
    yield "deflated_bomb.dcm", "too_large", meta[:end] + zeros
    yield "cut.deflated.dcm", "truncated", dicom(syntax=uid.DeflatedExplicitVRLittleEndian)[:9000]


def _refused_images() -> _Made:
    gray = Image.fromarray(picture())
    others = [gray.rotate(turn) for turn in (90, 180)]
    yield "icon.png", "too_small", encoded(gray.resize((31, 400)), "PNG")
    ramp = (np.arange(60_000, dtype=np.uint32) // 235).astype(np.uint8)[None]
    yield "ribbon.jpg", "too_small", encoded(Image.fromarray(ramp), "JPEG")
    ribbon = (
        (256, 4, 1, 1), (257, 4, 1, 100_000), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
        (273, 4, 1, 200), (277, 3, 1, 1), (278, 4, 1, 100_000), (279, 4, 1, 100_000),
    )  # fmt: skip
    yield "ribbon.tif", "too_small", tiff(*ribbon, after=bytes(range(250)) * 404)
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP"):
        yield f"photograph.{kind.lower()}", "colour", encoded(photograph(), kind)
    palette = photograph().quantize(64)
    yield "palette.png", "colour", encoded(palette, "PNG")
    yield "photograph.gif", "colour", encoded(palette, "GIF")
    few = Image.fromarray(picture() // 16 * 16)
    for kind in ("PNG", "TIFF", "BMP", "GIF"):
        yield (
            f"fifteen_grays.{kind.lower()}",
            "blank",
            encoded(few.point(lambda v: max(v, 16)), kind),
        )
    yield "fifteen_grays.dcm", "blank", dicom(np.maximum(picture() // 16, 1))
    deep = picture().astype(np.uint16) // 18 * 300 + 20_000
    yield "fifteen_grays_of_16_bits.png", "blank", encoded(Image.fromarray(deep), "PNG")
    yield "fifteen_grays_of_16_bits.tif", "blank", encoded(Image.fromarray(deep), "TIFF")
    yield "narrow_window.dcm", "blank", dicom(WindowCenter=100, WindowWidth=10)
    for kind in ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP"):
        one = Image.new("L", CHEST[::-1], 90).convert("RGB" if kind == "WEBP" else "L")
        yield f"one_gray.{kind.lower()}", "blank", encoded(one, kind)
    clear = Image.new("RGBA", CHEST[::-1], (255, 255, 255, 0))
    clear.putpixel((9, 9), (90, 90, 90, 255))
    yield "transparent.png", "blank", encoded(clear, "PNG")
    yield "progressive_one_gray.jpg", "blank", encoded(Image.new("L", (999, 999), 128), "JPEG")
    yield "one_gray.dcm", "blank", dicom(np.full(CHEST, 1000, np.uint16))
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        data = encoded(gray, kind, save_all=True, append_images=others)
        yield f"several.{kind.lower()}", "multi_frame", data
    yield "stereo.mpo", "multi_frame", encoded(gray, "MPO", save_all=True, append_images=others)
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("film.png", encoded(gray, "PNG"))
    yield "inner.zip", "nested_archive", zipped.getvalue()
    with tarfile.open(fileobj=tarred, mode="w") as inner:
        inner.addfile(tarfile.TarInfo("film.png"))
    yield "inner.tar", "nested_archive", tarred.getvalue()
    yield "film.png.gz", "nested_archive", gzip.compress(encoded(gray, "PNG"))
    yield "inner.7z", "nested_archive", b"7z\xbc\xaf\x27\x1c\0\4" + bytes(200)


def _refused_dicom() -> _Made:
    def code(keyword: str, value: str, meaning: str) -> dict[str, Sequence]:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
        return {keyword: Sequence([item])}

    yield "ct.dcm", "modality", dicom(Modality="CT")
    yield "mr.dcm", "modality", dicom(Modality="MR", SOPClassUID=uid.MRImageStorage)
    yield "us_as_ot.dcm", "modality", dicom(Modality="OT", SOPClassUID=uid.UltrasoundImageStorage)
    yield "mammogram.dcm", "modality", dicom(Modality="MG", BodyPartExamined="BREAST")
    yield "hand.dcm", "body_part", dicom(BodyPartExamined="HAND")
    yield "ribs.dcm", "body_part", dicom(BodyPartExamined="RIBCAGE")
    yield "spine.dcm", "body_part", dicom(BodyPartExamined="CHEST SPINE")
    hand = code("AnatomicRegionSequence", "85562004", "Hand")
    yield "coded_hand.dcm", "body_part", dicom(BodyPartExamined=None, **hand)
    for view in ("LL", "RL", "LATERAL", "LAO"):
        yield f"view_{view}.dcm", "lateral", dicom(ViewPosition=view)
    side = code("ViewCodeSequence", "399173006", "left lateral")
    yield "coded_lateral.dcm", "lateral", dicom(ViewPosition=None, **side)
    turned = dicom(ViewPosition=None, PatientOrientation=["A", "F"])
    yield "seen_from_the_side.dcm", "lateral", turned
    yield "raw.dcm", "for_processing", dicom(PresentationIntentType="FOR PROCESSING")
    raw = uid.DigitalXRayImageStorageForProcessing
    yield "raw_class.dcm", "for_processing", dicom(SOPClassUID=raw, PresentationIntentType=None)
    yield "labelled.dcm", "burned_in", dicom(BurnedInAnnotation="YES")
    yield "two_polarities.dcm", "polarity", dicom(PresentationLUTShape="INVERSE")
    frames = np.concatenate([picture(), picture(seed=6)])
    yield "two_frames.dcm", "multi_frame", dicom(frames, Rows=CHEST[0], NumberOfFrames=2)
    captured = uid.SecondaryCaptureImageStorage
    colours = np.asarray(photograph())
    yield "colour.dcm", "colour", dicom(colours, Modality="OT", SOPClassUID=captured)
    planes = dicom(colours.transpose(2, 0, 1).reshape(CHEST[0], CHEST[1], 3), PlanarConfiguration=1)
    yield "colour_planes.dcm", "colour", planes

    for name, sop, refusal in (
        ("report.dcm", uid.BasicTextSRStorage, "no_pixels"),
        ("presentation.dcm", uid.GrayscaleSoftcopyPresentationStateStorage, "no_pixels"),
        ("document.dcm", uid.EncapsulatedPDFStorage, "no_pixels"),
        ("DICOMDIR", uid.MediaStorageDirectoryStorage, "dicomdir"),
    ):
        made = dataset(SOPClassUID=sop)
        for keyword in ("PixelData", "Rows", "Columns", "BitsAllocated"):
            delattr(made, keyword)
        yield name, refusal, written(made)


def good_variants() -> list[Good]:
    """`picture()` in every form that is read."""
    return [Good(name=n, data=d, tolerance=t) for n, t, d in (*_good_images(), *_good_dicom())]


def _good_images() -> Iterator[tuple[str, float, bytes]]:
    gray = Image.fromarray(picture())
    deep = Image.fromarray(picture().astype(np.uint16) * 257)
    twelve = Image.fromarray(np.rint(picture() * (4095 / 255)).astype(np.uint16))
    yield "gray.png", 0.1, encoded(gray, "PNG")
    yield "gray_as_rgb.png", 0.1, encoded(gray.convert("RGB"), "PNG")
    yield "gray.jpg", 1.5, encoded(gray, "JPEG", quality=95)
    yield "gray_as_rgb.jpg", 1.5, encoded(gray.convert("RGB"), "JPEG", quality=95)
    yield "progressive.jpg", 1.5, encoded(gray, "JPEG", quality=95, progressive=True)
    yield "rgb_components.jpg", 1.5, encoded(gray.convert("RGB"), "JPEG", keep_rgb=True, quality=95)
    yield "sixteen_bits.png", 0.1, encoded(deep, "PNG")
    yield "sixteen_bits.tif", 0.1, encoded(deep, "TIFF")
    yield "twelve_of_sixteen_bits.png", 0.5, encoded(twelve, "PNG")
    yield "twelve_of_sixteen_bits.tif", 0.5, encoded(twelve, "TIFF", compression="tiff_lzw")
    white = Image.fromarray(np.uint16(65_535) - np.asarray(deep))
    yield "white_is_zero_16.tif", 0.1, encoded(white, "TIFF", tiffinfo={262: 0})
    yield "gray.tif", 0.1, encoded(gray, "TIFF")
    yield "deflated.tif", 0.1, encoded(gray, "TIFF", compression="tiff_adobe_deflate")
    yield "gray.bmp", 0.1, encoded(gray, "BMP")
    yield "lossless.webp", 0.6, encoded(gray.convert("RGB"), "WEBP", lossless=True)
    yield "lossy.webp", 3.0, encoded(gray.convert("RGB"), "WEBP", quality=90)
    yield "gray.gif", 0.6, encoded(gray, "GIF")
    jpeg = encoded(gray, "JPEG", quality=95)
    loop = struct.pack("<HHII", 0x8769, 4, 1, 8) + struct.pack("<I", 8)
    claims = struct.pack("<HHII", 0x0112, 3, 0xFFFF_FFFF, 8) + bytes(4)
    for name, body in (("loop", loop), ("bomb", claims)):
        exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + body
        exif = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
        yield f"exif_{name}.jpg", 1.5, jpeg[:2] + exif + jpeg[2:]
    for name, more in (
        ("text", b"\r\n"),
        ("zeros", bytes(999)),
        ("end", b"\xff\xd9"),
        ("two", jpeg),
    ):
        yield f"jpeg_then_{name}.jpg", 1.5, jpeg + more
    progressive = encoded(gray, "JPEG", quality=95, progressive=True)
    yield "progressive_then_text.jpg", 1.5, progressive + b"end of transmission"
    gray_end = Image.fromarray(picture())
    gray_end.paste(128, (208, 184, 240, 200))  # what libjpeg puts where blocks are missing
    for mode in ("L", "RGB"):
        data = encoded(gray_end.convert(mode), "JPEG", quality=95)
        yield f"gray_end_{mode}.jpg", 3.0, data
        yield f"gray_end_{mode}_then_text.jpg", 3.0, data + b"more"
    yield "wrong_name.dcm", 0.1, encoded(gray, "PNG")
    small = encoded(gray, "PNG")
    for name in (b"pHYs", b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"gAMA", b"abCd"):
        bad = with_chunks(small, (name, b"x\0y\0z"), sound=False)
        yield f"bad_{name.decode()}_crc.png", 0.1, bad
    large = zlib.compress(bytes(80 << 20), 9)
    for name, body in ((b"iCCP", b"icc\0\0"), (b"zTXt", b"Comment\0\0")):
        yield f"large_{name.decode()}.png", 0.1, with_chunks(small, (name, body + large))
        # Behind the pixels, where Pillow looks at it once it has decoded them.
        late = (
            small[:-12]
            + with_chunks(small, (name, body + large))[33 : 33 - len(small)]
            + small[-12:]
        )
        yield f"late_{name.decode()}.png", 0.1, late
    # A loop from the first directory to itself is one page.
    looping = bytearray(encoded(gray, "TIFF"))
    at = struct.unpack_from("<I", looping, 4)[0]
    entries = struct.unpack_from("<H", looping, at)[0]
    looping[at + 2 + 12 * entries : at + 6 + 12 * entries] = struct.pack("<I", at)
    yield "looping.tif", 0.1, bytes(looping)


def _good_dicom() -> Iterator[tuple[str, float, bytes]]:
    gray = picture()
    twelve = np.rint(gray * (4095 / 255)).astype(np.uint16)
    bits = {"BitsStored": 12, "HighBit": 11}
    window = {"WindowCenter": "2048", "WindowWidth": "4096"}
    for name, syntax in (
        ("implicit", uid.ImplicitVRLittleEndian),
        ("explicit", uid.ExplicitVRLittleEndian),
        ("big_endian", uid.ExplicitVRBigEndian),
        ("deflated", uid.DeflatedExplicitVRLittleEndian),
    ):
        yield f"{name}.dcm", 0.1, dicom(gray, syntax)
        yield f"{name}_12.dcm", 0.5, dicom(twelve, syntax, **bits, **window)
    for name, syntax in (
        ("rle", uid.RLELossless), ("j2k", uid.JPEG2000Lossless), ("jls", uid.JPEGLSLossless),
    ):  # fmt: skip
        yield f"{name}.dcm", 0.1, compressed(gray, syntax)
        yield f"{name}_12.dcm", 0.5, compressed(twelve, syntax, **bits, **window)
    frame = encoded(Image.fromarray(gray), "JPEG", quality=95)
    yield "jpeg.dcm", 1.5, encapsulating(frame, gray, uid.JPEGBaseline8Bit)
    exact = lossless.jpeg(gray, 8)
    yield "lossless_jpeg.dcm", 0.1, encapsulating(exact, gray, uid.JPEGLosslessSV1)
    exact = lossless.jpeg(twelve, 12)
    yield (
        "lossless_jpeg_12.dcm",
        0.5,
        encapsulating(exact, twelve, uid.JPEGLosslessSV1, **bits, **window),
    )
    yield "without_extension", 0.1, dicom()
    yield "without_preamble.dcm", 0.1, written(dataset(), preamble=False)
    bare = dataset(syntax=uid.ImplicitVRLittleEndian)
    yield "without_preamble_implicit.dcm", 0.1, written(bare, preamble=False)
    yield "no_window.dcm", 0.5, dicom(twelve, **bits)
    inverse = (4095 - twelve).astype(np.uint16)
    first = {"PhotometricInterpretation": "MONOCHROME1", **bits}
    yield "monochrome1.dcm", 0.5, dicom(inverse, **first, **window)
    yield "monochrome1_without_window.dcm", 0.5, dicom(inverse, **first)
    signed = twelve.astype(np.int16) - 2048
    below = {"WindowCenter": "0", "WindowWidth": "4096"}
    yield "signed.dcm", 0.5, dicom(signed, **bits, **below)
    scaled = {"RescaleSlope": "2", "RescaleIntercept": "-1000"}
    wide = {"WindowCenter": ["3095", "100"], "WindowWidth": ["8191", "50"]}
    yield "rescaled_two_windows.dcm", 0.6, dicom(twelve, **bits, **scaled, **wide)
    exact = {"VOILUTFunction": "LINEAR_EXACT", "WindowCenter": "2047.5", "WindowWidth": "4095"}
    yield "linear_exact.dcm", 0.5, dicom(twelve, **bits, **exact)
    shifted = (twelve << 4) | 0x5  # what lies below the stored bits is no part of them
    yield "high_bit_15.dcm", 0.5, dicom(shifted, BitsStored=12, HighBit=15, **window)
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 16], list(range(0, 65_536, 16))
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "US"
    yield "voi_lut.dcm", 0.6, dicom(twelve, **bits, VOILUTSequence=Sequence([table]))
    capture = {"Modality": "OT", "SOPClassUID": uid.SecondaryCaptureImageStorage}
    rgb = np.repeat(gray[..., None], 3, -1)
    yield "gray_as_rgb.dcm", 0.1, dicom(rgb, **capture)
    absent = dict.fromkeys(("ViewPosition", "BodyPartExamined", "PresentationIntentType"))
    yield "nothing_said.dcm", 0.1, dicom(**capture, **absent)
    yield "named_in_words.dcm", 0.1, dicom(BodyPartExamined="THORAX PA", ViewPosition="AP")
    one = dicom(NumberOfFrames=1)
    yield "one_frame.dcm", 0.1, one
    tables = bytearray(encapsulating(frame, gray, uid.JPEGBaseline8Bit))
    at = tables.index(b"\xfe\xff\x00\xe0\x04\x00\x00\x00")
    tables[at + 8 : at + 12] = b"\xff\xff\xff\x7f"
    yield "bad_offset_table.dcm", 1.5, bytes(tables)
