"""Whether the shift report puts a network that learned a unit's look below one that did not.

    python -m tests.bench.judging.judge --data FOLDER --worse A.pth --better B.pth --unit FILMS.csv
                                [--seeds 0] [--size 224] [--unit-only] [--all] [--cache FILE.npz]

A and B are ResNet18 state dicts (torchvision's names). The films are those that seed 0 holds out of
FOLDER; FILMS.csv lists films of the unit (`path`, `r_mark_ncc`, `kv_stamp_ncc`), and the group of
the report that holds most of those is the unit. Patients are drawn 2,000 times, the same ones for
both networks, and it is counted how often A's AUROC is below B's: in a report, which is the mean of
its draws of donors, and in each of these draws. One report is made for each of `--seeds`.

With `--unit-only` films are dressed as the unit and by the dressing that training never does, and
in no other way, which takes half the time. With `--all` they are dressed as every group of the
report. Scores that are kept (`--cache`) are by a film's pixels, so that nothing is computed twice.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tests.bench.parts import report
from trainer import checkpoint
from trainer.acquisition import search
from trainer.data import dataset
from trainer.film import rules
from trainer.judging import metrics
from trainer.network import device as devices
from trainer.network import model
from trainer.shift import counter, measure, units
from trainer.shift.measure import Scored
from trainer.shift.units import Films, Unit

Floats = NDArray[np.float64]

#: Draws of patients.
TIMES = 2000

#: Films that are surely of the unit have one of these correlations.
SURE = {"r_mark_ncc": 0.7, "kv_stamp_ncc": 0.6}


class Network:
    """P(positive) by a state dict; what was scored before is looked up."""

    def __init__(self, weights: Path, labels: int, positive: int, cache: Path | None) -> None:
        net, _ = model.build(labels, model.SCRATCH)
        state = {k: v.float() for k, v in checkpoint.load(weights).items()}
        net.load_state_dict(state, strict=False)
        self._net = model.folded(net).to(memory_format=torch.channels_last)
        # As training does it, on a processor that has bf16: three times as fast.
        self._precision = devices.precision("auto", torch.device("cpu"))
        self._positive = positive
        self._file = None if cache is None else cache.with_name(f"{cache.stem}-{weights.stem}.npz")
        self._known: dict[str, float] = {}
        if self._file is not None and self._file.is_file():
            with np.load(self._file) as kept:
                self._known = dict(zip(kept["films"].tolist(), kept["score"].tolist(), strict=True))

    def __call__(self, planes: NDArray[np.uint8]) -> Floats:
        names = [hashlib.blake2b(p.tobytes(), digest_size=16).hexdigest() for p in planes]
        new = [n for n, name in enumerate(names) if name not in self._known]
        for start in range(0, len(new), 32):
            part = new[start : start + 32]
            image = torch.tensor(planes[part][:, None])
            with torch.no_grad(), devices.autocast(image.device, self._precision):
                logits = self._net(image).double()
            found = torch.softmax(logits, dim=1)[:, self._positive].tolist()
            self._known |= {names[n]: p for n, p in zip(part, found, strict=True)}
        return np.array([self._known[name] for name in names])

    def keep(self) -> None:
        """Write what is known to the cache."""
        if self._file is not None:
            films, score = np.array([*self._known]), np.array([*self._known.values()])
            np.savez(self._file, films=films, score=score)


def read(folder: Path, size: int) -> tuple[Films, list[str]]:
    """The films of a labelled folder that seed 0 holds out, after those it does not, and paths."""
    data = dataset.read(folder, seed=0)
    learned = sorted(data.of(dataset.TRAIN), key=lambda film: film.sha256)
    films = [*learned, *data.of(dataset.VAL)]
    planes = np.stack([rules.decode((data.root / f.path).read_bytes(), size) for f in films])
    made = Films(
        planes=planes,
        rows=np.arange(len(films)),
        labels=np.array([film.label for film in films], dtype=np.int64),
        patients=[film.patient for film in films],
        held_out=np.arange(len(films)) >= len(learned),
        names=data.labels,
        positive=data.positive_index,
        patients_are=data.patients,
    )
    return made, [film.path for film in films]


def sure(table: Path) -> set[str]:
    """Names of the films that are surely of the unit."""
    with table.open(newline="", encoding="utf-8") as file:
        return {
            Path(row["path"]).name
            for row in csv.DictReader(file)
            if any(float(row[name]) > least for name, least in SURE.items())
        }


def drawn(scored: Scored) -> NDArray[np.int64]:
    """How often each film is drawn with its patient, int64 [TIMES, n]: in strata by class."""
    _, who = np.unique(scored.patients, return_inverse=True)
    who = who.reshape(-1)
    patients = int(who.max()) + 1
    sick = np.bincount(who[scored.truth], minlength=patients) > 0
    well = np.bincount(who[~scored.truth], minlength=patients) > 0
    rng = np.random.default_rng(0)
    times = np.zeros((TIMES, patients), np.int64)
    for stratum in (sick & ~well, well & ~sick, sick & well):
        if n := int(stratum.sum()):
            times[:, stratum] = rng.multinomial(n, np.full(n, 1 / n), size=TIMES)
    return times[:, who]


def aurocs(score: Floats, truth: NDArray[np.bool_], times: NDArray[np.int64]) -> Floats:
    """AUROC of each draw, float64 [TIMES]."""
    ill, well = times[:, truth].astype(np.float64), times[:, ~truth].astype(np.float64)
    above = score[truth][:, None] > score[~truth]
    equal = score[truth][:, None] == score[~truth]
    won = np.einsum("tp,tp->t", ill, well @ (above + equal / 2).T)
    return np.asarray(won / (ill.sum(axis=1) * well.sum(axis=1)))


def main() -> None:
    """Print AUROC, mean P and how often one network is below the other, by dressing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--worse", type=Path, required=True)
    parser.add_argument("--better", type=Path, required=True)
    parser.add_argument("--unit", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--unit-only", action="store_true")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--cache", type=Path)
    given = parser.parse_args()
    if given.unit_only:
        measure.PARTS = ()
        counter.SHIFTS.clear()
    films, paths = read(given.data, given.size)
    # As a training does it: groups are those of the films that were learned.
    looks = search.look(films.planes, films.rows[~films.held_out])
    print(f"{len(paths)} films read and looked at in {time.process_time():.0f} s of the processor")
    of_unit = np.array([Path(path).name in sure(given.unit) for path in paths])
    both = [
        Network(weights, len(films.names), films.positive, given.cache)
        for weights in (given.worse, given.better)
    ]
    reports: list[tuple[Scored, Scored]] = []
    for seed in given.seeds:
        found = units.find(films, looks, seed=seed)
        number = int(np.argmax([of_unit[unit.films].sum() for unit in found]))
        if not reports:
            described(found, number, of_unit)
        asked: Sequence[Unit] = found if given.all else [found[number]]
        scored = []
        for network in both:
            one = measure.measure(films, asked, network, seed=seed, most=10**9)
            assert one is not None
            scored.append(one)
            network.keep()
        reports.append((scored[0], scored[1]))
    compared(reports, (given.worse.stem, given.better.stem))
    print(f"{time.process_time():.0f} s of the processor")


