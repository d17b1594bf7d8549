"""What is said of a DICOM repeats no value of its, whatever an element holds that is looked at."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.datadict import dictionary_VR, tag_for_keyword

from tests.privacy.films import Films, unchecked
from tests.support import hostile, soak
from tests.support.tokens import Tokens, found
from trainer.errors import FilmError
from trainer.film import dicom, dicom_pixels, rules
from trainer.film.refusals import REFUSALS

#: All that is looked at but the pixels themselves, and what says how texts are written.
KEYWORDS = [*sorted({*dicom.KEYWORDS} - {*dicom_pixels.PIXEL_KEYWORDS}), "SpecificCharacterSet"]

#: Fields of the file's meta group, of which some take the place of what the film does not say.
META = (
    "TransferSyntaxUID", "MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID",
    "ImplementationClassUID", "ImplementationVersionName", "SourceApplicationEntityTitle",
)  # fmt: skip

#: Facts that are kept as keyed hashes.
IDENTITY = ("patient", "study", "accession")

SIDE = 40


def film(syntax: str = uid.ExplicitVRLittleEndian) -> pydicom.FileDataset:
    """A film that has nothing to be refused for."""
    gray = np.add.outer(np.arange(SIDE), np.arange(SIDE)).astype(np.uint8) * 3
    return hostile.dataset(gray, syntax)


def values(tokens: Tokens, keyword: str) -> Iterator[tuple[str, bytes]]:
    """(VR as the file has it, value) of an element: words and numbers, also where none belong."""
    word, number = tokens.word("text", keyword).encode(), tokens.number("text", keyword).encode()
    yield dictionary_VR(tag_for_keyword(keyword) or 0).split(" or ")[0], word
    yield from (("CS", word), ("IS", number), ("IS", b"-" + number), ("UI", b"1.2." + number))
    if soak.RUN is not soak.Run.QUICK:
        yield from (("DS", number), ("UN", word), ("PN", word), ("DA", word), ("FD", word * 2))
        yield from (("OB", word), ("UT", word), ("ZZ", word))


def holding(keyword: str, vr: str, value: bytes) -> bytes:
    """A film with these bytes in an element, which nobody has looked at."""
    wanted = tag_for_keyword(keyword) or 0
    made = film()
    if keyword in made:
        del made[keyword]
    data = hostile.written(made)
    at = 144 + int.from_bytes(data[140:144], "little")  # behind the meta group
    while at < len(data):
        group, element = struct.unpack_from("<HH", data, at)
        if group << 16 | element > wanted:
            break
        long = data[at + 4 : at + 6] in (b"OB", b"OW", b"UN", b"SQ", b"UT", b"UC", b"UR")
        head, form = (12, "<I") if long else (8, "<H")
        (length,) = struct.unpack_from(form, data, at + head - struct.calcsize(form))
        at += head + length
    value += b" " * (len(value) % 2)
    tag = struct.pack("<HH", wanted >> 16, wanted & 0xFFFF) + vr.encode()
    long = vr in ("OB", "OW", "UN", "SQ", "UT")
    length = struct.pack("<HI", 0, len(value)) if long else struct.pack("<H", len(value))
    return data[:at] + tag + length + value + data[at:]


def said(data: bytes, accept: tuple[str, ...] = ()) -> str:
    """All that is said of a film, kept of it and warned about it; not whose it is."""
    facts: dict[str, str] = {}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            rules.decode(data, 32, accept=accept, tags=facts)
            message = ""
        except FilmError as error:
            message = f"{error.code} {error}"
    kept = [value for name, value in facts.items() if name not in IDENTITY]
    return "\n".join([message, *kept, *(str(one.message) for one in warned)])


@pytest.mark.parametrize("accept", [(), tuple(sorted(REFUSALS))], ids=["refusing", "accepting"])
@pytest.mark.parametrize("keyword", KEYWORDS)
def test_no_message_about_a_dicom_repeats_what_an_element_holds(
    keyword: str, accept: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    for vr, value in values(Tokens(), keyword):
        data = holding(keyword, vr, value)
        assert value in data
        text = said(data, accept)
        assert not found(text.encode()), (vr, text)
    assert not found(caplog.text.encode())


@pytest.mark.parametrize("keyword", META)
def test_no_message_about_a_dicom_repeats_what_its_meta_group_holds(keyword: str) -> None:
    tokens = Tokens()
    is_number = keyword.endswith("UID")
    value = f"1.2.{tokens.number('text', keyword)}" if is_number else tokens.word("text", keyword)
    with unchecked():
        made = film()
        data = hostile.written(made)
        # As long as what is there, so that the group's length stays right.
        known = str(getattr(made.file_meta, keyword, "")) if is_number else ""
        if known:
            kept = known.encode()
            data = data.replace(kept, value.encode()[: len(kept)].ljust(len(kept), b"\0"))
        else:
            setattr(made.file_meta, keyword, value)
            data = hostile.written(made)
    assert found(data)
    assert not found(said(data).encode())


@pytest.mark.parametrize(
    "keyword", ["AnatomicRegionSequence", "ViewCodeSequence", "ModalityLUTSequence",
                "VOILUTSequence", "DirectoryRecordSequence", "ContentSequence"],
)  # fmt: skip
def test_no_message_about_a_dicom_repeats_what_items_of_a_sequence_hold(keyword: str) -> None:
    films = Films(Tokens())
    with unchecked():
        made = film()
        item = films.coded()
        for field in ("LUTDescriptor", "LUTData", "LUTExplanation", "ModalityLUTType"):
            hostile.put(item, field, "LO", films.tokens.word("text", field).encode())
        setattr(made, keyword, pydicom.Sequence([item]))
        if keyword in ("AnatomicRegionSequence", "ViewCodeSequence"):
            del made.BodyPartExamined, made.ViewPosition
        data = hostile.written(made)
    for accept in ((), tuple(REFUSALS)):
        assert not found(said(data, accept).encode())


def test_a_film_of_tokens_is_decoded_and_only_whose_it_is_is_known_of_it() -> None:
    data = Films(Tokens()).dicom()
    facts: dict[str, str] = {}
    rules.decode(data, 32, tags=facts)
    assert {*facts} >= {*IDENTITY}
    assert not found(said(data).encode())
