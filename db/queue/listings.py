"""Listings: what a job's planner writes, fenced by its lease, and what is read back of it.

A listing is packed and unpacked by the worker; here it is bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from db.base import bulk
from db.base.schema import SCORING_JOB_STATES, item_errors, jobs, shard_listings, shards, sources
from db.base.types import now
from db.queue import jobs as job_rows
from db.queue import leases, shares
from db.queue.leases import Lease, Shard

SHARDS = ("job_id", "shard_no", "source_no", "first_item", "n_items", "state")
LISTINGS = ("job_id", "shard_no", "listing")

#: Attempts that each half of a bisected shard has.
HALF_ATTEMPTS = 2


@dataclass(frozen=True, kw_only=True)
class NewShard:
    """A shard as the planner writes it."""

    source_no: int
    n_items: int
    #: Packed listing.
    listing: bytes


def add(
    connection: sa.Connection,
    lease: Lease,
    new: Sequence[NewShard],
    first_item: int | None = None,
) -> None:
    """Append shards to a job that this worker is planning, fenced by the planner's lease.

    `first_item` is the number that their first item is to have. Where they are there already,
    because they were committed but the answer was lost, they are not appended again.
    """
    leases.fence(connection, lease)
    row = connection.execute(
        sa.select(jobs.c.planned_items, jobs.c.planned_shards).where(jobs.c.id == lease.job_id)
    ).one()
    if first_item is not None and row.planned_items != first_item:
        if row.planned_items == first_item + sum(shard.n_items for shard in new):
            return
        raise ValueError(
            f"job {lease.job_id} has {row.planned_items} items, not {first_item}: somebody else "
            "lists it too"
        )
    job_id, items, count = lease.job_id, row.planned_items, row.planned_shards
    rows: list[bulk.Row] = []
    listings: list[bulk.Row] = []
    for shard in new:
        rows.append((job_id, count, shard.source_no, items, shard.n_items, "ready"))
        listings.append((job_id, count, shard.listing))
        items, count = items + shard.n_items, count + 1
    bulk.insert(connection, "shards", SHARDS, rows)
    bulk.insert(connection, "shard_listings", LISTINGS, listings)
    connection.execute(
        sa.update(jobs)
        .where(jobs.c.id == lease.job_id)
        # Whoever comes this far has not tried in vain: the attempts are counted anew.
        .values(planned_items=items, planned_shards=count, attempts=1)
    )


def complete(connection: sa.Connection, lease: Lease, skipped: dict[str, int]) -> None:
    """The listing is complete: the job runs until its last shard is done."""
    leases.fence(connection, lease)
    connection.execute(
        sa.update(jobs)
        .where(jobs.c.id == lease.job_id)
        .values(
            state="running",
            planned_at=now(),
            lease_until=None,
            attempts=0,
            passed_over=skipped,
        )
    )
    job_rows.log(connection, lease.job_id, lease.worker_id, "planned")


def cut(connection: sa.Connection, shard: Shard, parts: Sequence[NewShard]) -> list[Shard]:
    """Put shards of consecutive items in a shard's place, in the hands of whoever holds it.

    The first keeps the number; the others are appended to the job. Raises LeaseLost as
    `results.commit` does, and where it was cut already.
    """
    if sum(p.n_items for p in parts) != shard.n_items or min(p.n_items for p in parts) < 1:
        raise ValueError(
            f"shard {shard.shard_no} of job {shard.job_id} has {shard.n_items} items; "
            f"parts of {' and '.join(str(p.n_items) for p in parts)} do not make it up"
        )
    row = connection.execute(
        sa.select(jobs.c.state, jobs.c.planned_shards)
        .where(jobs.c.id == shard.job_id)
        .with_for_update()
    ).one()
    made: list[Shard] = []
    number, first_item = shard.shard_no, shard.first_item
    for place, part in enumerate(parts):
        end = first_item + part.n_items
        unread = {item: n for item, n in shard.unread.items() if first_item <= item < end}
        made.append(
            replace(
                shard, shard_no=number, first_item=first_item, n_items=part.n_items,
                listing=part.listing, unread=unread,
            )
        )  # fmt: skip
        number, first_item = row.planned_shards + place, end
    same = sa.and_(leases.held(shard), shards.c.n_items == shard.n_items)
    kept = connection.execute(
        sa.update(shards)
        .where(same, sa.literal(row.state in SCORING_JOB_STATES))
        .values(
            n_items=made[0].n_items,
            unread=_unread(made[0]),
            **shares.of_part(made[0].n_items, shard.n_items),
        )
        .returning(*(shards.c[name] for name in (*shares.CHARGE, "n_items")))
    ).one_or_none()
    if kept is None:
        raise leases.lost(shard)
    charge = kept._asdict()
    until = sa.select(shards.c.lease_until).where(
        shards.c.job_id == shard.job_id, shards.c.shard_no == shard.shard_no
    )
    for one in made[1:]:
        charge = shares.of_next(charge, one.n_items)
        connection.execute(
            sa.insert(shards).values(
                job_id=one.job_id,
                shard_no=one.shard_no,
                source_no=one.source_no,
                first_item=one.first_item,
                state="leased",
                lease_token=one.token,
                lease_until=until.scalar_subquery(),
                worker_id=one.worker_id,
                attempts=one.attempt,
                unread=_unread(one),
                **charge,
            )
        )
        connection.execute(
            sa.insert(shard_listings).values(
                job_id=one.job_id, shard_no=one.shard_no, listing=one.listing
            )
        )
    connection.execute(
        sa.update(shard_listings)
        .where(shard_listings.c.job_id == shard.job_id, shard_listings.c.shard_no == shard.shard_no)
        .values(listing=made[0].listing)
    )
    connection.execute(
        sa.update(jobs)
        .where(jobs.c.id == shard.job_id)
        .values(planned_shards=row.planned_shards + len(parts) - 1)
    )
    return made


def _unread(shard: Shard) -> Any:
    """The column `unread`."""
    return {str(item): tries for item, tries in shard.unread.items()} or sa.null()


def bisect(connection: sa.Connection, shard: Shard, first: NewShard, second: NewShard) -> None:
    """Put two halves in a shard's place, so that what kills its workers is cornered.

    The first half keeps the number; the second is appended to the job. Both are due at once and
    have HALF_ATTEMPTS attempts. Raises LeaseLost as `results.commit` does.
    """
    halves = cut(connection, shard, [first, second])
    connection.execute(
        sa.update(shards)
        .where(shards.c.job_id == shard.job_id, shards.c.shard_no.in_([h.shard_no for h in halves]))
        .values(
            state="ready",
            lease_until=None,
            attempts=leases.MAX_ATTEMPTS - HALF_ATTEMPTS,
            not_before=None,
            **shares.given_back(),
        )
    )
    job_rows.log(
        connection, shard.job_id, shard.worker_id, "shard_bisected",
        f"shard {shard.shard_no} of {shard.n_items} items: the second half is shard "
        f"{halves[1].shard_no} now",
    )  # fmt: skip


def set_seek_index(
    connection: sa.Connection,
    lease: Lease,
    source_no: int,
    index: bytes | None,
    *,
    streams: bool = False,
) -> None:
    """Keep where decompression of a source can start, for workers that begin in the middle.

    With `streams` it can only start at the beginning, and one worker at a time reads it.
    """
    leases.fence(connection, lease)
    connection.execute(
        sa.update(sources)
        .where(sources.c.job_id == lease.job_id, sources.c.source_no == source_no)
        .values(seek_index=index, streams=streams)
    )


def set_identity(
    connection: sa.Connection,
    lease: Lease,
    source_no: int,
    fingerprint: str,
    content_id: str | None,
) -> None:
    """Note that a source is another one now than when it was submitted."""
    leases.fence(connection, lease)
    connection.execute(
        sa.update(sources)
        .where(sources.c.job_id == lease.job_id, sources.c.source_no == source_no)
        .values(fingerprint=fingerprint, content_id=content_id)
    )


def seek_index(connection: sa.Connection, job_id: int, source_no: int) -> bytes | None:
    """What `set_seek_index` kept."""
    found = connection.execute(
        sa.select(sources.c.seek_index).where(
            sources.c.job_id == job_id, sources.c.source_no == source_no
        )
    ).scalar()
    return None if found is None else bytes(found)


def listed(connection: sa.Connection, job_id: int, source_no: int) -> bytes | None:
    """What a list named when it was submitted, packed; None of another source, and of 0.2.0."""
    found = connection.execute(
        sa.select(sources.c.listed).where(
            sources.c.job_id == job_id, sources.c.source_no == source_no
        )
    ).scalar()
    return None if found is None else bytes(found)


def planned(connection: sa.Connection, job_id: int) -> dict[int, int]:
    """Items already listed per source_no."""
    found = connection.execute(
        sa.select(shards.c.source_no, sa.func.sum(shards.c.n_items))
        .where(shards.c.job_id == job_id)
        .group_by(shards.c.source_no)
    )
    return {int(source): int(items) for source, items in found}


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a shard of an earlier job holds, and how it ended."""

    shard_no: int
    source_no: int
    first_item: int
    n_items: int
    #: Packed listing.
    listing: bytes
    #: When its outcomes were committed.
    finished_at: datetime | None = None


