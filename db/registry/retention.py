"""Retention: which models stay, and which are retired so that their bytes may go.

Retired models keep their rows, cards and lineage for good: a prediction always names a model that
is known. Only bytes are removed, and only while no kept prediction was made with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from db.base import database
from db.base.schema import aliases as alias_table
from db.base.schema import jobs, model_chunks, model_files, runs, schedules, shards
from db.base.schema import models as table
from db.base.types import now
from db.registry import aliases, events

#: Of a training job that made no model, files stay for so many days: it may be resumed.
UNFINISHED_DAYS = 7


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A model under the rule."""

    id: int
    name: str
    #: Whether it stays, or stays as it is where it was retired before.
    stays: bool
    #: Why, in words that follow "model 3 stays:" or "model 3 is retired:".
    why: str


@dataclass(frozen=True, kw_only=True)
class Bytes:
    """The bytes of a retired model in the database."""

    id: int
    name: str
    size_bytes: int
    #: The number of a job whose predictions it made; None where the bytes may go.
    held_by: int | None


def judge(connection: sa.Connection, keep: int, schedule_id: int | None = None) -> list[Judged]:
    """Every model that is not retired, newest first, and whether it stays.

    With a schedule, only models that it made are judged, and `keep` are the newest of those. Else
    all are. What is in use stays, however old.
    """
    select = sa.select(table.c.id, table.c.name).where(table.c.state == "candidate")
    if schedule_id is not None:
        select = select.join(jobs, jobs.c.id == table.c.job_id).where(
            jobs.c.schedule_id == schedule_id
        )
    rows = connection.execute(select.order_by(table.c.id.desc())).all()
    used = in_use(connection) if len(rows) > keep else {}
    of = "" if schedule_id is None else " of its schedule"
    newest = f"one of the {keep} newest{of}" if keep > 1 else f"the newest{of}"
    judged = []
    for place, row in enumerate(rows):
        stays = newest if place < keep else used.get(row.id)
        judged.append(
            Judged(
                id=row.id,
                name=row.name,
                stays=stays is not None,
                why=stays or f"it is not {newest}, and nothing uses it",
            )
        )
    return judged


def in_use(connection: sa.Connection) -> dict[int, str]:
    """Models that must stay, and why."""
    used: dict[int, str] = {}

    def keep(model_id: Any, why: str) -> None:
        if model_id is not None:
            used.setdefault(int(model_id), why)

    for row in connection.execute(sa.select(alias_table.c.name, alias_table.c.model_id)):
        keep(row.model_id, f"it is {row.name}")
        keep(
            aliases.before(connection, row.name),
            f"it was {row.name} before, to roll back to",
        )
    keep(aliases.anchor(connection), "a person promoted it last, and nights compare with it")
    for row in connection.execute(
        sa.select(table.c.id, table.c.parent_id)
        .join(alias_table, alias_table.c.model_id == table.c.id)
        .where(alias_table.c.name == aliases.CHAMPION)
    ):
        keep(row.parent_id, f"model {row.id}, the champion, began from it")
    for job in connection.execute(
        sa.select(jobs.c.id, jobs.c.model_id, jobs.c.spec).where(jobs.c.finished_at.is_(None))
    ):
        keep(job.model_id, f"job {job.id} is open")
        began = job.spec.get("warm_start")
        if isinstance(began, int) and not isinstance(began, bool):
            keep(began, f"job {job.id} begins from it")
    for run in connection.execute(
        sa.select(runs.c.id, runs.c.champion_id, runs.c.candidate_id, runs.c.anchor_id).where(
            runs.c.finished_at.is_(None)
        )
    ):
        keep(run.champion_id, f"run {run.id} compares with it")
        keep(run.anchor_id, f"run {run.id} compares with it")
        keep(run.candidate_id, f"run {run.id} is about it")
    for schedule in connection.execute(
        sa.select(schedules.c.name, schedules.c.spec).where(
            schedules.c.kind == "score", schedules.c.removed_at.is_(None)
        )
    ):
        reference = _model_of(schedule.spec)
        found = aliases.named(connection, reference) if reference else []
        if len(found) == 1:
            keep(found[0]["id"], f"schedule {schedule.name} scores with it")
    return used


