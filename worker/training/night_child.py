"""What a scheduled training process does besides training: it looks first, and judges afterwards.

Before: are the films what they were, and are they fit? After: what do the new model and the
champion say of films that neither has learned? Knows no database; worker.training.night hands it
what it needs, and makes rows of what it reports.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.checking import checkup, snapshot
from trainer.data import classes, dataset, frozen, gathering, patients, whose
from trainer.data.decoding import Decoder
from trainer.data.frozen import Judged
from trainer.data.gathering import Gathered
from trainer.data.labelled import listed
from trainer.data.leavings import Leavings, sentence
from trainer.data.names import CLEAR, Names
from trainer.data.whose import Whose
from trainer.errors import DatasetError
from trainer.judging import gate, verdict
from trainer.judging.gate import Reason
from worker.training import judging, new_groups

#: How much of a class may be gone, and how much of the films be of another class, where the
#: schedule does not say.
MAX_SHRINK = MAX_RELABELLED = 0.2

#: Of the frozen films, how many must still be there.
PRESENT = 0.95

Report = Callable[..., None]


class RunSkipped(Exception):
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
    #: The class that is the disease.
    positive: str
    #: The frozen films that count: still what they were, and learned by neither model.
    judged: tuple[Judged, ...] = ()
    #: Those that are there, but that a model learned, or others of their patients.
    learned: tuple[Judged, ...] = ()
    missing: tuple[Judged, ...] = ()
    #: Frozen films that lie where clutter does: they count no more, and are not missing.
    cleared: tuple[Judged, ...] = ()
    #: How many of those that count have another label than when they were chosen.
    relabelled: int = 0
    #: What a person is told this once of films that lie there.
    told: str = ""
    #: What speaks against any model that is trained on these films.
    against: tuple[Reason, ...] = ()
    #: Of the dataset that is made of them: why figures of its held-out films are too good.
    doubt: str = ""


class Night:
    """One night, from the training process's side."""

    def __init__(self, path: Path, names: Names = CLEAR) -> None:
        """`path` is of what the worker knows, and `names` says how those of films are kept."""
        self._names = names
        self._path = path
        self._facts: dict[str, Any] = json.loads(
            path.read_text(encoding="utf-8", errors="surrogateescape")
        )
        self._rules: dict[str, Any] = self._facts["rules"]

    @property
    def keeps_films(self) -> bool:
        """Whether a later attempt is to go on with the films of this one, whatever came in or went.

        The night has an end, at which a training that is not done is put aside; or this one was,
        and goes on, perhaps by day and to its end.
        """
        return bool(self._facts.get("ends")) or self.goes_on

    @property
    def goes_on(self) -> bool:
        """Whether the training was put aside at the end of an earlier night."""
        return bool(self._facts.get("goes_on"))

    def look(
        self,
        sources: Sequence[Path],
        *,
        positive: str | None,
        said: Whose,
        corrections: Path | None,
        decoder: Decoder,
        seed: int,
        report: Report,
    ) -> Films:
        """Read and check the films. Raises RunSkipped where nothing is to be trained tonight, and
        DatasetError where they cannot be read.

        The disease is the champion's, where `positive` does not say another.
        """
        gathered = gathering.gather(sources, said=said, corrections=corrections)
        try:
            dataset.check_patients(gathered)
        except DatasetError as error:
            raise RunSkipped("unfit", str(error), error.shareable) from error
        champion = self._facts["champion"]
        if champion is not None:
            theirs = champion["positive"]
            if theirs not in gathered.labels or positive not in (None, theirs):
                told = "the champion tells another disease than these films are labelled with"
                ours = positive if positive in gathered.labels else listed(gathered.labels)
                raise RunSkipped("unfit", f"{told}: {theirs}, not {ours}", told)
            positive = theirs
            labels = champion["labels"]
            if set(gathered.labels) != set(labels) and self._rules.get("promote", True):
                reason = (
                    f"the films are of the classes {', '.join(gathered.labels)}, the champion of "
                    f"{', '.join(labels)}; a model of other classes takes its place only by hand: "
                    "`pneumoq train`, then `pneumoq models promote --other-classes`"
                )
                told = "the films are of other classes than the champion"
                raise RunSkipped("unfit", reason, told)
        positive = classes.disease(gathered.labels, positive, said.naming)
        judged = self._frozen(gathered, said, seed, report)
        apart, _ = frozen.set_apart(gathered, judged, self._names)
        left = Leavings(sources, gathered.root, self._names)
        films = self._counted(apart, positive, judged, left)
        # Without a verdict hours of training would be for nothing, where it is to be promoted.
        lack = self._lack(films, positive) if self._rules.get("promote", True) else ""
        before = self._facts["before"]
        cleared = self._cleared(before or {}, gathered, left)
        if before is not None:
            before = {content: name for content, name in before.items() if content not in cleared}
        changed = None if before is None else snapshot.change(before, gathered)
        counts = collections.Counter(gathered.labels[film.label] for film in gathered.films)
        found = {
            "hash": _digest(apart, films, lack),
            "films": len(apart.films),
            "frozen": len(judged),
            "classes": dict(counts),
            "added": None if changed is None else changed.added,
            "removed": None if changed is None else changed.removed,
            "relabelled": None if changed is None else changed.relabelled,
            "unreadable": len(gathered.unreadable),
            "clutter": len(cleared) + len(films.cleared),
        }
        report("snapshot", **found)
        last = self._facts["last"]
        if last is not None and last["hash"] == found["hash"]:
            reason = (
                f"nothing changed in the {len(apart.films)} films since the run of "
                f"{last['scheduled_for']}, which came to: {last['outcome']}"
            )
            raise RunSkipped("skipped", reason, reason)
        if found["clutter"] and not self._facts.get("told_of_clutter"):
            films = dataclasses.replace(films, told=sentence(len(cleared), len(films.cleared)))
            report("note", text=films.told)
        report("note", text="checking the films before training on them")
        checked = checkup.check(
            sources, said=said, corrections=corrections, positive=positive, decoder=decoder,
            gathered=gathered,
        )  # fmt: skip
        report("snapshot", **found | {"unreadable": len(checked.unreadable)})
        unfit = snapshot.unfit(
            gathered, checked, changed,
            max_shrink=self._rules.get("max_shrink", MAX_SHRINK),
            max_relabelled=self._rules.get("max_relabelled", MAX_RELABELLED),
        )  # fmt: skip
        if unfit or lack:
            aside = "the films are not fit to train on: " if unfit else ""
            also = [one for one in (lack, films.told) if one]
            raise RunSkipped(
                "unfit",
                aside + "; ".join([*(one.text for one in unfit), *also]),
                aside + "; ".join([*(one.shareable for one in unfit), *also]),
            )
        if champion is None:
            return films
        folder = self._path.parent.parent  # the attempt's lies in the job's
        against = new_groups.against(checked.groups, gathered, champion["films"], folder)
        return dataclasses.replace(films, against=against)

    def _cleared(
        self, before: Mapping[str, str], gathered: Gathered, left: Leavings
    ) -> frozenset[str]:
        """Contents that were trained on before and are no films any more, being clutter."""
        gone = before.keys() - {film.sha256 for film in gathered.films}
        kept = self._facts.get("paths", {})
        return left.among({content: kept.get(content, ()) for content in gone}, before)

    def _counted(
        self, gathered: Gathered, positive: str, judged: Sequence[Judged], left: Leavings
    ) -> Films:
        """Which of the frozen films count tonight."""
        given = self._rules.get("evaluate_on")
        if given:
            left = Leavings([Path(given)], Path(given), self._names)
        there = {film.sha256 for film in gathered.films}
        lay = [film.sha256 not in there and left.has(str(film.file)) for film in judged]
        cleared = tuple(film for film, gone in zip(judged, lay, strict=True) if gone)
        judged = [film for film, gone in zip(judged, lay, strict=True) if not gone]
        here, missing = frozen.present(judged, gathered, Path(given) if given else None)
        same = self._names.same
        contents = frozenset(self._facts["learned"]["films"])
        theirs = set(map(same, self._facts["learned"]["patients"]))
        # As these films say it, too: what was learned may have been read by other rules.
        theirs |= {
            same(film.patient)
            for film in patients.joined(gathered.films)
            if film.sha256 in contents and film.known_by != whose.UNSAID
        }
        known = [film.sha256 in contents or same(film.patient) in theirs for film in here]
        counted = tuple(film for film, old in zip(here, known, strict=True) if not old)
        return Films(
            gathered=gathered,
            positive=positive,
            judged=counted,
            learned=tuple(film for film, old in zip(here, known, strict=True) if old),
            missing=missing,
            cleared=cleared,
            relabelled=frozen.relabelled(judged, counted),
        )

    def _lack(self, films: Films, positive: str) -> str:
        """Why no verdict can come of these frozen films; empty where one can, or none is needed."""
        if self._facts["champion"] is None:
            return ""
        anchor = self._facts.get("anchor")
        if anchor is not None and anchor["file"] is None:
            return (
                f"model {anchor['model']}, {anchor['why']}, has no files any more, so that nobody "
                "can say how far later models have come from it; `pneumoq models promote champion` "
                "makes the champion the model to compare with"
            )
        return _too_few(films, positive)

    def _frozen(
        self, gathered: Gathered, said: Whose, seed: int, report: Report
    ) -> tuple[Judged, ...]:
        """The films that models are compared on: those of earlier nights, or chosen now."""
        if self._facts["frozen"] is not None:
            return frozen.from_csv(self._facts["frozen"])
        given = self._rules.get("evaluate_on")
        if given:
            judged = frozen.of_source(Path(given), said, gathered.labels)
        else:
            learned = frozenset(self._facts["learned"]["films"])
            judged = frozen.choose(gathered, learned=learned, seed=seed)
        judged = frozen.kept(judged, self._names)
        report(
            "frozen",
            digest=frozen.digest(judged),
            root=given or str(gathered.root),
            films=len(judged),
            patients=len({film.patient for film in judged}),
            classes=dict(collections.Counter(film.name for film in judged)),
            manifest_csv=frozen.to_csv(judged, self._names),
            names=self._names.made,
        )
        return judged

    def judge(
        self,
        films: Films,
        candidate: Path,
        *,
        positive: str,
        batch: int,
        threads: int,
        decoder: Decoder,
    ) -> dict[str, Any]:
        """What `night.Night.judged` keeps: both models' figures, and the verdict."""
        champion, anchor = self._facts["champion"], self._facts.get("anchor")

        def lack(unreadable: int) -> str:
            n = len(films.judged)
            if (found := self._lack(films, positive)) or unreadable <= (1 - PRESENT) * n:
                return found
            return (
                f"{unreadable} of the {n} frozen films cannot be read; bring them back, or add the "
                "schedule anew with --evaluate-on"
            )

        answer = judging.through_gate(
            candidate,
            champion and Path(champion["file"]),
            # Where its files are gone, `lack` says so.
            (anchor["model"], Path(anchor["file"])) if anchor and anchor["file"] else None,
            films.judged,
            self._rules,
            positive=positive,
            batch=batch,
            threads=threads,
            decoder=decoder,
            anchor_is=(anchor or {}).get("why", gate.CHOSEN),
            chose=((), *(frozenset((of or {}).get("chose", ())) for of in (champion, anchor))),
            lack=lack,
            against=films.against,
        )
        found = answer["verdict"]
        found["missing"] = len(films.missing)
        if "accepted" not in found:  # nothing was compared
            return answer
        unreadable = len(films.judged) - found["films"]
        aside = _aside(films, unreadable, found, champion)
        reason, told = answer["reason"] + aside, answer["told"] + aside
        return answer | {"verdict": {**found, "told": told}, "reason": reason, "told": told}


