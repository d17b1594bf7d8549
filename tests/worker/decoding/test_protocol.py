"""What parent and decoders send each other arrives as it was, and nothing is ever too large."""

from __future__ import annotations

import json
import math
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from trainer.film import content, rules
from worker import archive
from worker.archive import Kind, Member
from worker.decoding import protocol
from worker.decoding.handle import FEWEST, Pace
from worker.decoding.marks import Mark, Marks
from worker.decoding.protocol import (
    Failure,
    Inheritance,
    Reply,
    Request,
    Source,
    Started,
)

#: A character that JSON writes in the most bytes, and a byte of a path that is no text.
WIDE, BYTE = "\N{LUNGS}", "\udcff"

#: The largest number of any field.
HUGE = (1 << 63) - 1


def request(kind: Kind = "zip", names: tuple[str, ...] = ("a.jpeg",), uri: str = "/x") -> Request:
    """A request for films of these names, with numbers as large as they get."""
    return Request(
        source=Source(kind, uri, "edition", HUGE),
        rule="film-1",
        size=1024,
        accept=("lateral", "burned_in"),
        films=[(HUGE, Member(name, HUGE, HUGE, HUGE, -1000, 1 << 31)) for name in names],
    )


def test_a_request_arrives_as_it_was() -> None:
    sent = request(names=("a.jpeg", f"b{BYTE}.jpeg", f"{WIDE}.dcm", "\n\0\"'\\"))
    assert Request.unpack(sent.pack()) == sent
    without_crc = sent.films[0][1]._replace(crc=None)
    stored = Request(
        source=sent.source, rule="film-1", size=1, accept=(), films=[(-1, without_crc)]
    )
    assert Request.unpack(stored.pack()) == stored


def test_a_reply_arrives_as_it_was() -> None:
    sent = Reply(seconds=0.25)
    sent.add(b"1" * protocol.CONTENT_BYTES, None, {})
    sent.add(protocol.NO_CONTENT, Failure("not_found", f"{WIDE} is gone", refused=False), {})
    sent.add(
        b"3" * protocol.CONTENT_BYTES,
        Failure("lateral", "it is a lateral view", refused=True),
        {"format": "DICOM", "patient": f"P{BYTE}1"},
    )
    sent.add(b"4" * protocol.CONTENT_BYTES, None, {}, {"lateral", "burned_in"}, ("DICOM", 12))
    received = Reply.unpack(sent.pack())
    assert received == sent
    assert received.films == 4
    assert received.failures.keys() == {1, 2}
    assert received.overridden == {3: ["burned_in", "lateral"]}
    assert received.readers == {3: ("DICOM", 12)}


@pytest.mark.parametrize(
    "sent",
    [
        Started(ready=True, opener_pid=7),
        Started(ready=True, text="9 films/s", opener_pid=8),
        Started(ready=False, text="no"),
    ],
)
def test_a_first_message_arrives_as_it_was(sent: Started) -> None:
    assert Started.unpack(sent.pack()) == sent


def test_an_inheritance_arrives_as_it_was() -> None:
    sent = Inheritance(
        parent_pid=1, socket_fd=2, requests_fd=8, memory_fd=3, memory_bytes=4, marks_fd=5, number=6,
        limit_mb=7, device="cuda:1", at_least=1.5,
    )  # fmt: skip
    assert Inheritance.parse(sent.arguments()) == sent


def test_a_mark_is_seen_by_the_parent_until_a_new_decoder_has_its_number() -> None:
    marks = Marks(3)
    other, mark = Mark(marks.fd, 0), Mark(marks.fd, 2)
    other.begin()
    began = time.monotonic()
    mark.begin()
    mark.begin()
    begun, since = marks.read(2)
    assert begun == 2
    assert began <= since <= time.monotonic()
    mark.restart_clock()
    assert marks.read(2)[0] == 2
    assert marks.read(2)[1] > since
    marks.clear(2)
    assert [marks.read(n)[0] for n in range(3)] == [1, 0, 0]
    marks.close()


