"""Judging: model files score the films that models are compared on, and the gate says what follows.

Knows no database and no schedule: a night and whoever else makes a model hand in the files, the
films and the rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.card import Card
from trainer.data import whose
from trainer.data.decoding import Decoder
from trainer.data.frozen import Judged
from trainer.data.labelled import TEST, Entry
from trainer.errors import TrainerError
from trainer.judging import figures, gate, verdict
from trainer.judging.gate import Reason
from trainer.judging.margins import NAMES, Margins
from worker.engine import open_engine
from worker.training import evaluation


@dataclass(frozen=True, kw_only=True)
class _Scores:
    """What a model says of the films."""

    #: P(positive), `float64 [N]`; NaN also of a film that cannot be read.
    score: NDArray[np.float64]
    #: `bool [N]`
    readable: NDArray[np.bool_]
    card: Card

    def side(self, which: NDArray[np.bool_]) -> verdict.Side:
        return verdict.Side(score=self.score[which], threshold=self.card.threshold)


def through_gate(
    candidate: Path,
    champion: Path | None,
    anchor: tuple[int, Path] | None,
    films: Sequence[Judged],
    rules: Mapping[str, Any],
    *,
    positive: str,
    batch: int,
    threads: int,
    decoder: Decoder,
    anchor_is: str = gate.CHOSEN,
    chose: Sequence[Collection[str]] = ((), (), ()),
    lack: Callable[[int], str] = lambda unreadable: "",
    against: Sequence[Reason] = (),
) -> dict[str, Any]:
    """Score the films by every model, and judge the candidate.

    `anchor` is the last model that a person promoted, by its number, where that is not the
    champion, and `anchor_is` what it is in words; `rules` are as a schedule has them; `chose` are
    contents of the films that chose epoch and threshold of candidate, champion and anchor; `lack`
    gets how many films cannot be read, and says why nothing can be judged, if so; `against` is what
    else speaks against the candidate.

    Returns `candidate`, `champion` and `anchor` (its `model` and `figures`): rows of evaluations or
    None; `verdict`, its figures; `accepted`; and `reason` and `told`, the latter for those who may
    know nothing from outside. Without a champion whatever there is is accepted.
    """
    paths = [candidate, *([champion] if champion else []), *([anchor[1]] if anchor else [])]
    outputs = _scores(paths, films, positive, batch=batch, threads=threads, decoder=decoder)
    readable = np.logical_and.reduce([one.readable for one in outputs])
    seen = [film for film, could in zip(films, readable, strict=True) if could]
    truth = np.array([film.name == positive for film in seen], dtype=np.bool_)
    sides = [one.side(readable) for one in outputs]
    # Without a champion there is no anchor either.
    found = [
        _figures(side, truth, seen, one.card, its)
        for side, one, its in zip(sides, outputs, chose, strict=False)
    ]
    answer: dict[str, Any] = {
        "candidate": found[0],
        "champion": found[1] if champion else None,
        "anchor": {"model": anchor[0], "figures": found[-1]} if anchor else None,
        "verdict": {"films": len(seen)},
        "accepted": True,
        "reason": "",
        "told": "",
    }
    if champion is None:
        return answer
    if missing := lack(len(films) - len(seen)):
        return answer | {"accepted": False, "reason": missing, "told": missing}
    parts = sorted({film.slice for film in seen} - {""})
    judged = gate.judge(
        truth,
        [film.patient for film in seen],
        sides[0],
        sides[1],
        of_rules(rules),
        anchor=gate.Anchor(
            side=sides[2], model=anchor[0], why=anchor_is, shift=outputs[2].card.shift
        )
        if anchor
        else None,
        slices={
            part: np.array([film.slice == part for film in seen], dtype=np.bool_) for part in parts
        },
        shift=(outputs[0].card.shift, outputs[1].card.shift),
        against=against,
    )
    return answer | {
        "verdict": {**judged.figures, "accepted": judged.accepted},
        "accepted": judged.accepted,
        "reason": judged.text,
        "told": judged.shareable,
    }


def of_rules(rules: Mapping[str, Any]) -> gate.Rules:
    """What a schedule's rules demand; what they do not say is as by default."""
    names = [*NAMES, "shift"]
    given = {name: rules[f"margin_{name}"] for name in names if f"margin_{name}" in rules}
    return gate.Rules(margins=Margins(**given), floors=dict(rules.get("floor") or {}))


def _scores(
    paths: Sequence[Path],
    films: Sequence[Judged],
    positive: str,
    *,
    batch: int,
    threads: int,
    decoder: Decoder,
) -> list[_Scores]:
    """What each of some model files says of the films. A film is decoded once for all models that
    take the same pixels."""
    entries = [
        Entry(file=film.file, name=film.name, split=TEST, stem=film.file.stem) for film in films
    ]
    found: dict[int, _Scores] = {}
    with ExitStack() as opened:
        engines = []
        for path in paths:
            engine = open_engine(path, batch=batch, threads=threads)
            opened.callback(engine.close)
            engines.append(engine)
            if engine.card.positive != positive:
                raise TrainerError(
                    f"{path.name} tells {engine.card.positive} from the rest, the new model "
                    f"{positive}; they cannot be compared"
                )
        for pixels in dict.fromkeys(evaluation.pixels_of(engine.card) for engine in engines):
            alike = [n for n, e in enumerate(engines) if evaluation.pixels_of(e.card) == pixels]
            some = [engines[n] for n in alike]
            rows = list(evaluation.side_by_side(some, entries, decoder))
            for place, n in enumerate(alike):
                score = [row[place].probability for row in rows]
                found[n] = _Scores(
                    score=np.array([math.nan if p is None else p for p in score], np.float64),
                    readable=np.array([p is not None for p in score], np.bool_),
                    card=engines[n].card,
                )
    return [found[n] for n in range(len(paths))]


def _figures(
    side: verdict.Side,
    truth: NDArray[np.bool_],
    films: Sequence[Judged],
    card: Card,
    chose: Collection[str],
) -> dict[str, Any] | None:
    """A model's row of evaluations; None where there is nothing that could be one."""
    if not len(truth) or not np.isfinite(side.score).all():
        return None
    patients = [film.patient for film in films]
    found = figures.summary(side.score, truth, side.threshold, patients, known=whose.state(films))
    # A model may have been calibrated on some of them, and an imported one have learned them.
    unknown = bool({"calibrated", "imported"} & card.provenance.keys())
    given = unknown or any(film.sha256 in chose for film in films)
    basis = figures.GIVEN if given else figures.FROZEN
    return {**found, "n_films": len(truth), "basis": basis}
