"""Drift: whether a scoring job's scores are spread as its model's reference says they should be.

Only counts are looked at: predictions per twentieth of probability, and how many films are unlike
the training films. What is found is written down and told; nothing is ever decided by it. (What a
difference means it cannot know: another scanner, a broken export, or an archive of another ward.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import sqlalchemy as sa

from db.base import database, outbox
from db.base.errors import Conflict, NotFound
from db.base.schema import drift, jobs, model_events, models, rollups, shards
from db.base.types import now

#: Buckets of probability, as in rollups.
BUCKETS = 20

#: Fewer predictions than this are no ground for a warning, nor a measure for other jobs.
LEAST = 50

#: The 0.999 quantile of chi-square with BUCKETS - 1 = 19 degrees of freedom (NIST/SEMATECH
#: e-Handbook, 1.3.6.7.4).
CHI_SQUARE = 43.820

#: A difference that chance explains less often than this is no chance, of those that are tested.
SURE = 0.001

#: Smaller differences do not matter, however sure they are: of the PSI (below 0.1 is called no
#: change and above 0.25 a large one: Siddiqi, Credit Risk Scorecards, 2006), of the KS distance,
#: and of the share of unusual films.
LEAST_PSI, LEAST_KS, LEAST_UNUSUAL = 0.2, 0.1, 0.02

#: Jobs that were measured, as `of_model` gives them.
LATEST = 10

#: Parts of `models.reference` that say how scores are spread, and since when.
_MEASURE = ("of", "n", "histogram", "unusual")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What is compared: of a job, or of a reference."""

    #: Predictions in each bucket.
    histogram: Sequence[int]
    #: How many are unlike the training films; None where the model cannot tell.
    unusual: int | None

    @property
    def n(self) -> int:
        """Predictions."""
        return sum(self.histogram)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """How far a job's counts are from the reference's."""

    psi: float
    #: What chance alone exceeds once in 1000 at these numbers.
    psi_limit: float
    #: Distance of the distributions over the buckets, 0 to 1: never more than that of the scores.
    ks: float
    #: Its asymptotic p-value: never less than that of the scores.
    ks_p: float
    #: p-value of the two shares of unusual films being equal; None where one is not known.
    unusual_p: float | None
    #: Whether chance and habit do not explain it.
    warned: bool


def compare(found: Counts, reference: Counts) -> Compared:
    """Hold a job's counts against the reference's; both have at least one prediction."""
    n, m = found.n, reference.n
    psi = population_stability(found.histogram, reference.histogram)
    psi_limit = CHI_SQUARE * (1 / n + 1 / m)
    ks = distance(found.histogram, reference.histogram)
    ks_p = kolmogorov(ks * math.sqrt(n * m / (n + m)))
    unusual_p, more = None, 0.0
    if found.unusual is not None and reference.unusual is not None:
        unusual_p = same_share(found.unusual, n, reference.unusual, m)
        more = found.unusual / n - reference.unusual / m
    moved = psi >= LEAST_PSI and psi > psi_limit
    apart = ks >= LEAST_KS and ks_p < SURE
    stranger = unusual_p is not None and more >= LEAST_UNUSUAL and unusual_p < SURE
    return Compared(
        psi=psi,
        psi_limit=psi_limit,
        ks=ks,
        ks_p=ks_p,
        unusual_p=unusual_p,
        warned=n >= LEAST and (moved or apart or stranger),
    )


def population_stability(found: Sequence[int], reference: Sequence[int]) -> float:
    """Population stability index: the sum of (p - q) ln(p / q) over the buckets.

    Half a film is added to each bucket on both sides (Jeffreys' prior; Krichevsky and Trofimov,
    IEEE Trans. Inf. Theory 27, 1981), so that an empty one does not make it infinite. Where both
    are drawn from the same scores it is about chi-square / n + chi-square / m with a degree of
    freedom less than there are buckets (Yurdakul, Statistical properties of population stability
    index, Western Michigan University, 2018); where most buckets are nearly empty it is less.
    """
    n, m = (sum(counts) + len(counts) / 2 for counts in (found, reference))
    shares = (((a + 0.5) / n, (b + 0.5) / m) for a, b in zip(found, reference, strict=True))
    return sum((p - q) * math.log(p / q) for p, q in shares)


def distance(found: Sequence[int], reference: Sequence[int]) -> float:
    """Kolmogorov-Smirnov distance of the two distributions, looked at between buckets only."""
    n, m = sum(found), sum(reference)
    return max(
        abs(a / n - b / m)
        for a, b in zip(accumulate(found), accumulate(reference), strict=True)
    )  # fmt: skip


def kolmogorov(x: float) -> float:
    """Chance that Kolmogorov's statistic is at least `x`: its limit for many films.

    By the series that converges fast there: Kolmogorov's, or its theta transform for a small `x`.
    """
    if x < 0.2:
        return 1.0
    if x < 1.0:
        terms = (math.exp(-(((2 * k - 1) * math.pi / x) ** 2) / 8) for k in range(1, 6))
        return 1 - math.sqrt(2 * math.pi) / x * sum(terms)
    signs = (1.0, -1.0, 1.0, -1.0, 1.0)
    return 2 * sum(s * math.exp(-2 * (k * x) ** 2) for k, s in enumerate(signs, 1))


def same_share(a: int, n: int, b: int, m: int) -> float:
    """p-value, two-sided, of `a` of `n` and `b` of `m` being the same share.

    Twice the smaller tail of Fisher's exact test: few films are unusual, and the normal
    approximation takes too little for certain there.
    """
    if a * m < b * n:
        a, n, b, m = b, m, a, n
    total = a + b
    term = math.exp(_log_choose(n, a) + _log_choose(m, b) - _log_choose(n + m, total))
    tail = term
    for k in range(a, min(n, total)):
        term *= (n - k) * (total - k) / ((k + 1) * (m - total + k + 1))
        tail += term
        if term < tail * 1e-12:
            break
    return min(1.0, 2 * tail)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def record(connection: sa.Connection, job_id: int) -> str | None:
    """Measure a scoring job that has just ended, and tell the hooks where it warns.

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
    found = _counted(connection, job_id, tells=measure.unusual is not None)
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

    What the validation films say is kept, so that it can be gone back to. Raises Conflict where the
    job cannot be a measure.
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
    found = _counted(connection, job_id, tells=model.ood_threshold is not None)
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
    instead = f" instead of {before['of']}" if before and before["of"] != measure["of"] else ""
    connection.execute(
        sa.insert(model_events).values(
            model_id=model.id,
            at=now(),
            who=who,
            event="reference",
            detail=f"drift is measured against {measure['of']}{instead}",
        )
    )
    return measure


def _counts_of(reference: Mapping[str, Any] | None) -> Counts | None:
    """A reference's counts; None where it has none (or of other buckets than these)."""
    histogram = (reference or {}).get("histogram") or ()
    if len(histogram) != BUCKETS or not sum(histogram):
        return None
    assert reference is not None
    return Counts(histogram=histogram, unusual=reference.get("unusual"))


def _counted(connection: sa.Connection, job_id: int, *, tells: bool) -> Counts:
    """A job's counts; `tells` says whether its model knows what is unusual."""
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
    return Counts(histogram=histogram, unusual=int(unusual) if tells else None)


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