@pytest.mark.parametrize("message", [b"", b"{}", b"[1]", b'["a", 1', b"\xff" * 40, b"1" * 15])
def test_what_is_no_message_is_refused(message: bytes) -> None:
    for kind in (Request, Reply, Started):
        with pytest.raises(ValueError, match=r"no (request|reply|decoder.s first)"):
            kind.unpack(message)


def reply(
    seconds: float = 0.1,
    readers: Any = (("DICOM", 2),),
    failures: Any = (),
    tags: Any = (),
    overridden: Any = (),
    whose: Any = (),
    sides: Any = (),
) -> bytes:
    """A reply about one film, as a decoder might send it that a film has taken over."""
    remarks = json.dumps([readers, failures, tags, overridden, whose, sides]).encode()
    head = struct.pack("<IId", 1, len(remarks), seconds)
    return head + remarks + b"\0" + protocol.NO_CONTENT


def test_a_reply_whose_parts_are_of_the_right_kinds_is_taken() -> None:
    found = Reply.unpack(
        reply(
            failures=[[0, ["corrupt", "cut", False]]], tags=[[0, {"study": "1"}]],
            overridden=[[0, ["lateral"]]], whose=[[0, "film"]], sides=[[0, [3000, 2000]]],
        )
    )  # fmt: skip
    assert found.readers == {0: ("DICOM", 2)}
    assert found.sides == {0: (3000, 2000)}
    assert found.whose == {0: "film"}


def test_every_kind_of_file_and_every_refusal_arrives() -> None:
    sent = Reply()
    for reader in content.READERS.items():
        sent.add(protocol.NO_CONTENT, None, {}, rules.REFUSALS, reader)
    assert Reply.unpack(sent.pack()) == sent


@pytest.mark.parametrize(
    "wrong",
    [
        *({"seconds": seconds} for seconds in (math.nan, math.inf, -math.inf, -1.0)),
        {"readers": [["DICOM", 2.0]]},
        {"readers": [["DICOM", "2"]]},
        {"readers": [["DICOM", True]]},
        {"readers": [["DICOM", 1 << 15]]},
        {"readers": [[1, 2]]},
        {"readers": [["D" * 999, 2]]},
        *({"whose": [[place, "film"]]} for place in (1, -1, "0", 0.0, False, None)),
        *({"whose": [[0, whose]]} for whose in ("mine", None, 1, ["film"])),
        {"failures": [[1, ["corrupt", "cut", False]]]},
        {"failures": [[0, ["corrupt", None, False]]]},
        {"failures": [[0, ["corrupt", "cut", "no"]]]},
        {"failures": [[0, [7, "cut", False]]]},
        {"failures": [[0, ["c" * 33, "cut", False]]]},
        {"failures": [[0, ["c\0", "cut", False]]]},
        {"tags": [[0, {"study": 1}]]},
        {"tags": [[0, ["study"]]]},
        {"tags": [[2, {"study": "1"}]]},
        {"overridden": [[0, [1]]]},
        {"overridden": [[5, ["lateral"]]]},
    ],
)
def test_a_reply_of_which_a_part_is_of_the_wrong_kind_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no reply of a decoder"):
        Reply.unpack(reply(**wrong))


def test_what_no_database_takes_of_a_failures_message_does_not_arrive() -> None:
    found = Reply.unpack(reply(failures=[[0, ["corrupt", f"a\0b{BYTE}", False]]]))
    assert found.failures[0].message == "a?b?"


def test_lists_in_lists_are_no_message() -> None:
    deep = b"[" * 100_000
    with pytest.raises(ValueError, match="no reply of a decoder"):
        Reply.unpack(struct.pack("<IId", 1, len(deep), 0.1) + deep)
    with pytest.raises(ValueError, match="no decoder's first message"):
        Started.unpack(deep)


@pytest.mark.parametrize("seconds", [0.0, 5e-324, 1.7e308])
def test_however_quick_a_decoder_says_it_is_it_has_a_pace(seconds: float) -> None:
    pace = Pace()
    for _ in range(5000):
        pace.update(Reply(seconds=seconds, contents=[protocol.NO_CONTENT]))
    assert FEWEST <= pace.chunk <= protocol.REQUEST_FILMS


