"""The bench: every stage alone, decoding and inference together, and a whole job, in turns.

What a run is judged by is its share of the machine's limit, not films per second. With D films/s
through the film rule and I films/s through the engine by all cores each time, and both on the same
processor, a film takes 1/D + 1/I of all cores, so that no arrangement can do better than
D·I / (D + I); where a GPU computes, the limit is the lesser of D and I. D is of bytes in memory:
what decoders take for reading, checksums and hashes is measured apart and taken off. Both are also
run at once, for what the formula cannot know (caches, two threads of one core): the limit is the
larger of the two figures.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from db.base import workers
from scheduler import errors
from scheduler.measure import scratch, stages, survey
from worker import archive
from worker.config import Settings
from worker.engine import Engine, choose
from worker.scoring import serving

#: Films of the job that lets the worker compile its engine and start its decoders.
WARM_FILMS = 64


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured, one value per repetition, in films/s; writing in rows/s."""

    films: int
    precision: str
    #: What computed, in words, and how many films at once.
    engine: str
    batch: int
    #: Whether decoding and inference share the processor.
    shared: bool
    #: Decoder processes.
    decoders: int
    decode: list[float] = field(default_factory=list)
    inference: list[float] = field(default_factory=list)
    both: list[float] = field(default_factory=list)
    #: What decoders take beside the film rule.
    plumbing: list[stages.Plumbing] = field(default_factory=list)
    write: list[float] = field(default_factory=list)
    together: list[float] = field(default_factory=list)

    @property
    def rule(self) -> list[float]:
        """The film rule on bytes in memory: decoders without what is not decoding."""
        pairs = zip(self.decode, self.plumbing, strict=True)
        # Where a GPU decodes, films are read meanwhile: no more than half is taken off.
        return [1 / max(1 / d - sum(beside) / 1e3 / self.decoders, 0.5 / d) for d, beside in pairs]

    @property
    def computed(self) -> list[float]:
        """The limit by the formula."""
        pairs = zip(self.rule, self.inference, strict=True)
        return [d * i / (d + i) if self.shared else min(d, i) for d, i in pairs]

    @property
    def limit(self) -> list[float]:
        """The limit of each repetition."""
        return [max(pair) for pair in zip(self.computed, self.both, strict=True)]

    @property
    def share(self) -> float:
        """How much of the limit a whole job reaches: the median of what each repetition came to."""
        return statistics.median(
            t / limit for t, limit in zip(self.together, self.limit, strict=True)
        )

    def rows(self) -> list[dict[str, Any]]:
        """One row per stage: its name, and its median, least and greatest figure."""
        per_stage = {
            "decoders alone": self.decode,
            "of that the film rule": self.rule,
            "inference alone": self.inference,
            "limit, computed from these two": self.computed,
            "both at once": self.both,
            "writing alone": self.write,
            "a whole job": self.together,
        }
        return [
            {
                "stage": name,
                "per_s": statistics.median(runs),
                "least": min(runs),
                "greatest": max(runs),
            }
            for name, runs in per_stage.items()
        ]

    def spent(self) -> dict[str, float]:
        """Where a film's time goes, in milliseconds of the whole machine: medians.

        Where a GPU computes, stages go on at once: the longest alone is taken off the whole, and
        what is left is hand-over and waiting.
        """
        middle = statistics.median
        beside = {
            name: middle(getattr(one, name) for one in self.plumbing) / self.decoders
            for name in stages.Plumbing._fields
        }
        known = {
            "film rule": 1e3 / middle(self.rule),
            "inference": 1e3 / middle(self.inference),
            "reading": beside["read"],
            "checksum": beside["checksum"],
            "hash": beside["hash"],
            "database": 1e3 / middle(self.write),
        }
        whole = 1e3 / middle(self.together)
        overlapped = known if self.shared else {"slower": max(known.values())}
        return {**known, "hand-over and waiting": whole - sum(overlapped.values()), "in all": whole}


