"""Nights: what a scheduled training job knows of those before it, and what it leaves for the next.

A film is known by its content throughout: files may be moved and renamed between two nights.
"""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa

from db.base import database
from db.base.schema import datasets, runs, schedules
from db.base.schema import jobs as jobs_table
from db.base.schema import models as models_table
from db.base.types import now
from db.queue import leases
from db.queue.leases import Lease


class Kept(NamedTuple):
    """A film in the manifest of a dataset."""

    sha256: str
    label: str
    patient: str
    split: str
    #: As it is kept.
    path: str


def last_decided(engine: sa.Engine, schedule_id: int) -> sa.RowMapping | None:
    """The newest run of a schedule that came to promote or keep, with what it had looked at.

    Not one whose training was given up at the end of its night: that decided nothing.
    """
    select = (
        sa.select(runs)
        .outerjoin(jobs_table, jobs_table.c.id == runs.c.job_id)
        .where(
            runs.c.schedule_id == schedule_id,
            runs.c.outcome.in_(("promoted", "kept")),
            runs.c.snapshot.is_not(None),
            sa.or_(jobs_table.c.state.is_(None), jobs_table.c.state != "cancelled"),
        )
        .order_by(runs.c.id.desc())
        .limit(1)
    )
    with database.reading(engine) as connection:
        return connection.execute(select).mappings().first()


def last_trained(engine: sa.Engine, schedule_id: int) -> int | None:
    """The dataset that changes are counted from: of a schedule's newest run that made a model."""
    select = (
        sa.select(jobs_table.c.dataset_id)
        .join(runs, runs.c.job_id == jobs_table.c.id)
        .where(
            runs.c.schedule_id == schedule_id,
            runs.c.candidate_id.is_not(None),
            jobs_table.c.dataset_id.is_not(None),
        )
        .order_by(runs.c.id.desc())
        .limit(1)
    )
    with database.reading(engine) as connection:
        return connection.execute(select).scalar()


def learned(
    engine: sa.Engine,
    model_ids: Iterable[int],
    schedule_id: int,
    splits: Collection[str] = ("train",),
) -> Iterator[Kept]:
    """The films of these splits that these models, and those that they began from, were made with.

    Models that this schedule made are skipped once it has frozen films, on none of which, nor
    on others of their patients, it has trained: a chain of years is read in a moment.
    """
    chain = _line(model_ids)
    frozen = sa.select(schedules.c.evaluation_id).where(schedules.c.id == schedule_id)
    select = (
        sa.select(models_table.c.dataset_id, jobs_table.c.schedule_id)
        .join(chain, chain.c.id == models_table.c.id)
        .outerjoin(jobs_table, jobs_table.c.id == models_table.c.job_id)
        .where(models_table.c.dataset_id.is_not(None))
    )
    with database.reading(engine) as connection:
        is_frozen = connection.execute(frozen).scalar() is not None
        read = {
            row.dataset_id
            for row in connection.execute(select)
            if not (is_frozen and row.schedule_id == schedule_id)
        }
    for number in sorted(read):
        yield from (film for film in films(engine, number) if film.split in splits)


def from_elsewhere(engine: sa.Engine, model_id: int) -> bool:
    """Whether a model, or one that it began from, was not trained here: what that has learned is
    not known."""
    chain = _line([model_id])
    select = (
        sa.select(models_table.c.id)
        .join(chain, chain.c.id == models_table.c.id)
        .where(models_table.c.dataset_id.is_(None), models_table.c.parent_id.is_(None))
    )
    with database.reading(engine) as connection:
        return connection.execute(select).first() is not None


def _line(model_ids: Iterable[int]) -> sa.CTE:
    """These models, and all that they began from."""
    one = sa.select(models_table.c.id, models_table.c.parent_id)
    chain = one.where(models_table.c.id.in_(sorted(set(model_ids)))).cte(recursive=True)
    return chain.union(one.join(chain, chain.c.parent_id == models_table.c.id))


def dataset_of_model(engine: sa.Engine, model_id: int) -> int | None:
    """The dataset that a model was trained on here; None where it was not."""
    select = sa.select(models_table.c.dataset_id).where(models_table.c.id == model_id)
    with database.reading(engine) as connection:
        return connection.execute(select).scalar()


def films(engine: sa.Engine, dataset_id: int) -> list[Kept]:
    """The films of a dataset, by its manifest."""
    rows = csv.DictReader(io.StringIO(manifest(engine, dataset_id), newline=""))
    return [
        Kept(row["sha256"], row["label"], row["patient"], row["split"], row["path"]) for row in rows
    ]


def manifest(engine: sa.Engine, dataset_id: int) -> str:
    """A dataset's manifest, a CSV."""
    select = sa.select(datasets.c.manifest).where(datasets.c.id == dataset_id)
    with database.reading(engine) as connection:
        data = connection.execute(select).scalar_one()
    return zlib.decompress(bytes(data)).decode("utf-8", "surrogateescape")


def freeze(
    connection: sa.Connection,
    lease: Lease,
    run_id: int,
    *,
    digest: str,
    root: str,
    films: int,
    patients: int,
    classes: Mapping[str, int],
    manifest_csv: str,
) -> int:
    """Keep the films that a schedule's models are compared on, once and for all. Fenced.

    Of two workers that freeze at the same moment, the first one's films stay; both drew the same.
    """
    schedule_id = connection.execute(
        sa.select(runs.c.schedule_id).where(runs.c.id == run_id)
    ).scalar()
    connection.execute(
        sa.select(schedules.c.id)
        .where(schedules.c.id == schedule_id)
        .with_for_update(key_share=True)
    )
    leases.fence(connection, lease)
    dataset_id, _ = database.find_or_insert(
        connection,
        sa.select(datasets.c.id).where(datasets.c.hash == digest),
        sa.insert(datasets)
        .values(
            hash=digest,
            root=root,
            n_train=0,
            n_val=films,
            n_patients=patients,
            classes=dict(classes),
            notes=["Frozen: models are compared on these films, and not trained on them."],
            manifest=zlib.compress(manifest_csv.encode("utf-8", "surrogateescape")),
            created_at=now(),
        )
        .returning(datasets.c.id),
    )
    connection.execute(
        sa.update(schedules)
        .where(schedules.c.id == schedule_id, schedules.c.evaluation_id.is_(None))
        .values(evaluation_id=dataset_id)
    )
    return dataset_id


def note(connection: sa.Connection, lease: Lease, run_id: int, **columns: Any) -> None:
    """Write columns of the run that a training job is for. Fenced by the job's lease."""
    leases.fence(connection, lease)
    connection.execute(
        sa.update(runs).where(runs.c.id == run_id, runs.c.finished_at.is_(None)).values(**columns)
    )