def _aside(
    films: Films, unreadable: int, figures: Mapping[str, Any], champion: Mapping[str, Any]
) -> str:
    """What a reader should know of the films that the figures are of.

    `champion` is what `night.Night` says of it.
    """
    found = []
    if films.learned:
        n = len(films.judged) + len(films.learned)
        found.append(
            f"{len(films.learned)} of {n} frozen films do not count, as the models that are "
            "compared have learned from them, or from films of their patients"
        )
    if unreadable:
        found.append(f"{unreadable} cannot be read")
    if films.missing:
        found.append(f"{len(films.missing)} were removed or changed")
    if films.relabelled:
        found.append(
            f"{films.relabelled} have another label than when they were chosen, and all models are "
            "judged by the labels of tonight"
        )
    if whose.state(films.judged) == "unknown":
        found.append("nothing says whose these films are, so that intervals are too narrow")
    if films.told:
        found.append(films.told)
    chose = set(champion.get("chose", ()))
    if n := sum(film.sha256 in chose for film in films.judged):
        found.append(
            f"{n} of them chose the champion's epoch and threshold, so that its figures are "
            "somewhat too good"
        )
    if champion["films"] is None:
        found.append("the champion was imported, and may have learned from any of them")
    if films.doubt:
        found.append(f"of the new model's validation: {films.doubt}")
    anchor = figures.get("anchor") or {}
    for shift, whom in ((figures.get("shift"), ""), (anchor.get("shift"), " with the anchor's")):
        if not shift or shift["judged"]:
            continue
        found.append(f"the shift reports are not compared{whom}, as one of the two models has none")
    return f" ({'; '.join(found)})" if found else ""