_LISTINGS = sa.select(
    shards.c.shard_no, shards.c.source_no, shards.c.first_item, shards.c.n_items,
    shards.c.finished_at, shard_listings.c.listing,
).join_from(
    shards,
    shard_listings,
    sa.and_(
        shard_listings.c.job_id == shards.c.job_id, shard_listings.c.shard_no == shards.c.shard_no
    ),
)  # fmt: skip


def after(
    connection: sa.Connection,
    job_id: int,
    after_shard_no: int = -1,
    limit: int = 64,
    *,
    to_retry: bool = False,
) -> list[Listing]:
    """A job's shards after the given one, in order; with `to_retry` those with items to retry."""
    select = (
        _LISTINGS.where(shards.c.job_id == job_id, shards.c.shard_no > after_shard_no)
        .order_by(shards.c.shard_no)
        .limit(limit)
    )
    if to_retry:
        select = select.where(sa.or_(shards.c.state != "done", shards.c.n_errors > 0))
    return _listings(connection.execute(select))


def _listings(found: sa.CursorResult[Any]) -> list[Listing]:
    return [
        Listing(**(row | {"listing": bytes(row["listing"])})) for row in map(dict, found.mappings())
    ]


def of_source(
    connection: sa.Connection,
    job_id: int,
    source_no: int,
    after_item: int = -1,
    limit: int = 64,
) -> list[Listing]:
    """A job's shards of one source whose first items come after the given one, by their items."""
    found = connection.execute(
        _LISTINGS.where(
            shards.c.job_id == job_id,
            shards.c.source_no == source_no,
            shards.c.first_item > after_item,
        )
        .order_by(shards.c.first_item)
        .limit(limit)
    )
    return _listings(found)


