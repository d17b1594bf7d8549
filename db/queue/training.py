"""What a training job leaves behind: the dataset it read and its epochs."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from db.base import database
from db.base.schema import SCORING_JOB_STATES, datasets, epochs
from db.base.schema import jobs as jobs_table
from db.base.types import now
from db.queue import jobs, leases
from db.queue.jobs import Lease


def record_dataset(
    connection: sa.Connection,
    lease: Lease,
    *,
    digest: str,
    root: str,
    n_train: int,
    n_val: int,
    n_patients: int,
    classes: Mapping[str, int],
    notes: Sequence[str],
    manifest_csv: str,
) -> int:
    """Keep the dataset a job reads, once per content, and note it at the job. Fenced."""
    jobs.fence(connection, lease)
    dataset_id, _ = database.find_or_insert(
        connection,
        sa.select(datasets.c.id).where(datasets.c.hash == digest),
        sa.insert(datasets)
        .values(
            hash=digest,
            root=root,
            n_train=n_train,
            n_val=n_val,
            n_patients=n_patients,
            classes=dict(classes),
            notes=list(notes),
            manifest=zlib.compress(manifest_csv.encode("utf-8", "backslashreplace")),
            created_at=now(),
        )
        .returning(datasets.c.id),
    )
    connection.execute(
        sa.update(jobs_table).where(jobs_table.c.id == lease.job_id).values(dataset_id=dataset_id)
    )
    return dataset_id


def record_epoch(connection: sa.Connection, lease: Lease, row: Mapping[str, Any]) -> None:
    """Write one epoch's row, fenced. An attempt that starts over replaces the rows before it.

    `row` may have more than the table has columns.
    """
    jobs.fence(connection, lease)
    row = {name: value for name, value in row.items() if name in epochs.c}
    connection.execute(
        sa.delete(epochs).where(epochs.c.job_id == lease.job_id, epochs.c.epoch >= row["epoch"])
    )
    connection.execute(sa.insert(epochs).values(job_id=lease.job_id, finished_at=now(), **row))


def record_progress(connection: sa.Connection, lease: Lease, progress: Mapping[str, Any]) -> None:
    """Keep how far the current epoch is, over what was kept before. Fenced."""
    jobs.fence(connection, lease)
    connection.execute(
        sa.update(jobs_table).where(jobs_table.c.id == lease.job_id).values(progress=dict(progress))
    )


def record_checkpoint(connection: sa.Connection, lease: Lease) -> None:
    """A job got further than any attempt before: those that ended early count no more. Fenced.

    However often its worker is killed, a job is given up only when it makes no progress.
    """
    jobs.fence(connection, lease)
    connection.execute(
        sa.update(jobs_table).where(jobs_table.c.id == lease.job_id).values(attempts=1)
    )


def urgent(engine: sa.Engine, kinds: Collection[str] | None = None) -> str | None:
    """Why the next training job that is due should wait, or None; `kinds` as of `more_urgent`."""
    with database.reading(engine) as connection:
        next_one = connection.execute(
            jobs.due("train", sa.select(jobs_table.c.priority)).limit(1)
        ).one_or_none()
        return None if next_one is None else more_urgent(connection, next_one.priority, kinds)


def more_urgent(
    connection: sa.Connection, priority: int, kinds: Collection[str] | None = None
) -> str | None:
    """The scoring job to which training of this priority gives way, in words, or None.

    `kinds` are the engines that would score it, as of `leases.first_due`: for a job that asks for
    another, nobody needs to wait here.
    """
    found = connection.execute(
        sa.select(jobs_table.c.id, jobs_table.c.priority)
        .where(
            jobs_table.c.kind == "score",
            jobs_table.c.state.in_(("queued", *SCORING_JOB_STATES)),
            jobs_table.c.priority > priority,
            leases.served(kinds),
        )
        .order_by(jobs_table.c.priority.desc(), jobs_table.c.id)
        .limit(1)
    ).one_or_none()
    if found is None:
        return None
    return f"scoring job {found.id} goes first: its priority is {found.priority}, not {priority}"


def complete(connection: sa.Connection, lease: Lease, model_id: int) -> None:
    """The job made this model: note it and finish the job. Fenced."""
    jobs.fence(connection, lease)
    connection.execute(
        sa.update(jobs_table).where(jobs_table.c.id == lease.job_id).values(model_id=model_id)
    )
    jobs.finish(connection, lease.job_id, "completed", lease.worker_id)


def epoch_rows(engine: sa.Engine, job_id: int, after: int = 0) -> list[sa.RowMapping]:
    """Epochs of a job after the given one, oldest first."""
    with database.reading(engine) as connection:
        return list(
            connection.execute(
                sa.select(epochs)
                .where(epochs.c.job_id == job_id, epochs.c.epoch > after)
                .order_by(epochs.c.epoch)
            ).mappings()
        )