def _digest(gathered: Gathered, films: Films, lack: str) -> str:
    """SHA-256 that is equal exactly where contents, labels, patients, splits and frozen films are.

    Where a film lies and what it is called is nothing to learn from. `lack` is why the frozen films
    are of no use: once that is mended, it is not the same night again, though the films may be.
    """
    lines = sorted(
        f"{film.sha256}\t{gathered.labels[film.label]}\t{film.patient}\t{film.split}\n"
        for film in gathered.films
    )
    judged = (*films.judged, *films.learned, *films.missing, *films.cleared)
    text = f"{frozen.digest(judged)}\n{lack}\n" + "".join(lines)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _too_few(films: Films, positive: str) -> str:
    """Why no verdict can come of so many frozen films as are left; empty where one can."""
    here, gone = len(films.judged) + len(films.learned), len(films.missing)
    if here < PRESENT * (here + gone):
        return (
            f"{gone} of the {here + gone} frozen films were removed or changed, so that this "
            "night's figures would mean something else than those before; bring them back, or "
            "add the schedule anew with --evaluate-on"
        )
    owners = np.array([film.patient for film in films.judged], dtype=np.str_)
    truth = np.array([film.name == positive for film in films.judged], dtype=np.bool_)
    lack = verdict.lack(truth, owners)
    if not lack:
        return ""
    if films.learned:
        lack += (
            f", as the models that are compared have learned from {len(films.learned)} of the "
            f"{here}, or from films of their patients"
        )
    if films.relabelled:
        lack += f", {films.relabelled} having another label than when they were chosen"
    return f"{lack}; add the schedule anew with --evaluate-on and films that no model has learned"
