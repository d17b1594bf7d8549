"""Jobs and models as workers leave them, written by the same functions that workers call."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from db.base import database, workers
from db.base.schema import datasets
from db.base.schema import models as models_table
from db.base.types import now
from db.queue import jobs, listings, results, training
from db.queue.leases import Lease, Shard
from db.queue.results import NotPredicted, Outcome, Prediction
from db.registry import models
from db.registry.models import NewModel
from db.work import claims, endings

LEASE_S = 60.0
WORKER = "w1"


#: What a model's card says of dressed films.
SHIFT: dict[str, Any] = {
    "version": 1, "seed": 0, "positive": "PNEUMONIA", "negative": "NORMAL", "threshold": 0.4,
    "films": 90, "positives": 50, "patients": 60, "held_out": 90, "patients_are": "known",
    "plain": {"value": 0.99, "low": 0.98, "high": 1.0},
    "groups": [
        {"group": 1, "look": "mark", "what": "the same mark at the upper left",
         "label": "PNEUMONIA", "films": 70, "patients": 60, "donors": 50},
    ],
    "notes": [],
    "dressings": [
        {"name": "group 1", "kind": "unit", "group": 1, "dressed": "negative", "unseen": False,
         "films": 40, "patients": 30, "auroc": {"value": 0.91, "low": 0.88, "high": 0.94},
         "mean_p": {"negative": {"before": 0.05, "after": 0.3}},
         "flips": {"value": 0.25, "low": 0.15, "high": 0.35}},
    ],
    "worst": {"name": "group 1", "auroc": 0.91, "low": 0.88, "high": 0.94},
}  # fmt: skip


def made_with(engine: sa.Engine, model_id: int, films: Iterable[tuple[Path, str, str]]) -> None:
    """Let a model be made with these files: each one's split and patient."""
    lines = [
        f"{path.name},{hashlib.sha256(path.read_bytes()).hexdigest()},NORMAL,{patient},{split}\n"
        for path, split, patient in films
    ]
    with database.writing(engine) as connection:
        dataset_id = connection.execute(
            sa.insert(datasets)
            .values(
                hash=f"{model_id:064}", root="/films", n_train=len(lines), n_val=0,
                n_patients=len(lines), classes={}, notes=[], created_at=now(),
                manifest=zlib.compress(
                    "".join(("path,sha256,label,patient,split\n", *lines)).encode()
                ),
            )
            .returning(datasets.c.id)
        ).scalar_one()  # fmt: skip
        connection.execute(
            sa.update(models_table)
            .where(models_table.c.id == model_id)
            .values(dataset_id=dataset_id)
        )


def a_model(engine: sa.Engine, folder: Path, name: str = "first", **values: Any) -> int:
    """A registered model; its file holds no network, for nothing here runs it."""
    file = folder / f"{name}.onnx"
    file.write_bytes(name.encode() * 100)
    fields: dict[str, Any] = {
        "name": name,
        "origin": "trained",
        "arch": "resnet18",
        "labels": ["NORMAL", "PNEUMONIA"],
        "positive": "PNEUMONIA",
        "size": 224,
        "film_rule": "film-1",
        "temperature": 1.5,
        "threshold": 0.4,
        "threshold_rule": "youden on validation",
        "ood_threshold": 2.0,
        "metrics": {"auroc": 0.9712},
        "card": {"labels": ["NORMAL", "PNEUMONIA"]},
        "files": {"fp32": file},
        "evaluations": {"validation": {"auroc": 0.9712, "n_films": 40}},
    }
    new = NewModel(**(fields | values))
    return database.write(engine, lambda c: models.register(c, new, "tester@here"))


def a_queued_job(engine: sa.Engine, kind: str = "score", **values: Any) -> int:
    """A job that nobody has claimed yet."""
    return database.write(
        engine,
        lambda c: jobs.submit(c, kind=kind, spec={}, submitted_by="tester@here", **values),
    )


def a_planned_job(engine: sa.Engine, model_id: int, *shard_sizes: int) -> int:
    """A scoring job whose listing is complete and whose shards wait."""
    job_id = a_queued_job(
        engine,
        model_id=model_id,
        source_rows=[{"uri": "/films/chest.zip", "kind": "zip", "fingerprint": "1:2:3"}],
    )
    plan(engine, *shard_sizes)
    return job_id


