"""Nights in a row that promoted nothing, and the one notice about them.

Each night has a notice of its own; that they have come to nothing for a week is easily overlooked
among those. Counted are nights that kept the champion, that failed, and at whose end the training
was not done, since the champion was last changed, by whomever.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from db.base import outbox
from db.base.schema import notices, promotions, runs, schedules
from db.base.types import now
from db.registry import aliases

#: A notice after so many, where the schedule does not say.
NOTICE_AFTER = 7

#: Outcomes that are counted.
OUTCOMES = ("kept", "failed")

EVENT = "not_promoted"


class InARow(NamedTuple):
    """How many nights of a schedule in a row promoted nothing."""

    #: Of these: that kept the champion, that failed, at whose end the training was not done.
    kept: int
    failed: int
    unfinished: int
    #: When the champion was last changed; None where it never was.
    since: datetime | None
    #: When the notice about them was given; None where it was not.
    notice_at: datetime | None

    @property
    def nights(self) -> int:
        """All of them."""
        return self.kept + self.failed + self.unfinished

    def __str__(self) -> str:
        parts = {
            "kept the champion": self.kept,
            "failed": self.failed,
            "did not end in time": self.unfinished,
        }
        return ", ".join(f"{n} {what}" for what, n in parts.items() if n)


def notice_after(spec: Mapping[str, Any]) -> int:
    """After how many nights a schedule gives the notice; 0: never."""
    said = (spec.get("night") or {}).get("notice_after")
    return NOTICE_AFTER if said is None else int(said)


def in_a_row(connection: sa.Connection, schedule_id: int) -> InARow:
    """The nights of a schedule since the champion was last changed."""
    since = connection.execute(
        sa.select(sa.func.max(promotions.c.at)).where(
            # One that lies ahead was written by a clock that was ahead.
            promotions.c.alias == aliases.CHAMPION, promotions.c.at <= now(),
        )
    ).scalar()  # fmt: skip
    ours = runs.c.schedule_id == schedule_id
    later = (
        sa.true()
        if since is None
        else sa.or_(runs.c.finished_at.is_(None), runs.c.finished_at > since)
    )
    # A training that was begun before is of a champion that is gone.
    begun = sa.true() if since is None else runs.c.created_at > since

    def of(outcome: str) -> Any:
        return sa.func.count(sa.case((runs.c.outcome == outcome, 1))).label(outcome)

    unfinished = sa.func.sum(sa.case((begun, runs.c.put_aside), else_=0))
    row = connection.execute(
        sa.select(*map(of, OUTCOMES), unfinished.label("unfinished")).where(ours, later)
    ).one()
    told = sa.select(sa.func.max(notices.c.at)).join(runs, runs.c.id == notices.c.run_id)
    told = told.where(ours, notices.c.event == EVENT)
    if since is not None:
        told = told.where(notices.c.at > since)
    return InARow(
        kept=int(row.kept),
        failed=int(row.failed),
        unfinished=int(row.unfinished or 0),
        since=since,
        notice_at=connection.execute(told).scalar(),
    )


def look(connection: sa.Connection, run_id: int) -> None:
    """A night has come to nothing: give the notice where it is time, once until a promotion."""
    row = connection.execute(
        sa.select(schedules.c.id, schedules.c.name, schedules.c.kind, schedules.c.spec)
        .join(runs, runs.c.schedule_id == schedules.c.id)
        .where(runs.c.id == run_id)
    ).one()
    limit = notice_after(row.spec)
    if row.kind != "train" or not limit:
        return
    found = in_a_row(connection, row.id)
    if found.nights < limit or found.notice_at is not None:
        return
    text = (
        f"schedule {row.name}: no new champion in {found.nights} nights in a row ({found}); "
        f"`pneumoq schedule show {row.name}` says why. There is no other notice about this until a "
        "model is promoted"
    )
    outbox.add(connection, EVENT, run_id=run_id, text=text, nights=found.nights)
