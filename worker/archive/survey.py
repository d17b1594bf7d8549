"""What an archive holds, for someone who has not decided yet: counted, with a sample looked at."""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from worker.archive.kind import image
from worker.archive.member import Member
from worker.archive.opening import open_reader, open_source, open_spool
from worker.archive.source import WINDOWED, Kind, Source
from worker.archive.tar import BLOCK, ExtentReader
from worker.errors import MemberError

#: Members that are looked into.
SAMPLE = 200

#: Larger ones are not read for a survey.
LARGEST = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Counts of an archive's members."""

    items: int
    #: Bytes of all members once read.
    bytes: int
    #: Members by the extension of their name in lower case, `none` where there is none.
    by_type: Counter[str]
    #: Entries that are passed over, by reason.
    passed_over: Counter[str]
    #: Members that were looked into, spread over the archive.
    sampled: int
    #: Of those, by content: `jpeg`, `png`, `dicom`, … or `other`; or, where one cannot be read, the
    #: code of its error.
    sniffed: Counter[str]


def survey(uri: str, kind: Kind | None = None) -> Survey:
    """List an archive and look into some of its members; raises ArchiveError."""
    items = total = 0
    by_type: Counter[str] = Counter()
    sample: list[tuple[int, Member]] = []
    chance = random.Random(0)  # the same sample each time
    with open_source(uri, kind) as source:
        for member in source.members():
            items += 1
            total += member.size
            by_type[_extension(member.name)] += 1
            # Each member so far is in the sample with equal chance.
            if len(sample) < SAMPLE:
                sample.append((items, member))
            elif (place := chance.randrange(items)) < SAMPLE:
                sample[place] = items, member
        members = [m for _, m in sorted(sample) if m.size <= LARGEST]
        sniffed = Counter(_sniffed(source, members))
        return Survey(
            items=items,
            bytes=total,
            by_type=by_type,
            passed_over=source.passed_over,
            sampled=len(members),
            sniffed=sniffed,
        )


def _extension(name: str) -> str:
    base = re.split(r"[/\\]", name)[-1]
    extension = base.rpartition(".")[2].lower() if "." in base[1:] else ""
    # Names of folders and dates have points too.
    return extension if extension.isalnum() and len(extension) <= 5 else "none"


def _sniffed(source: Source, members: list[Member]) -> Iterator[str]:
    with _reading(source) as read:
        for member in members:
            try:
                yield image(read(member)) or "other"
            except MemberError as error:
                yield error.code


@contextmanager
def _reading(source: Source) -> Iterator[Callable[[Member], bytes]]:
    if source.kind not in WINDOWED:
        reader = open_reader(source.kind, source.uri)
        try:
            yield reader.read
        finally:
            reader.close()
        return
    spool = open_spool(source.kind, source.uri, source.index())

    def read(member: Member) -> bytes:
        first = max(0, member.offset - BLOCK)
        fd = spool.window(first, member.offset + member.stored)
        try:
            return ExtentReader(fd, base=first).read(member)
        finally:
            os.close(fd)

    try:
        yield read
    finally:
        spool.close()
