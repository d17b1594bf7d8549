"""Films per second on films as large as real ones: the service beside the machine's limit, a
PyTorch script and Ray Data, in one run; and whether it says what the fp32 reference says.

    python -m tests.bench.speed [--films 5264] [--rounds 3] [--cache FOLDER]
        [--model FILE --int8 FILE | --model-home HOME] [--ray-python PYTHON] [--before FOLDER]

The films are re-encodings of originals at their own size. Ours is a real worker with the
product's settings that is warm, told to score a zip of all of them anew (`--force`), from the
submission to the last row. The limit is that of the two stages, decoding and inference, on bytes in
memory: the larger of 1 / (1/D + 1/I), each measured alone on all cores at once, since they share
the cores, and of what both come to where each core does both in turns. Rounds alternate between all
that is measured, and each ratio is the median of the rounds' ratios. With a checkout of an earlier
commit (its folder, `--before`) its worker scores the same films in the same rounds, in an
installation of its own, and processor seconds are compared too.

Without a model, one is trained for an epoch on ../shared/data/kermany_224. Ray runs in a Python of
its own, made in the cache folder unless named.

Claims: 0.93 of the limit; 4.5 × the PyTorch script and 4 × Ray Data where the processor has AMX,
3.7 × and 3 × where not; on 1,000 films and more, decisions as the reference's for 99.5 %,
probabilities within 0.02 for 99 %.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tests.bench.parts import beside, models, rivals, site, stages
from tests.bench.parts import films as film_files
from tests.bench.parts import report as reporting
from tests.support.paths import ROOT
from tests.support.site import Site
from tests.worker import samples
from trainer import card as cards
from trainer.data import dataset
from trainer.film import rules

LIMIT, DECISIONS, DELTA, COMPARED = 0.93, 0.995, 0.02, 1_000

#: Times the PyTorch script, and Ray Data: with AMX, and without.
WITH_AMX, WITHOUT = (4.5, 4.0), (3.7, 3.0)

#: Names in the table of what is measured without plumbing.
STAGES = {
    "decoding alone": "decoding",
    "inference alone": "inference",
    "both, no plumbing": "both",
    "decoding, Pillow's draft": "draft",
}

#: Seconds that each stage is measured for, in each round.
STAGE_S = 8.0

#: Films that the PyTorch script and Ray score in each round; they are steady soon.
RIVALS_FILMS = 512

#: Films that the reference is asked about: of the re-encodings, and held out ones.
REFERENCE = 1_000


def rounds(
    given: argparse.Namespace,
    at: Site,
    model_id: int,
    trained: models.Trained,
    precision: str,
    films: film_files.Films,
    ray_python: Path | None,
    trees: Mapping[str, beside.Child],
) -> tuple[dict[str, list[float]], dict[str, list[float]], int]:
    """Everything's films per second, round by round; of each tree's worker milliseconds of the
    processor per film; and the last scoring job's number.
    """
    size = cards.read(trained.files["fp32"]).size
    model = trained.file(precision)
    seconds = 2.0 if given.quick else STAGE_S
    some = films.paths[: 128 if given.quick else RIVALS_FILMS]
    rates: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {name: [] for name in trees}
    job_id = 0
    with tempfile.TemporaryDirectory(prefix="pneumoq-measured-") as folder:
        for number in range(given.rounds):
            found = {
                name: stages.measure(stage, films.paths, size, seconds, model, precision)
                for name, stage in STAGES.items()
            }
            job_id, course = site.score(
                at, model_id, films.archive, precision=precision, force=True
            )
            found["ours"] = course.rate
            # Who goes first takes turns.
            for name in sorted(trees, reverse=bool(number % 2)):
                beside.tell(trees[name])
                rate, cpu_ms = map(float, beside.answer(trees[name]).split())
                found[f"ours, {name}"] = rate
                cpu[name].append(cpu_ms)
            found["PyTorch DataLoader"] = rivals.dataloader(some, size, Path(folder))
            if ray_python is not None:
                found["Ray Data"] = rivals.ray(ray_python, some, size, model, Path(folder))
            line = ", ".join(f"{k} {v:.1f}" for k, v in found.items())
            print(f"round {number + 1}: {line}", flush=True)
            for name, rate in found.items():
                rates.setdefault(name, []).append(rate)
    print()
    return rates, cpu, job_id


def report(rates: dict[str, list[float]], precision: str, claims: reporting.Claims) -> None:
    """The table of one run, and its claims."""
    formula = [
        1 / (1 / d + 1 / i)
        for d, i in zip(rates["decoding alone"], rates["inference alone"], strict=True)
    ]
    limit = list(map(max, formula, rates["both, no plumbing"]))
    shown = {**rates, "1 / (1/D + 1/I)": formula, "limit": limit}

    def ratio(name: str) -> float:
        """Ours to another's."""
        return statistics.median(
            ours / theirs for ours, theirs in zip(rates["ours"], shown[name], strict=True)
        )

    reporting.table(
        (f"films/s, {precision}", "median", "least", "most", "ours / it"),
        [
            (name, statistics.median(found), min(found), max(found), ratio(name))
            for name, found in shown.items()
        ],
    )
    of_limit = ratio("limit")
    claims.check(of_limit >= LIMIT, f"{LIMIT:.2f} of the limit, {precision}", f"{of_limit:.3f}")
    amx = " amx_int8 " in Path("/proc/cpuinfo").read_text()
    least = WITH_AMX if amx else WITHOUT
    for name, times in zip(("PyTorch DataLoader", "Ray Data"), least, strict=True):
        if name in rates:
            what = f"{times:.1f} × {name} ({'AMX' if amx else 'no AMX'})"
            claims.check(ratio(name) >= times, what, f"{ratio(name):.2f} ×")


