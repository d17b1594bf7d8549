"""Nights in a row that promoted nothing, and the one notice about them.

Each night has a notice of its own; that they have come to nothing for a week is easily overlooked
among those. Counted are nights that kept the champion, that failed, and at whose end the training
was not done, since the champion was last changed, by whomever. A schedule that is to promote
nothing (`--no-promote`) has done what it is for where it made a model: of its nights those are
counted that made none, since it last made one.
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
    """How many nights of a schedule in a row came to nothing."""

    #: Whether the schedule is to promote what it makes.
    promotes: bool
    #: Of these: that kept the champion, that failed, at whose end the training was not done.
    kept: int
    failed: int
    unfinished: int
    #: When the champion was last changed, or the last model was made; None where it never was.
    since: datetime | None
    #: When the notice about them was given; None where it was not.
    notice_at: datetime | None

    @property
    def nights(self) -> int:
        """All of them."""
        return self.kept + self.failed + self.unfinished

    def __str__(self) -> str:
        parts = {
            "kept the champion" if self.promotes else "made no model": self.kept,
            "failed": self.failed,
            "did not end in time": self.unfinished,
        }
        return ", ".join(f"{n} {what}" for what, n in parts.items() if n)

    @property
    def sentence(self) -> str:
        """What they have come to."""
        what = "champion" if self.promotes else "model"
        return f"no new {what} in {self.nights} nights in a row ({self})"


def notice_after(spec: Mapping[str, Any]) -> int:
    """After how many nights a schedule gives the notice; 0: never."""
    said = (spec.get("night") or {}).get("notice_after")
    return NOTICE_AFTER if said is None else int(said)


def in_a_row(connection: sa.Connection, schedule_id: int, spec: Mapping[str, Any]) -> InARow:
    """The nights of a schedule since the champion was last changed, or since it made a model."""
    ours = runs.c.schedule_id == schedule_id
    promotes = bool((spec.get("night") or {}).get("promote", True))
    if promotes:
        last = sa.select(sa.func.max(promotions.c.at)).where(
            # One that lies ahead was written by a clock that was ahead.
            promotions.c.alias == aliases.CHAMPION, promotions.c.at <= now(),
        )  # fmt: skip
    else:
        last = sa.select(sa.func.max(runs.c.finished_at)).where(
            ours, runs.c.candidate_id.is_not(None), runs.c.finished_at <= now()
        )
    since = connection.execute(last).scalar()
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
        promotes=promotes,
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
    found = in_a_row(connection, row.id, row.spec)
    if found.nights < limit or found.notice_at is not None:
        return
    text = (
        f"schedule {row.name}: {found.sentence}; `pneumoq schedule show {row.name}` says why. "
        "There is no other notice about this until a model is "
        + ("promoted" if found.promotes else "made")
    )
    outbox.add(connection, EVENT, run_id=run_id, text=text, nights=found.nights)
