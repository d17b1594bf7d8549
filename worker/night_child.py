"""What a scheduled training process does besides training: it looks first, and judges afterwards.

Before: are the films what they were, and are they fit? After: what do the new model and the
champion say of films that neither has learned? Knows no database; worker.night tells it what it
needs, and makes rows of what it reports.
"""

from __future__ import annotations

import collections
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer import checkup, frozen, gathering, metrics, snapshot, verdict
from trainer.errors import TrainerError
from trainer.frozen import Judged
from trainer.gathering import Gathered
from trainer.labelled import TEST, Entry
from worker import evaluation
from worker.engine import open_engine

#: How much of a class may be gone, and how much of the films be of another class, where the
#: schedule does not say.
MAX_SHRINK = MAX_RELABELLED = 0.2

#: Of the frozen films, how many must still be there.
PRESENT = 0.95

Report = Callable[..., None]


class Resting(Exception):
    """Nothing is trained tonight; `event` says why in a word, `told` what hooks may know of it."""

    def __init__(self, event: str, reason: str, told: str) -> None:
        super().__init__(reason)
        self.event = event
        self.reason = reason
        self.told = told


@dataclass(frozen=True, kw_only=True)
class Films:
    """What was found in the folders, with the frozen films set apart."""

    gathered: Gathered
    frozen: tuple[Judged, ...]


