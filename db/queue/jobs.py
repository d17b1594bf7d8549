"""Jobs: submitting them, their history, and what is asked about them.

Functions that write take a connection inside `database.write`; functions that read take an engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from db.base import database, partitions, views
from db.base.errors import Conflict, NotFound
from db.base.schema import SCORING_JOB_STATES, job_events, jobs, sources
from db.base.types import UtcDateTime, now
from db.queue import budget
from db.registry import models

#: Columns of v_job_progress by name: a newer release's may have more, and where those appear,
#: PostgreSQL refuses to go on with a prepared `SELECT *`.
_PROGRESS = ", ".join(views.V_JOB_PROGRESS.columns)

#: Columns of v_job_progress that SQLite would give as text.
_TIMES = {
    f"{moment}_at": UtcDateTime()
    for moment in ("created", "started", "planned", "finished", "purged")
}


def submit(
    connection: sa.Connection,
    *,
    kind: str,
    spec: dict[str, Any],
    submitted_by: str,
    model_id: int | None = None,
    precision: str | None = None,
    engine: str | None = None,
    parent_job_id: int | None = None,
    priority: int = 0,
    key: str | None = None,
    source_rows: list[dict[str, Any]] | None = None,
    schedule_id: int | None = None,
    scheduled_for: datetime | None = None,
    share: str | None = None,
) -> int:
    """Insert a queued job and its sources; the same `key` again gives the same job's id.

    `share` is whose share of the workers it takes: without one, the user's or the schedule's.
    `engine` is `tensorrt` or `onnx` where only workers with that may score it. Raises ValueError
    where the spec's `max_errors` is no error budget, and Conflict where the model's files are gone.
    """
    if spec.get("max_errors") is not None:
        budget.parse(spec["max_errors"])
    job_id, inserted = database.find_or_insert(
        connection,
        # Without a key (NULL) nothing is found.
        sa.select(jobs.c.id).where(jobs.c.key == sa.literal(key, sa.String)),
        sa.insert(jobs)
        .values(
            kind=kind,
            state="queued",
            spec=spec,
            submitted_by=submitted_by,
            model_id=model_id,
            precision=precision or ("fp32" if kind == "score" else None),
            engine=engine,
            parent_job_id=parent_job_id,
            priority=priority,
            key=key,
            schedule_id=schedule_id,
            scheduled_for=scheduled_for,
            share=share or share_of(submitted_by),
            created_at=now(),
        )
        .returning(jobs.c.id),
    )
    if not inserted:
        return job_id
    # Looked at after the row is there: who removes a model's files waits for it, or is seen here.
    gone = None if model_id is None else models.pruned(connection, model_id)
    if gone is not None:
        raise Conflict(gone)
    if source_rows:
        rows = [{"job_id": job_id, "source_no": n, **row} for n, row in enumerate(source_rows)]
        connection.execute(sa.insert(sources), rows)
    if kind == "score":
        partitions.ensure(connection, job_id)
    log(connection, job_id, submitted_by, "submitted")
    return job_id


def share_of(submitted_by: str) -> str:
    """Whose share a job takes that names none: the user on whichever host, or the schedule."""
    return submitted_by.rpartition("@")[0] or submitted_by


def log(
    connection: sa.Connection, job_id: int, who: str, event: str, detail: str | None = None
) -> None:
    """Append to the job's history."""
    connection.execute(
        sa.insert(job_events).values(job_id=job_id, at=now(), who=who, event=event, detail=detail)
    )


def log_once(connection: sa.Connection, job_id: int, who: str, event: str, detail: str) -> None:
    """Append to the job's history what is not there yet in these words from the same one."""
    there = sa.exists().where(
        job_events.c.job_id == job_id,
        job_events.c.who == who,
        job_events.c.event == event,
        job_events.c.detail == detail,
    )
    if not connection.execute(sa.select(there)).scalar_one():
        log(connection, job_id, who, event, detail)


def locked(connection: sa.Connection, job_id: int) -> sa.Row[Any]:
    """A job's row, which nobody else changes until commit; NotFound where there is none."""
    row = connection.execute(
        sa.select(jobs).where(jobs.c.id == job_id).with_for_update()
    ).one_or_none()
    if row is None:
        raise NotFound(f"there is no job {job_id}; `pneumoq jobs ls` lists them")
    return row


def scoring(
    connection: sa.Connection, job_id: int, *, key_only: bool = False, skip_locked: bool = False
) -> bool:
    """Whether a job's shards may be worked on; on PostgreSQL it stays so until commit.

    With `key_only` the lock keeps out who pauses or cancels, but no planner. With `skip_locked` it
    is False where another one changes the job just now.
    """
    state = connection.execute(
        sa.select(jobs.c.state)
        .where(jobs.c.id == job_id)
        .with_for_update(read=True, key_share=key_only, skip_locked=skip_locked)
    ).scalar()
    return state in SCORING_JOB_STATES


