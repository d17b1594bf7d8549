"""What is reported of a model, and what it does on new films.

    python -m tests.bench.judging.figures [optimism] [cover] [auroc] [promise]

Scores are drawn, all else is as in training: the epoch, the temperature and the threshold are
chosen on some films, and measured on the same (as before), by cross-fitting, and on new films.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from tests.bench.judging import clusters as covering
from tests.bench.parts import report
from trainer.judging import crossfit, metrics

Floats = NDArray[np.float64]

#: Epochs that are chosen among, and how much the scores of two of them have in common.
EPOCHS, COMMON = 5, 0.9

#: New films of each class.
NEW = 2000

FIGURES = ("youden", "auroc", "ece", "sensitivity")


@dataclass(frozen=True)
class Drawn:
    """Films and what the network says of them after each epoch."""

    #: `[epochs, films, 2]`.
    logits: Floats
    labels: NDArray[np.int64]
    patients: list[str]


@dataclass(frozen=True, kw_only=True)
class Found:
    """Means over simulations of one figure."""

    #: On the films that chose, cross-fitted, and on new films by what was chosen.
    before: float
    after: float
    new: float
    #: How often the interval that goes with `after` holds what is found on new films.
    covered: float


def draw(
    rng: np.random.Generator, films: int, auroc: float, *, per_patient: int = 1, alike: float = 0.5
) -> Drawn:
    """So many films of each class, of epochs that are equally good on all films there are."""
    n = 2 * films
    owner = np.arange(n) // per_patient
    labels = owner % 2
    apart = NormalDist().inv_cdf(auroc) * math.sqrt(2)
    seen = math.sqrt(alike) * rng.normal(size=owner.max() + 1)[owner]
    seen = seen + math.sqrt(1 - alike) * rng.normal(size=n)
    own = rng.normal(size=(EPOCHS, n))
    margin = math.sqrt(COMMON) * seen + math.sqrt(1 - COMMON) * own + apart * (labels - 0.5)
    logits = np.stack([np.zeros_like(margin), 2 * apart * margin], axis=2)
    return Drawn(logits, labels, [str(number) for number in owner])


def fitted(drawn: Drawn, rule: str) -> tuple[int, crossfit.CrossFitted]:
    """The epoch that is kept, and all else that is chosen on these films."""
    plain = drawn.logits[:, None]
    kept = crossfit.best_by(plain, drawn.labels, 1)
    each = crossfit.Epochs(logits=plain, kept=kept)
    return kept, crossfit.fit(
        drawn.logits[kept], drawn.labels, drawn.patients, 1, rule, epochs=each
    )


def optimism(
    films: int, *, auroc: float, rule: str, per_patient: int = 1, times: int = 60
) -> dict[str, Found]:
    """Of so many films of each class: `youden`, `auroc`, `ece` and `sensitivity`."""
    rows = []
    for n in range(times):
        rng = np.random.default_rng((n, films))
        drawn = draw(rng, films, auroc, per_patient=per_patient)
        kept, found = fitted(drawn, rule)
        truth, at = drawn.labels == 1, found.chosen.threshold
        own = found.chosen.scores(drawn.logits[kept])[:, 1]
        fresh = draw(rng, NEW, auroc)
        new = found.chosen.scores(fresh.logits[kept])[:, 1]
        after = found.figures(truth, drawn.patients)
        before, on_new = _of(own, truth, at), _of(new, fresh.labels == 1, at)
        held = [
            after.get(f"{name}_low", 0.0) <= on_new[name] <= after.get(f"{name}_high", 1.0)
            for name in FIGURES
        ]
        after = {**after, "youden": after["sensitivity"] + after["specificity"] - 1}
        rows.append([[of[name] for name in FIGURES] for of in (before, after, on_new)] + [held])
    mean = np.mean(np.array(rows, dtype=np.float64), axis=0)
    return {
        name: Found(before=mean[0, n], after=mean[1, n], new=mean[2, n], covered=mean[3, n])
        for n, name in enumerate(FIGURES)
    }


def _of(score: Floats, truth: NDArray[np.bool_], threshold: float) -> dict[str, float]:
    counts = metrics.confusion(score, truth, threshold)
    return {
        "youden": counts.sensitivity + counts.specificity - 1,
        "auroc": metrics.auroc(score, truth),
        "ece": metrics.ece(score, truth),
        "sensitivity": counts.sensitivity,
    }


def _shown(one: Found) -> str:
    return f"{one.before:.3f} / {one.after:.3f} / {one.new:.3f}"


def _optimism() -> None:
    print("On the films that chose / cross-fitted / on new films; 60 trials each")
    rows = []
    for films, per_patient in ((30, 1), (100, 1), (100, 4), (300, 1)):
        found = optimism(films, auroc=0.9, rule="youden", per_patient=per_patient)
        cells = [_shown(found[name]) for name in ("youden", "auroc", "ece")]
        rows.append([f"{films} + {films}", str(per_patient), *cells])
        print(rows[-1], flush=True)
    report.table(["films", "a patient", "Youden's J", "AUROC", "ECE"], rows)


#: Films, films a patient at most, and how alike two of a patient are.
FILMS, PER_PATIENT, ALIKE = (20, 50, 100, 300, 1000, 2000), (1, 2, 4, 8), (0.2, 0.8, 1.0)
SHARES = (0.5, 0.9, 0.95, 0.99)


def _cover() -> None:
    print("Least coverage of 95 % intervals of shares by patient (by film), 1,000 trials each")
    rows = []
    for films in FILMS:
        cells = []
        for per_patient in PER_PATIENT:
            found = [
                covering.of_shares(
                    max(2, films // per_patient), per_patient, share=share, alike=alike, times=1000
                )
                for share in SHARES
                for alike in (ALIKE if per_patient > 1 else (0.0,))
            ]
            cells.append(
                f"{min(one.covered for one in found):.3f} ({min(o.by_film for o in found):.3f})"
            )
        rows.append([str(films), *cells])
        print(rows[-1], flush=True)
    report.table(["films", *(f"{n} a patient" for n in PER_PATIENT)], rows)


def _auroc() -> None:
    print("Coverage of 95 % intervals of the AUROC by patient (by film), 200 trials each")
    rows = []
    for patients in (20, 50):
        for per_patient in (1, 4, 8):
            found = [
                covering.of_aurocs(patients, per_patient, area=area, alike=0.8, times=200)
                for area in (0.9, 0.97, 0.99)
            ]
            cells = [f"{one.covered:.3f} ({one.by_film:.3f})" for one in found]
            rows.append([f"{patients} + {patients}", str(per_patient), *cells])
            print(rows[-1], flush=True)
    report.table(["patients", "films each", "AUROC 0.90", "AUROC 0.97", "AUROC 0.99"], rows)


def _promise() -> None:
    print("Operating point by sensitivity=G; how often new films of the sick come out below 0.95")
    rows = []
    for films in (50, 100, 200, 500):
        cells = []
        for goal in (0.95, 0.97, 0.98, 0.99):
            new = [sensitivity(n, films, goal) for n in range(300)]
            cells.append(f"{np.mean(np.array(new) < 0.95):.0%} ({np.quantile(new, 0.05):.3f})")
        one = optimism(films, auroc=0.97, rule="sensitivity=0.95")["sensitivity"]
        reported = _shown(one)
        rows.append([str(films), *cells, reported, f"{one.covered:.0%}"])
        print(rows[-1], flush=True)
    head = ["sick films", *(f"G = {goal}" for goal in (0.95, 0.97, 0.98, 0.99))]
    report.table([*head, "0.95: chose / cross-fitted / new", "held"], rows)


def sensitivity(seed: int, films: int, goal: float) -> float:
    """On new films, by a threshold that so many films of the sick chose."""
    rng = np.random.default_rng((seed, films))
    apart = NormalDist().inv_cdf(0.97) * math.sqrt(2)
    score = np.sort(rng.normal(size=films)) + apart
    # As `calibration.operating_point`: halfway between the scores that it separates.
    missed = math.floor(films * (1 - goal) + 1e-9)
    below = score[missed - 1] if missed else score[0] - 1
    return 1 - NormalDist().cdf((below + score[missed]) / 2 - apart)


def main() -> None:
    parts = {"optimism": _optimism, "cover": _cover, "auroc": _auroc, "promise": _promise}
    for name in sys.argv[1:] or parts:
        begun = time.process_time()
        parts[name]()
        print(f"{time.process_time() - begun:.0f} s\n")


if __name__ == "__main__":
    main()