class Night:
    """One night, from the training process's side."""

    def __init__(self, path: Path) -> None:
        self._told: dict[str, Any] = json.loads(
            path.read_text(encoding="utf-8", errors="surrogateescape")
        )
        self._rules: dict[str, Any] = self._told["rules"]

    def look(
        self,
        sources: Sequence[Path],
        *,
        patient_pattern: str | None,
        corrections: Path | None,
        workers: int,
        seed: int,
        report: Report,
    ) -> Films:
        """Read and check the films. Raises Resting where they are not to be trained on tonight, and
        DatasetError where they cannot be read."""
        gathered = gathering.gather(
            sources, patient_pattern=patient_pattern, corrections=corrections
        )
        champion = self._told["champion"]
        if champion is not None and champion["positive"] not in gathered.labels:
            reason = "the champion tells another disease than these films are labelled with"
            raise Resting("unfit", reason, reason)
        judged = self._frozen(gathered, patient_pattern, seed, report)
        apart, _ = frozen.set_apart(gathered, judged)
        before = self._told["before"]
        changed = None if before is None else snapshot.change(before, gathered)
        counts = collections.Counter(gathered.labels[film.label] for film in gathered.films)
        found = {
            "hash": _digest(apart, judged),
            "films": len(apart.films),
            "frozen": len(judged),
            "classes": dict(counts),
            "added": None if changed is None else changed.added,
            "removed": None if changed is None else changed.removed,
            "relabelled": None if changed is None else changed.relabelled,
            "unreadable": len(gathered.unreadable),
        }
        report("snapshot", **found)
        last = self._told["last"]
        if last is not None and last["hash"] == found["hash"]:
            reason = (
                f"nothing changed in the {len(apart.films)} films since the run of "
                f"{last['scheduled_for']}, which came to: {last['outcome']}"
            )
            raise Resting("skipped", reason, reason)
        report("note", text="checking the films before training on them")
        checked = checkup.check(
            sources, patient_pattern=patient_pattern, corrections=corrections, workers=workers,
            gathered=gathered,
        )  # fmt: skip
        report("snapshot", **found | {"unreadable": len(checked.unreadable)})
        unfit = snapshot.unfit(
            gathered, checked, changed,
            max_shrink=self._rules.get("max_shrink", MAX_SHRINK),
            max_relabelled=self._rules.get("max_relabelled", MAX_RELABELLED),
        )  # fmt: skip
        if unfit:
            raise Resting(
                "unfit",
                "the films are not fit to train on: " + "; ".join(one.text for one in unfit),
                "the films are not fit to train on: " + "; ".join(one.told for one in unfit),
            )
        return Films(gathered=apart, frozen=judged)

    def _frozen(
        self, gathered: Gathered, patient_pattern: str | None, seed: int, report: Report
    ) -> tuple[Judged, ...]:
        """The films that models are compared on: those of earlier nights, or chosen now."""
        if self._told["frozen"] is not None:
            return frozen.from_csv(self._told["frozen"])
        given, champion = self._rules.get("evaluate_on"), self._told["champion"]
        if given:
            judged = frozen.of_source(Path(given), patient_pattern=patient_pattern)
        else:
            learned = frozenset(champion["trained_on"] if champion else ())
            judged = frozen.choose(gathered, learned=learned, seed=seed)
        report(
            "frozen",
            digest=frozen.digest(judged),
            root=given or str(gathered.root),
            films=len(judged),
            patients=len({film.patient for film in judged}),
            classes=dict(collections.Counter(film.name for film in judged)),
            manifest_csv=frozen.to_csv(judged),
        )
        return judged

    def judge(
        self, films: Films, candidate: Path, *, positive: str, batch: int, threads: int
    ) -> dict[str, Any]:
        """What `worker.night.Night.judged` keeps: both models' figures, and the verdict.

        The films are those that are still what they were when they were frozen, and that the
        champion was not trained on, nor on others of their patients.
        """
        here, missing = frozen.present(films.frozen, films.gathered)
        champion = self._told["champion"]
        learned = frozenset(champion["trained_on"] if champion else ())
        patients = frozenset(champion["trained_patients"] if champion else ())
        unseen = [f for f in here if f.sha256 not in learned and f.patient not in patients]
        paths = [candidate] if champion is None else [candidate, Path(champion["file"])]
        said = [_said(path, unseen, positive, batch=batch, threads=threads) for path in paths]
        scored = [n for n in range(len(unseen)) if all(not math.isnan(s.score[n]) for s in said)]
        unseen = [unseen[n] for n in scored]
        sides = [verdict.Side(score=s.score[scored], threshold=s.threshold) for s in said]
        truth = np.array([film.name == positive for film in unseen], dtype=np.bool_)
        figures = [
            {**metrics.summary(side.score, truth, side.threshold), "n_films": len(unseen)}
            for side in sides
        ]
        answer: dict[str, Any] = {
            "candidate": figures[0],
            "champion": figures[1] if champion else None,
            "verdict": {"films": len(unseen), "missing": len(missing)},
            "accepted": True,
            "reason": "",
            "told": "",
        }
        if champion is None:
            return answer
        if len(here) < PRESENT * len(films.frozen):
            reason = (
                f"{len(missing)} of the {len(films.frozen)} frozen films were removed or changed, "
                "so that this night's figures mean something else than those before; bring them "
                "back, or add the schedule anew with --evaluate-on"
            )
            return answer | {"accepted": False, "reason": reason, "told": reason}
        parts = {film.slice for film in unseen} - {""}
        found = verdict.compare(
            truth,
            [film.patient for film in unseen],
            sides[0],
            sides[1],
            self._margins(),
            slices={
                part: np.array([film.slice == part for film in unseen], dtype=np.bool_)
                for part in sorted(parts)
            },
        )
        text, told = found.text, found.told
        if len(unseen) < len(here):
            aside = (
                f" ({len(here) - len(unseen)} of the {len(here)} frozen films do not count, as the "
                "champion was trained on them or on films of their patients, or they cannot be "
                "read; --evaluate-on takes others)"
            )
            text, told = text + aside, told + aside
        kept = {
            **found.figures, "accepted": found.accepted, "missing": len(missing), "told": told,
        }  # fmt: skip
        return answer | {
            "verdict": kept, "accepted": found.accepted, "reason": text, "told": told,
        }  # fmt: skip

    def _margins(self) -> verdict.Margins:
        given = {
            name: self._rules[f"margin_{name}"]
            for name in ("auroc", "sensitivity", "specificity")
            if f"margin_{name}" in self._rules
        }
        return verdict.Margins(**given)


@dataclass(frozen=True, kw_only=True)
class _Said:
    """What a model says of the frozen films; NaN for one that cannot be read."""

    score: Any
    threshold: float


def _said(path: Path, films: Sequence[Judged], positive: str, *, batch: int, threads: int) -> _Said:
    engine = open_engine(path, batch=batch, threads=threads)
    try:
        card = engine.card
        if card.positive != positive:
            raise TrainerError(
                f"{path.name} tells {card.positive} from the rest, the new model {positive}; they "
                "cannot be compared"
            )
        entries = [
            Entry(file=film.file, name=film.name, split=TEST, stem=film.file.stem) for film in films
        ]
        score = [
            math.nan if one.probability is None else one.probability
            for one in evaluation.score(engine, entries, threads=threads)
        ]
        return _Said(score=np.array(score, dtype=np.float64), threshold=card.threshold)
    finally:
        engine.close()


def _digest(gathered: Gathered, judged: Sequence[Judged]) -> str:
    """SHA-256 that is equal exactly where paths, contents, labels, splits and frozen films are."""
    lines = sorted(
        f"{film.path}\t{film.sha256}\t{gathered.labels[film.label]}\t{film.split}\n"
        for film in gathered.films
    )
    text = f"{frozen.digest(judged)}\n" + "".join(lines)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
