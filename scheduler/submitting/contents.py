"""Contents: whether the item numbers of a table are a job's, by a few of its films, read again.

The database knows films by another hash than the SHA-256 that tables have, so the films tell.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import sqlalchemy as sa

from db.queue import jobs, picks
from scheduler import session
from worker import archive
from worker.errors import ArchiveError
from worker.machine import privacy
from worker.scoring import reread

#: Films that are read, evenly apart: who mixed up two jobs has mixed up nearly all rows.
READ = 8


def another(engine: sa.Engine, job_id: int, stated: Mapping[int, str]) -> int | None:
    """The first item whose film has another SHA-256 than stated; None where no film tells so.

    Films that cannot be read tell nothing, nor are those of a compressed tar read, in which one may
    lie behind hours of others.
    """
    numbers = sorted(stated)
    some = [numbers[n * len(numbers) // READ] for n in range(READ)] if numbers else []
    kinds = {row["uri"]: row["kind"] for row in jobs.source_rows(engine, job_id)}
    site = privacy.load(session.settings())
    for pick in picks.named(engine, job_id, sorted(set(some))):
        if kinds.get(pick.source) in archive.WINDOWED:
            continue
        try:
            (film,) = reread.read(engine, job_id, [(pick.shard_no, pick.item_no)], site)
        except ArchiveError:
            continue
        if not film.reason and hashlib.sha256(film.data).hexdigest() != stated[pick.item_no]:
            return pick.item_no
    return None
