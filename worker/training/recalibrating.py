"""Recalibrating: labelled films of a site choose a model's temperature and operating point anew.

`of_source` scores the films of a folder, `of_job` takes the scores that a job has kept; both give
`Films`, of which `trainer.judging.recalibration` makes a `CrossFitted`. `write` makes the files of
the new version, and `judged` lets it through the gate. Needs no torch, and knows no database.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.card import Card
from trainer.data import frozen, whose
from trainer.data.decoding import Decoder
from trainer.data.frozen import Judged
from trainer.data.labelled import TEST, Entry, Film, stem_of
from trainer.data.whose import Whose
from trainer.errors import DatasetError
from trainer.judging import clusters, crossfit, gate, metrics, parity, recalibration
from trainer.judging.crossfit import CrossFitted
from trainer.judging.verdict import Margins, Side, Verdict
from trainer.modelfile import recalibrated
from worker.engine import FILE_OF, Engine, open_engine
from worker.engine.base import identity
from worker.errors import EngineError
from worker.training import evaluation

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Films:
    """Labelled films, and what a model says of them."""

    #: What they are, for a person: the last part of their folder's path, or `labels of job 7`.
    on: str
    #: True class of each, by its place in the model's labels, `int [N]`.
    labels: NDArray[np.int64]
    #: Whose each is.
    patients: list[str]
    #: Whether that is known, as of `whose.state`.
    known: str
    #: The model's scores, `[N, C]`.
    scores: Floats
    #: How many are unlike the training films; None where the model cannot tell.
    unusual: int | None
    #: The films themselves, where they are at hand.
    judged: tuple[Judged, ...] = ()
    #: Code → how many files could not be read, and some of them by name.
    unreadable: Mapping[str, int] = field(default_factory=dict)
    named: tuple[str, ...] = ()
    #: Sentences that a person should read.
    notes: tuple[str, ...] = ()


def found(
    source: Path, card: Card, said: Whose, learned: Collection[str]
) -> tuple[str, tuple[Judged, ...], tuple[str, ...]]:
    """The films of a labelled folder or manifest that may choose, what they are, and notes.

    Those of its test split, or all without one; none that the model has learned (`learned` are
    contents), nor another of such a film's patient. Raises DatasetError.
    """
    films = frozen.of_source(source, said, card.labels)
    _check_pattern(said, films)
    if stop := whose.stop([_film(film) for film in films]):
        raise DatasetError(stop)
    theirs = {film.patient for film in films if film.sha256 in learned}
    left = tuple(film for film in films if film.patient not in theirs)
    notes = []
    if len(left) < len(films):
        notes.append(
            f"{len(films) - len(left)} of {len(films)} films do not count, as the model has "
            "learned from them, or from films of their patients"
        )
    return source.absolute().name, left, tuple(notes)


def of_source(
    engine: Engine, on: str, films: Sequence[Judged], notes: Sequence[str], decoder: Decoder
) -> Films:
    """What an engine says of these films, of which those that cannot be read are left out."""
    card = engine.card
    entries = [
        Entry(file=film.file, name=film.name, split=TEST, stem=film.file.stem) for film in films
    ]
    scored = list(evaluation.score(engine, entries, decoder))
    read = [n for n, one in enumerate(scored) if one.scores]
    there = tuple(films[n] for n in read)
    broken = [one for one in scored if not one.scores]
    return Films(
        on=on,
        labels=np.array([card.labels.index(film.name) for film in there], np.int64),
        patients=[film.patient for film in there],
        known=whose.state(there),
        scores=np.array([scored[n].scores for n in read], np.float64).reshape(-1, len(card.labels)),
        unusual=None if card.ood_threshold is None else sum(scored[n].unusual for n in read),
        judged=there,
        unreadable=collections.Counter(one.code for one in broken),
        named=tuple(f"{one.file}: {one.reason}" for one in broken),
        notes=tuple(notes),
    )


class Row(Protocol):
    """A labelled prediction as a job has kept it: db.queue.labels.Scored."""

    @property
    def name(self) -> str:
        """Of the film."""

    @property
    def truth(self) -> str:
        """True class."""

    @property
    def probability(self) -> float:
        """P(positive)."""

    @property
    def scores(self) -> Sequence[float] | None:
        """All classes, where there are more than two."""

    @property
    def ood(self) -> float | None:
        """Distance from the training films."""

    @property
    def patient(self) -> str | None:
        """By its tags."""

    @property
    def study(self) -> str | None:
        """By its tags."""

    @property
    def origin(self) -> tuple[int, int]:
        """The same of films of equal content."""


def of_job(on: str, card: Card, rows: Sequence[Row], said: Whose) -> Films:
    """What a job has kept of its labelled films, each content once. Nothing is decoded.

    Whose a film is, is what its tags said when it was scored, or its name. Raises DatasetError
    where names prove that this is not known.
    """
    once = list({row.origin: row for row in reversed(rows)}.values())[::-1]
    entries = [
        Entry(
            file=Path(row.name), name=row.truth, split=TEST,
            stem=stem_of(PurePosixPath(row.name)).as_posix(),
        )
        for row in once
    ]  # fmt: skip
    reader = whose.Reader(said, entries)
    films = []
    tags = {}
    for number, (row, entry) in enumerate(zip(once, entries, strict=True)):
        patient, known_by = reader(entry)
        # Two archives of a job may have a film of one name each.
        films.append(
            Film(
                path=str(number), label=card.labels.index(row.truth), patient=patient,
                sha256="", split=TEST, known_by=known_by,
            )
        )  # fmt: skip
        its = {"patient": row.patient or "", "study": row.study or ""}
        if any(its.values()):
            tags[str(number)] = its
    films, notes = whose.owned(films, tags)
    _check_pattern(said, films)
    if stop := whose.stop(films):
        raise DatasetError(stop)
    if len(once) < len(rows):
        notes.append(f"{len(rows) - len(once)} films of equal content count once")
    notes.append(
        "which of a job's films the model was trained on is not known: calibrate on films that it "
        "has not learned"
    )
    probability = np.array([row.probability for row in once], np.float64)
    scores = (
        recalibration.of_positive(probability, card.positive_index)
        if len(card.labels) == 2
        else np.array([row.scores for row in once], np.float64)
    )
    limit = card.ood_threshold
    return Films(
        on=on,
        labels=np.array([film.label for film in films], np.int64),
        patients=[film.patient for film in films],
        known=whose.state(films),
        scores=scores,
        unusual=None if limit is None else sum((row.ood or 0.0) > limit for row in once),
        notes=tuple(notes),
    )


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
        # What dressed films do at another threshold was not measured.
        shift=None,
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
    margins: Margins,
    anchor: gate.Anchor | None = None,
) -> Verdict:
    """The gate: may a version that was calibrated anew take the place of this champion?

    The same gate as a trained model's, on the films that chose; `candidate` is what those said of
    each that did not choose for it.
    """
    rules = gate.Rules(margins=margins)
    found = gate.judge(truth, patients, candidate, champion, rules, anchor=anchor)
    # Nothing is frozen here: they are the site's films.
    return dataclasses.replace(
        found,
        text=found.text.replace("frozen films", "films"),
        shareable=found.shareable.replace("frozen films", "films"),
    )


def _check_pattern(said: Whose, films: Sequence[Judged] | Sequence[Film]) -> None:
    """Refuse a pattern that matches no film: each would be taken for a patient of its own."""
    if said.pattern is not None and not any(film.known_by == whose.PATTERN for film in films):
        raise DatasetError(
            f"--patient-pattern {said.pattern} matches none of {len(films):,} films; it is "
            "searched in a film's path below its class folder, of a job's film in all of its "
            "name, without suffix"
        )


def _film(film: Judged) -> Film:
    return Film(
        path=str(film.file), label=0, patient=film.patient, sha256=film.sha256, split=TEST,
        known_by=film.known_by,
    )  # fmt: skip
