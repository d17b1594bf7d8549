"""How often intervals by patient hold the true value, and those by film, which take no account.

    python -m tests.bench.judging.clusters [--times 1000]

Patients have films that are more or less alike: of shares by a beta distribution between patients,
of AUROCs by a score that a patient's films have in common. A 95 % interval should cover 95 %.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from tests.bench.parts import report
from trainer.judging import clusters, metrics

Interval = tuple[float, float]


@dataclass(frozen=True)
class Coverage:
    """Shares of simulations."""

    #: In which the interval by patient holds the true value, and the one by film.
    covered: float
    by_film: float
    #: In which the true value is above the interval by patient, and below it.
    above: float
    below: float
    #: Mean width of the interval by patient.
    width: float


def of_shares(
    patients: int, films: int, *, share: float, alike: float, times: int, seed: int = 0
) -> Coverage:
    """Of a share of films, of as many patients with so many films each.

    `alike` is the correlation of two films of a patient, 0 to 1.
    """

    def draw(rng: np.random.Generator) -> tuple[Interval, Interval]:
        if alike == 1:
            chances = (rng.random(patients) < share).astype(np.float64)
        elif alike:
            strength = (1 - alike) / alike
            chances = rng.beta(share * strength, (1 - share) * strength, patients)
        else:
            chances = np.full(patients, share)
        hit = rng.random((patients, films)) < chances[:, None]
        who = np.repeat(np.arange(patients), films).astype(np.int64)
        by_film = metrics.share_interval(float(hit.mean()), hit.size)
        return clusters.share_interval(hit.reshape(-1), who), by_film

    return _simulated(draw, share, times, seed)


def of_aurocs(
    patients: int, films: int, *, area: float, alike: float, times: int, seed: int = 0
) -> Coverage:
    """Of an AUROC of normal scores, of as many patients of each class with so many films each."""
    apart = NormalDist().inv_cdf(area) * math.sqrt(2)

    def draw(rng: np.random.Generator) -> tuple[Interval, Interval]:
        truth = np.repeat(np.arange(2 * patients) % 2 == 1, films)
        common = np.repeat(rng.normal(size=2 * patients), films)
        own = rng.normal(size=truth.size)
        score = math.sqrt(alike) * common + math.sqrt(1 - alike) * own + apart * truth
        who = np.repeat(np.arange(2 * patients), films).astype(np.int64)
        n = patients * films
        by_film = metrics.auroc_interval(metrics.auroc(score, truth), n, n)
        return clusters.auroc_interval(score, truth, who), by_film

    return _simulated(draw, area, times, seed)


def _simulated(
    draw: Callable[[np.random.Generator], tuple[Interval, Interval]],
    true: float,
    times: int,
    seed: int,
) -> Coverage:
    found = np.array([draw(np.random.default_rng((seed, n))) for n in range(times)])
    low, high = found[:, 0].T
    inside = (found[:, :, 0] <= true) & (true <= found[:, :, 1])
    return Coverage(
        covered=float(inside[:, 0].mean()),
        by_film=float(inside[:, 1].mean()),
        above=float((high < true).mean()),
        below=float((low > true).mean()),
        width=float((high - low).mean()),
    )


def main() -> None:
    """Print how often the intervals hold the true value."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=1000)
    times = parser.parse_args().times
    rows = []
    for patients in (20, 50, 150, 400):
        for films in (1, 3, 8):
            for alike in (0.2, 0.8) if films > 1 else (0.0,):
                of = (patients, films)
                cells = [
                    *(of_shares(*of, share=p, alike=alike, times=times) for p in (0.02, 0.1)),
                    *(of_aurocs(*of, area=a, alike=alike, times=times) for a in (0.95, 0.99)),
                ]
                shown = [f"{c.covered:.3f} ({c.by_film:.3f})" for c in cells]
                rows.append([f"{patients} × {films}", f"{alike:.1f}", *shown])
    print("covered by the interval by patient (by film), of 95 %")
    head = ["patients × films", "alike", "share 0.02", "share 0.10", "AUROC 0.95", "AUROC 0.99"]
    report.table(head, rows)


if __name__ == "__main__":
    main()
