"""Precisions: a model's fp32 file becomes faster ones, and each is measured before it may be used.

What is made (fp16 and int8 files) and what needs no file (bf16, where the processor has it) runs on
films that the network was not trained on, beside fp32; `trainer.judging.parity` says whether it
passes.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer import folded
from trainer.card import Card
from trainer.errors import FilmError, QuantiseError, Stopped
from trainer.judging import parity
from trainer.modelfile import quantise
from worker import archive
from worker.decoding import labelled
from worker.decoding.labelled import Limits
from worker.decoding.pool import Place
from worker.engine import FILE_OF, Engine, Pending, observe, open_engine
from worker.engine.base import identity
from worker.errors import ArchiveError, EngineError

#: `uint8 [1, S, S]` each, or all of them as one array.
Films = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Derived:
    """What became of a model file."""

    #: precision → file, of those that passed.
    files: dict[str, Path]
    #: Rows of the engines table, without the fp32 engine's.
    engines: list[dict[str, Any]]
    #: A sentence about each precision.
    notes: list[str]
    #: Of the fp32 engine, on the same films.
    films_per_s: float
    #: precision → `scores [N, C]` of the drawn films, of those that passed.
    of_drawn: dict[str, NDArray[np.float32]]


def derive(
    path: Path,
    calibration: Films,
    held_out: Films,
    *,
    batch: int,
    threads: int,
    stop: Callable[[], bool] = lambda: False,
    drawn: Films | None = None,
) -> Derived:
    """Make the other precisions' files beside an fp32 model file, and measure all there are.

    `calibration` and `held_out` are `uint8 [1, S, S]` each; the network should have been trained on
    films like the former and must not have been on the latter. What each precision computes of
    `drawn` films, if there are any, is returned too. Raises EngineError where fp32 itself cannot be
    run, and Stopped.
    """
    engine = open_engine(path, batch=batch, threads=threads)
    card = engine.card
    reference, fp32_rate = scores(engine, held_out, stop)
    engine.close()
    made, notes = _files(path, calibration, threads, stop)
    files: dict[str, Path] = {}
    engines: list[dict[str, Any]] = []
    of_drawn: dict[str, NDArray[np.float32]] = {}
    for precision in ("bf16", "fp16", "int8"):
        source = {"fp32": path, **made}.get(FILE_OF[precision])
        if source is None:
            continue
        try:
            engine = open_engine(source, batch=batch, threads=threads, precision=precision)
        except EngineError as error:
            notes.append(f"{precision} is left out: {error}")
            continue
        found, rate = scores(engine, held_out, stop)
        outputs = None if drawn is None else scores(engine, drawn, stop)[0]
        engine.close()
        result = parity.compare(reference, found, card)
        verdict = "passed" if result.passed else "failed its gate and is not used"
        notes.append(f"{precision} {verdict}: {result}; {rate:.0f} films/s, fp32 {fp32_rate:.0f}")
        engines.append(
            {
                **identity(engine),
                "options": {
                    "batch": batch,
                    "threads": threads,
                    "films": result.films,
                    "agreement": result.agreement,
                    "delta_p99": result.delta,
                    "films_per_s": round(rate, 1),
                },
                "parity_delta": result.largest,
                "passed": result.passed,
            }
        )
        if result.passed and precision in made:
            files[precision] = source
        if result.passed and outputs is not None:
            of_drawn[precision] = outputs
    return Derived(
        files=files, engines=engines, notes=notes, films_per_s=fp32_rate, of_drawn=of_drawn
    )


def spread(total: int, most: int) -> NDArray[np.int64]:
    """At most `most` numbers below `total`, evenly spread."""
    return np.linspace(0, total - 1, min(total, most)).astype(np.int64)


def scores(
    engine: Engine, films: Films, stop: Callable[[], bool] = lambda: False
) -> tuple[NDArray[np.float32], float]:
    """An engine's scores `[N, C]` of films `uint8 [1, S, S]` each, and films per second."""
    started = time.perf_counter()
    # With its pixels, which must stay until the batch is computed.
    pending: deque[tuple[Pending, NDArray[np.uint8], int]] = deque()
    found = []

    def finish() -> None:
        batch, _, filled = pending.popleft()
        found.append(batch.result().scores[:filled])

    for start in range(0, len(films), engine.batch):
        if stop():
            raise Stopped("stopped while precisions were compared")
        if len(pending) == engine.depth:
            finish()
        part = np.zeros((engine.batch, *films[0].shape), np.uint8)
        filled = len(films[start : start + engine.batch])
        part[:filled] = films[start : start + engine.batch]
        pending.append((engine.submit(part), part, filled))
    while pending:
        finish()
    return np.concatenate(found), len(films) / (time.perf_counter() - started)


def _files(
    path: Path, calibration: Films, threads: int, stop: Callable[[], bool]
) -> tuple[dict[str, Path], list[str]]:
    """The fp16 and int8 files, and why one is missing."""
    try:
        network = folded.Network(path)
    except QuantiseError as error:
        return {}, [f"fp16 and int8 are left out: {error}"]
    sample = observe.sample(network, calibration, threads=threads, stop=stop)
    made, notes = {"int8": path.with_name("model.int8.onnx")}, []
    quantise.int8(network, sample, made["int8"])
    if sample.largest_of_all > quantise.HALF_MAX:
        notes.append(
            f"fp16 is left out: activations reach {sample.largest_of_all:.3g}, too near the end of "
            "its range"
        )
    else:
        made["fp16"] = path.with_name("model.fp16.onnx")
        quantise.fp16(network, made["fp16"])
    return made, notes


def pick(uri: str, card: Card, most: int, limits: Limits) -> tuple[NDArray[np.uint8], int]:
    """At most `most` films of a folder or archive, chosen at random, as `uint8 [N, 1, S, S]`.

    Equal archives give equal films. Also returns how many of those chosen could not be read; others
    were taken in their place as long as there were any. Raises ArchiveError and DecodersError.
    """
    with archive.open_source(uri) as source:
        if source.kind in archive.WINDOWED:
            raise ArchiveError(
                "unsupported",
                f"{uri} can only be read from its start; unpack it, or give a folder or a .zip",
            )
        rng = random.Random(0)
        chosen: list[archive.Member] = []
        # Some to spare, for those that turn out not to be films.
        room = most + most // 4 + 16
        for n, member in enumerate(source.members()):
            if len(chosen) < room:
                chosen.append(member)
            elif (place := rng.randrange(n + 1)) < room:
                chosen[place] = member
        rng.shuffle(chosen)
        where = Place(kind=source.kind, uri=source.uri, edition="")
    found: dict[int, NDArray[np.uint8]] = {}
    taken = 0
    while len(found) < most and taken < len(chosen):
        part = chosen[taken : taken + most - len(found)]
        with closing(
            labelled.members(where, part, size=card.size, rule=card.film_rule, limits=limits)
        ) as through:
            for one in through:
                if one is not None and not isinstance(one.outcome, FilmError):
                    found[taken + one.number] = one.outcome.copy()
        taken += len(part)
    broken = taken - len(found)
    films = np.empty((len(found), 1, card.size, card.size), np.uint8)
    for row, number in enumerate(sorted(found)):
        films[row, 0] = found.pop(number)
    return films, broken
