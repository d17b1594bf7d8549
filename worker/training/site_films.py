"""Site films: labelled films by which a site calibrates a model anew, and what the model says of
them.

`of_source` scores the films of a folder, `of_job` takes the scores that a job has kept. Needs no
torch, and knows no database.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.card import Card
from trainer.data import frozen, tagged, whose
from trainer.data.decoding import Decoder
from trainer.data.frozen import Judged
from trainer.data.labelled import TEST, Entry, Film, stem_of
from trainer.data.learned import Learned
from trainer.data.whose import Whose
from trainer.errors import DatasetError
from trainer.judging import recalibration
from worker.engine import Engine
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
    source: Path,
    card: Card,
    said: Whose,
    learned: Learned,
) -> tuple[str, tuple[Judged, ...], tuple[str, ...]]:
    """The films of a labelled folder or manifest that may choose, what they are, and notes.

    Those of its test split, or all without one; none that the model has learned, nor another of
    such a patient. Raises DatasetError.
    """
    films = frozen.of_source(source, said, card.labels)
    _check_pattern(said, films)
    if stop := whose.stop([_film(film) for film in films]):
        raise DatasetError(stop)
    known = learned.known(films)
    left = tuple(film for film, old in zip(films, known, strict=True) if not old)
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


class Named(Protocol):
    """What a job has kept of a labelled film that says whose it is."""

    @property
    def name(self) -> str:
        """Of the film."""

    @property
    def truth(self) -> str:
        """True class."""

    @property
    def patient(self) -> str | None:
        """By its tags."""

    @property
    def study(self) -> str | None:
        """By its tags."""


class Row(Named, Protocol):
    """A labelled prediction as a job has kept it: db.queue.labels.Scored."""

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
    def origin(self) -> tuple[int, int]:
        """The same of films of equal content."""


def of_job(on: str, card: Card, rows: Sequence[Row], said: Whose) -> Films:
    """What a job has kept of its labelled films, each content once. Nothing is decoded.

    Whose a film is, is what its tags said when it was scored, or its name. Raises DatasetError
    where names prove that this is not known.
    """
    once = list({row.origin: row for row in reversed(rows)}.values())[::-1]
    films, notes = owned(once, said, card.labels)
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


def owned(
    rows: Sequence[Named], said: Whose, labels: Sequence[str]
) -> tuple[list[Film], list[str]]:
    """A job's films, which are of the classes `labels`, with their patients by their tags or names.

    With sentences for a person.
    """
    entries = [
        Entry(
            file=Path(row.name), name=row.truth, split=TEST,
            stem=stem_of(PurePosixPath(row.name)).as_posix(),
        )
        for row in rows
    ]  # fmt: skip
    reader = whose.Reader(said, entries)
    films = []
    tags = {}
    for number, (row, entry) in enumerate(zip(rows, entries, strict=True)):
        patient, known_by = reader(entry)
        # Two archives of a job may have a film of one name each.
        films.append(
            Film(
                path=str(number), label=labels.index(row.truth), patient=patient,
                sha256="", split=TEST, known_by=known_by,
            )
        )  # fmt: skip
        its = {"patient": row.patient or "", "study": row.study or ""}
        if any(its.values()):
            tags[str(number)] = its
    return tagged.owned(films, tags, said)


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
