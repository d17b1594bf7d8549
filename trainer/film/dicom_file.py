"""DICOM files: bytes become a data set, also where their writer got a length or the end wrong.

Knows nothing of what the elements mean. Two faults of writers leave every pixel in its place: the
last delimiter of compressed pixels is not there, and the lengths in a sequence (an icon, mostly)
are too short, so that what follows it is lost. A file that was cut is none of these.
"""

from __future__ import annotations

import functools
import io
import struct
import zlib
from typing import BinaryIO

import pydicom
import pydicom.filereader
import pydicom.uid
from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR

from trainer.errors import FilmError
from trainer.film.refusals import MAX_PIXELS

_VRS = frozenset(vr.value.encode() for vr in STANDARD_VR)
_LONG_VRS = frozenset(vr.value.encode() for vr in EXPLICIT_VR_LENGTH_32)

_UNDEFINED = 0xFFFF_FFFF
_ITEM, _END_OF_ITEM, _END_OF_SEQUENCE = 0xFFFE_E000, 0xFFFE_E00D, 0xFFFE_E0DD
_PIXELS = 0x7FE0_0010

#: What ends compressed pixels (PS3.5, section 7.5; compressed is always little endian).
_LAST = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)

#: Bytes after the start of a sequence in which what follows it is looked for: icons are small.
_SEQUENCE = 1 << 18

#: Elements that are looked at in that search. A hostile file would have all be looked at from each.
_ELEMENTS = 1 << 18


def read(data: bytes, keywords: tuple[str, ...]) -> Dataset:
    """The elements of these keywords, everything else unread.

    Raises FilmError with `too_large` or `truncated`, and whatever pydicom raises.
    """
    file = io.BytesIO(data)
    bare = data[128:132] != b"DICM"
    if not bare:
        file.seek(132)
    meta = pydicom.filereader._read_file_meta_info(file)
    start = file.tell()
    syntax = meta.get("TransferSyntaxUID")
    wanted = _tags(keywords)
    if syntax == pydicom.uid.DeflatedExplicitVRLittleEndian:
        _check_deflated(data[start:])
    else:
        elements = _Elements(data, start, big=syntax == pydicom.uid.ExplicitVRBigEndian)
        mended = elements.mended(frozenset(wanted))
        file = io.BytesIO(data if mended is None else mended)
    file.seek(0)
    dataset = pydicom.dcmread(file, force=bare, specific_tags=wanted)
    if "SOPClassUID" not in dataset and "MediaStorageSOPClassUID" in meta:
        dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    return dataset


def read_header(file: BinaryIO, keywords: tuple[str, ...]) -> Dataset:
    """The elements of these keywords that stand before the pixels of an open file.

    Raises FilmError with `too_large` or `truncated`, and whatever pydicom raises.
    """
    bare = file.read(132)[128:] != b"DICM"
    if not bare:
        meta = pydicom.filereader._read_file_meta_info(file)
        if meta.get("TransferSyntaxUID") == pydicom.uid.DeflatedExplicitVRLittleEndian:
            _check_deflated(file.read())
    file.seek(0)
    return pydicom.dcmread(file, force=bare, stop_before_pixels=True, specific_tags=_tags(keywords))


@functools.cache
def _tags(keywords: tuple[str, ...]) -> list[int]:
    return [tag for tag in map(tag_for_keyword, keywords) if tag is not None]


def _check_deflated(data: bytes) -> None:
    """Inflate in small pieces and keep none, so that a bomb is met before it goes off."""
    inflater, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    piece = data
    while piece and not inflater.eof:
        total += len(inflater.decompress(piece, 1 << 20))
        piece = inflater.unconsumed_tail
        if total > 2 * MAX_PIXELS + (16 << 20):
            raise FilmError(
                "too_large", "deflated DICOM that unpacks to more than any film; shrink it first"
            )
    if not inflater.eof:
        raise FilmError("truncated", "the deflated DICOM ends early; export it again")


class _Wrong(Exception):
    """Where an element should be is none."""


