"""Looking through a source before it is scored: what is in it, and a fair sample of its films."""

from __future__ import annotations

import contextlib
import random
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from worker import archive
from worker.archive import Member
from worker.decoding.film import Place
from worker.errors import MemberError


class Located(NamedTuple):
    """A film and the archive that it is in."""

    place: Place
    member: Member


@dataclass(kw_only=True)
class Survey:
    """What one look through a source found."""

    #: Columns of `sources`.
    row: Mapping[str, Any]
    items: int = 0
    #: Items by the ending of their names, in lower case.
    endings: Counter[str] = field(default_factory=Counter)
    #: Entries that are no items, by reason.
    passed_over: Counter[str] = field(default_factory=Counter)
    #: Bytes of all items as they lie in the source, and characters of their names.
    stored_bytes: int = 0
    name_characters: int = 0
    #: Some of the items, every one as likely as any other, in the source's order.
    sample: list[Member] = field(default_factory=list)
    #: Where decompression can start, for a compressed source.
    index: bytes | None = None


def look(row: Mapping[str, Any], most: int) -> Survey:
    """List a source from end to end, keeping up to `most` of its items; raises ArchiveError."""
    found = Survey(row=row)
    chance = random.Random(0)  # the same source, the same sample
    kept: list[tuple[int, Member]] = []
    with archive.open_source(row["uri"], row["kind"]) as source:
        for number, member in enumerate(source.members()):
            found.endings[_ending(member.name)] += 1
            found.stored_bytes += member.stored
            found.name_characters += len(member.name)
            if number < most:
                kept.append((number, member))
            elif (at := chance.randrange(number + 1)) < most:
                kept[at] = (number, member)
        found.items = found.endings.total()
        found.passed_over.update(source.skipped)
        found.index = source.index()
    found.sample = [member for _, member in sorted(kept, key=lambda pair: pair[0])]
    return found


def _ending(name: str) -> str:
    base = name.rpartition("/")[2]
    stem, dot, ending = base.rpartition(".")
    return f".{ending.lower()}" if dot and stem and len(ending) <= 5 else "without ending"


def place(row: Mapping[str, Any]) -> Place:
    """Where a decoder finds the members of a source that can be read in any order."""
    return Place(kind=row["kind"], uri=row["uri"], edition="survey")


def located(found: Survey, spare: Path) -> list[Located]:
    """The sample, ready for decoders; that of a compressed source is first put into `spare`."""
    if found.row["kind"] not in archive.WINDOWED:
        there = place(found.row)
        return [Located(there, member) for member in found.sample]
    row = repack(found, spare)
    return list(all_located(row))


def all_located(row: Mapping[str, Any]) -> Iterator[Located]:
    """All films of a source that can be read in any order, ready for decoders."""
    there = place(row)  # one for all: decoders are sent films of one place together
    with archive.open_source(row["uri"], row["kind"]) as source:
        for member in source.members():
            yield Located(there, member)


def contents(found: Survey) -> Iterator[tuple[Member, bytes | MemberError]]:
    """The bytes of each item of the sample, or why it cannot be read; raises ArchiveError."""
    kind, uri = found.row["kind"], found.row["uri"]
    if kind in archive.WINDOWED:
        spool = archive.open_spool(kind, uri, found.index)
        try:
            for member in found.sample:
                yield member, _through_window(spool, member)
        finally:
            spool.close()
        return
    reader = archive.open_reader(kind, uri)
    try:
        for member in found.sample:
            yield member, _read(reader, member)
    finally:
        reader.close()


def _through_window(spool: archive.Spool, member: Member) -> bytes | MemberError:
    fd, base = spool.holding([member], cap=2 * archive.MAX_BYTES)
    with contextlib.closing(archive.ExtentReader(fd, base=base, owned=True)) as reader:
        return _read(reader, member)


def _read(reader: archive.Reader, member: Member) -> bytes | MemberError:
    try:
        return reader.read(member)
    except MemberError as error:
        return error


def repack(found: Survey, path: Path) -> dict[str, Any]:
    """Write the sample into a zip, stored as it is; that zip's columns of `sources`.

    What cannot be read becomes an empty item, which is in error there too.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as packed:
        for number, (_, data) in enumerate(contents(found)):
            packed.writestr(f"{number:06d}", b"" if isinstance(data, MemberError) else data)
    return row_of(str(path))


def row_of(uri: str, kind: archive.Kind | None = None) -> dict[str, Any]:
    """The columns of `sources` for what lies at a path; raises ArchiveError."""
    with archive.open_source(uri, kind) as source:
        return {
            "uri": source.uri,
            "kind": source.kind,
            "fingerprint": source.fingerprint(),
            "content_id": source.content_id(),
            "listed": source.listed(),
        }
