"""What looking at how films were acquired costs: the check of a folder, and scoring.

    python -m tests.bench.acquisition.looks check --data FOLDER [--rounds 3]
    python -m tests.bench.acquisition.looks score --data FOLDER [--size 224] [--films 256]
        [--rounds 5]

`check` runs `dataset check` with and without looking for groups, in turn, each in a process of its
own with two decoders. `score` makes a model of random weights with the fingerprint of FOLDER's
groups, and one without; both compute the same films in turn, in each precision. Given are seconds
of the processor, all threads and processes together, and for the check seconds on the clock, which
count on an idle machine only.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.bench.parts import report
from tests.support.acquired import Films
from trainer import folded
from trainer.card import Card
from trainer.checking import acquired as checking
from trainer.checking import checkup, fingerprints, preview
from trainer.data import cache, dataset
from trainer.film import rules
from trainer.modelfile import export, quantise
from trainer.network import model
from worker.decoding import labelled
from worker.decoding.labelled import Limits
from worker.engine import FILE_OF, gate, observe, open_engine
from worker.errors import EngineError

#: Films that are computed with the one model, and then with the other.
AT_ONCE = 16

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
        ratios["clock"] <= CHECK,
        f"the check takes at most {CHECK} times as long as without looking",
        f"{ratios['clock']:.2f} on the clock, {ratios['processor']:.2f} of the processor",
    )
    return claims.end()


def models(data: Path, size: int, folder: Path) -> tuple[dict[str, dict[str, Path]], Films, int]:
    """Files by precision, with the output and without; films; and how many groups there are."""
    read = dataset.read(data)
    read, pixels = cache.decode(read, folder / "films", size=size)
    began = time.process_time()
    learned, groups = fingerprints.learn(read, pixels, fingerprints.find(read, pixels))
    print(f"{len(groups)} groups learned in {time.process_time() - began:.1f} s of the processor")
    torch.manual_seed(0)
    net = model.ResNet18(2)
    films = np.array(pixels.planes[:: max(1, len(pixels.planes) // 512)])
    with torch.no_grad():
        net.train()(torch.from_numpy(films[:32, None]))
    card = Card(
        labels=read.labels, positive=read.positive, size=size, film_rule=rules.DEFAULT_RULE,
        golden=(), temperature=1.0, threshold=0.5, threshold_rule="half", looks=groups,
    )  # fmt: skip
    made: dict[str, dict[str, Path]] = {}
    for how, its in (("with", learned), ("without", None)):
        of = folder / how
        of.mkdir()
        files = {name: of / f"{name}.onnx" for name in ("fp32", "fp16", "int8")}
        known = card if its is not None else dataclasses.replace(card, looks=())
        export.write(files["fp32"], net.eval().state_dict(), known, learned=its)
        network = folded.Network(files["fp32"])
        sample = observe.sample(network, films[:8, None], threads=1)
        quantise.int8(network, sample, files["int8"])
        made[how] = files
    return made, films, len(groups)


def score(data: Path, size: int, count: int, rounds: int) -> int:
    claims = report.Claims()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        made, films, groups = models(data, size, Path(folder))
        films = np.resize(films, (count, 1, size, size))
        for precision in ("fp32", "bf16", "int8"):
            engines = {}
            try:
                for how in ("without", "with"):
                    path = made[how][FILE_OF[precision]]
                    engines[how] = open_engine(path, batch=16, threads=1, precision=precision)
            except EngineError as error:
                print(error)
                continue
            seconds: dict[str, list[float]] = {how: [] for how in engines}
            for _ in range(rounds):
                for start in range(0, count, AT_ONCE):
                    some = films[start : start + AT_ONCE]
                    for how, engine in engines.items():
                        began = time.process_time()
                        gate.answers(engine, some)
                        seconds[how].append((time.process_time() - began) / len(some) * 1e3)
            # Others on the machine only ever make it slower.
            ms = {how: statistics.quantiles(of, n=10)[0] for how, of in seconds.items()}
            rows.append((precision, groups, ms["without"], ms["with"], ms["with"] / ms["without"]))
    report.table(("precision", "groups", "ms a film without", "with", "ratio"), rows)
    for precision, _, _, _, ratio in rows:
        claims.check(
            ratio <= SCORE, f"{precision}: the network takes at most {SCORE} times", f"{ratio:.3f}"
        )
    return claims.end()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("check", "score"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--films", type=int, default=256)
    parser.add_argument("--only", choices=("with", "without"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps(check_here(given.data, looks=given.only == "with")))
        return 0
    if given.what == "check":
        return check(given.data, given.rounds)
    return score(given.data, given.size, given.films, given.rounds)


if __name__ == "__main__":
    sys.exit(main())