def _model_of(spec: Mapping[str, Any]) -> str | None:
    reference = (spec.get("job") or {}).get("model")
    return None if reference is None else str(reference)


def retire(
    connection: sa.Connection, keep: int, who: str, schedule_id: int | None = None
) -> list[Judged]:
    """Retire the models that need not stay; how each was judged. For `database.write`."""
    # Nobody moves an alias meanwhile: what it is moved to must not be retired just then.
    connection.execute(sa.select(alias_table.c.name).order_by(alias_table.c.name).with_for_update())
    found = judge(connection, keep, schedule_id)
    for judged in found:
        if judged.stays:
            continue
        connection.execute(sa.update(table).where(table.c.id == judged.id).values(state="retired"))
        events.log(connection, judged.id, who, "retired", judged.why)
    return found


def surplus(engine: sa.Engine) -> list[tuple[int, int]]:
    """Training schedules that have more models than they keep: number, and how many it keeps."""
    count = sa.func.count(table.c.id)
    with database.reading(engine) as connection:
        rows = connection.execute(
            sa.select(schedules.c.id, schedules.c.spec, count.label("n"))
            .join(jobs, jobs.c.schedule_id == schedules.c.id)
            .join(table, table.c.job_id == jobs.c.id)
            .where(
                schedules.c.kind == "train",
                schedules.c.removed_at.is_(None),
                table.c.state == "candidate",
            )
            .group_by(schedules.c.id)
        ).all()
    kept = [(row, (row.spec.get("night") or {}).get("keep")) for row in rows]
    return [(row.id, int(keep)) for row, keep in kept if keep is not None and row.n > keep]


def bytes_of_retired(connection: sa.Connection) -> list[Bytes]:
    """Retired models whose bytes are still in the database, and who holds them."""
    return _bytes(connection, table.c.state == "retired")


def bytes_of(connection: sa.Connection, ids: Sequence[int]) -> list[Bytes]:
    """The same of models that are about to be retired."""
    return _bytes(connection, table.c.id.in_(ids))


def _bytes(connection: sa.Connection, which: sa.ColumnElement[bool]) -> list[Bytes]:
    there = sa.exists().where(
        model_chunks.c.sha256 == model_files.c.sha256, model_chunks.c.chunk_no == 0
    )
    rows = connection.execute(
        sa.select(table.c.id, table.c.name, sa.func.sum(model_files.c.size_bytes).label("size"))
        .join(model_files, model_files.c.model_id == table.c.id)
        .where(which, there)
        .group_by(table.c.id, table.c.name)
        .order_by(table.c.id)
    ).all()
    return [
        Bytes(
            id=row.id,
            name=row.name,
            size_bytes=int(row.size),
            held_by=_holder(connection, row.id),
        )
        for row in rows
    ]


def _holder(connection: sa.Connection, model_id: int) -> int | None:
    """A job that needs a model's bytes: open, or with predictions that it made."""
    predicted = sa.exists().where(shards.c.job_id == jobs.c.id, shards.c.n_predictions > 0)
    return connection.execute(
        sa.select(jobs.c.id)
        .where(
            jobs.c.model_id == model_id,
            jobs.c.kind == "score",
            sa.or_(jobs.c.finished_at.is_(None), sa.and_(jobs.c.purged_at.is_(None), predicted)),
        )
        .order_by(jobs.c.id)
        .limit(1)
    ).scalar()


def free(engine: sa.Engine, who: str) -> list[Bytes]:
    """Remove the bytes of retired models that nobody holds; what was removed.

    One transaction per model, so that nobody waits long for the database.
    """
    with database.reading(engine) as connection:
        found = bytes_of_retired(connection)
    freed = []
    for model in found:
        if model.held_by is None and database.write(engine, lambda c, m=model: _free(c, m, who)):  # type: ignore[misc]
            freed.append(model)
    return freed


