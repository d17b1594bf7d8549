"""Paired: bounds of what one model decides or ranks better than another on the same films.

Patients are the sample: films of one patient say much the same. A share and an AUROC are both a
mean over patients of p - δ q, whose expectation is 0 where δ is the truth; the bounds are those δ
that a score test does not reject, its variance being the sum of squares at δ itself, as in Tango
(Statistics in Medicine 1998) for paired shares, and by patients as in Obuchowski (Biometrics 1997)
for AUROC. Where nothing differs such a sum of squares says nothing about what was not seen: so
there are patients beyond those seen, all of whose films come out as badly as can be, LOST of them,
which is what makes the bound of a count of events that of Poisson's distribution, also of none.
NumPy only; arrays may have leading axes, each row of which is a sample of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Numbers = NDArray[np.int64]

#: A one-sided 95 % bound in standard errors of the normal distribution.
Z = 1.6448536269514722

#: The same of 80 %: how often a model that is equal should pass.
Z_POWER = 0.8416212335729143

#: Patients that count beyond those seen. The upper bound of a Poisson mean of which b events were
#: seen is b + 1 + z √(b + 1) + (z² - 1) / 3, by the Cornish-Fisher expansion of the gamma
#: distribution; so many more events give at least that.
LOST = (Z**2 + 2) / 3


@dataclass(frozen=True, kw_only=True)
class Sums:
    """What a bound needs to know of a sample: sums over its patients, each weight's sum being 1."""

    #: The figure itself.
    value: Floats
    #: Of p², of p q and of q².
    pp: Floats
    pq: Floats
    qq: Floats
    #: The weight of a patient like that of a film taken at random.
    one: Floats
    #: The least and the largest that a figure can be.
    worst: float
    best: float


def bounds(sums: Sums) -> tuple[Floats, Floats]:
    """One-sided 95 % bounds of a figure: at worst, at best.

    Where the sample is that of hardly three patients they are the least and the largest there is.
    """
    low, high = (_bound(sums, end, sign) for end, sign in ((sums.worst, -1), (sums.best, 1)))
    return low, high


def _bound(sums: Sums, end: float, sign: int) -> Floats:
    # (a - δ b)² = z² (Σp² - 2 δ Σpq + δ² Σq²), with the lost patients among them, solved for δ.
    extra, square = LOST * sums.one, LOST * sums.one**2
    a, b = sums.value + extra * end, 1 + extra
    second = b**2 - Z**2 * (sums.qq + square)
    first = a * b - Z**2 * (sums.pq + square * end)
    none = a**2 - Z**2 * (sums.pp + square * end**2)
    root = np.sqrt(np.maximum(first**2 - second * none, 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (first + sign * root) / second
    limited: Floats = np.where(second > 0, np.clip(found, sums.worst, sums.best), end)
    return limited


def of_differences(difference: Floats, films: Floats) -> Sums:
    """The sums of a share's difference.

    `difference` is by patient how many films came out better less how many worse, and `films` how
    many are that patient's, each `[..., patients]`.
    """
    return _shares(difference, films, -1.0)


def of_share(right: Floats, films: Floats) -> Sums:
    """The sums of a share: by patient how many films came out right, of how many."""
    return _shares(right, films, 0.0)


def _shares(of: Floats, films: Floats, worst: float) -> Sums:
    total = films.sum(axis=-1, keepdims=True)
    p, q = of / total, films / total
    qq = (q * q).sum(axis=-1)
    return Sums(
        value=p.sum(axis=-1), pp=(p * p).sum(axis=-1), pq=(p * q).sum(axis=-1), qq=qq, one=qq,
        worst=worst, best=1.0,
    )  # fmt: skip


def of_placements(
    sick: Floats, well: Floats, sick_owner: Numbers, well_owner: Numbers, *, difference: bool
) -> Sums:
    """The sums of an AUROC, or of the difference of two.

    `sick` are the positives' placements `[..., positives]` and `well` the negatives', or their
    differences; the owners are numbers of patients from 0, who may have films of both.
    """
    n = int(max(sick_owner.max(), well_owner.max())) + 1
    p = _by(sick, sick_owner, n) / len(sick_owner) + _by(well, well_owner, n) / len(well_owner)
    parts = [np.bincount(o, minlength=n) / len(o) for o in (sick_owner, well_owner)]
    q = parts[0] + parts[1]
    rows = p.shape[:-1]
    return Sums(
        value=sick.mean(axis=-1),
        pp=(p * p).sum(axis=-1),
        pq=(p * q).sum(axis=-1),
        qq=np.broadcast_to((q * q).sum(), rows),
        # Of the class that has fewer patients one weighs more.
        one=np.broadcast_to(max(float((part**2).sum()) for part in parts), rows),
        worst=-1.0 if difference else 0.0,
        best=1.0,
    )


def _by(values: Floats, owner: Numbers, n: int) -> Floats:
    """Sums by patient, `[..., n]`."""
    rows = values.reshape(-1, values.shape[-1])
    at = owner + n * np.arange(len(rows))[:, None]
    summed = np.bincount(at.ravel(), weights=rows.ravel(), minlength=n * len(rows))
    found: Floats = summed.astype(np.float64).reshape(*values.shape[:-1], n)
    return found


def placements(score: Floats, truth: Flags) -> tuple[Floats, Floats]:
    """Of each positive the share of negatives below it, of each negative that of positives above.

    Both have the AUROC as their mean (DeLong, DeLong and Clarke-Pearson 1988); ties count half.
    """
    sick, well = np.sort(score[truth]), np.sort(score[~truth])

    def below(values: Floats, among: Floats) -> Floats:
        left = np.searchsorted(among, values, "left")
        ends: Floats = (left + np.searchsorted(among, values, "right")) / 2
        return ends / len(among)

    return below(score[truth], well), 1 - below(score[~truth], sick)


def enough(sums: Sums, truth: float, null: float) -> float:
    """How many times the films of a sample would decide, of one patient's as many as now.

    With so many, 80 % of models are accepted of which the figure is `truth` and which differ as
    often as these; those of which it is `null` are not. Infinite where no number of films would do.
    """
    if truth <= null:
        return math.inf
    apart = float(sums.pp - 2 * sums.value * sums.pq + sums.value**2 * sums.qq)
    apart += (truth - null) ** 2 * float(sums.qq)
    lost = LOST * float(sums.one) * (null - sums.worst)
    square, z = LOST * (float(sums.one) * (null - sums.worst)) ** 2, Z + Z_POWER

    # All of it is an f-th with f times the films: f d - l >= z sqrt(f v + l'). It holds from one
    # f on, which is looked for by doubling and halving.
    def is_enough(times: float) -> bool:
        return times * (truth - null) - lost >= z * math.sqrt(times * apart + square)

    low, high = 0.0, 1.0
    while not is_enough(high):
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high
