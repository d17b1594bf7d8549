"""Recalibrating: labelled films of a site choose a model's temperature and operating point anew.

Of `site_films.Films` `trainer.judging.crossfit` makes a `CrossFitted`; `write` makes the
files of the new version, and `judged` lets it through the gate. Needs no torch, and knows no
database.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.card import Card
from trainer.data.decoding import Decoder
from trainer.errors import DatasetError
from trainer.judging import clusters, crossfit, gate, metrics, parity, recalibration
from trainer.judging.crossfit import CrossFitted
from trainer.judging.verdict import Side, Verdict
from trainer.modelfile import recalibrated
from trainer.shift import carried
from worker.engine import FILE_OF, open_engine
from worker.engine.base import identity
from worker.errors import EngineError
from worker.training import evaluation
from worker.training.site_films import Films, of_source


def choose(films: Films, card: Card, rule: str) -> CrossFitted:
    """Temperature, bias and operating point by these films. Raises DatasetError where they cannot
    choose: they are too few, or the model does not tell them apart."""
    truth = films.labels == card.positive_index
    others = [name for name in card.labels if name != card.positive]
    healthy = others[0] if len(others) == 1 else f"classes other than {card.positive}"
    lack = recalibration.lack(truth, films.patients, rule, (card.positive, healthy))
    if lack:
        raise DatasetError(lack)
    score = films.scores[:, card.positive_index]
    area = metrics.auroc(score, truth)
    low, high = clusters.auroc_interval(score, truth, films.patients)
    if not low > 0.5:
        raise DatasetError(
            f"the model tells {card.positive} from the rest no better than chance on these "
            f"{len(truth)} films (AUROC {area:.3f}, 95 % {low:.3f} to {high:.3f}): see whether "
            "their labels are right; calibration cannot mend a network that does not know these "
            "films"
        )
    logits = recalibration.logits_of(films.scores, card.temperature)
    return crossfit.fit(logits, films.labels, films.patients, card.positive_index, rule)


def recalibrated_card(
    card: Card, films: Films, new: CrossFitted, rule: str, origin: Mapping[str, Any]
) -> Card:
    """What is said of the new version; `origin` is the model that it comes from, as JSON."""
    truth = films.labels == card.positive_index
    n, patients = len(truth), len(set(films.patients))
    return dataclasses.replace(
        card,
        temperature=new.chosen.temperature,
        threshold=new.chosen.threshold,
        threshold_rule=f"{rule} on {n} films of {patients} patients of its site",
        metrics=new.figures(truth, films.patients, known=films.known),
        basis=new.basis(),
        shift=carried.over(card.shift, origin, len(card.labels)),
        provenance={
            **card.provenance,
            "calibrated": {
                "from": dict(origin),
                # Not what their folder is called: the file may leave the site.
                "on": "labelled films" if films.judged else "labelled predictions",
                "films": n,
                "positives": int(truth.sum()),
                "patients": patients,
                "patients_are": films.known,
                "rule": rule,
                "bias": new.chosen.bias.tolist(),
                "temperature_before": card.temperature,
                "threshold_before": card.threshold,
            },
        },
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )


def write(files: Mapping[str, Path], folder: Path, card: Card, new: CrossFitted) -> dict[str, Path]:
    """Write the new version's file of each precision; `files` are those of the model as it was."""
    from trainer import card as cards

    made = {}
    for precision, source in files.items():
        made[precision] = folder / f"{precision}.onnx"
        # What is particular to a precision stays.
        theirs = cards.read(source)
        said = dataclasses.replace(
            card,
            precision=precision,
            provenance={**theirs.provenance, **card.provenance},
        )
        recalibrated.write(source, made[precision], said, new.chosen.bias)
    return made


def reference(films: Films, new: CrossFitted) -> dict[str, Any]:
    """`models.reference` of the new version: how it scores the films that it was chosen on."""
    return {
        "of": "validation",
        "n": len(films.labels),
        "histogram": evaluation.counted(new.probability).tolist(),
        "unusual": films.unusual,
    }


def faster(
    files: Mapping[str, Path],
    wanted: Collection[str],
    films: Films,
    card: Card,
    new: CrossFitted,
    *,
    batch: int,
    threads: int,
    decoder: Decoder,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Whether the faster precisions of the same weights may decide at the new operating point.

    `files` are those of the model as it was, by precision, and `wanted` the precisions that it may
    be computed in. Returns rows of the engines table, of those that passed and those that did not,
    and a sentence about each.
    """
    rows, notes = [], []
    places = np.linspace(0, len(films.judged) - 1, min(len(films.judged), parity.FILMS))
    chosen = np.unique(places.astype(np.int64))
    judged = [films.judged[n] for n in chosen]
    before = new.chosen.scores(recalibration.logits_of(films.scores[chosen], card.temperature))
    after = dataclasses.replace(card, threshold=new.chosen.threshold)
    for precision in ("bf16", "fp16", "int8"):
        if precision not in wanted or FILE_OF[precision] not in files:
            continue
        try:
            engine = open_engine(
                files[FILE_OF[precision]], batch=batch, threads=threads, precision=precision
            )
        except EngineError as error:
            notes.append(f"{precision} is left out: {error}")
            continue
        try:
            row = identity(engine)
            its = of_source(engine, films.on, judged, (), decoder)
        finally:
            engine.close()
        if len(its.labels) != len(judged):
            notes.append(f"{precision} is left out: films could not be read again")
            continue
        scores = new.chosen.scores(recalibration.logits_of(its.scores, card.temperature))
        result = parity.compare(before, scores, after)
        passed = "passed" if result.passed else "failed its gate and is not used"
        notes.append(f"{precision} {passed}: {result}")
        rows.append(
            {
                **row,
                "options": {
                    "batch": batch,
                    "threads": threads,
                    "films": result.films,
                    "agreement": result.agreement,
                    "delta_p99": result.delta,
                },
                "parity_delta": result.largest,
                "passed": result.passed,
            }
        )
    return rows, notes


def judged(
    truth: NDArray[np.bool_],
    patients: Sequence[str],
    candidate: Side,
    champion: Side,
    rules: gate.Rules,
    anchor: gate.Anchor | None = None,
    shift: tuple[Mapping[str, Any] | None, Mapping[str, Any] | None] = (None, None),
) -> Verdict:
    """The gate: may a version that was calibrated anew take the place of this champion?

    The same gate as a trained model's, on the films that chose; `candidate` is what those said of
    each that did not choose for it, and `shift` are the shift reports of both.
    """
    found = gate.judge(truth, patients, candidate, champion, rules, anchor=anchor, shift=shift)
    # Nothing is frozen here: they are the site's films.
    return dataclasses.replace(
        found,
        text=found.text.replace("frozen films", "films"),
        shareable=found.shareable.replace("frozen films", "films"),
    )
