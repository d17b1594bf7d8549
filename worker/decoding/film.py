"""What the pool of decoders is given, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from worker.archive import Kind, Member
from worker.archive.trouble import Whose
from worker.decoding.protocol import Failure, Hash


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a film's bytes are."""

    kind: Kind
    uri: str
    #: Another one says that another archive may lie at the same path: it is opened anew.
    edition: str
    #: Compressed archives: an open window on the uncompressed stream, and where that begins.
    window_fd: int | None = None
    base: int = 0


@dataclass(kw_only=True, slots=True, eq=False)
class Film:
    """One film to be decoded; `token` is the caller's own."""

    token: Any
    place: Place
    member: Member
    rule: str
    size: int
    #: Offset of its pixels in the shared memory, in bytes; below 0 where only its content hash is
    #: wanted.
    offset: int
    #: Codes of refusals that are overridden.
    accept: tuple[str, ...] = ()
    #: As in `protocol.Request`.
    hash: Hash = "blake3"
    sides: bool = False
    #: Decoders that ended while at it.
    strikes: int = 0
    #: A GPU decoder ended while at it and others: which one it was is found out one by one.
    alone: bool = False
    #: Nobody waits for it any more: it is not given to a second decoder.
    unwanted: bool = False

    @property
    def suspect(self) -> bool:
        """Whether it may end what decodes it."""
        return self.alone or self.strikes > 0

    def goes_with(self, first: Film) -> bool:
        """Whether both may be in one request."""
        return (
            self.place is first.place
            and self.rule == first.rule
            and self.size == first.size
            and self.accept == first.accept
            and (self.hash, self.sides) == (first.hash, first.sides)
            and not (self.suspect or first.suspect)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """A film that is through: its pixels are in place, or `failure` says what is wrong."""

    film: Film
    failure: Failure | None = None
    #: Whose trouble a failure is, where the system did not let the film be read.
    whose: Whose = ""
    #: Hash of the film's bytes, as it was asked for; None where they could not be read.
    content: bytes | None = None
    #: DICOM: identifying tags as they stand in the film, for the site's eyes only.
    tags: dict[str, str] | None = None
    #: Codes of refusals that were overridden, without which it would have been refused.
    overridden: tuple[str, ...] = ()
    #: What read it: its kind of file, and the version of the reader (`trainer.film.content`).
    reader: tuple[str, int] | None = None
    #: Width and height as stored, where they were asked for and there are pixels.
    sides: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class OnGpu:
    """One decoder more, which decodes JPEG in torch on this device (`gpu_child`)."""

    device: str = "cuda"
    #: Times as quick as a decoder on the CPU that it must prove to be before it is given films.
    at_least: float = 1.0