def _free(connection: sa.Connection, model: Bytes, who: str) -> bool:
    # A job of it that is being submitted holds its row until commit: it is seen below, or it will
    # see that the bytes are gone.
    connection.execute(sa.select(table.c.id).where(table.c.id == model.id).with_for_update())
    if _holder(connection, model.id) is not None:
        return False
    files = sa.select(model_files.c.sha256).where(model_files.c.model_id == model.id)
    gone = connection.execute(sa.delete(model_chunks).where(model_chunks.c.sha256.in_(files)))
    if not gone.rowcount:
        return False  # somebody was faster
    events.log(
        connection, model.id, who, "pruned",
        f"{model.size_bytes / 1e6:.1f} MB of files removed; its row and card stay",
    )  # fmt: skip
    return True


def unused_files(engine: sa.Engine, retiring: Sequence[int] = ()) -> set[str]:
    """SHA-256 of the files of retired (or `retiring`) models that no open job uses."""
    open_job = sa.exists().where(jobs.c.model_id == table.c.id, jobs.c.finished_at.is_(None))
    with database.reading(engine) as connection:
        return set(
            connection.execute(
                sa.select(model_files.c.sha256)
                .join(table, table.c.id == model_files.c.model_id)
                .where(_retired(retiring), ~open_job)
            ).scalars()
        )


def _retired(retiring: Sequence[int]) -> sa.ColumnElement[bool]:
    return sa.or_(table.c.state == "retired", table.c.id.in_(retiring))


def unneeded_training(engine: sa.Engine, retiring: Sequence[int] = ()) -> dict[int, str]:
    """Training jobs whose files on the machine that trained are of no more use, and why."""
    long_ago = now(-UNFINISHED_DAYS * 86_400.0)
    with database.reading(engine) as connection:
        rows = connection.execute(
            sa.select(jobs.c.id, jobs.c.state, table.c.id.label("model"))
            .outerjoin(table, table.c.id == jobs.c.model_id)
            .where(
                jobs.c.kind == "train",
                jobs.c.finished_at.is_not(None),
                sa.or_(
                    _retired(retiring),
                    sa.and_(table.c.id.is_(None), jobs.c.finished_at < long_ago),
                ),
            )
        ).all()
        needed = _ancestors(connection)
    return {
        row.id: f"model {row.model} is retired"
        if row.model is not None
        else f"it {_ended(row.state)} more than {UNFINISHED_DAYS} days ago"
        for row in rows
        if row.id not in needed
    }


def _ended(state: str) -> str:
    return {"cancelled": "was cancelled", "failed": "failed"}.get(state, "made no model")


def _ancestors(connection: sa.Connection) -> set[int]:
    """Training jobs from whose checkpoints an open one may go on."""
    rows = connection.execute(
        sa.select(jobs.c.id, jobs.c.parent_job_id).where(
            jobs.c.kind == "train", jobs.c.parent_job_id.is_not(None)
        )
    )
    parents = {row.id: row.parent_job_id for row in rows}
    found: set[int] = set()
    for job_id in connection.execute(
        sa.select(jobs.c.id).where(jobs.c.kind == "train", jobs.c.finished_at.is_(None))
    ).scalars():
        while job_id in parents and parents[job_id] not in found:
            job_id = parents[job_id]
            found.add(job_id)
    return found


def training_is_open(engine: sa.Engine) -> bool:
    """Whether any training job may be running."""
    with database.reading(engine) as connection:
        return bool(
            connection.execute(
                sa.select(
                    sa.exists().where(
                        jobs.c.kind == "train",
                        jobs.c.state == "running",
                        jobs.c.finished_at.is_(None),
                    )
                )
            ).scalar_one()
        )