def compare(
    rates: dict[str, list[float]], cpu: dict[str, list[float]], claims: reporting.Claims
) -> None:
    """Today's worker beside that of an earlier commit."""
    faster = beside.paired(rates["ours, before"], rates["ours, now"])
    less = beside.paired(cpu["before"], cpu["now"])
    claims.check(faster.middle > 1, "films/s, to the commit before", f"{faster}")
    claims.check(less.middle < 1, "processor per film, to the commit before", f"{less}")


class Reference:
    """The fp32 file in ONNX Runtime."""

    def __init__(self, path: Path) -> None:
        self.card = cards.read(path)
        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def probabilities(self, films: list[bytes]) -> NDArray[np.float64]:
        """P(positive class) of each film."""
        found = []
        for start in range(0, len(films), 16):
            part = films[start : start + 16]
            pixels = np.stack([rules.decode(data, self.card.size)[None] for data in part])
            (scores,) = self._session.run([cards.SCORES], {cards.INPUT: pixels})
            found.append(scores[:, self.card.positive_index].astype(np.float64))
        return np.concatenate(found)


def agreement(
    what: str, at: Site, job_id: int, films: dict[str, Path], reference: Reference
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probabilities of a job and of the reference, and a line about them."""
    stored = at.probabilities(job_id)
    names = sorted(films)
    ours = np.array([stored[name] for name in names])
    theirs = reference.probabilities([films[name].read_bytes() for name in names])
    same, delta = _compare(ours, theirs, reference.card.threshold)
    print(
        f"{what}: {len(names):,} films, decisions as the reference's {same:.2%}, "
        f"|Δ p| {delta:.4f} at the 99th percentile, {np.abs(ours - theirs).max():.4f} at most"
    )
    return ours, theirs


def _compare(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], threshold: float
) -> tuple[float, float]:
    same = float(((ours >= threshold) == (theirs >= threshold)).mean())
    return same, float(np.percentile(np.abs(ours - theirs), 99))


@contextmanager
def held_out(reference: Reference, cache: Path) -> Iterator[tuple[Path, dict[str, Path]] | None]:
    """Films that the model was not trained on, as a zip and by name; None without them."""
    if not models.KERMANY.is_dir():
        yield None
        return
    found = dataset.read(models.KERMANY)
    if found.hash != reference.card.dataset_hash:
        yield None
        return
    films = {f.path: models.KERMANY / f.path for f in found.of(dataset.VAL)}
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        path = Path(folder) / "held-out.zip"
        with zipfile.ZipFile(path, "w") as target:
            for name, file in films.items():
                target.write(file, name)
        yield path, films


def main() -> int:
    """Run from the command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    film_files.add_options(parser, 5_000)
    models.add_options(parser)
    parser.add_argument("--precision", choices=["fp32", "bf16", "int8"])
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ray-python", type=Path, help="a Python that has ray[data]")
    parser.add_argument("--before", type=Path, help="checkout of an earlier commit")
    parser.add_argument("--no-ray", action="store_true", help="leave Ray Data out")
    parser.add_argument("--quick", action="store_true", help="one round on 282 films")
    given = parser.parse_args()
    if given.quick:
        given.films, given.rounds = min(given.films, 282), 1
    claims = reporting.Claims()
    with site.cache(given.cache) as cache, site.installation(given.database) as at:
        ray_python = None
        if not given.no_ray:
            try:
                ray_python = rivals.ray_python(given.ray_python, cache)
            except rivals.Unavailable as error:
                print(f"Ray Data is not measured: {error}\n")
        trained = models.find(given, cache)
        precision = given.precision or ("int8" if "int8" in trained.files else "fp32")
        films = film_files.prepare(cache, given.films, given.originals)
        print(
            f"{len(films.paths):,} films of {films.mean_bytes / 1e3:,.0f} kB, {precision}, "
            f"{given.database}\n"
        )
        model_id = samples.register(at.engine, trained.files)
        at.worker()
        warm = film_files.prepare(cache, 94, given.originals)
        site.score(at, model_id, warm.archive, precision=precision, force=True)
        with ExitStack() as stack:
            trees = {}
            if given.before is not None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                words = [given.database, precision, films.archive, warm.archive]
                words += [f"{name}={path.resolve()}" for name, path in trained.files.items()]
                for name, tree in (("before", given.before.resolve()), ("now", ROOT)):
                    child = beside.process(tree, beside.SCORING, *words, folder=folder / name)
                    trees[name] = stack.enter_context(child)
                    beside.answer(trees[name])
            rates, cpu, job_id = rounds(
                given, at, model_id, trained, precision, films, ray_python, trees
            )
        report(rates, precision, claims)
        if trees:
            compare(rates, cpu, claims)

        reference = Reference(trained.files["fp32"])
        chosen = {p.name: p for p in films.paths[:REFERENCE]}
        pairs = [agreement("re-encodings", at, job_id, chosen, reference)]
        with held_out(reference, cache) as found:
            if found is not None:
                path, files = found
                job_id, _ = site.score(at, model_id, path, precision=precision, force=True)
                pairs.append(agreement("held out", at, job_id, files, reference))
        ours, theirs = (np.concatenate(side) for side in zip(*pairs, strict=True))
        same, delta = _compare(ours, theirs, reference.card.threshold)
        enough = len(ours) >= (COMPARED if not given.quick else 1)
        claims.check(
            enough and same >= DECISIONS,
            f"decisions as fp32's for {DECISIONS:.1%} of {COMPARED:,} films or more",
            f"{same:.2%} of {len(ours):,}",
        )
        claims.check(
            enough and delta <= DELTA,
            f"|Δ probability| ≤ {DELTA} at the 99th percentile",
            f"{delta:.4f}",
        )
    return claims.end()


if __name__ == "__main__":
    sys.exit(main())
