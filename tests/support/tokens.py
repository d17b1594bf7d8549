"""Tokens: words that stand for a name or a text of a patient's, and the search for them.

Each is a word of its own, and all begin alike, so that one search finds any of them. Bytes are
looked through as they are and as whatever was packed in them: compressed, in an archive, pickled,
or as text in JSON; and each time as UTF-8, UTF-16, hexadecimal and base64.
"""

from __future__ import annotations

import base64
import bz2
import gzip
import hashlib
import io
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import zstandard

#: All tokens begin so. Patterns for patients take digits: a token that is to be found again in a
#: patient's number has those at its end.
MARK = "ZQXJKV"

#: Letters and digits that follow it.
_LENGTH = 6

#: The same for texts that are digits and dots, as the numbers of studies.
DIGITS = "9078563412"

_TOKEN = re.compile(f"{MARK}[A-Z]{{{_LENGTH}}}|{DIGITS}[0-9]{{{_LENGTH}}}")

#: How deep things may be packed in one another.
_DEPTH = 5

#: More bytes than this are not unpacked from one thing.
_MOST = 256 << 20


@dataclass
class Tokens:
    """The tokens of one test: what each stands for."""

    of: dict[str, str] = field(default_factory=dict)

    def word(self, kind: str, what: str) -> str:
        """A new token of a kind, as a word of capitals and digits."""
        word = MARK + _digest(len(self.of), "ABCDEFGHILMNOPRSTUWY")
        self.of[word] = f"{kind}: {what}"
        return word

    def number(self, kind: str, what: str) -> str:
        """A new token of a kind, as digits."""
        word = DIGITS + _digest(len(self.of), "0123456789")
        self.of[word] = f"{kind}: {what}"
        return word

    def kind(self, word: str) -> str:
        """What kind a token is of; `unknown` of what merely begins as one."""
        return self.of.get(word, "unknown").partition(":")[0]


def _digest(number: int, letters: str) -> str:
    digest = hashlib.sha256(f"token {number}".encode()).digest()
    # With the number itself in it, so that no two are alike.
    coded, rest = "", number
    for _ in range(3):
        rest, digit = divmod(rest, len(letters))
        coded += letters[digit]
    return coded + "".join(letters[byte % len(letters)] for byte in digest[: _LENGTH - 3])


def _written() -> Iterator[tuple[str, bytes]]:
    """Encoding, and what every token begins with in it."""
    for mark in (MARK, DIGITS):
        for shown in sorted({mark, mark.lower()}):
            yield "utf-8", shown.encode()
            yield "hex", shown.encode().hex().encode()
        yield "utf-16-le", mark.encode("utf-16-le")
        yield "utf-16-be", mark.encode("utf-16-be")
        yield "hex", mark.encode().hex().upper().encode()
        yield "hex with spaces", mark.encode().hex(" ").encode()
        for shift in range(3):
            coded = base64.b64encode(b"\0" * shift + mark.encode())
            # What the bytes before and behind it have a part in is left out.
            first, last = -(-8 * shift // 6), 8 * (shift + len(mark)) // 6
            yield f"base64 at {shift}", coded[first:last]


WRITTEN = tuple(dict.fromkeys(_written()))


def found(data: bytes) -> set[tuple[str, str]]:
    """(token, how it is written) of each token in these bytes, however it is packed there."""
    return set(_found(data, "", 0))


def _found(data: bytes, packed: str, depth: int) -> Iterator[tuple[str, str]]:
    for name, mark in WRITTEN:
        at = data.find(mark)
        while at >= 0:
            # Text of the other order looks the same from its second byte on.
            if name != "utf-16-le" or data[at - 1 : at] != b"\0":
                yield _word(data, at, name), f"{packed}{name}"
            at = data.find(mark, at + 1)
    if depth < _DEPTH:
        for how, inner in _unpacked(data):
            yield from _found(inner, f"{packed}{how} of ", depth + 1)


def _word(data: bytes, at: int, name: str) -> str:
    """The token that begins there; what there is of one that was cut short."""
    if name.startswith("base64"):
        shift = int(name[-1])
        piece = _of(rb"[A-Za-z0-9+/]*", data[max(0, at - -(-8 * shift // 6)) :][:40])
        text = base64.b64decode(piece[: len(piece) // 4 * 4])[shift:].decode("latin-1")
    elif name.startswith("hex"):
        piece = _of(rb"[0-9A-Fa-f ]*", data[at : at + 80]).replace(b" ", b"")
        text = bytes.fromhex(piece[: len(piece) // 2 * 2].decode()).decode("latin-1")
    else:
        text = data[at : at + 40].decode("latin-1" if name == "utf-8" else name, "replace")
    match = _TOKEN.match(text.upper())
    return match[0] if match else text[:16]


def _of(pattern: bytes, data: bytes) -> bytes:
    match = re.match(pattern, data)
    return match[0] if match else b""


def _unpacked(data: bytes) -> Iterator[tuple[str, bytes]]:
    """What is packed in these bytes, from their beginning on; of zlib also behind what it is."""
    if data[:2] == b"\x1f\x8b":
        yield from _by("gzip", gzip.decompress, data)
    elif data[:1] == b"\x78" and len(data) > 2 and int.from_bytes(data[:2], "big") % 31 == 0:
        inflater = zlib.decompressobj()
        try:
            yield "zlib", inflater.decompress(data, _MOST)
        except zlib.error:
            return
        if inflater.unused_data:
            yield "behind zlib", inflater.unused_data
    elif data[:4] == b"\x28\xb5\x2f\xfd":
        yield from _by("zstd", zstandard.ZstdDecompressor().decompressobj().decompress, data)
    elif data[:3] == b"BZh":
        yield from _by("bzip2", bz2.decompress, data)
    elif data[:6] == b"\xfd7zXZ\0":
        yield from _by("xz", lzma.decompress, data)
    elif data[:4] == b"PK\x03\x04":
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                for name in archive.namelist():
                    yield f"zip member {name}", archive.read(name)
        except (zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error):
            return
    elif data[257:262] == b"ustar":
        try:
            with tarfile.open(fileobj=io.BytesIO(data)) as opened:
                for member in opened:
                    if (file := opened.extractfile(member)) is not None:
                        yield "tar member", file.read()
        except tarfile.TarError:
            return


def _by(how: str, unpack: Callable[[bytes], bytes], data: bytes) -> Iterator[tuple[str, bytes]]:
    try:
        yield how, unpack(data)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError, zstandard.ZstdError):
        return
