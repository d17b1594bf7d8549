"""What looking at how films were acquired costs: the check of a folder, and scoring.

    python -m tests.bench.acquisition.looks check --data FOLDER [--rounds 3]
    python -m tests.bench.acquisition.looks score --data FOLDER [--size 224] [--rounds 30]
        [--precisions int8 fp32 bf16]

`check` runs `dataset check` with and without looking for groups, in turn, each in a process of its
own with two decoders: the least of `--rounds` is taken, as others on the machine only ever make it
slower. `score` makes a model of random weights, and the same with a fingerprint of one mark and of
MARKS ones, as large as those of the Kermany films' groups and searched for in as many places as
any mark is. All three compute the same batch of films in each round, in an order that turns. Given
is the ratio of both models' seconds, the geometric mean of all rounds less the furthest tenth at
either end, and its 95 % interval by drawing rounds again. Seconds are of the processor, all
threads and processes together, and for the check on the clock as well, which counts on an idle
machine only.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tests.bench.parts import report
from tests.support.acquired import Films
from trainer import folded
from trainer.acquisition.fingerprint import PLACES, Fingerprint, Part
from trainer.acquisition.signs import GRID, Mark
from trainer.card import Card, Group
from trainer.checking import acquired as checking
from trainer.checking import checkup, preview
from trainer.data import dataset
from trainer.film import rules
from trainer.modelfile import export, quantise
from trainer.network import model
from worker.decoding import labelled
from worker.decoding.labelled import Limits
from worker.engine import FILE_OF, gate, observe, open_engine
from worker.errors import EngineError

Floats = NDArray[np.float64]

#: Films that are computed at once.
BATCH = 16

#: Height and width of marks in pixels of 224, with their margin; the models have the first of them,
#: and all.
MARKS = ((17, 13), (22, 15), (19, 15), (26, 17), (31, 19))

#: Draws of rounds for an interval, and rounds that are left out at either end.
DRAWS, FURTHEST = 2000, 0.1

#: What the check may take of what it takes without looking, and scoring of what it takes without.
CHECK, SCORE = 1.5, 1.02


def check_here(data: Path, *, looks: bool) -> dict[str, float]:
    """Check a folder in this process; seconds on the clock and of the processor."""
    if not looks:
        at = preview.at

        def without(*given: Any, looks: object = None, **more: Any) -> Any:
            del looks
            return at(*given, **more)

        preview.at = without
        checking.find = lambda *_: ()
    limits = Limits(decoders=2, deadline_s=60.0, limit_mb=1024)
    began, own = time.perf_counter(), time.process_time()
    checkup.check([data], decoder=labelled.processes(limits))
    wall, own = time.perf_counter() - began, time.process_time() - own
    theirs = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"clock": wall, "processor": own + theirs.ru_utime + theirs.ru_stime}


def check(data: Path, rounds: int) -> int:
    found: dict[str, list[dict[str, float]]] = {"without": [], "with": []}
    for _ in range(rounds):
        for how, seconds in found.items():
            done = subprocess.run(
                [sys.executable, "-m", "tests.bench.acquisition.looks", "check",
                 "--data", str(data), "--only", how],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            seconds.append(json.loads(done.stdout))
    best = {
        how: {what: min(one[what] for one in seconds) for what in ("clock", "processor")}
        for how, seconds in found.items()
    }
    report.table(
        ("check", "s on the clock", "s of the processor"),
        [(how, best[how]["clock"], best[how]["processor"]) for how in best],
    )
    ratios = {what: best["with"][what] / best["without"][what] for what in best["with"]}
    claims = report.Claims()
    claims.check(
        ratios["processor"] <= CHECK,
        f"the check takes at most {CHECK} times as long as without looking",
        f"{ratios['clock']:.2f} on the clock, {ratios['processor']:.2f} of the processor",
    )
    return claims.end()


def fingerprint_of(films: Films, count: int) -> Fingerprint:
    """Marks that are cut out of films uint8 [N, S, S], searched for in PLACES places each."""
    side = films.shape[1]
    parts = []
    for number, sides in enumerate(MARKS[:count]):
        height, width = (max(3, n * side // 224) for n in sides)
        top, left = (side // 16 // GRID * GRID, (side // 16 + number * side // 8) // GRID * GRID)
        picture = films[number, top : top + height, left : left + width].astype(np.float32)
        picture -= picture.mean()
        across = round(PLACES**0.5 * side / 224) // GRID * GRID
        window = (top, min(left, side - width - across), across, across)
        sign = Mark(picture=picture / max(float(np.linalg.norm(picture)), 1e-6), window=window)
        parts.append(Part(sign=sign, limit=0.5, gain=10.0, found=1.0, false=0.0))
    return Fingerprint(tuple(parts))


def models(data: Path, size: int, folder: Path) -> tuple[dict[int, dict[str, Path]], Films]:
    """Files by how many marks there are and by precision; films uint8 [BATCH, 1, size, size]."""
    read = dataset.read(data)
    some = read.films[:: max(1, len(read.films) // (2 * BATCH))][: 2 * BATCH]
    films = np.stack([rules.decode((read.root / f.path).read_bytes(), size) for f in some])
    torch.manual_seed(0)
    net = model.ResNet18(2)
    with torch.no_grad():
        net.train()(torch.from_numpy(films[:, None]))
    made: dict[int, dict[str, Path]] = {}
    for count in (0, 1, len(MARKS)):
        learned = fingerprint_of(films, count)
        card = Card(
            labels=read.labels, positive=read.positive, size=size, film_rule=rules.DEFAULT_RULE,
            golden=(), temperature=1.0, threshold=0.5, threshold_rule="half",
            looks=tuple(
                Group(what="a mark", label=read.positive, films={}, patients=0, found=1, false=0)
                for _ in learned.parts
            ),
        )  # fmt: skip
        of = folder / str(count)
        of.mkdir()
        files = {name: of / f"{name}.onnx" for name in ("fp32", "fp16", "int8")}
        export.write(files["fp32"], net.eval().state_dict(), card, learned=learned)
        network = folded.Network(files["fp32"])
        sample = observe.sample(network, films[:8, None], threads=1)
        quantise.int8(network, sample, files["int8"])
        made[count] = files
    return made, films[:BATCH, None]


def ratio(one: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """Of paired seconds, `other` over `one`: the mean, and its 95 % interval."""
    logs = np.log(other) - np.log(one)
    cut = round(FURTHEST * len(logs))

    def middle(drawn: Floats) -> Floats:
        return np.asarray(np.exp(np.sort(drawn)[..., cut : len(logs) - cut].mean(axis=-1)))

    draws = np.random.default_rng(0).integers(len(logs), size=(DRAWS, len(logs)))
    low, high = np.quantile(middle(logs[draws]), (0.025, 0.975))
    return float(middle(logs)), float(low), float(high)


def score(data: Path, size: int, rounds: int, precisions: Sequence[str]) -> int:
    claims = report.Claims()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        made, films = models(data, size, Path(folder))
        for precision in precisions:
            engines = {}
            try:
                for count, files in made.items():
                    path = files[FILE_OF[precision]]
                    engines[count] = open_engine(path, batch=BATCH, threads=1, precision=precision)
            except EngineError as error:
                print(error)
                continue
            seconds: dict[int, list[float]] = {count: [] for count in engines}
            for turn in range(-1, rounds):
                order = list(engines)
                for count in order[turn % len(order) :] + order[: turn % len(order)]:
                    began = time.process_time()
                    gate.answers(engines[count], films)
                    took = time.process_time() - began
                    if turn >= 0:  # the first round warms up
                        seconds[count].append(took / len(films) * 1e3)
            ms = {count: statistics.median(of) for count, of in seconds.items()}
            for count in list(engines)[1:]:
                found = ratio(seconds[0], seconds[count])
                rows.append((precision, count, ms[0], ms[count], *found))
                print(rows[-1], flush=True)
    head = ("precision", "marks", "ms a film without", "with", "ratio", "low", "high")
    report.table(head, rows)
    for precision, count, _, _, found, low, high in rows:
        claims.check(
            high <= SCORE,
            f"{precision}, {count} marks: the network takes at most {SCORE} times as long",
            f"{found:.4f} ({low:.4f} to {high:.4f})",
        )
    return claims.end()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("check", "score"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--precisions", nargs="+", default=["int8", "fp32", "bf16"])
    parser.add_argument("--only", choices=("with", "without"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps(check_here(given.data, looks=given.only == "with")))
        return 0
    if given.what == "check":
        return check(given.data, given.rounds or 3)
    return score(given.data, given.size, given.rounds or 30, given.precisions)


if __name__ == "__main__":
    sys.exit(main())
