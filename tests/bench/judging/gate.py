"""How often the nightly gate errs: models that are worse by a margin, equal ones, and slow slides.

    python -m tests.bench.judging.gate [level] [auroc] [power [FILMS...]] [shift] [slide]

FILMS are those of each class. Models are simulated, the gate is the real one.
`docs/concepts/gate.md` has the tables.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import multivariate_normal, norm

from trainer.judging import gate, metrics, paired
from trainer.judging.margins import NAMES, Margins
from trainer.judging.verdict import Side

Floats = NDArray[np.float64]

#: Films of a class, and films a patient.
FILMS = (20, 50, 100, 200, 300, 500, 1000, 2000)
PER_PATIENT = (1, 2, 4, 8)

MARGINS = Margins()

#: AUROC under the dressings of a simulated shift report, and its films of each class.
DRESSED = (0.97, 0.94, 0.92)
HELD_OUT = 200


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A share that becomes worse by exactly the margin."""

    films: int
    per_patient: int
    margin: float
    #: Share of films that come out better; worse come so many and the margin's.
    gained: float = 0.0
    #: Share of patients whose films all come out alike.
    together: float = 0.0
    #: Whether patients have 1 to `per_patient` films, not all as many.
    varied: bool = False


def losses(rng: np.random.Generator, of: Loss, runs: int) -> tuple[Floats, Floats]:
    """By patient how many films came out better less worse, and how many there are."""
    patients = max(1, of.films // of.per_patient)
    shape = (runs, patients)
    films = rng.integers(1, of.per_patient + 1, shape) if of.varied else np.full(
        shape, of.per_patient
    )  # fmt: skip
    lost = of.margin + of.gained
    chance = rng.random(shape)
    alike = np.where(chance < lost, -films, np.where(chance < lost + of.gained, films, 0))
    worse = rng.binomial(films, lost)
    better = rng.binomial(films - worse, of.gained / (1 - lost))
    found = np.where(rng.random(shape) < of.together, alike, better - worse)
    return found.astype(np.float64), films.astype(np.float64)


def accepted(rng: np.random.Generator, of: Loss, runs: int) -> float:
    """How often the margin's bound lets it pass."""
    low, _ = paired.bounds(paired.of_differences(*losses(rng, of, runs)))
    return float((low > -of.margin).mean())


def at_the_margin(
    films: int, per_patient: int, margins: tuple[float, ...] = (0.02, 0.05, 0.1)
) -> Iterator[Loss]:
    """The ways of being worse by the margin that are tried."""
    for margin in margins:
        for gained in (0.0, 0.01, 0.03, 0.1):
            for together in (0.0, 0.5, 1.0) if per_patient > 1 else (0.0,):
                for varied in (False, True) if per_patient > 1 else (False,):
                    yield Loss(
                        films=films, per_patient=per_patient, margin=margin, gained=gained,
                        together=together, varied=varied,
                    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """An AUROC that becomes worse by exactly the margin."""

    #: Of each class.
    films: int
    per_patient: int
    auroc: float
    margin: float
    #: `blurred`: all films are told apart less well; `sick` or `well`: some patients of that class
    #: are now ranked beyond all others.
    how: str


def rankings(rng: np.random.Generator, of: Ranking, runs: int) -> float:
    """How often the margin's bound lets it pass."""
    n = of.films // of.per_patient
    owner = np.repeat(np.arange(2 * n), of.per_patient)
    truth = owner < n
    passed = 0
    for _ in range(runs):
        patient, film = rng.normal(size=2 * n)[owner], rng.normal(size=len(owner))
        seen = math.sqrt(0.5) * (patient + film)
        old = seen + math.sqrt(2) * norm.ppf(of.auroc) * truth
        if of.how == "blurred":
            new = 0.95 * seen + math.sqrt(1 - 0.95**2) * rng.normal(size=len(owner))
            new = new + math.sqrt(2) * norm.ppf(of.auroc - of.margin) * truth
        else:
            theirs = truth if of.how == "sick" else ~truth
            lost = (rng.random(2 * n) < of.margin / of.auroc)[owner] & theirs
            new = np.where(lost, -99.0 if of.how == "sick" else 99.0, old)
        sides = [paired.placements(score, truth) for score in (new, old)]
        sick, well = (sides[0][k] - sides[1][k] for k in (0, 1))
        sums = paired.of_placements(sick, well, owner[truth], owner[~truth], difference=True)
        passed += float(paired.bounds(sums)[0]) > -of.margin
    return passed / runs


def alike(right: float, differing: float) -> float:
    """How two models' scores must correlate for this share of their decisions to differ."""
    at = norm.ppf(1 - right)

    def excess(r: float) -> float:
        both = multivariate_normal.cdf([at, at], mean=[0, 0], cov=[[1, r], [r, 1]])
        return float(2 * (1 - right - both) - differing)

    return float(brentq(excess, 0.0, 0.99999))


def report(rng: np.random.Generator, films: int, *, worse: float = 0.0) -> dict[str, object]:
    """The shift report of a model on so many held-out films of each class, all its own.

    Under each dressing its AUROC is lower by `worse`. One dressing's scores are much as another's.
    """
    truth = np.arange(2 * films) < films
    seen = rng.normal(size=2 * films)
    found = []
    for auroc in DRESSED:
        score = math.sqrt(0.8) * seen + math.sqrt(0.2) * rng.normal(size=2 * films)
        score = score + math.sqrt(2) * norm.ppf(auroc - worse) * truth
        found.append(metrics.auroc(score, truth))
    return {"worst": {"auroc": min(found)}}


def is_misled(found: dict[str, float], margin: float = MARGINS.shift) -> bool:
    """Whether the gate takes a model for more misled by looks."""
    return found["champion"] - found["candidate"] > margin


def equal_passes(
    rng: np.random.Generator,
    films: int,
    runs: int,
    *,
    right: float = 0.95,
    differing: float = 0.03,
    rules: gate.Rules | None = None,
) -> dict[str, float]:
    """How often a model as good as champion and anchor passes, and each condition of its own.

    All three decide rightly of the share `right` of both classes, and any two differ in the share
    `differing`. Each film is of a patient of its own, and each shift report of films of its own.
    """  # fmt: skip
    rules = rules or gate.Rules(floors={"sensitivity": 0.9, "specificity": 0.9})
    r = alike(right, differing)
    truth = np.arange(2 * films) < films
    patients = [str(k) for k in range(2 * films)]
    halves = {"one": np.arange(2 * films) % 2 == 0, "other": np.arange(2 * films) % 2 == 1}
    passed = dict.fromkeys(("all", "champion", "anchor", "floors", "shift"), 0)
    for _ in range(runs):
        seen = math.sqrt(r) * rng.normal(size=2 * films)
        sides = []
        for _ in range(3):
            score = seen + math.sqrt(1 - r) * rng.normal(size=2 * films)
            score = score + np.where(truth, 1, -1) * norm.ppf(right)
            sides.append(Side(score=norm.cdf(score), threshold=0.5))
        reports = [report(rng, HELD_OUT) for _ in sides]
        found = gate.judge(
            truth, patients, sides[0], sides[1], rules, slices=halves,
            anchor=gate.Anchor(side=sides[2], model=1, shift=reports[2]),
            shift=(reports[0], reports[1]),
        )  # fmt: skip
        passed["all"] += found.accepted
        for who, of in (("champion", found.figures), ("anchor", found.figures["anchor"])):
            passed[who] += all(of[name]["low"] > -getattr(rules.margins, name) for name in NAMES)
        passed["floors"] += all(
            one["low"] >= one["floor"] for one in found.figures["floors"].values()
        )
        passed["shift"] += not any(
            is_misled(of["shift"]) for of in (found.figures, found.figures["anchor"])
        )
    return {name: n / runs for name, n in passed.items()}


def slide(
    rng: np.random.Generator,
    films: int,
    *,
    per_patient: int = 1,
    persistent: float = 0.95,
    nights: int = 100,
    runs: int = 200,
    right: float = 0.97,
    lost: float = 0.03,
    margin: float = MARGINS.specificity,
    anchored: bool = True,
) -> tuple[Floats, Floats]:
    """What is left of a share after so many nights, and how often a model was promoted, `[runs]`.

    Each night's model is worse than the champion by `lost`, and only this share is judged. The
    frozen films are the same every night; `persistent` is how much of what makes a film hard is the
    film, the rest being each model's own.
    """
    patients = films // per_patient
    hard = rng.normal(size=(runs, patients, 1)) / math.sqrt(2)
    hard = hard + rng.normal(size=(runs, patients, per_patient)) / math.sqrt(2)

    def decide(share: Floats) -> NDArray[np.bool_]:
        own = rng.normal(size=hard.shape)
        score = math.sqrt(persistent) * hard + math.sqrt(1 - persistent) * own
        return np.asarray(score < norm.ppf(np.maximum(share, 1e-9))[:, None, None])

    def passes(new: NDArray[np.bool_], old: NDArray[np.bool_]) -> NDArray[np.bool_]:
        gained = (new.astype(np.int8) - old).sum(axis=2).astype(np.float64)
        low, _ = paired.bounds(paired.of_differences(gained, np.full_like(gained, per_patient)))
        return np.asarray(low > -margin)

    share = np.full(runs, right)
    promoted = np.zeros(runs)
    champion = decide(share)
    anchor = champion
    for _ in range(nights):
        worse = share - lost
        new = decide(worse)
        better = passes(new, champion)
        if anchored:
            better &= passes(new, anchor)
        share = np.where(better, worse, share)
        promoted += better
        champion = np.where(better[:, None, None], new, champion)
    return share, promoted


def _level(rng: np.random.Generator) -> None:
    _say("Shares: models that are worse by the margin, accepted at most (4,000 trials each)")
    print("films  " + "".join(f"{n:>12} a patient" for n in PER_PATIENT))
    for films in FILMS:
        cells = []
        for per_patient in PER_PATIENT:
            found = [accepted(rng, one, 4_000) for one in at_the_margin(films, per_patient)]
            cells.append(f"{max(found):>22.1%}")
        print(f"{films:>5}  " + "".join(cells), flush=True)


def _auroc(rng: np.random.Generator) -> None:
    _say("AUROC: models that are worse by the margin, accepted at most (1,000 trials each)")
    columns = [(auroc, n) for auroc in (0.9, 0.99, 0.999) for n in (1, 4)]
    print("films      " + "".join(f"  {a:.3f}, {n} a patient" for a, n in columns))
    for films in (20, 50, 100, 300, 1000):
        cells = []
        for auroc, per_patient in columns:
            found = [
                rankings(
                    rng,
                    Ranking(
                        films=films, per_patient=per_patient, auroc=auroc, margin=margin, how=how
                    ),
                    1_000,
                )
                for margin in (0.01, 0.03)
                for how in ("blurred", "sick", "well")
            ]
            cells.append(f"{max(found):>20.1%}")
        print(f"{films:>4}+{films:<4}  " + "".join(cells), flush=True)


def _power(rng: np.random.Generator) -> None:
    _say("Equal models of which 3 % of decisions differ, accepted (1,000 trials each)")
    asked = [int(word) for word in sys.argv[1:] if word.isdecimal()]
    for right in (0.95, 0.97):
        for films in asked or (100, 200, 300, 400, 600, 800, 1000, 1500, 2000):
            found = equal_passes(rng, films, 1_000, right=right)
            cells = "  ".join(f"{name} {share:.1%}" for name, share in found.items())
            print(f"right {right:.0%}  {films:>5}+{films:<5} {cells}", flush=True)


def _shift(rng: np.random.Generator) -> None:
    _say("Kept by the shift reports alone, each of films of its own (1,000 trials each)")
    print("films      points worse  kept")
    for films in (50, 100, 200, 500):
        for worse in (0.0, 0.05, 0.1, 0.15):
            found = [
                gate.misled(report(rng, films, worse=worse), report(rng, films))
                for _ in range(1_000)
            ]
            kept = np.mean([is_misled(one) for one in found])
            print(f"{films:>4}+{films:<4}  {100 * worse:>12.0f}  {kept:>6.1%}", flush=True)


def _slide(rng: np.random.Generator) -> None:
    _say("100 nights, each some points of specificity worse than the champion; 200 runs")
    print("points  films  a patient  the film's part  within 1.5 margins  median left  promoted")

    def row(films: int, per_patient: int, persistent: float, lost: float = 0.03) -> None:
        share, promoted = slide(
            rng, films, per_patient=per_patient, persistent=persistent, lost=lost
        )
        within = (share >= 0.97 - 1.5 * MARGINS.specificity - 1e-9).mean()
        print(
            f"{100 * lost:>6.0f}  {films:>5}  {per_patient:>9}  {persistent:>15}  {within:>18.1%}  "
            f"{np.median(share):>11.2f}  {promoted.mean():>8.2f}",
            flush=True,
        )

    for films in (20, 50, 100, 200, 400, 1000, 2000):
        for per_patient in (1, 4, 8):
            for persistent in (0.99, 0.9, 0.5):
                row(films, per_patient, persistent)
    for lost in (0.01, 0.02):
        for films in (100, 200, 400, 1000):
            row(films, 1, 0.9, lost)
    share, promoted = slide(rng, 1000, persistent=0.9, anchored=False)
    print(f"without an anchor: median left {np.median(share):.2f}, promoted {promoted.mean():.2f}")


def _say(what: str) -> None:
    print(f"\n{what}\n", flush=True)


def main() -> None:
    parts = {"level": _level, "auroc": _auroc, "power": _power, "shift": _shift, "slide": _slide}
    for name in [word for word in sys.argv[1:] if not word.isdecimal()] or parts:
        begun = time.perf_counter()
        parts[name](np.random.default_rng(0))
        print(f"{time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
