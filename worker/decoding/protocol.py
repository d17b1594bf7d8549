"""What the scoring process and its decoder processes send each other, and how large it may be.

A decoder is started with an `Inheritance` as its command line. It sends one `Started`; then it is
sent `Request`s, and answers each with one or more `Reply`s about the request's films in their
order. Beside that it shows what it is at by its mark (`marks`).

A message is one packet of a SOCK_SEQPACKET socket. `pack` raises ValueError for what is larger than
MESSAGE_BYTES, which the other limits here see to that nothing is; `unpack` for what is no such
message in all its parts, since a film may have taken its sender over. Opens no socket and no film.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

from worker import archive
from worker.archive import trouble

#: Largest message, in bytes: a packet must fit into a socket's buffer, for which Linux gives
#: 212,992 bytes (net.core.wmem_default) with the kernel's own part.
MESSAGE_BYTES = 1 << 17

#: Bytes that JSON takes for a character at most: two escaped surrogates.
CHARACTER_BYTES = 12

#: Films in a request: their numbers take 128 bytes each at most, a quarter of a message.
REQUEST_FILMS = 256

#: Characters of the names in one request, all together: half a message at most. With the numbers
#: that leaves 32 kB for the path of the archive, whose 4,095 bytes JSON may write in 25 kB.
REQUEST_NAME_CHARACTERS = MESSAGE_BYTES // 2 // CHARACTER_BYTES

#: Characters of a name that is only there to be seen: the bytes are found by their offset.
NAME_CHARACTERS = 200

#: Characters of a name by which a file is opened. Linux takes paths of 4,095 bytes, so that what
#: is cut off here is too long to be opened in either form.
PATH_CHARACTERS = 4096

#: Characters of a failure's message, or of why a decoder does not serve: some lines on a screen.
FAILURE_CHARACTERS = 500

#: Characters of an identifying DICOM tag: two values of at most 64 make the longest that is valid.
TAG_CHARACTERS = 1024

#: Characters of a code, or of another name, and the largest version of a reader: what the
#: database's columns take.
WORD_CHARACTERS, MOST_VERSION = 32, (1 << 15) - 1

#: Bytes of failures, tags and codes after which a reply is sent: the largest film's (one failure,
#: three tags and all codes, 43 kB), the contents of a request's films (4 kB) and what read them
#: (6 kB) still fit then.
REPLY_BYTES = MESSAGE_BYTES // 2

#: Bytes of a film's content hash: the first of BLAKE3's or SHA-256's, or all of BLAKE2b-128's.
CONTENT_BYTES = 16

#: How films' contents are hashed: a job's as its database has it (`db.queue.reuse`), labelled
#: films' by what their datasets know them by.
Hash = Literal["blake3", "blake2b", "sha256"]

#: In place of the content hash of a film whose bytes could not be read.
NO_CONTENT = bytes(CONTENT_BYTES)

_REPLY_HEAD = struct.Struct("<IId")  # films, bytes of JSON, seconds

#: What is raised of bytes that are no message; RecursionError of lists in lists in lists.
_NO_MESSAGE = (AttributeError, IndexError, RecursionError, TypeError, ValueError, struct.error)

#: Instead of the number of what read a film, where its bytes could not be read.
_NO_READER = b"\xff"


class Source(NamedTuple):
    """The archive that a request's films are in."""

    kind: archive.Kind
    uri: str
    #: Another one says that another archive may lie at the same path: it is opened anew.
    edition: str
    #: Where the window begins in the uncompressed stream, for a window of a compressed archive. Its
    #: file descriptor comes with the message.
    base: int


class Failure(NamedTuple):
    """What is wrong with a film."""

    code: str
    message: str
    #: Whether the film is refused rather than broken.
    refused: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Films of one archive to be decoded by one rule."""

    source: Source
    rule: str
    #: S: pixels are `uint8 [S,S]`.
    size: int
    #: Codes of refusals that are overridden.
    accept: tuple[str, ...]
    #: What a film's content hash is.
    hash: Hash = "blake3"
    #: Whether the films' sides as stored are asked for.
    sides: bool = False
    #: Offset of the pixels in the shared memory in bytes, below 0 where only the content hash is
    #: wanted; and where the film's bytes are.
    films: Sequence[tuple[int, archive.Member]]

    def pack(self) -> bytes:
        """As bytes for the socket; names are cut to what counts."""
        most = _name_limit(self.source.kind)
        message = [
            self.source,
            self.rule,
            self.size,
            self.accept,
            self.hash,
            self.sides,
            [(offset, member.name[:most], *member[1:]) for offset, member in self.films],
        ]
        return _sendable(json.dumps(message).encode())

    @classmethod
    def unpack(cls, message: bytes) -> Request:
        """What `pack` made."""
        try:
            source, rule, size, accept, hash, sides, films = json.loads(message)
            return cls(
                source=Source(*source),
                rule=rule,
                size=size,
                accept=tuple(accept),
                hash=hash,
                sides=sides,
                films=[(offset, archive.Member(*member)) for offset, *member in films],
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"no request to a decoder: {error}") from error


def name_characters(kind: archive.Kind, name: str) -> int:
    """Characters that a film's name takes of REQUEST_NAME_CHARACTERS."""
    return min(len(name), _name_limit(kind))


