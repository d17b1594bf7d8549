"""What a scoring job was worth, by the labels that were brought in."""

from __future__ import annotations

from typing import Any

import numpy as np
import sqlalchemy as sa

from db.base import database
from db.base.errors import NotFound
from db.base.schema import (
    evaluations,
    jobs,
    labels,
    models,
    predictions,
)
from db.base.types import now
from db.queue import jobs as job_rows
from db.registry import measures

#: Rows of an answer that are fetched at a time.
FETCH = 50_000


def split(job_id: int) -> str:
    """`evaluations.split` of a job that was measured on imported labels."""
    return f"labels of job {job_id}"


def metrics(engine: sa.Engine, job_id: int) -> dict[str, Any]:
    """Measure a job on its labelled predictions, and keep that as its evaluation.

    `auroc`, `auprc`, `accuracy`, `sensitivity`, `specificity`, `ppv`, `npv`, `ece`, each None where
    the films do not allow it; `positives` and `negatives` by truth; `n_films` in both; `unlabelled`
    predictions; `not_predicted` labels. The decision is the label as stored, by the operating
    threshold. Raises NotFound without a labelled prediction.
    """
    with database.reading(engine) as connection:
        measured = _measure(connection, job_id)
    values = {k: v for k, v in measured.items() if k not in ("n_films", "model_id")}

    def keep(connection: sa.Connection) -> None:
        job_rows.locked(connection, job_id)
        connection.execute(
            sa.delete(evaluations).where(
                evaluations.c.job_id == job_id, evaluations.c.split == split(job_id)
            )
        )
        connection.execute(
            sa.insert(evaluations).values(
                model_id=measured["model_id"],
                job_id=job_id,
                split=split(job_id),
                n_films=measured["n_films"],
                metrics=values,
                created_at=now(),
            )
        )

    database.write(engine, keep)
    return {"n_films": measured["n_films"], **values}


def _measure(connection: sa.Connection, job_id: int) -> dict[str, Any]:
    job = connection.execute(
        sa.select(models.c.id, models.c.positive)
        .join_from(jobs, models, models.c.id == jobs.c.model_id)
        .where(jobs.c.id == job_id, jobs.c.kind == "score")
    ).one_or_none()
    if job is None:
        raise NotFound(f"there is no scoring job {job_id}; `pneumoq jobs ls` lists them")
    scored, labelled, both = (
        int(connection.execute(select).scalar_one())
        for select in (
            sa.select(sa.func.count()).where(predictions.c.job_id == job_id),
            sa.select(sa.func.count()).where(labels.c.job_id == job_id),
            sa.select(sa.func.count())
            .select_from(labels)
            .join(
                predictions,
                sa.and_(
                    predictions.c.job_id == labels.c.job_id,
                    predictions.c.item_no == labels.c.item_no,
                ),
            )
            .where(labels.c.job_id == job_id),
        )
    )
    if not both:
        raise NotFound(
            f"no prediction of job {job_id} has a label; `pneumoq labels import` brings them in"
        )
    score = np.empty(both, np.float64)
    truth, called = np.empty(both, np.bool_), np.empty(both, np.bool_)
    rows = connection.execution_options(yield_per=FETCH).execute(
        sa.text("SELECT probability, truth, label FROM v_labelled WHERE job_id = :job"),
        {"job": job_id},
    )
    start = 0
    for part in rows.partitions():
        end = start + len(part)
        score[start:end] = [row[0] for row in part]
        truth[start:end] = [row[1] == job.positive for row in part]
        called[start:end] = [row[2] == job.positive for row in part]
        start = end
    return {
        "model_id": job.id,
        "n_films": both,
        **measures.summary(score, truth, called),
        "unlabelled": scored - both,
        "not_predicted": labelled - both,
    }


def stored(engine: sa.Engine, job_id: int) -> sa.RowMapping | None:
    """The evaluation that `metrics` kept of a job: `n_films`, `metrics`, `created_at`; or None."""
    with database.reading(engine) as connection:
        return (
            connection.execute(
                sa.select(evaluations).where(
                    evaluations.c.job_id == job_id, evaluations.c.split == split(job_id)
                )
            )
            .mappings()
            .first()
        )
