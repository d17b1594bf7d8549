"""Where the shards of a job end."""

from __future__ import annotations

from worker.archive import Member
from worker.scoring.cutting import SMALLEST, cut


def members(count: int) -> list[Member]:
    """Stored films of a kilobyte each."""
    return [Member(f"{n}.png", 1024 * n, 1024, 1024, 0, None) for n in range(count)]


def test_shards_of_a_compressed_archive_end_where_a_reader_can_start_anew() -> None:
    every = SMALLEST + 3
    runs = list(cut(iter(members(5 * every)), 0, lambda member: member.offset // 1024 // every))
    assert [len(run) for run in runs] == [every] * 5


def test_shards_of_another_source_end_when_they_are_large_enough() -> None:
    runs = list(cut(iter(members(3 * SMALLEST)), 0, None))
    assert [len(run) for run in runs] == [SMALLEST] * 3
