"""Drift: whether a scoring job's scores are spread as its model's reference says they should be.

`db.registry.divergence` compares the two; what it finds is recorded here, and a warning goes to the
hooks; nothing is ever decided by it. (What a difference means it cannot know: another scanner, a
broken export, or an archive of another ward.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from db.base import database, outbox
from db.base.errors import Conflict, NotFound
from db.base.schema import drift, jobs, models, rollups, shards
from db.base.types import now
from db.registry import events
from db.registry.divergence import BUCKETS, LEAST, SURE, Compared, Counts, compare

#: Jobs that were measured, as `of_model` gives them.
LATEST = 10

#: Parts of `models.reference` that say how scores are spread, and since when.
_MEASURE = ("of", "n", "histogram", "unusual")


def record(connection: sa.Connection, job_id: int) -> str | None:
    """Measure a scoring job that has just ended, and send the hooks a notice where it warns.

    Returns the warning. Nothing is measured where the model has no reference, or the job no
    predictions. The counts are the shards' own, summed up: no prediction is read.
    """
    model = connection.execute(
        sa.select(models.c.id, models.c.reference)
        .join(jobs, jobs.c.model_id == models.c.id)
        .where(jobs.c.id == job_id)
    ).one_or_none()
    measure = None if model is None else _counts_of(model.reference)
    if model is None or measure is None:
        return None
    found = _counted(connection, job_id, ood_known=measure.unusual is not None)
    if not found.n:
        return None
    compared = compare(found, measure)
    of = str(model.reference["of"])
    detail = _sentence(job_id, int(model.id), of, found, measure, compared)
    figures: dict[str, Any] = {
        "reference": of,
        "n": found.n,
        "reference_n": measure.n,
        "psi": compared.psi,
        "psi_limit": compared.psi_limit,
        "ks": compared.ks,
        "ks_p": compared.ks_p,
        "unusual": found.unusual or 0,
        "reference_unusual": measure.unusual,
        "unusual_p": compared.unusual_p,
    }
    connection.execute(
        sa.insert(drift).values(
            job_id=job_id,
            model_id=model.id,
            **figures,
            warned=compared.warned,
            detail=detail,
            measured_at=now(),
        )
    )
    if not compared.warned:
        return None
    outbox.add(
        connection, "drift", job_id=job_id, model_id=int(model.id), text=detail, **figures
    )  # fmt: skip
    return detail


def of_job(engine: sa.Engine, job_id: int) -> dict[str, Any] | None:
    """What was measured of a job, as in the drift table; None where nothing was."""
    with database.reading(engine) as connection:
        row = (
            connection.execute(sa.select(drift).where(drift.c.job_id == job_id)).mappings().first()
        )
    return None if row is None else dict(row)


def of_model(engine: sa.Engine, model_id: int, latest: int = LATEST) -> list[sa.RowMapping]:
    """What was measured of a model's latest jobs, newest first."""
    with database.reading(engine) as connection:
        return list(
            connection.execute(
                sa.select(drift)
                .where(drift.c.model_id == model_id)
                .order_by(drift.c.job_id.desc())
                .limit(latest)
            ).mappings()
        )


