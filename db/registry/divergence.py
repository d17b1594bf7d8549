"""Divergence: how far the scores of a job are spread from those of a reference. No SQL.

Only counts are compared: predictions per twentieth of probability, and how many films are unlike
the training films.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

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


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What is compared: of a job, or of a reference."""

    #: Predictions in each bucket.
    histogram: Sequence[int]
    #: How many are unlike the training films; None where the model has no threshold for that.
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
    """Compare a job's counts with the reference's; both have at least one prediction."""
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
