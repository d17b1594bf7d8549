"""Cutting: the listing of a source becomes shards, which are written while it goes on.

So does a shard of which some films are left when it is handed back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import sqlalchemy as sa

from db.base import database as connecting
from db.queue import listings
from db.queue.leases import Lease
from db.queue.listings import NewShard
from db.queue.results import Outcome
from worker import archive
from worker.archive import Member

#: A shard has at least and at most this many items. In between it is an eighth of what has been
#: listed so far, so that a small job still has several and a large one not too many.
SMALLEST, LARGEST = 8, 1024
PARTS = 8

#: A window of a compressed archive is inflated into memory, shard by shard.
WINDOW_BYTES = 64 << 20

#: Shards written in one transaction, and the longest that a finished one waits for the others, in
#: seconds.
FLUSH_SHARDS = 64
FLUSH_S = 1.0


def cut(
    members: Iterator[Member], listed: int, part: Callable[[Member], int] | None
) -> Iterator[list[Member]]:
    """Runs of consecutive members, each to be a shard, of a job of which `listed` went before.

    Those of a compressed archive, of which `part` is given, end where a reader can start anew, so
    that nothing is inflated for two of them, unless that would make them much larger.
    """
    run: list[Member] = []
    size = 0
    now = before = 0
    for member in members:
        aim = min(max(SMALLEST, listed // PARTS), LARGEST)
        full = len(run) >= aim
        if part is not None:
            now = part(member)
            large = full or size >= WINDOW_BYTES // 2
            full = (
                (large and now != before)
                or size + member.stored > WINDOW_BYTES
                or len(run) >= 2 * LARGEST
            )
        if full and run:
            yield run
            listed += len(run)
            run, size = [], 0
        run.append(member)
        size += member.stored
        before = now
    if run:
        yield run


class ShardWriter:
    """Writes the shards of one source, some in a transaction; `written` is called with how many."""

    def __init__(
        self,
        database: sa.Engine,
        lease: Lease,
        source_no: int,
        listed: int,
        written: Callable[[int], object],
        *,
        at_end: bool,
    ) -> None:
        """`listed` items of the job went before. With `at_end` all is written by `flush`."""
        self._database = database
        self._lease = lease
        self._source_no = source_no
        self._first_item = listed
        self._written = written
        self._at_end = at_end
        self._pending: list[NewShard] = []
        self._flushed = time.monotonic()

    def add(self, members: list[Member]) -> None:
        """A shard of these members, after those before it; raises LeaseLost."""
        self._pending.append(
            NewShard(source_no=self._source_no, n_items=len(members), listing=archive.pack(members))
        )
        if not self._at_end and (
            len(self._pending) >= FLUSH_SHARDS or time.monotonic() - self._flushed >= FLUSH_S
        ):
            self.flush()

    def flush(self) -> None:
        """Write what is not written yet; raises LeaseLost."""
        shards, self._pending, self._flushed = self._pending, [], time.monotonic()
        if shards:
            connecting.write(
                self._database,
                lambda c: listings.add(c, self._lease, shards, self._first_item),
            )
            self._first_item += sum(shard.n_items for shard in shards)
            self._written(len(shards))


#: Runs of films that have their outcomes, at most, that are cut out of a shard: the longest ones.
SETTLED = 8


class Part(NamedTuple):
    """Consecutive films of a shard."""

    members: list[Member]
    #: One each, or none: then some have none yet.
    outcomes: list[Outcome]


def parts(members: list[Member], first_item: int, outcomes: Sequence[Outcome]) -> list[Part]:
    """A shard in parts that have all their outcomes, and those between, which are left."""
    known = {outcome.item_no - first_item: outcome for outcome in outcomes}
    runs = [list(run) for is_known, run in groupby(range(len(members)), known.__contains__)
            if is_known]  # fmt: skip
    found: list[Part] = []
    end = 0
    for run in sorted(sorted(runs, key=len)[-SETTLED:]):
        if run[0] > end:
            found.append(Part(members[end : run[0]], []))
        end = run[-1] + 1
        found.append(Part(members[run[0] : end], [known[index] for index in run]))
    if end < len(members):
        found.append(Part(members[end:], []))
    return found