def measured_by(reference: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """`of`, `n`, `histogram` and `unusual` of a model's reference; None where it has no measure."""
    if _counts_of(reference) is None:
        return None
    assert reference is not None
    return {name: reference[name] for name in _MEASURE}


def use_job(connection: sa.Connection, model_id: int, job_id: int, who: str) -> dict[str, Any]:
    """Make a scoring job the measure of its model's later jobs; returns the measure.

    The measure of the validation films is kept, so that it can be gone back to. Raises Conflict
    where the job cannot be a measure.
    """
    job = connection.execute(
        sa.select(jobs.c.kind, jobs.c.state, jobs.c.model_id, jobs.c.purged_at)
        .where(jobs.c.id == job_id)
        .with_for_update(read=True)  # nobody purges it meanwhile
    ).one_or_none()
    if job is None:
        raise NotFound(f"there is no job {job_id}; `pneumoq jobs ls` lists them")
    if job.kind != "score":
        raise Conflict(f"job {job_id} is no scoring job: it has no scores")
    if job.model_id != model_id:
        raise Conflict(
            f"job {job_id} was scored by model {job.model_id}, not by model {model_id}: scores of "
            "one model are no measure of another's"
        )
    if job.state not in ("completed", "completed_with_errors"):
        raise Conflict(f"job {job_id} is {job.state}; only a job that completed is a measure")
    if job.purged_at is not None:
        raise Conflict(f"job {job_id} was purged: how its scores are spread is not known any more")
    model = _locked(connection, model_id)
    found = _counted(connection, job_id, ood_known=model.ood_threshold is not None)
    if found.n < LEAST:
        raise Conflict(f"job {job_id} has {found.n} predictions; a measure takes {LEAST} or more")
    return _put(
        connection,
        model,
        {
            "of": f"job {job_id}",
            "n": found.n,
            "histogram": list(found.histogram),
            "unusual": found.unusual,
        },
        who,
    )


def use_validation(connection: sa.Connection, model_id: int, who: str) -> dict[str, Any]:
    """Go back to the validation films as a model's measure; returns the measure.

    Raises Conflict where it has none: it was imported, or made before there were references.
    """
    model = _locked(connection, model_id)
    kept = model.reference or {}
    measure = kept.get("validation") or measured_by(kept)
    if measure is None or measure["of"] != "validation":
        raise Conflict(
            f"model {model_id} came without a measure of its validation films; "
            f"`pneumoq models reference {model_id} --job N` makes a scoring job its measure"
        )
    return _put(connection, model, measure, who)


def _locked(connection: sa.Connection, model_id: int) -> sa.Row[Any]:
    columns = [models.c[name] for name in ("id", "reference", "ood_threshold")]
    row = connection.execute(
        sa.select(*columns)
        .where(models.c.id == model_id)
        .with_for_update(key_share=True)  # jobs may be made and closed meanwhile
    ).one_or_none()
    if row is None:
        raise NotFound(f"there is no model {model_id}; `pneumoq models ls` lists them")
    return row


def _put(
    connection: sa.Connection, model: sa.Row[Any], measure: dict[str, Any], who: str
) -> dict[str, Any]:
    kept = dict(model.reference or {})
    before = measured_by(kept)
    if before is not None and before["of"] == "validation":
        kept["validation"] = before
    connection.execute(
        sa.update(models).where(models.c.id == model.id).values(reference={**kept, **measure})
    )
    replaced = before["of"] if before and before["of"] != measure["of"] else None
    events.log(
        connection, model.id, who, "reference",
        f"drift is measured against {measure['of']}"
        + (f" instead of {replaced}" if replaced else ""),
    )  # fmt: skip
    return measure


def _counts_of(reference: Mapping[str, Any] | None) -> Counts | None:
    """A reference's counts; None where it has none (or of other buckets than these)."""
    histogram = (reference or {}).get("histogram") or ()
    if len(histogram) != BUCKETS or not sum(histogram):
        return None
    assert reference is not None
    return Counts(histogram=histogram, unusual=reference.get("unusual"))


def _counted(connection: sa.Connection, job_id: int, *, ood_known: bool) -> Counts:
    """A job's counts; `ood_known` is whether its model knows what is unusual."""
    histogram = [0] * BUCKETS
    for bucket, n in connection.execute(
        sa.select(rollups.c.bucket, sa.func.sum(rollups.c.n))
        .where(rollups.c.job_id == job_id)
        .group_by(rollups.c.bucket)
    ):
        histogram[bucket] = int(n)
    unusual = connection.execute(
        sa.select(sa.func.coalesce(sa.func.sum(shards.c.n_unusual), 0)).where(
            shards.c.job_id == job_id
        )
    ).scalar_one()
    return Counts(histogram=histogram, unusual=int(unusual) if ood_known else None)


def _sentence(
    job_id: int, model_id: int, of: str, found: Counts, reference: Counts, compared: Compared
) -> str:
    """What was found, with the numbers of films, and what to do about it."""
    theirs = (
        f"{reference.n:,} validation films" if of == "validation" else f"{reference.n:,} of {of}"
    )
    figures = (
        f"PSI {compared.psi:.2f} where chance stays below {compared.psi_limit:.2f}, "
        f"KS distance {compared.ks:.2f} ({_p(compared.ks_p)})"
    )
    if found.unusual is not None and reference.unusual is not None:
        figures += (
            f"; {found.unusual / found.n:.1%} are unlike the training films, of the reference "
            f"{reference.unusual / reference.n:.1%} ({_p(compared.unusual_p)})"
        )
    if not compared.warned:
        few = f"; below {LEAST} films nothing is told from that" if found.n < LEAST else ""
        return f"{found.n:,} films against {theirs}: {figures}{few}"
    return (
        f"these {found.n:,} films are not scored as the {theirs} that model {model_id} is measured "
        f"by: {figures}. Have a look at some, and bring in labels (`pneumoq labels import`) to see "
        "what the model is worth on them; if this is how your archive is, "
        f"`pneumoq models reference {model_id} --job {job_id}` makes it the measure"
    )


def _p(value: float | None) -> str:
    if value is None:
        return "not compared"
    return f"p below {SURE:g}" if value < SURE else f"p {value:.2g}"
