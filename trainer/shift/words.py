"""Words: a shift report for a person, in a sentence or two, or as the rows of a small table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from trainer.shift.measure import COUNTER, MARKS, SPECTRUM, TONE, UNIT

#: Of `rows`.
HEAD = ("films", "n", "AUROC", "95 % interval", "mean P", "decisions that change")

Report = Mapping[str, Any]


def sentences(report: Report) -> list[str]:
    """What it comes to: how far AUROC falls and where, and how many decisions change there."""
    name = report["worst"]["name"]
    (worst,) = (one for one in report["dressings"] if one["name"] == name)
    plain, fallen, flips = report["plain"], worst["auroc"], worst["flips"]
    return [
        f"AUROC {_three(plain['value'])} as they are, {_three(fallen['value'])} "
        f"({_three(fallen['low'])} to {_three(fallen['high'])}) at worst: "
        f"{described(report, worst)}",
        f"{flips['value']:.1%} of decisions change there ({flips['low']:.1%} to "
        f"{flips['high']:.1%})",
    ]


def described(report: Report, one: Report) -> str:
    """What was done to which films."""
    if one["kind"] == COUNTER:
        return f"films acquired as those of the other class ({one['name']})"
    whose = f"{report[one['dressed']]} films"
    if one["group"] is None:
        theirs = report["negative" if one["dressed"] == "positive" else "positive"]
        return f"{whose} with the spectra of {theirs} films"
    group = report["groups"][one["group"] - 1]
    what = {MARKS: "marks", TONE: "tone", SPECTRUM: "spectra"}.get(one["kind"])
    dressed = "dressed as" if what is None else f"with the {what} of"
    return f"{whose} {dressed} group {one['group']} ({group['label']}, {group['what']})"


def rows(report: Report) -> list[tuple[str, ...]]:
    """Rows under HEAD: as they are, the unit that is worst with its parts, and one of each other
    kind."""
    of_kind: dict[str, list[Report]] = {}
    for one in report["dressings"]:
        of_kind.setdefault(one["kind"], []).append(one)
    plain = report["plain"]
    found: list[tuple[str, ...]] = [("as they are", str(report["films"]), *_auroc(plain), "", "")]
    for kind in (UNIT, MARKS, TONE, SPECTRUM):
        if kind in of_kind:
            found.append(_row(report, _worst(of_kind[kind])))
    return [*found, *(_row(report, one) for one in of_kind.get(COUNTER, ()))]


def notes(report: Report) -> list[str]:
    """What the groups of `rows` are, and what could not be done."""
    shown = {
        row[0].removeprefix("dressed as ").removesuffix(f" {SPECTRUM}") for row in rows(report)
    }
    found = [
        f"group {group['group']}: {group['films']} {group['label']} films with {group['what']}"
        for group in report["groups"]
        if f"group {group['group']}" in shown
    ]
    if report["held_out"] > report["films"]:
        found.append(f"{report['films']:,} of {report['held_out']:,} films, drawn at random")
    if report["patients_are"] == "unknown":
        found.append("whose the films are is unknown: the intervals are too narrow")
    return [*found, *report["notes"]]


def _row(report: Report, one: Report) -> tuple[str, ...]:
    short = "dressed as " if one["kind"] == UNIT else ""
    mean = "; ".join(
        f"{report[side]} {means['before']:.3f} → {means['after']:.3f}"
        for side, means in one["mean_p"].items()
    )
    flips = one["flips"]
    share = f"{flips['value']:.1%} ({flips['low']:.1%} to {flips['high']:.1%})"
    return (f"{short}{one['name']}", str(one["films"]), *_auroc(one["auroc"]), mean, share)


def _worst(some: Iterable[Report]) -> Report:
    return min(some, key=lambda one: float(one["auroc"]["value"]))


def _auroc(found: Mapping[str, float]) -> tuple[str, str]:
    return f"{found['value']:.4f}", f"{found['low']:.4f} to {found['high']:.4f}"


def _three(value: float) -> str:
    return f"{value:.3f}"