def hold(connection: sa.Connection, job_id: int) -> None:
    """Keep out until commit who pauses, ends or purges a job: see `db.base.locks`."""
    scoring(connection, job_id, key_only=True)


def get(engine: sa.Engine, job_id: int) -> sa.RowMapping:
    """One job's row; NotFound where there is none."""
    with database.reading(engine) as connection:
        row = connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).mappings().first()
    if row is None:
        raise NotFound(f"there is no job {job_id}; `pneumoq jobs ls` lists them")
    return row


def check_kept(job_id: int, purged_at: datetime | None) -> None:
    """Conflict where a job was purged: of what came of its items there are only sums."""
    if purged_at is not None:
        raise Conflict(
            f"job {job_id} was purged on {purged_at:%Y-%m-%d}: what came of each film is not known "
            f"any more; `pneumoq jobs show {job_id}` prints the sums that are left"
        )


def progress(engine: sa.Engine, job_id: int) -> sa.RowMapping:
    """One row of v_job_progress; NotFound where there is none."""
    with database.reading(engine) as connection:
        return progress_seen(connection, job_id)


def progress_seen(connection: sa.Connection, job_id: int) -> sa.RowMapping:
    """The same, as a transaction sees it."""
    statement = sa.text(
        f"SELECT {_PROGRESS} FROM v_job_progress WHERE job_id = :id"  # noqa: S608  # constant
    ).columns(**_TIMES)
    row = connection.execute(statement, {"id": job_id}).mappings().first()
    if row is None:
        raise NotFound(f"there is no job {job_id}; `pneumoq jobs ls` lists them")
    return row


def recent(
    engine: sa.Engine,
    *,
    limit: int = 20,
    only_open: bool = False,
    kind: str | None = None,
    states: Sequence[str] = (),
    by: str | None = None,
) -> list[sa.RowMapping]:
    """The newest jobs first, as rows of v_job_progress; `by` is a part of their submitter."""
    conditions = ["1 = 1"]
    values: dict[str, Any] = {"limit": limit}
    if kind is not None:
        conditions.append("kind = :kind")
        values["kind"] = kind
    if by is not None:
        conditions.append("submitted_by LIKE :by ESCAPE '/'")
        values["by"] = "%" + by.replace("/", "//").replace("%", "/%").replace("_", "/_") + "%"
    # What an index has is asked of that; all jobs would be looked through from the newest on.
    chosen = []
    if only_open:
        chosen.append("opened AS MATERIALIZED (SELECT id FROM jobs WHERE finished_at IS NULL)")
    if states:
        those = " AND ".join(conditions)
        each = [
            f"SELECT id FROM (SELECT id FROM jobs WHERE state = :state{n} AND {those} "  # noqa: S608  # constants
            f"ORDER BY id DESC LIMIT :limit) AS state{n}"
            for n in range(len(states))
        ]
        chosen.append(f"in_states AS MATERIALIZED ({' UNION ALL '.join(each)})")
        values |= {f"state{n}": state for n, state in enumerate(states)}
    names = (one.split()[0] for one in chosen)
    conditions += [f"job_id IN (SELECT id FROM {name})" for name in names]  # noqa: S608  # constants
    statement = sa.text(
        f"{'WITH ' if chosen else ''}{', '.join(chosen)} SELECT {_PROGRESS} FROM v_job_progress "  # noqa: S608  # constants
        f"WHERE {' AND '.join(conditions)} ORDER BY job_id DESC LIMIT :limit"
    )
    with database.reading(engine) as connection:
        return list(connection.execute(statement.columns(**_TIMES), values).mappings())


def events(engine: sa.Engine, job_id: int) -> list[sa.RowMapping]:
    """A job's history, oldest first."""
    get(engine, job_id)
    with database.reading(engine) as connection:
        return list(
            connection.execute(
                sa.select(job_events).where(job_events.c.job_id == job_id).order_by(job_events.c.id)
            ).mappings()
        )


def source_rows(engine: sa.Engine, job_id: int) -> list[sa.RowMapping]:
    """What a scoring job reads, in order, without seek indexes and what lists named."""
    columns = [c for c in sources.c if c.name not in ("seek_index", "listed")]
    with database.reading(engine) as connection:
        return list(
            connection.execute(
                sa.select(*columns).where(sources.c.job_id == job_id).order_by(sources.c.source_no)
            ).mappings()
        )


def identities(engine: sa.Engine, job_id: int) -> list[sa.RowMapping]:
    """What tells a scoring job's sources from others, in order."""
    names = ("uri", "kind", "fingerprint", "content_id", "listed")
    select = sa.select(*(sources.c[name] for name in names)).where(sources.c.job_id == job_id)
    with database.reading(engine) as connection:
        return list(connection.execute(select.order_by(sources.c.source_no)).mappings())


def source_count(connection: sa.Connection, job_id: int) -> int:
    """How many sources a scoring job reads."""
    return int(
        connection.execute(
            sa.select(sa.func.count()).select_from(sources).where(sources.c.job_id == job_id)
        ).scalar_one()
    )
