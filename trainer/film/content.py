"""Content: what a file is, known by its bytes and never by its name.

Knows formats that are read, formats that are not, and the things that come to lie among films: web
pages, archives, what desktop systems leave behind. Nothing of the content is repeated in a message,
because a text file may be a report.
"""

from __future__ import annotations

import re
import struct

from trainer.errors import FilmError, FilmRefused

#: Offset, first bytes, and the name of the format as Pillow has it; DICOM is found by `is_dicom`.
_FILMS = (
    (0, b"II*\x00", "TIFF"),
    (0, b"MM\x00*", "TIFF"),
    (0, b"BM", "BMP"),
    (0, b"GIF87a", "GIF"),
    (0, b"GIF89a", "GIF"),
)

_NOT_READ = (
    (0, b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 codestream"),
    (0, b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypheic", "HEIC"),
    (4, b"ftypheix", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (0, b"II+\x00", "BigTIFF"),
    (0, b"MM\x00+", "BigTIFF"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\x00\x00\x01\x00", "an icon"),
    (344, b"n+1\x00", "NIfTI"),
    (344, b"ni1\x00", "NIfTI"),
    (0, b"NRRD000", "NRRD"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"%!PS", "PostScript"),
)

_ARCHIVES = (
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"PK\x05\x06", "an empty zip archive"),
    (0, b"PK\x07\x08", "a split zip archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"\x1f\x8b\x08", "gzip data"),
    (0, b"BZh", "bzip2 data"),
    (0, b"\xfd7zXZ\x00", "xz data"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"\x28\xb5\x2f\xfd", "Zstandard data"),
    (0, b"Rar!\x1a\x07", "a RAR archive"),
    (32_769, b"CD001", "an ISO image of a disc"),
    (32_769, b"BEA01", "an image of a disc"),
)

#: Bytes of a file in which `archive` looks.
ARCHIVE_BY = max(at + len(magic) for at, magic, _ in _ARCHIVES)

_NO_IMAGES = (
    (0, b"%PDF", "a PDF document"),
    (0, b"version https://git-lfs.github.com/spec/", "a Git LFS pointer; run git lfs pull first"),
    (0, b"\x00\x05\x16\x07", "an AppleDouble file, which macOS leaves beside files it copies"),
    (0, b"\x00\x05\x16\x00", "an AppleSingle file"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an OLE document, like Thumbs.db"),
    (0, b"SQLite format 3\x00", "an SQLite database"),
    (0, b"\x7fELF", "a program"),
    (0, b"MZ", "a Windows program"),
    (4, b"ftyp", "a video"),
    (8, b"AVI ", "a video"),
    (8, b"WAVE", "a sound"),
)

#: Version of what reads each kind of file; empty is what no reader takes. Whoever changes the
#: pixels that the same bytes become, or whether they are refused, raises that of the kind: what an
#: earlier version made of such files is no answer any more, and is made anew when it is asked for.
READERS = {"JPEG": 1, "PNG": 1, "DICOM": 2, "TIFF": 1, "BMP": 1, "GIF": 1, "WEBP": 1, "": 1}

#: How an answer of several parts begins: a line that parts them, and what the first part is.
_MULTIPART = re.compile(
    rb"\s*--[^\r\n]{1,200}\r?\n(?:[\w-]+:[^\r\n]*\r?\n)*Content-", re.IGNORECASE
)

#: Bytes of a JPEG in which its frame is looked for.
_FRAME_BY = 1 << 20

#: Value representations of DICOM (PS3.5, section 6.2).
_VRS = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR "
    b"US UT UV".split()
)

#: Those whose length takes four bytes after two that are reserved.
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())

#: Elements that a file without a preamble must show before it is believed to be DICOM.
_PROOF = 4

#: One of these must be among the first elements, or its first group is 0002.
_TELLING = frozenset({(0x0008, 0x0016), (0x0008, 0x0060)})


#: Endings of the names of DICOM files, whatever is in them.
DICOM_NAMES = (".dcm", ".dicom", ".dic")

#: Endings of the names of files that are no DICOM, unless their content says so. DICOM itself often
#: has no ending (`IM0001`), or what looks like one (`1.2.840.113619.2.55`).
OTHER_NAMES = (
    ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2", ".heic", ".avif",
    ".nii", ".nrrd", ".mha", ".npy", ".txt", ".md", ".csv", ".json", ".xml", ".html", ".pdf",
    ".doc", ".docx", ".xls", ".xlsx", ".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".tar",
    ".7z", ".rar",
)  # fmt: skip


def may_be_dicom(name: str, kind: str = "") -> bool:
    """Whether a file of this name may be DICOM.

    `kind` is what `kind` says of its content; empty where that is of no kind, or was not read.
    """
    if kind:
        return kind == "DICOM" or name.lower().endswith(DICOM_NAMES)
    return not name.lower().endswith(OTHER_NAMES)


def kind(data: bytes) -> str:
    """`JPEG`, `PNG`, `DICOM`, `TIFF`, `BMP`, `GIF` or `WEBP`; empty for anything else."""
    if data[:3] == b"\xff\xd8\xff":
        return "" if _is_jpeg_ls(data) else "JPEG"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if data[128:132] == b"DICM":
        return "DICOM"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    found = _named(data, _FILMS)
    if found:
        return found
    return "DICOM" if _is_bare_dicom(data) else ""


def reader(data: bytes) -> tuple[str, int]:
    """The kind of a file, as `kind` says it, and the version of what reads it here."""
    found = kind(data)
    return found, READERS[found]


def archive(data: bytes) -> str:
    """What archive or compressed data a file begins as; empty for anything else."""
    return _named(data, _ARCHIVES)


def unreadable(data: bytes) -> FilmError:
    """What to raise for a file of none of the kinds that are read."""
    if not data:
        return FilmError("truncated", "the file is empty; copy it again from where it came from")
    if len(data) < 12 and b"\xff\xd8\xff\x89PNG\r\n\x1a\n".find(data) in (0, 3):
        return _cut(data)
    packed = archive(data)
    if packed:
        return FilmRefused("nested_archive", f"{packed}: unpack it and score it by itself")
    image = "JPEG-LS outside DICOM" if _is_jpeg_ls(data) else _named(data, _NOT_READ)
    if image:
        return FilmError("unsupported_format", f"{image} is not read; convert it to PNG or DICOM")
    if _MULTIPART.match(data[:2048]):
        return FilmError(
            "not_an_image",
            "it is an answer of several parts, as DICOMweb (WADO-RS) gives it; save each part as "
            "a file of its own",
        )
    name = _named(data, _NO_IMAGES) or _text(data)
    if name:
        return FilmError("not_an_image", f"it is {name}; leave it out")
    if not data.strip(b"\0"):
        return FilmError("not_an_image", "it holds nothing but zero bytes; copy it again")
    first = data[:4].hex(" ")
    return FilmError(
        "not_an_image", f"no image format that is known begins with the bytes {first}; leave it out"
    )


def _is_jpeg_ls(data: bytes) -> bool:
    """Whether a JPEG's frame is of JPEG-LS (ISO 14495-1): no other kind of JPEG has its marker."""
    at = 2
    while data[at : at + 1] == b"\xff" and at < _FRAME_BY:
        marker = data[at + 1 : at + 2]
        if marker == b"\xf7":
            return data[:2] == b"\xff\xd8"
        if not (b"\xe0" <= marker <= b"\xef" or marker in (b"\xfe", b"\xf8")):
            return False
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


def _cut(data: bytes) -> FilmError:
    return FilmError(
        "truncated", f"the image ends inside its header ({len(data)} bytes); copy it again"
    )


def _named(data: bytes, table: tuple[tuple[int, bytes, str], ...]) -> str:
    for offset, magic, name in table:
        if data.startswith(magic, offset):
            return name
    return ""


def _text(data: bytes) -> str:
    """`a web page`, `XML`, `text` and the like, or nothing where the file is binary."""
    head = data[:1024]
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        head = head[2:].replace(b"\0", b"")
    if b"\0" in head or sum(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head):
        return ""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")) or b"<html" in start or b"<head" in start:
        return "a web page, perhaps saved in place of the file; download the file itself"
    if start.startswith(b"<svg") or b"<svg" in start:
        return "an SVG drawing"
    if start.startswith(b"<?xml"):
        return "XML"
    if start.startswith((b"{", b"[")):
        return "JSON or text like it"
    try:
        head[:-4].decode() if len(data) > len(head) else head.decode()
    except UnicodeDecodeError:
        # Single-byte encodings of text hold few bytes above 127.
        if sum(byte > 127 for byte in head) > len(head) // 4:
            return ""
    return "text"


def _is_bare_dicom(data: bytes) -> bool:
    """Whether DICOM begins at once, without the preamble that the standard asks for.

    Several well-formed elements in ascending order must follow each other and say what they belong
    to; of random bytes not one file in 2^100 does.
    """
    if data[:2] not in (b"\x02\x00", b"\x08\x00"):
        return False
    explicit = data[4:6] in _VRS
    if data[:2] == b"\x02\x00" and not explicit:
        return False
    at, last, seen, readable = 0, (0, 0), 0, False
    while at + 8 <= len(data):
        tag = struct.unpack_from("<HH", data, at)
        vr = data[at + 4 : at + 6]
        if explicit and tag[0] == 2 and vr not in _VRS:
            return False
        if explicit and vr not in _VRS:
            break  # the data set after the file meta group may be implicit
        if explicit and vr in _LONG_VRS:
            if at + 12 > len(data):
                break
            length, head = struct.unpack_from("<I", data, at + 8)[0], 12
        elif explicit:
            length, head = struct.unpack_from("<H", data, at + 6)[0], 8
        else:
            length, head = struct.unpack_from("<I", data, at + 4)[0], 8
        if tag <= last or tag[0] not in (0x0002, 0x0008, 0x0009, 0x0010, 0x0018):
            break
        if length > len(data) - at - head:
            break
        if tag in _TELLING or tag == (0x0002, 0x0010):
            readable = data[at + head : at + head + length].strip(b"\0 ").isascii() and length > 1
        seen, last, at = seen + 1, tag, at + head + length
        if readable and seen >= _PROOF:
            return True
    return False
