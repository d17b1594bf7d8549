"""Promotion: a new model that passed the engine checks of all kinds of workers becomes champion.

Any worker may do it; the run's row decides who was first, so it happens once. Where one kind does
not agree, or the champion was changed by hand meanwhile, the champion stays, and the run says why.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from db.base import database, workers
from db.base.types import now
from db.nightly import runs
from db.queue import jobs
from db.registry import aliases, engine_checks
from worker.config import Settings

log = logging.getLogger(__name__)

#: A kind of worker whose engine check is not made after so long will not make it.
CHECK_S = 6 * 3600.0

#: Scoring workers that were seen within so long are expected back, even where none is there now.
EXPECTED_S = 7 * 24 * 3600.0


def run(settings: Settings, engine: sa.Engine, who: str) -> None:
    """Decide on every model that waits to be promoted and can be decided on."""
    for waiting in runs.in_state(engine, "proving"):
        kinds = {_kind(row) for row in workers.alive(engine, "score")}
        expected = bool(workers.alive(engine, "score", EXPECTED_S, stopped=True))
        outcome = database.write(
            engine,
            lambda c, r=waiting, k=kinds, e=expected: _decide(c, r, k, e, who),  # type: ignore[misc]
        )
        if outcome:
            log.info("run %d of %s: %s", waiting["id"], waiting["name"], outcome)


def _kind(row: sa.RowMapping) -> str:
    """What a worker computes with, by its row; its host, where the row does not have that."""
    return str(row["versions"].get("proves") or f"a worker on {row['host']}")


def _decide(
    connection: sa.Connection, waiting: sa.RowMapping, kinds: set[str], expected: bool, who: str
) -> str | None:
    """Promote, or keep the champion, or None: there is an engine check to wait for."""
    run_id = int(waiting["id"])
    if waiting["job_id"] is not None:
        jobs.hold(connection, int(waiting["job_id"]))
    checks = engine_checks.of_run(connection, run_id)
    failed = [check for check in checks if check["passed"] is False]
    if failed:
        why = "; ".join(f"{check['kind']}: {check['detail']}" for check in failed)
        return _keep(
            connection, run_id,
            f"it was not worse ({waiting['reason']}), but did not prove itself on {why}",
            told="it was not worse, but did not prove itself on "
            + ", ".join(check["kind"] for check in failed),
        )  # fmt: skip
    decided = {check["kind"] for check in checks if check["passed"]}
    missing = (kinds | {check["kind"] for check in checks}) - decided
    if not decided and not missing and expected:
        missing = {"any scoring worker"}
    if missing:
        return _wait(connection, run_id, sorted(missing))
    return _promote(connection, waiting, checks, who)


def _wait(connection: sa.Connection, run_id: int, missing: Sequence[str]) -> str | None:
    """None while there is time for these kinds to decide."""
    began = connection.execute(
        sa.text("SELECT finished_at FROM jobs WHERE id = (SELECT job_id FROM runs WHERE id = :id)")
        .columns(finished_at=_TIME)
        .bindparams(id=run_id)
    ).scalar()
    current = connection.execute(sa.select(now())).scalar_one()
    # What lies ahead was written by a clock that was ahead: nobody knows how long ago.
    if began is None or abs(current - began) < timedelta(seconds=CHECK_S):
        return None
    told = f"not proved within {CHECK_S / 3600:.0f} h on {', '.join(missing)}"
    return _keep(connection, run_id, told, told=told)


def _keep(connection: sa.Connection, run_id: int, reason: str, *, told: str) -> str | None:
    kept = runs.finish(connection, run_id, "kept", reason, hook_text=told)
    return f"kept: {reason}" if kept else None


def _promote(
    connection: sa.Connection, waiting: sa.RowMapping, checks: Sequence[sa.RowMapping], who: str
) -> str | None:
    run_id, candidate = int(waiting["id"]), int(waiting["candidate_id"])
    champion = aliases.model_of(connection, aliases.CHAMPION, lock=True)
    if champion != waiting["champion_id"]:
        told = (
            f"the champion was changed to model {champion} meanwhile, and this model was compared "
            f"with model {waiting['champion_id']}"
        )
        return _keep(connection, run_id, told, told=told)
    if champion is not None and (differs := aliases.difference(connection, candidate, champion)):
        told = f"{differs}; `pneumoq models promote {candidate} --other-classes` promotes it"
        return _keep(connection, run_id, told, told="it has other classes than the champion")
    proved = "; ".join(f"proved on {check['kind']}: {check['detail']}" for check in checks)
    reason = f"{waiting['reason']}; {proved or 'no scoring worker was there to prove it on'}"
    promoted = runs.finish(
        connection, run_id, "promoted", reason, hook_text=str(waiting["verdict"].get("told", ""))
    )
    if not promoted:
        return None  # another worker was first
    aliases.move(
        connection, aliases.CHAMPION, candidate, who,
        f"run of schedule {waiting['name']}: {reason}", run_id=run_id,
    )  # fmt: skip
    return f"model {candidate} is promoted"


_TIME: Any = now.type