def _name_limit(kind: archive.Kind) -> int:
    return PATH_CHARACTERS if kind in archive.BY_NAME else NAME_CHARACTERS


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """A decoder's first message: it serves, or it ends for a reason."""

    ready: bool
    #: How quick it is, in words, where that was measured; or why it does not serve.
    text: str = ""
    #: Number of the process that opens files for it; 0 where it does not serve.
    opener_pid: int = 0

    def pack(self) -> bytes:
        """As bytes for the socket; the text is cut to FAILURE_CHARACTERS."""
        message = [self.ready, self.text[:FAILURE_CHARACTERS], self.opener_pid]
        return _sendable(json.dumps(message).encode())

    @classmethod
    def unpack(cls, message: bytes) -> Started:
        """What `pack` made."""
        try:
            ready, text, opener_pid = json.loads(message)
            if not isinstance(ready, bool):
                raise ValueError(f"{ready!r} in place of yes or no")
            if type(opener_pid) is not int:
                raise ValueError(f"{opener_pid!r} in place of a process's number")
            return cls(ready=ready, text=_text(text), opener_pid=opener_pid)
        except _NO_MESSAGE as error:
            raise ValueError(f"no decoder's first message: {error}") from error


@dataclass(kw_only=True, slots=True)
class Reply:
    """What became of some films: one after the other is added, then all are sent."""

    #: Spent on them.
    seconds: float = 0.0
    #: One content hash per film, NO_CONTENT where its bytes could not be read.
    contents: list[bytes] = field(default_factory=list)
    #: Place in this reply → what is wrong with the film.
    failures: dict[int, Failure] = field(default_factory=dict)
    #: Place in this reply → identifying DICOM tags, as they stand in the film.
    tags: dict[int, dict[str, str]] = field(default_factory=dict)
    #: Place in this reply → codes of refusals that the film needed to be overridden.
    overridden: dict[int, list[str]] = field(default_factory=dict)
    #: Place in this reply → what read the film: its kind of file, and the version of the reader.
    readers: dict[int, tuple[str, int]] = field(default_factory=dict)
    #: Place in this reply → whose trouble it is that the system did not let the film be read.
    whose: dict[int, trouble.Whose] = field(default_factory=dict)
    #: Place in this reply → width and height of the film as stored, in pixels.
    sides: dict[int, tuple[int, int]] = field(default_factory=dict)
    #: Bytes that failures, tags and codes take at most.
    _remarks: int = field(default=0, init=False, repr=False, compare=False)

    @property
    def films(self) -> int:
        """How many films it is about."""
        return len(self.contents)

    @property
    def full(self) -> bool:
        """Whether it is to be sent before another film is added."""
        return self._remarks > REPLY_BYTES or self.films >= REQUEST_FILMS

    def add(
        self,
        content: bytes,
        failure: Failure | None,
        tags: Mapping[str, str],
        overridden: Collection[str] = (),
        reader: tuple[str, int] | None = None,
        whose: trouble.Whose = "",
        sides: tuple[int, int] | None = None,
    ) -> None:
        """One more film; the failure's message and the tags are cut to what is sent of them."""
        place = len(self.contents)
        self.contents.append(content)
        if failure is not None:
            failure = failure._replace(message=failure.message[:FAILURE_CHARACTERS])
            self.failures[place] = failure
            self._remarks += 150 + CHARACTER_BYTES * len(failure.message)
        if whose:
            self.whose[place] = whose
        if tags:
            self.tags[place] = {name: value[:TAG_CHARACTERS] for name, value in tags.items()}
            self._remarks += 100 + CHARACTER_BYTES * sum(map(len, self.tags[place].values()))
        if overridden:
            self.overridden[place] = sorted(overridden)
            self._remarks += 100 + sum(map(len, overridden))
        if reader is not None:
            self.readers[place] = reader
        if sides is not None:
            self.sides[place] = sides
            self._remarks += 40

    def pack(self) -> bytes:
        """As bytes for the socket."""
        # Every film has a reader, and there are few: one byte a film.
        numbers: dict[tuple[str, int], int] = {}
        read_by = bytearray(_NO_READER * self.films)
        for place, reader in self.readers.items():
            read_by[place] = numbers.setdefault(reader, len(numbers))
        remarks = b""
        said = (self.failures, self.tags, self.overridden, self.whose, self.sides)
        if numbers or any(said):
            listed = [list(numbers), *(list(kind.items()) for kind in said)]
            remarks = json.dumps(listed).encode()
        head = _REPLY_HEAD.pack(self.films, len(remarks), self.seconds)
        return _sendable(head + remarks + read_by + b"".join(self.contents))

    @classmethod
    def unpack(cls, message: bytes) -> Reply:
        """What `pack` made."""
        try:
            films, length, seconds = _REPLY_HEAD.unpack_from(message)
            end = _REPLY_HEAD.size + length
            remarks = json.loads(message[_REPLY_HEAD.size : end]) if length else [()] * 6
            readers, failures, tags, overridden, whose, sides = remarks
            numbered = [_reader(*reader) for reader in readers]
            begin = end + films
            if not 0.0 <= seconds < math.inf:
                raise ValueError(f"{seconds} seconds")
            for said in (failures, tags, overridden, whose, sides):
                for place, _ in said:
                    if type(place) is not int or not 0 <= place < films:
                        raise ValueError(f"something about a film {place!r} of {films}")
            reply = cls(
                seconds=seconds,
                contents=[
                    message[at : at + CONTENT_BYTES]
                    for at in range(begin, len(message), CONTENT_BYTES)
                ],
                failures={place: _failure(*failure) for place, failure in failures},
                tags={place: dict(_pair(*of) for of in named.items()) for place, named in tags},
                overridden={place: [_word(code) for code in codes] for place, codes in overridden},
                readers={
                    place: numbered[number]
                    for place, number in enumerate(message[end:begin])
                    if number != _NO_READER[0]
                },
                whose={place: _whose(of) for place, of in whose},
                sides={place: _sides(*of) for place, of in sides},
            )
        except _NO_MESSAGE as error:
            raise ValueError(f"no reply of a decoder: {error}") from error
        if begin + films * CONTENT_BYTES != len(message):
            raise ValueError(f"no reply of a decoder: {len(message)} bytes for {films} films")
        return reply


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} in place of a text")
    return value