def is_open(connection: sa.Connection, job_id: int, source_no: int) -> bool:
    """Whether something of a source is listed and not done."""
    one = sa.exists().where(
        shards.c.job_id == job_id, shards.c.source_no == source_no, shards.c.finished_at.is_(None)
    )
    return bool(connection.execute(sa.select(one)).scalar_one())


def log_change(connection: sa.Connection, lease: Lease, text: str) -> None:
    """Write to the job's history that a source changed while it was listed, once; fenced."""
    leases.fence(connection, lease)
    job_rows.log_once(connection, lease.job_id, lease.worker_id, "source_changed", text)


@dataclass(frozen=True, kw_only=True)
class Beside(Listing):
    """A shard beside another one of the same source."""

    #: Whether items of it were read.
    read: bool


def beside(connection: sa.Connection, shard: Shard, most: int = 4) -> list[Beside]:
    """A few other shards of a shard's source by chance, rather those of which items were read."""
    read = (shards.c.n_predictions + shards.c.n_refused > 0).label("read")
    found = connection.execute(
        sa.select(
            shards.c.shard_no, shards.c.source_no, shards.c.first_item, shards.c.n_items,
            shard_listings.c.listing, read,
        )
        .join_from(
            shards,
            shard_listings,
            sa.and_(
                shard_listings.c.job_id == shards.c.job_id,
                shard_listings.c.shard_no == shards.c.shard_no,
            ),
        )
        .where(
            shards.c.job_id == shard.job_id,
            shards.c.source_no == shard.source_no,
            shards.c.shard_no != shard.shard_no,
        )
        .order_by(read.desc(), sa.func.random())
        .limit(most)
    )  # fmt: skip
    return [
        Beside(**(row | {"listing": bytes(row["listing"])})) for row in map(dict, found.mappings())
    ]


def items_to_retry(connection: sa.Connection, job_id: int, shard_no: int) -> list[int]:
    """Items of a shard that are in error or have no outcome, in order."""
    row = connection.execute(
        sa.select(shards.c.state, shards.c.first_item, shards.c.n_items).where(
            shards.c.job_id == job_id, shards.c.shard_no == shard_no
        )
    ).one()
    end = row.first_item + row.n_items
    if row.state != "done":
        return list(range(row.first_item, end))
    found = connection.execute(
        sa.select(item_errors.c.item_no)
        .where(
            item_errors.c.job_id == job_id,
            item_errors.c.item_no >= row.first_item,
            item_errors.c.item_no < end,
        )
        .order_by(item_errors.c.item_no)
    )
    return list(found.scalars())


def pack_paths(paths: Sequence[str]) -> bytes:
    """What sources.paths keeps of a list that no file holds. No path has a line break."""
    return zlib.compress("\n".join(paths).encode("utf-8", "surrogateescape"))


def unpack_paths(packed: bytes | None) -> list[str] | None:
    """What `pack_paths` packed; None of NULL."""
    if packed is None:
        return None
    return zlib.decompress(bytes(packed)).decode("utf-8", "surrogateescape").split("\n")