def run(
    settings: Settings,
    engine: sa.Engine,
    *,
    model_id: int,
    precision: str,
    row: Mapping[str, Any],
    films: int,
    repeats: int,
    accept: Sequence[str] = (),
    report: Callable[[str], None] = lambda text: None,
) -> Figures:
    """Measure with `films` films of a source (columns of `sources`), repeated where it has fewer.

    The stages take turns, so that a busy neighbour disturbs all of them alike. Starting and
    compiling are not counted. Raises ArchiveError, EngineError, and Failure where nothing can be
    scored.
    """
    here = [w for w in workers.alive(engine) if w["host"] == socket.gethostname()]
    if here:
        report(f"{len(here)} workers run here: end them first, or the figures will be too low")
    report("looking through the source")
    found = survey.look(row, films)
    if not found.items:
        raise errors.Failure(f"{row['uri']} holds no files to be scored")
    with (
        tempfile.TemporaryDirectory(prefix="pneumoq-bench-") as folder,
        scratch.site(settings, engine, model_id) as (own, empty),
    ):
        if found.items > films or row["kind"] in archive.WINDOWED:
            report(
                f"packing {len(found.sample):,} of {found.items:,} items into a zip to measure with"
            )
            row = survey.repack(found, Path(folder) / "films.zip")
        else:
            row = dict(row)
        times = max(1, round(films / len(found.sample)))
        found.sample = found.sample[:WARM_FILMS]
        warm = survey.repack(found, Path(folder) / "warm.zip")
        with scratch.running(own, empty, model_id, precision, accept, report) as jobs:
            report("starting a worker, and compiling the model")
            jobs.run(warm)
            inference = stages.Inference(_serving(own, empty, model_id, precision))
            decoding = stages.Decoding(
                own, inference.engine.card, list(survey.all_located(row)), accept
            )
            writing = stages.Writing(empty, model_id, precision, "patient0001/film")
            try:
                return _in_turns(decoding, inference, writing, jobs, row, times, repeats, report)
            finally:
                decoding.close()
                inference.close()


@contextlib.contextmanager
def _serving(
    settings: Settings, engine: sa.Engine, model_id: int, precision: str
) -> Iterator[Engine]:
    """An engine as a worker has it; the GPU's lease is left to the worker that is measured too."""
    with contextlib.closing(
        serving.serve(settings, engine, model_id, precision, choose(settings))
    ) as served:
        yield served


def _in_turns(
    decoding: stages.Decoding,
    inference: stages.Inference,
    writing: stages.Writing,
    jobs: scratch.Jobs,
    row: dict[str, Any],
    times: int,
    repeats: int,
    report: Callable[[str], None],
) -> Figures:
    count = decoding.count * times
    batch = inference.engine.batch
    batches = -(-count // batch)
    some = decoding.films[: stages.PLUMBING_FILMS]
    decoding.run(stages.WARM_FILMS)
    inference.run(stages.WARM_BATCHES * inference.engine.depth)
    writing.run()
    computes = inference.engine
    figures = Figures(
        films=count,
        precision=computes.precision,
        engine=f"{computes.backend} {computes.backend_version} on {computes.device}",
        batch=computes.batch,
        shared=computes.backend in stages.ON_CPU,
        decoders=decoding.decoders,
    )
    for repeat in range(1, repeats + 1):
        report(f"measuring {count:,} films, repetition {repeat} of {repeats}")
        figures.decode.append(count / decoding.run(count))
        figures.plumbing.append(stages.plumbing(some))
        figures.inference.append(batches * batch / inference.run(batches))
        figures.both.append(batches * batch / stages.both(decoding, inference, count))
        figures.write.append(stages.WRITE_SHARDS * stages.WRITE_FILMS / writing.run())
        items, seconds = jobs.run(row, times)
        figures.together.append(items / seconds)
    return figures