def _word(value: object) -> str:
    """A code or a name, as it is stored; that of a kind of file that is not known is empty."""
    text = _text(value)
    if not (len(text) <= WORD_CHARACTERS and text.isascii() and text.isprintable()):
        raise ValueError(f"{text[:99]!r} in place of a word")
    return text


def _pair(name: object, value: object) -> tuple[str, str]:
    return _word(name), _text(value)


def _reader(kind: object, version: object) -> tuple[str, int]:
    if type(version) is not int or not 0 <= version <= MOST_VERSION:
        raise ValueError(f"{version!r} in place of a reader's version")
    return _word(kind), version


def _sides(width: object, height: object) -> tuple[int, int]:
    for side in (width, height):
        if type(side) is not int or not 0 <= side < 1 << 31:
            raise ValueError(f"{side!r} in place of a film's side")
    assert isinstance(width, int) and isinstance(height, int)
    return width, height


def _failure(code: object, message: object, refused: object) -> Failure:
    if not isinstance(refused, bool):
        raise ValueError(f"{refused!r} in place of yes or no")
    # What no database takes of a text.
    plain = _text(message).replace("\0", "?").encode("utf-8", "replace").decode()
    return Failure(_word(code), plain, refused)


def _whose(value: object) -> trouble.Whose:
    for one in get_args(trouble.Whose):
        if value == one:
            whose: trouble.Whose = one
            return whose
    raise ValueError(f"a trouble of {value!r}")


def _sendable(message: bytes) -> bytes:
    if len(message) > MESSAGE_BYTES:
        raise ValueError(
            f"a message of {len(message):,} bytes, where {MESSAGE_BYTES:,} are the limit"
        )
    return message


@dataclass(frozen=True, kw_only=True, slots=True)
class Inheritance:
    """What a decoder process has from its parent; file descriptors are open in both."""

    parent_pid: int
    #: Replies leave by one, requests come by the other.
    socket_fd: int
    requests_fd: int
    #: The shared memory for pixels, and its size in bytes.
    memory_fd: int
    memory_bytes: int
    #: The memory for marks, and the decoder's number there.
    marks_fd: int
    number: int
    #: Memory that decoding one film may take, in MiB.
    limit_mb: int
    #: For a decoder on a GPU: the torch device, and how many times as quick as a decoder on the CPU
    #: it must prove to be.
    device: str = ""
    at_least: float = 0.0

    def arguments(self) -> list[str]:
        """As a command line."""
        return [str(value) for value in dataclasses.astuple(self)]

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> Inheritance:
        """What `arguments` made."""
        *numbers, device, at_least = arguments
        (parent_pid, socket_fd, requests_fd, memory_fd, memory_bytes, marks_fd, number,
         limit_mb) = map(int, numbers)  # fmt: skip
        return cls(
            parent_pid=parent_pid,
            socket_fd=socket_fd,
            requests_fd=requests_fd,
            memory_fd=memory_fd,
            memory_bytes=memory_bytes,
            marks_fd=marks_fd,
            number=number,
            limit_mb=limit_mb,
            device=device,
            at_least=float(at_least),
        )
