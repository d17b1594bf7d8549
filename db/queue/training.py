"""What a training job leaves behind: the dataset it read and its epochs."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from db.base import database
from db.base.schema import datasets, epochs
from db.base.schema import jobs as jobs_table
from db.base.types import now
from db.queue import leases
from db.queue.leases import Lease


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
    leases.fence(connection, lease)
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
    leases.fence(connection, lease)
    row = {name: value for name, value in row.items() if name in epochs.c}
    connection.execute(
        sa.delete(epochs).where(epochs.c.job_id == lease.job_id, epochs.c.epoch >= row["epoch"])
    )
    connection.execute(sa.insert(epochs).values(job_id=lease.job_id, finished_at=now(), **row))


def record_progress(connection: sa.Connection, lease: Lease, progress: Mapping[str, Any]) -> None:
    """Keep how far the current epoch is, over what was kept before. Fenced."""
    leases.fence(connection, lease)
    connection.execute(
        sa.update(jobs_table).where(jobs_table.c.id == lease.job_id).values(progress=dict(progress))
    )


def record_checkpoint(connection: sa.Connection, lease: Lease) -> None:
    """A job got further than any attempt before: those that ended early count no more. Fenced.

    However often its worker is killed, a job is given up only when it makes no progress.
    """
    leases.fence(connection, lease)
    connection.execute(
        sa.update(jobs_table).where(jobs_table.c.id == lease.job_id).values(attempts=1)
    )


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


def manifest(engine: sa.Engine, dataset_id: int) -> tuple[str, str] | None:
    """The folder of a dataset and its manifest, a CSV: path, label, patient, sha256, split.

    None where it is not known any more.
    """
    with database.reading(engine) as connection:
        row = connection.execute(
            sa.select(datasets.c.root, datasets.c.manifest).where(datasets.c.id == dataset_id)
        ).one_or_none()
    if row is None or not row.manifest:
        return None
    return row.root, zlib.decompress(row.manifest).decode("utf-8")
