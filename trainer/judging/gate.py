"""Gate: may a new model be put before patients while nobody looks? Judged on frozen films.

The new one need not be better, only not worse by more than margins that were chosen beforehand:
than the champion, and than the anchor, the last model that a person promoted, so that many nights
cannot lose what one may not. Floors are absolute. Each bound is a one-sided 95 % one by patients
(`trainer.judging.paired`): a model that is worse by the margin passes one night in twenty at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trainer.judging import paired, verdict
from trainer.judging.margins import NAMES, Margins
from trainer.judging.verdict import Difference, Flags, Side, Verdict

#: Of `figures`: 1 had bounds by bootstrap, and no anchor.
VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What is demanded of a new model."""

    margins: Margins = field(default_factory=Margins)
    #: AUROC, sensitivity or specificity → what its one-sided 95 % lower bound must reach, 0 to 1.
    floors: Mapping[str, float] = field(default_factory=dict)


#: What an anchor is, in words, where nothing else is said.
CHOSEN = "the last that a person promoted"


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """The last model that a person promoted, where that is not the champion."""

    side: Side
    #: Its number.
    model: int
    #: What it is, in words that follow "model 3, ".
    why: str = CHOSEN
    #: Its shift report.
    shift: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """In words."""
        return f"model {self.model}, {self.why}"


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why the champion stays."""

    #: For a person.
    text: str
    #: The same without a name of the user's; where it is empty, `text` has none.
    shareable: str = ""


@dataclass(frozen=True)
class _Needed:
    """How many films of each class would decide, of what is asked for."""

    positives: int
    negatives: int
    #: Class → films.
    wanted: dict[str, float] = field(default_factory=dict)

    def ask(self, name: str, times: float) -> None:
        """So many times the films that there are would decide on a figure; infinite: none would."""
        if math.isinf(times):
            return
        sick, well = times * self.positives, times * self.negatives
        if name == "auroc":  # its bound is as good as the smaller class lets it be
            sick = well = min(sick, well)
        for of, films in (("positive", sick), ("negative", well)):
            if name in ("auroc", "sensitivity" if of == "positive" else "specificity"):
                self.wanted[of] = max(films, self.wanted.get(of, 0.0))

    def sentence(self) -> str:
        """The end of a reason; empty where no number of films would decide."""
        now = {"positive": self.positives, "negative": self.negatives}
        more = [of for of, films in self.wanted.items() if films > now[of]]
        if more:
            films = " and ".join(f"{_rounded(self.wanted[of]):,} {of}" for of in more)
            have = " and ".join(f"{now[of]:,}" for of in more)
            return (
                f". It takes about {films} frozen films ({have} now), of patients with as many "
                "films each, to decide: on them a model that is as good passes each comparison 4 "
                "times of 5"
            )
        if self.wanted:
            return (
                ". These films are enough to decide: on them a model that is as good passes each "
                "comparison 4 times of 5"
            )
        return ""


def judge(
    truth: Flags,
    patients: Sequence[str],
    candidate: Side,
    champion: Side,
    rules: Rules,
    *,
    anchor: Anchor | None = None,
    slices: Mapping[str, Flags] | None = None,
    shift: tuple[Mapping[str, Any] | None, Mapping[str, Any] | None] = (None, None),
    against: Sequence[Reason] = (),
) -> Verdict:
    """Judge a candidate beside the champion, and the anchor, on the films that all have scored.

    `truth` is true where a film is positive, `patients` whose each film is, and `slices` name parts
    of the films, each `bool [N]`. A slice is looked at where it has `verdict.LEAST` films of each
    class, and speaks against the candidate where that is worse there by more than its margin, and
    beyond chance. `shift` are the shift reports of candidate and champion, and `against` what else
    speaks against the candidate.
    """
    owners = np.asarray(patients, dtype=np.str_)
    positives = int(truth.sum())
    margins = rules.margins
    figures: dict[str, Any] = {
        "gate": VERSION,
        "films": len(truth),
        "positives": positives,
        "patients": len(np.unique(owners)),
        "margins": {name: getattr(margins, name) for name in (*NAMES, "slice", "shift")},
    }

    def refused(text: str) -> Verdict:
        return Verdict(accepted=False, text=text, shareable=text, figures=figures)

    if missing := verdict.lack(truth, owners):
        return refused(f"{missing}: more frozen films are needed to compare the new model by")
    others = [(champion, "champion")] + ([(anchor.side, "anchor")] if anchor else [])
    for side, name in ((candidate, "new model"), *others):
        if n := int(np.sum(~np.isfinite(side.score))):
            return refused(f"the {name} gives no number for {n:,} of {len(truth):,} films")
        if not math.isfinite(side.threshold):
            return refused(f"the {name} has no operating point")

    needed, reasons = _Needed(positives, len(truth) - positives), list(against)
    found = verdict.differences(truth, patients, candidate, champion)
    figures |= _plain(found)
    reasons += _worse(found, margins, "the champion's", needed)
    if anchor is not None:
        first = verdict.differences(truth, patients, candidate, anchor.side)
        figures["anchor"] = {"model": anchor.model, **_plain(first)}
        reasons += _worse(first, margins, f"that of {anchor.name},", needed)
    reasons += _below(truth, patients, candidate, rules.floors, figures, needed)
    figures["shift"] = misled(*shift)
    reasons += _shifted(figures["shift"], margins.shift, "the champion's")
    if anchor is not None:
        figures["anchor"]["shift"] = misled(shift[0], anchor.shift)
        reasons += _shifted(figures["anchor"]["shift"], margins.shift, f"that of {anchor.name},")
    reasons += _in_slices(truth, owners, candidate, champion, margins, slices or {}, figures)

    on = f"on {len(truth):,} frozen films of {figures['patients']:,} patients"
    if reasons:
        tail = needed.sentence()
        figures["enough"] = {f"{of}s": _rounded(films) for of, films in needed.wanted.items()}
        text, shareable = (
            f"{on} {'; '.join(clauses)}{tail}"
            for clauses in zip(*((r.text, r.shareable or r.text) for r in reasons), strict=True)
        )
        return Verdict(accepted=False, text=text, shareable=shareable, figures=figures)
    better = ", ".join(
        f"{NAMES[name]} is {_number(one.candidate)}, the champion's {_number(one.champion)} "
        f"({_at_worst(one)})"
        for name, one in found.items()
    )
    also = f", of the champion and of {anchor.name}" if anchor else ""
    text = f"{on} the new model's {better}: within every margin{also}"
    return Verdict(accepted=True, text=text, shareable=text, figures=figures)


def _worse(
    found: Mapping[str, Difference], margins: Margins, whose: str, needed: _Needed
) -> Iterator[Reason]:
    """Where the new model may be worse by more than a margin."""
    for name, one in found.items():
        margin = getattr(margins, name)
        if one.low > -margin or margin >= 1:  # what may be lost is all there is
            continue
        # Worse by more than may be: no number of films would make it better.
        if one.value > -margin:
            needed.ask(name, paired.enough(one.sums, 0.0, -margin))
        yield Reason(text=_clause(name, one, margin, whose))


def _below(
    truth: Flags,
    patients: Sequence[str],
    candidate: Side,
    floors: Mapping[str, float],
    figures: dict[str, Any],
    needed: _Needed,
) -> Iterator[Reason]:
    """Floors that the new model is not shown to reach."""
    figures["floors"] = {}
    if not floors:
        return
    of = verdict.levels(truth, patients, candidate)
    for name, floor in floors.items():
        low, sums = of[name]
        value = float(sums.value)
        figures["floors"][name] = {"floor": floor, "value": value, "low": low}
        if low >= floor:
            continue
        is_, least = f"the new model's {NAMES[name]} is {_number(value)}", _number(floor)
        if value > floor:
            needed.ask(name, paired.enough(sums, value, floor))
            yield Reason(
                text=f"{is_}, which by chance may stand for one of {_number(low)} (95 %), and the "
                f"floor is {least}"
            )
        else:
            yield Reason(text=f"{is_}, and the floor is {least}")


def misled(new: Mapping[str, Any] | None, old: Mapping[str, Any] | None) -> dict[str, Any]:
    """How much more dressed films confuse one model than another, by their shift reports.

    JSON-able: `judged`, and where both have a report the AUROC of `candidate` and `champion` under
    the dressing that each does worst under. Each report is of its model's own held-out films, so
    that it is the values that are compared: asked to be beyond chance as well, little evidence
    would let a worse model pass.
    """
    one, other = _worst(new), _worst(old)
    if one is None or other is None:
        return {"judged": False}
    return {"judged": True, "candidate": one, "champion": other}


def _worst(report: Mapping[str, Any] | None) -> float | None:
    """AUROC of the worst dressing; None where there is no such number."""
    value = ((report or {}).get("worst") or {}).get("auroc")
    return None if value is None or math.isnan(value) else float(value)


def _shifted(found: Mapping[str, Any], margin: float, whose: str) -> Iterator[Reason]:
    """Whether dressed films confuse the new model more by a margin."""
    if found["judged"] and found["champion"] - found["candidate"] > margin:
        yield Reason(
            text=f"the look of films misleads the new model more: under the dressing of its shift "
            f"report that it does worst under its AUROC is {_number(found['candidate'])}, {whose} "
            f"{_number(found['champion'])} under its own, where {_number(margin)} less is allowed"
        )


def _in_slices(
    truth: Flags,
    owners: Any,
    candidate: Side,
    champion: Side,
    margins: Margins,
    slices: Mapping[str, Flags],
    figures: dict[str, Any],
) -> Iterator[Reason]:
    """Parts of the films on which the new model is worse beyond chance."""
    figures["slices"] = {}
    for part, inside in slices.items():
        judged = not verdict.lack(truth[inside], owners[inside])
        figures["slices"][part] = {"films": int(inside.sum()), "judged": judged}
        if not judged:
            continue
        within = verdict.differences(
            truth[inside],
            owners[inside].tolist(),
            Side(score=candidate.score[inside], threshold=candidate.threshold),
            Side(score=champion.score[inside], threshold=champion.threshold),
        )
        figures["slices"][part] |= _plain(within)
        for name, one in within.items():
            if one.value < -margins.slice and one.high < 0:
                clause = _clause(name, one, margins.slice, "the champion's")
                clause = f"({int(inside.sum()):,} films) {clause}"
                yield Reason(
                    text=f"in {part} {clause}", shareable=f"in a part of the films {clause}"
                )


def _clause(name: str, one: Difference, margin: float, whose: str) -> str:
    """Why a difference speaks against the candidate."""
    both = (
        f"the new model's {NAMES[name]} is {_number(one.candidate)}, {whose} "
        f"{_number(one.champion)}"
    )
    if one.value <= -margin:
        return f"{both}: {_number(-one.value)} lower, where {_number(margin)} is allowed"
    if one.value < 0:
        change = f"{_number(-one.value)} lower, which by chance may stand for"
    elif one.value > 0:
        change = f"{_number(one.value)} higher, which by chance may yet stand for"
    else:
        change = "the same, which by chance may yet stand for"
    return f"{both}: {change} {_number(-one.low)} lower (95 %), where {_number(margin)} is allowed"


def _at_worst(one: Difference) -> str:
    """The bound of a difference that is accepted."""
    side = "lower" if one.low < 0 else "higher"
    return f"95 % at worst {_number(abs(one.low))} {side}"


def _rounded(films: float) -> int:
    """Up, to two digits that count."""
    unit = int(10 ** max(0, int(math.log10(max(films, 1))) - 1))
    return math.ceil(films / unit) * unit


def _number(value: float) -> str:
    """Three digits, or as many as it takes for a person to see that it is not 0."""
    return f"{value:.{3 if value == 0 or abs(value) >= 0.0005 else 6}f}"


def _plain(found: Mapping[str, Difference]) -> dict[str, dict[str, float]]:
    """JSON-able."""
    return {
        name: {
            "candidate": one.candidate,
            "champion": one.champion,
            "difference": one.value,
            "low": one.low,
            "high": one.high,
        }
        for name, one in found.items()
    }