def predicted(engine: sa.Engine, folder: Path, names: Sequence[str]) -> int:
    """A job with a prediction of each of these names, which are all called normal."""
    number = a_planned_job(engine, a_model(engine, folder), len(names))

    def work(connection: sa.Connection) -> None:
        shard = claims.claim_shard(connection, WORKER, LEASE_S)
        assert shard is not None
        outcomes = [Prediction(n, name, 0, 0.1, False) for n, name in enumerate(names)]
        results.commit(connection, shard, outcomes)

    database.write(engine, work)
    return number


def plan(engine: sa.Engine, *shard_sizes: int) -> None:
    """List the next job's items, as a planner does."""

    def work(connection: sa.Connection) -> None:
        claimed = claims.claim_job(connection, "score", WORKER, LEASE_S)
        assert claimed is not None
        new = [listings.NewShard(source_no=0, n_items=n, listing=b"") for n in shard_sizes]
        listings.add(connection, claimed.lease, new)
        listings.complete(connection, claimed.lease, {"folder": 1})

    database.write(engine, work)


def do_shard(
    engine: sa.Engine,
    *,
    broken: int = 0,
    refused: int = 0,
    code: str = "lateral",
    reused_from: tuple[int, int] | None = None,
) -> None:
    """Claim the next shard and commit it: first its broken items, then those that are refused for
    what `code` says, then positives."""

    def outcome(shard: Shard, n: int) -> Outcome:
        item_no = shard.first_item + n
        name = f"film {item_no}.jpeg"
        if n < broken:
            return NotPredicted(
                item_no=item_no, name=name, code="truncated", detail="ends after 12 bytes"
            )
        if n < broken + refused:
            return NotPredicted(
                item_no=item_no, name=name, code=code, detail="a side view", refused=True
            )
        return Prediction(
            item_no=item_no, name=name, label_no=1, probability=0.75, positive=True, ood=1.0,
            reused_from=reused_from,
        )  # fmt: skip

    def work(connection: sa.Connection) -> None:
        shard = claims.claim_shard(connection, WORKER, LEASE_S)
        assert shard is not None
        results.commit(connection, shard, [outcome(shard, n) for n in range(shard.n_items)])
        endings.close_if_done(connection, shard.job_id, WORKER)

    database.write(engine, work)


def a_scored_job(engine: sa.Engine, model_id: int, *, broken: int = 0, refused: int = 0) -> int:
    """A job of ten films that has ended."""
    job_id = a_planned_job(engine, model_id, 10)
    do_shard(engine, broken=broken, refused=refused)
    return job_id


def a_claimed_training(engine: sa.Engine, epochs: int = 3) -> Lease:
    """A training job that a worker has begun."""

    def work(connection: sa.Connection) -> Lease:
        jobs.submit(connection, kind="train", spec={"epochs": epochs}, submitted_by="tester@here")
        claimed = claims.claim_job(connection, "train", WORKER, LEASE_S)
        assert claimed is not None
        return claimed.lease

    return database.write(engine, work)


def do_epoch(
    engine: sa.Engine, lease: Lease, epoch: int, *, val_auroc: float, best: bool, **values: float
) -> None:
    """Record one epoch."""
    row = {
        "epoch": epoch,
        "train_loss": 0.5 / epoch,
        "train_accuracy": 0.8,
        "train_auroc": 0.85,
        "val_loss": 0.4,
        "val_accuracy": 0.9,
        "val_auroc": val_auroc,
        "learning_rate": 1e-4,
        "seconds": 12.0,
        "films_per_s": 345.0,
        "best": best,
        **values,
    }
    database.write(engine, lambda c: training.record_epoch(c, lease, row))


def a_trained_job(engine: sa.Engine, folder: Path, name: str = "trained") -> int:
    """A training job that made a model."""
    lease = a_claimed_training(engine)
    for epoch, auroc in enumerate((0.9, 0.97, 0.95), start=1):
        do_epoch(engine, lease, epoch, val_auroc=auroc, best=epoch < 3)
    model_id = a_model(engine, folder, name, job_id=lease.job_id)
    database.write(engine, lambda c: endings.complete_training(c, lease, model_id))
    return lease.job_id


def a_worker(
    engine: sa.Engine,
    queues: str,
    name: str = WORKER,
    *,
    host: str = "gpu1",
    computes: str = "openvino",
    engines: str = "auto,onnx",
    health: dict[str, Any] | None = None,
) -> None:
    """A worker process that has just said hello."""
    database.write(
        engine,
        lambda c: workers.register(
            c, name, host=host, pid=4321, queues=queues, engine=computes,
            versions={"engines": engines}, health=health,
        ),
    )  # fmt: skip
