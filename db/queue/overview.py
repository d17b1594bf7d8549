"""Overview: what a scoring job came to, in sums that stay few however many films it has."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from db.base.schema import cams, item_errors, refusals, rollups, shards

#: Buckets of the scores, as in rollups.
BUCKETS = 20

#: Rows of an answer that are fetched at a time.
FETCH = 2000

#: Items that are shown of each code.
EXAMPLES = 3


def histogram(connection: sa.Connection, job_id: int) -> list[tuple[int, int, int]]:
    """(twentieth of probability, label_no, predictions) of a job, in that order."""
    return [
        (int(bucket), int(label_no), int(n))
        for bucket, label_no, n in connection.execute(
            sa.select(rollups.c.bucket, rollups.c.label_no, sa.func.sum(rollups.c.n))
            .where(rollups.c.job_id == job_id)
            .group_by(rollups.c.bucket, rollups.c.label_no)
            .order_by(rollups.c.bucket, rollups.c.label_no)
        )
    ]


def codes(
    connection: sa.Connection, job_id: int, *, refused: bool
) -> list[tuple[str, int, list[sa.RowMapping]]]:
    """(code, items, a few of them) of what was refused or is in error, the most frequent first."""
    table = refusals if refused else item_errors
    found = connection.execute(
        sa.select(table.c.code, sa.func.count().label("n"))
        .where(table.c.job_id == job_id)
        .group_by(table.c.code)
        .order_by(sa.desc("n"), table.c.code)
    ).all()
    return [
        (
            str(row.code),
            int(row.n),
            list(
                connection.execute(
                    sa.select(table.c.item_no, table.c.name, table.c.detail)
                    .where(table.c.job_id == job_id, table.c.code == row.code)
                    .order_by(table.c.item_no)
                    .limit(EXAMPLES)
                ).mappings()
            ),
        )
        for row in found
    ]


def finished(connection: sa.Connection, job_id: int, bins: int) -> list[tuple[datetime, int]]:
    """(begin, items with an outcome) of equal spans of time, from the first commit to the last.

    Fewer spans where there are few commits, and none where there was none.
    """
    of_job = (shards.c.job_id == job_id, shards.c.finished_at.is_not(None))
    count, first, last = connection.execute(
        sa.select(
            sa.func.count(), sa.func.min(shards.c.finished_at), sa.func.max(shards.c.finished_at)
        ).where(*of_job)
    ).one()
    if not count:
        return []
    span = (last - first) / min(bins, count)
    if not span:
        total = connection.execute(sa.select(_outcomes()).where(*of_job)).scalar_one()
        return [(first, int(total))]
    sums = [0] * min(bins, count)
    rows = connection.execution_options(yield_per=FETCH).execute(
        sa.select(
            shards.c.finished_at, shards.c.n_predictions + shards.c.n_refused + shards.c.n_errors
        ).where(*of_job)
    )
    for at, n in rows:
        sums[min(int((at - first) / span), len(sums) - 1)] += int(n)
    return [(first + n * span, total) for n, total in enumerate(sums)]


def _outcomes() -> sa.ColumnElement[int]:
    return sa.func.sum(shards.c.n_predictions + shards.c.n_refused + shards.c.n_errors)


def maps(connection: sa.Connection, job_id: int, items: Sequence[int]) -> dict[int, sa.Row[Any]]:
    """The class-activation maps that were kept of these items: rows of `cams` by item."""
    rows = connection.execute(
        sa.select(cams).where(cams.c.job_id == job_id, cams.c.item_no.in_(list(items)))
    )
    return {row.item_no: row for row in rows}
