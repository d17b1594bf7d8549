"""Evaluation: a model file measured on labelled films, with the engine that scores jobs.

Films are decoded by the decoder that the caller hands in, and computed as they come; no more than
a batch is held. What cannot be read is reported, not left out in silence. Needs no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.card import Card
from trainer.data import layout, manifest
from trainer.data.decoding import Decoder, Wanted
from trainer.data.labelled import TEST, TRAIN, VAL, Entry, listed
from trainer.errors import DatasetError, FilmError
from worker.engine import Engine, Outputs

#: All splits together.
ALL = "all"

SPLITS = (TEST, VAL, TRAIN, ALL)

#: Buckets of probability, as a scoring job's: 0 is [0, 0.05), 19 is [0.95, 1].
BUCKETS = 20


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
    #: Of all classes, in the model's order; empty where there is no score.
    scores: tuple[float, ...] = ()
    #: Whether it is unlike the training films.
    unusual: bool = False
    #: First half of the file's SHA-256; empty where there is no score.
    content: bytes = b""
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


def score(
    engine: Engine,
    entries: Sequence[Entry],
    decoder: Decoder,
    watch: Callable[[int, NDArray[np.uint8]], None] = lambda number, plane: None,
) -> Iterator[Scored]:
    """What the engine computes of each film, in their order.

    `watch` gets the number and the pixels uint8 [S, S] of each that can be decoded, to copy.
    """
    for (one,) in side_by_side([engine], entries, decoder, watch):
        yield one


def side_by_side(
    engines: Sequence[Engine],
    entries: Sequence[Entry],
    decoder: Decoder,
    watch: Callable[[int, NDArray[np.uint8]], None] = lambda number, plane: None,
) -> Iterator[tuple[Scored, ...]]:
    """What several engines compute of each film, which is decoded once; as of `score`.

    Their models take the same pixels, as of `pixels_of`, and their batches are equal.
    """
    (size, rule), *others = {pixels_of(engine.card) for engine in engines}
    (batch, *more) = {engine.batch for engine in engines}
    assert not others and not more
    done: dict[int, tuple[Scored, ...]] = {}
    numbers: list[int] = []
    contents: list[bytes] = []
    pixels = np.zeros((batch, 1, size, size), np.uint8)
    at = 0
    wanted = (Wanted(file=entry.file, sha256=entry.sha256) for entry in entries)

    def computed() -> dict[int, tuple[Scored, ...]]:
        # A batch is one thread's work in each: all begin before the first is waited for.
        pending = [engine.submit(pixels) for engine in engines]
        by_engine = [
            _said(engine.card, one.result(), entries, numbers, contents)
            for engine, one in zip(engines, pending, strict=True)
        ]
        return {number: tuple(found[number] for found in by_engine) for number in numbers}

    with closing(decoder(wanted, size=size, rule=rule)) as through:
        # Films are computed as they come: none waits for one that takes long.
        for found in through:
            if found is None:
                continue
            entry, outcome = entries[found.number], found.outcome
            if isinstance(outcome, FilmError):
                broken = Scored(
                    file=entry.file, truth=entry.name, code=outcome.code, reason=str(outcome)
                )
                done[found.number] = (broken,) * len(engines)
            else:
                watch(found.number, outcome)
                pixels[len(numbers), 0] = outcome
                numbers.append(found.number)
                contents.append(found.content)
            if len(numbers) == batch:
                done |= computed()
                numbers.clear()
                contents.clear()
            while at in done:
                yield done.pop(at)
                at += 1
    if numbers:
        done |= computed()
    yield from (done[number] for number in sorted(done))


def pixels_of(card: Card) -> tuple[int, str]:
    """What pixels a model takes: their side, and the rule that makes them of a film."""
    return card.size, card.film_rule


def _said(
    card: Card,
    outputs: Outputs,
    entries: Sequence[Entry],
    numbers: Sequence[int],
    contents: Sequence[bytes],
) -> dict[int, Scored]:
    """What a model says of these films, which begin the batch that was computed."""
    called = card.decide(outputs.scores)
    found = {}
    for n, number in enumerate(numbers):
        ood = -1.0 if outputs.ood is None else float(outputs.ood[n])
        found[number] = Scored(
            file=entries[number].file,
            truth=entries[number].name,
            called=card.labels[int(called[n])],
            probability=float(outputs.scores[n, card.positive_index]),
            scores=tuple(map(float, outputs.scores[n])),
            unusual=card.ood_threshold is not None and ood > card.ood_threshold,
            content=contents[n],
        )
    return found


def same_films(films: Iterable[tuple[bytes, str]]) -> str:
    """What films' contents and true classes come to: the same for the same films in any order.

    A content is the first half of a file's SHA-256.
    """
    digest = hashlib.blake2b(digest_size=16)
    for content, truth in sorted(films):
        digest.update(content + truth.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def counted(probabilities: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """How many of these probabilities lie in each bucket, as a scoring job's are counted."""
    # In Python's precision, in which a shard's are: 0.05 of float32 is in the second bucket there.
    buckets = (probabilities.astype(np.float64) * BUCKETS).astype(np.int64)
    return np.bincount(np.minimum(buckets, BUCKETS - 1), minlength=BUCKETS)
