"""What a training job leaves behind belongs to the worker that holds it."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
import sqlalchemy as sa

from db.base.database import reading, write
from db.base.errors import LeaseLost
from db.base.schema import EPOCH_MEASURES, datasets
from db.queue import jobs, leases, training
from db.queue.leases import Lease
from db.work import claims, endings
from tests.db import given


def _held(database: sa.Engine, lease_s: float = given.LEASE_S) -> Lease:
    given.queued(database, "train")
    found = write(database, lambda c: claims.claim_job(c, "train", "worker", lease_s))
    assert found is not None
    return found.lease


def _epoch(epoch: int, **changes: Any) -> dict[str, Any]:
    values = {
        "epoch": epoch, "train_loss": 0.5, "train_accuracy": 0.8, "train_auroc": 0.9,
        "val_loss": 0.4, "val_accuracy": 0.85, "val_auroc": 0.95, "learning_rate": 0.001,
        "seconds": 12.5, "films_per_s": 400.0, "best": True,
    }  # fmt: skip
    return values | changes


def _dataset(database: sa.Engine, lease: Lease, digest: str = "a" * 64) -> int:
    return write(
        database,
        lambda c: training.record_dataset(
            c, lease, digest=digest, root="/films", n_train=8, n_val=2, n_patients=10,
            classes={"NORMAL": 5, "PNEUMONIA": 5}, notes=["patients from file names"],
            manifest_csv="path\nümlaut.jpg\n",
        ),
    )  # fmt: skip


def test_a_dataset_is_kept_once_and_noted_at_each_job(database: sa.Engine) -> None:
    first, second = _held(database), _held(database)

    assert _dataset(database, first) == _dataset(database, second)

    row = given.one(database, datasets)
    assert zlib.decompress(row.manifest).decode() == "path\nümlaut.jpg\n"
    assert row.classes == {"NORMAL": 5, "PNEUMONIA": 5}
    for lease in (first, second):
        assert jobs.get(database, lease.job_id)["dataset_id"] == row.id


def test_two_jobs_that_read_the_same_dataset_at_the_same_time_share_it(
    database: sa.Engine,
) -> None:
    for n in range(5):
        held = [_held(database) for _ in range(3)]
        digest = f"{n:064d}"
        ids = given.together(*[lambda x=x, d=digest: _dataset(database, x, d) for x in held])
        assert len(set(ids)) == 1, ids


def test_an_attempt_that_starts_over_replaces_the_epochs_after_it(database: sa.Engine) -> None:
    lease = _held(database)
    for n in (1, 2, 3):
        write(database, lambda c, n=n: training.record_epoch(c, lease, _epoch(n)))  # type: ignore[misc]

    write(database, lambda c: training.record_epoch(c, lease, _epoch(2, val_loss=0.1, best=False)))

    rows = training.epoch_rows(database, lease.job_id)
    assert [(row["epoch"], row["val_loss"], row["best"]) for row in rows] == [
        (1, 0.4, True),
        (2, 0.1, False),
    ]
    assert training.epoch_rows(database, lease.job_id, after=1) == rows[1:]


def test_a_trainer_that_lost_its_lease_writes_nothing(database: sa.Engine) -> None:
    late = _held(database, given.EXPIRED_S)
    assert (
        write(database, lambda c: claims.claim_job(c, "train", "other", given.LEASE_S)) is not None
    )

    for work in (
        lambda c: training.record_epoch(c, late, _epoch(1)),
        lambda c: endings.complete_training(c, late, 1),
    ):
        with pytest.raises(LeaseLost):
            write(database, work)
    with pytest.raises(LeaseLost):
        _dataset(database, late)

    assert training.epoch_rows(database, late.job_id) == []
    assert given.count(database, datasets) == 0
    assert jobs.get(database, late.job_id)["state"] == "running"


def test_an_epoch_keeps_every_figure_and_the_view_shows_it(database: sa.Engine) -> None:
    lease = _held(database)
    figures = {name: n / 64 for n, name in enumerate(EPOCH_MEASURES)}
    figures["shift_auroc"] = 0.875
    row = _epoch(1, **figures, epochs=5, lr=0.001, val_metrics={"auroc": 0.9})
    write(database, lambda c: training.record_epoch(c, lease, row))
    write(database, lambda c: training.record_epoch(c, lease, _epoch(2)))
    with reading(database) as connection:
        found = connection.execute(sa.text("SELECT * FROM v_epochs ORDER BY epoch")).mappings()
        first, second = found.all()
    assert {name: first[name] for name in figures} == figures
    assert (second["val_auprc"], second["shift_auroc"]) == (None, None), "not all can be had"


def test_a_job_that_gets_further_each_time_is_not_given_up(database: sa.Engine) -> None:
    job_id = _held(database, lease_s=-1).job_id
    for _ in range(2 * claims.MAX_ATTEMPTS["train"]):
        found = write(database, lambda c: claims.claim_job(c, "train", "worker", 60))
        assert found is not None
        lease = found.lease
        write(database, lambda c, lease=lease: training.record_checkpoint(c, lease))  # type: ignore[misc]
        write(database, lambda c, lease=lease: leases.renew(c, lease, -1))  # type: ignore[misc]
    assert jobs.get(database, job_id)["attempts"] == 1
    with pytest.raises(LeaseLost):
        write(database, lambda c: training.record_checkpoint(c, Lease(
            job_id=job_id, token=1, worker_id="late")))  # fmt: skip
