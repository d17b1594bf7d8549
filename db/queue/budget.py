"""The error budget of a scoring job: how many items may be in error before the job is ended."""

from __future__ import annotations

import re
from dataclasses import dataclass

import sqlalchemy as sa

from db.base.schema import jobs, shards

_FORM = re.compile(r"(\d+)|(\d+(?:\.\d+)?)\s*%", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """So many items, or a share of the job's items; one of the two is None."""

    items: int | None
    share: float | None

    def allows(self, errors: int, listed: int) -> bool:
        """Whether so many errors in a job of so many items are within it."""
        if self.items is not None:
            return errors <= self.items
        assert self.share is not None
        return errors <= self.share * listed


def parse(text: str | int) -> Budget:
    """The budget that `--max-errors` means; ValueError where it means none."""
    found = _FORM.fullmatch(str(text).strip())
    if found is None or (found[2] is not None and float(found[2]) > 100):
        raise ValueError(
            f"{text!r} is no error budget; give a number of items (100) or a share of them (5%)"
        )
    if found[1] is not None:
        return Budget(items=int(found[1]), share=None)
    return Budget(items=None, share=float(found[2]) / 100)


def exceeded(connection: sa.Connection, job_id: int) -> str | None:
    """Why a job is over its budget and what to do then, or None.

    A share is one of all items, so that it is judged when the listing is complete, and not by the
    first few items that came.
    """
    row = connection.execute(
        sa.select(jobs.c.spec, jobs.c.planned_at, jobs.c.planned_items).where(jobs.c.id == job_id)
    ).one()
    text = row.spec.get("max_errors")
    if text is None:
        return None
    budget = parse(text)
    if budget.share is not None and row.planned_at is None:
        return None
    errors = int(
        connection.execute(
            sa.select(sa.func.coalesce(sa.func.sum(shards.c.n_errors), 0)).where(
                shards.c.job_id == job_id
            )
        ).scalar_one()
    )
    if budget.allows(errors, row.planned_items):
        return None
    again = f"`pneumoq jobs retry {job_id}{' --failed-only' if row.planned_at else ''}`"
    return (
        f"{errors} of {row.planned_items} items are in error, and {text} were allowed: see "
        f"`pneumoq jobs errors {job_id}`, then {again}, or submit with a larger --max-errors"
    )