def test_a_reply_that_was_cut_short_is_refused() -> None:
    sent = Reply()
    sent.add(protocol.NO_CONTENT, Failure("truncated", "cut", refused=False), {})
    sent.add(protocol.NO_CONTENT, None, {})
    whole = sent.pack()
    for length in range(len(whole)):
        with pytest.raises(ValueError, match="no reply of a decoder"):
            Reply.unpack(whole[:length])


def test_what_is_over_the_limit_is_refused_and_not_sent() -> None:
    most = protocol.MESSAGE_BYTES
    spare = most - len(request(uri="").pack())
    assert len(request(uri="x" * spare).pack()) == most
    with pytest.raises(ValueError, match=r"131,073 bytes, where 131,072 are the limit"):
        request(uri="x" * (spare + 1)).pack()
    reply = Reply(contents=[protocol.NO_CONTENT] * (most // protocol.CONTENT_BYTES))
    with pytest.raises(ValueError, match="are the limit"):
        reply.pack()


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_the_largest_request_within_the_limits_can_be_sent(kind: Kind) -> None:
    each = protocol.REQUEST_NAME_CHARACTERS // protocol.REQUEST_FILMS
    names = (WIDE * each,) * protocol.REQUEST_FILMS
    taken = sum(protocol.name_characters(kind, name) for name in names)
    assert taken <= protocol.REQUEST_NAME_CHARACTERS < taken + protocol.REQUEST_FILMS
    assert request(kind, names, uri=BYTE * 4095).pack()
    assert request(kind, (WIDE * 1_000_000,), uri=BYTE * 4095).pack()  # one alone goes always


def test_a_name_is_cut_to_what_counts_and_no_path_that_opens_is() -> None:
    (cut,) = (m.name for _, m in Request.unpack(request("zip", ("n" * 999,)).pack()).films)
    assert cut == "n" * protocol.NAME_CHARACTERS
    for kind in archive.BY_NAME:
        name = "n" * 4095
        assert [m.name for _, m in Request.unpack(request(kind, (name,)).pack()).films] == [name]


def test_the_largest_reply_within_the_limits_can_be_sent() -> None:
    tags = {name: WIDE * 9_999 for name in ("format", "patient", "study", "accession")}
    failure = Failure("decoder_died", WIDE * 9_999, refused=False)
    worst, quiet = Reply(), Reply()
    while not worst.full:
        worst.add(protocol.NO_CONTENT, failure, {k: v for k, v in tags.items() if k != "format"})
    assert worst.pack()
    while not quiet.full:
        quiet.add(protocol.NO_CONTENT, None, {})
    assert quiet.films == protocol.REQUEST_FILMS
    # Full by its films but one, and just not by what there is to say; then the worst film comes.
    crowded = Reply()
    while crowded.films < protocol.REQUEST_FILMS - 3:
        crowded.add(protocol.NO_CONTENT, None, {}, reader=("DICOM", 1000))
    crowded.add(protocol.NO_CONTENT, failure, {"study": tags["study"], "patient": tags["study"]})
    crowded.add(protocol.NO_CONTENT, failure, {"study": tags["study"]})
    assert not crowded.full
    most = {k: v for k, v in tags.items() if k != "format"}
    crowded.add(protocol.NO_CONTENT, failure, most, rules.REFUSALS)
    assert crowded.pack()


def test_no_message_is_larger_than_a_sockets_buffer() -> None:
    default = int(Path("/proc/sys/net/core/wmem_default").read_text())
    assert default > protocol.MESSAGE_BYTES


def test_a_failures_message_and_a_tag_are_cut_to_what_is_sent_of_them() -> None:
    reply = Reply()
    reply.add(
        protocol.NO_CONTENT, Failure("corrupt", "m" * 999, refused=False), {"study": "1" * 9_999}
    )
    assert len(reply.failures[0].message) == protocol.FAILURE_CHARACTERS
    assert len(reply.tags[0]["study"]) == protocol.TAG_CHARACTERS
    started = Started.unpack(Started(ready=False, text="w" * 999).pack())
    assert len(started.text) == protocol.FAILURE_CHARACTERS
