"""Evaluation: a model file measured on labelled films, with the engine that scores jobs.

Films are decoded by threads a batch ahead of the engine; no more than that is ever held. What
cannot be read is reported, not left out in silence. Needs no torch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.card import Card
from trainer.data import layout, manifest
from trainer.data.labelled import TEST, TRAIN, VAL, Entry, listed
from trainer.data.patience import Patience
from trainer.errors import DatasetError, FilmError
from trainer.film import rules
from worker.engine import Engine

#: All splits together.
ALL = "all"

SPLITS = (TEST, VAL, TRAIN, ALL)

#: Batches that are decoded ahead of the engine.
AHEAD = 2

_Decoded = NDArray[np.uint8] | FilmError


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What became of one labelled film."""

    file: Path
    #: True class.
    truth: str
    #: Class by the operating threshold; empty where there is no score.
    called: str = ""
    #: P(positive), 0 to 1; None where there is no score.
    probability: float | None = None
    #: Whether it is unlike the training films.
    unusual: bool = False
    #: FilmError's code and message where the film cannot be scored.
    code: str = ""
    reason: str = ""


def choose(data: Path, card: Card, split: str | None) -> tuple[str, tuple[Entry, ...]]:
    """The films of a labelled folder or manifest to measure a model on, and their split.

    Without `split`, those of `test`, or all where there is but one. Raises DatasetError.
    """
    if data.suffix.lower() == manifest.SUFFIX:
        source = manifest.read(data, known=card.labels)
    else:
        source = layout.read(data, known=card.labels)
    there = {entry.split for entry in source.entries}
    if split is None:
        split = ALL if there <= {TRAIN} else TEST
    entries = tuple(
        entry for entry in source.entries if split in (ALL, entry.split) and not entry.again
    )
    if not entries:
        raise DatasetError(
            f"{data} has no films to measure on in {split}, only in {listed(there) or 'none'}; "
            "choose with --split, but a model looks better than it is on films it was trained on"
        )
    return split, entries


def score(engine: Engine, entries: Sequence[Entry], *, threads: int) -> Iterator[Scored]:
    """What the engine computes of each film, in their order."""
    waiting: deque[tuple[Sequence[Entry], list[Future[_Decoded]]]] = deque()
    patience = Patience()
    with ThreadPoolExecutor(max(1, threads), thread_name_prefix="decode") as pool:
        for start in range(0, len(entries), engine.batch):
            part = entries[start : start + engine.batch]
            films = [pool.submit(_decode, entry, engine.card, patience) for entry in part]
            waiting.append((part, films))
            if len(waiting) > AHEAD:
                yield from _batch(engine, *waiting.popleft())
        while waiting:
            yield from _batch(engine, *waiting.popleft())


def _batch(
    engine: Engine, entries: Sequence[Entry], decoded: list[Future[_Decoded]]
) -> Iterator[Scored]:
    card = engine.card
    pixels = np.zeros((engine.batch, 1, card.size, card.size), np.uint8)
    found = [future.result() for future in decoded]
    for n, one in enumerate(found):
        if not isinstance(one, FilmError):
            pixels[n, 0] = one
    outputs = engine.submit(pixels).result()
    called = card.decide(outputs.scores)
    for n, (entry, one) in enumerate(zip(entries, found, strict=True)):
        if isinstance(one, FilmError):
            yield Scored(file=entry.file, truth=entry.name, code=one.code, reason=str(one))
            continue
        ood = -1.0 if outputs.ood is None else float(outputs.ood[n])
        yield Scored(
            file=entry.file,
            truth=entry.name,
            called=card.labels[int(called[n])],
            probability=float(outputs.scores[n, card.positive_index]),
            unusual=card.ood_threshold is not None and ood > card.ood_threshold,
        )


def _decode(entry: Entry, card: Card, patience: Patience) -> _Decoded:
    try:
        data = patience.with_(entry.file.read_bytes)
    except OSError as error:
        return FilmError("unreadable", f"the file cannot be opened: {error.strerror}")
    try:
        return rules.decode(data, card.size, card.film_rule)
    except FilmError as error:
        return error