class _Elements:
    """The elements of a file after its meta group (PS3.5, section 7)."""

    def __init__(self, data: bytes, start: int, *, big: bool) -> None:
        self._data, self._start = data, start
        self._explicit = data[start + 4 : start + 6] in _VRS
        self._order = ">" if big else "<"
        self._seen = 0

    def mended(self, wanted: frozenset[int]) -> bytes | None:
        """The file without the fault that hides its pixels; None where it has none of the two.

        A sequence is given up only where no tag in `wanted` is lost with it, and where from one
        place on everything to the end of the file is in order.
        """
        last, sequence = 0, None
        at = self._start
        while at < len(self._data):
            tag, after = 0, None
            try:
                tag, vr, value = self._head(at, explicit=self._explicit)
                if tag > last:
                    if self._is_sequence(tag, vr):
                        sequence = at, tag, value
                    after = self._after(at, explicit=self._explicit)
            except _Wrong:
                pass
            if tag == _PIXELS and tag > last:
                return None if after else self._ended(at)
            if after is None:
                return None if sequence is None else self._without(*sequence, wanted)
            last, at = tag, after
        return None

    def _ended(self, at: int) -> bytes | None:
        """With the last delimiter of the compressed pixels at `at`; a part of it may be there."""
        length = self._data[at + 8 : at + 12] if self._explicit else self._data[at + 4 : at + 8]
        if length != struct.pack("<I", _UNDEFINED):
            return None
        for there in range(len(_LAST)):
            if self._data.endswith(_LAST[:there]):
                whole = _Elements(self._data + _LAST[there:], self._start, big=False)
                try:
                    whole._after(at, explicit=self._explicit)
                except _Wrong:
                    continue
                return whole._data
        return None

    def _without(self, at: int, tag: int, value: int, wanted: frozenset[int]) -> bytes | None:
        """Without the sequence at `at`, whose value begins at `value`."""
        for place in range(value, min(value + _SEQUENCE, len(self._data))):
            if self._leads_to_the_end(place, tag):
                lost = self._data[value:place]
                later = [other for other in wanted if tag < other < _PIXELS]
                if tag in wanted or any(self._tag(other) in lost for other in later):
                    return None
                return self._data[:at] + self._data[place:]
            if self._seen > _ELEMENTS:
                break
        return None

    def _tag(self, tag: int) -> bytes:
        return struct.pack(f"{self._order}HH", tag >> 16, tag & 0xFFFF)

    def _leads_to_the_end(self, at: int, last: int) -> bool:
        """Whether elements in order, pixels among them, follow each other to the file's end."""
        pixels = False
        while at < len(self._data):
            try:
                tag = self._head(at, explicit=self._explicit)[0]
                if tag <= last:
                    return False
                last, at = tag, self._after(at, explicit=self._explicit)
            except _Wrong:
                return False
            pixels = pixels or tag == _PIXELS
        return pixels

    def _is_sequence(self, tag: int, vr: bytes) -> bool:
        if self._explicit:
            return vr in (b"SQ", b"UN")
        return bool(dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ")

    def _head(self, at: int, *, explicit: bool) -> tuple[int, bytes, int]:
        """Tag, VR where it is said, and where the value begins."""
        self._seen += 1
        group, element = self._numbers("HH", at)
        vr = self._data[at + 4 : at + 6] if explicit else b""
        if explicit and vr not in _VRS:
            raise _Wrong
        return group << 16 | element, vr, at + (12 if vr in _LONG_VRS else 8)

    def _after(self, at: int, *, explicit: bool) -> int:
        """Where the element at `at` ends."""
        _, vr, value = self._head(at, explicit=explicit)
        if explicit and vr not in _LONG_VRS:
            (length,) = self._numbers("H", at + 6)
        else:
            (length,) = self._numbers("I", value - 4)
        if length == _UNDEFINED:
            # What is in a sequence of an unknown VR has none of its own (PS3.5, section 6.2.2).
            return self._after_items(value, explicit=explicit and vr != b"UN")
        return self._within(value + length)

    def _after_items(self, at: int, *, explicit: bool) -> int:
        while True:
            group, element, length = self._numbers("HHI", at)
            at += 8
            tag = group << 16 | element
            if tag == _END_OF_SEQUENCE:
                return at
            if tag != _ITEM:
                raise _Wrong
            if length != _UNDEFINED:
                at = self._within(at + length)
                continue
            while self._numbers("HH", at) != (_END_OF_ITEM >> 16, _END_OF_ITEM & 0xFFFF):
                at = self._after(at, explicit=explicit)
            at += 8

    def _within(self, at: int) -> int:
        if at > len(self._data):
            raise _Wrong
        return at

    def _numbers(self, form: str, at: int) -> tuple[int, ...]:
        try:
            return struct.unpack_from(self._order + form, self._data, at)
        except struct.error:
            raise _Wrong from None