def described(found: Sequence[Unit], number: int, of_unit: NDArray[np.bool_]) -> None:
    """Print the groups, and which is the unit."""
    for n, unit in enumerate(found, 1):
        mine = int(of_unit[unit.films].sum())
        mark = ", the unit" if n == number + 1 else ""
        print(f"group {n}: {len(unit.films)} films with {unit.what}; {mine} sure ones{mark}")


def compared(reports: Sequence[tuple[Scored, Scored]], names: tuple[str, str]) -> None:
    """Print the table: `reports` are both networks' scores, one pair for each seed."""
    first = reports[0][0]
    times = drawn(first)
    truth = first.truth
    print(f"{len(truth)} films, {truth.sum()} positive, {len(set(first.patients))} patients")
    as_they_are = [(a.score[None], b.score[None]) for a, b in reports[:1]]
    rows = [row("as they are", as_they_are, truth, times)]
    # Parts are looked at of the unit in which a network is worst: it need not be the same one.
    for one in first.dressed:
        scores = []
        for a, b in reports:
            mine, theirs = ({d.name: d for d in s.dressed} for s in (a, b))
            if one.name in mine and one.name in theirs:
                scores.append((a.after(mine[one.name]), b.after(theirs[one.name])))
        if scores:
            rows.append(row(one.name, scores, truth, times))
    head = ["dressed", *(f"AUROC {name[:16]}" for name in names), "P healthy", "P healthy"]
    head += ["below, by report", "by draw of donors", "difference, 95 %"]
    report.table(head, rows)


def row(
    name: str,
    scores: Sequence[tuple[Floats, Floats]],
    truth: NDArray[np.bool_],
    times: NDArray[np.int64],
) -> list[str]:
    """One line of the table: `scores` are both networks' float64 [draws, n] in each report."""
    values = np.array(
        [[np.mean([metrics.auroc(s, truth) for s in of]) for of in pair] for pair in scores]
    )
    means = np.array([[of[:, ~truth].mean() for of in pair] for pair in scores])
    gaps = [
        np.array(
            [aurocs(b, truth, times) - aurocs(a, truth, times) for a, b in zip(*pair, strict=True)]
        )
        for pair in scores
    ]
    reports = [gap.mean(axis=0) for gap in gaps]
    mean = np.mean(reports, axis=0)
    low, high = np.quantile(mean, (0.025, 0.975))
    return [
        name,
        *(f"{v:.4f}" for v in values.mean(axis=0)),
        *(f"{v:.3f}" for v in means.mean(axis=0)),
        " ".join(f"{(gap > 0).mean():.1%}" for gap in reports),
        " ".join(f"{(draw > 0).mean():.1%}" for gap in gaps for draw in gap),
        f"{mean.mean():+.4f} ({low:+.4f} to {high:+.4f})",
    ]


if __name__ == "__main__":
    main()
