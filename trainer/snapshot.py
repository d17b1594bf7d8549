"""Snapshot: what changed in labelled films since last time, and whether that may be trained on.

A folder that many people write to breaks in ways that training does not notice: half a class moved
away by accident, labels turned, a disk that lost the ends of files. What is found here keeps the
champion where it is, and says why.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping
from dataclasses import dataclass

from trainer.checkup import Checkup
from trainer.dataset import Dataset

#: Fewer unreadable films than this are no reason, in however small a folder.
UNREADABLE_MIN = 3


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is new since the films were last trained on, by content."""

    added: int
    removed: int
    #: Films that were there with another class.
    relabelled: int
    #: Films per class, then and now, of all splits.
    before: dict[str, int]
    after: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Unfit:
    """Why films are not trained on tonight."""

    #: For a person, with examples.
    text: str
    #: The same without anything from the folder: no path, no name.
    told: str


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much may change in one night; shares of 0 to 1."""

    #: Of a class's films, how many may be gone.
    shrink: float = 0.2
    #: Of the films that were there, how many may have another class.
    relabelled: float = 0.2
    #: Of all films, how many may be unreadable.
    unreadable: float = 0.02


def classes(data: Dataset) -> dict[str, str]:
    """Content → class, of all films that are not contradictory."""
    return {film.sha256: data.labels[film.label] for film in data.films}


def change(before: Mapping[str, str], after: Mapping[str, str]) -> Change:
    """What changed between two snapshots, each content → class."""
    kept = before.keys() & after.keys()
    return Change(
        added=len(after.keys() - before.keys()),
        removed=len(before.keys() - after.keys()),
        relabelled=sum(before[content] != after[content] for content in kept),
        before=dict(collections.Counter(before.values())),
        after=dict(collections.Counter(after.values())),
    )


def unfit(
    checkup: Checkup, films: int, changed: Change | None, limits: Limits
) -> tuple[Unfit, ...]:
    """Every reason not to train on `films` films; none where they are fit.

    `checkup` is that of the same folders, and `changed` what is new, if there was a last time.
    """
    found = [
        Unfit(text=finding.text, told=f"the films did not pass the check ({finding.code})")
        for finding in checkup.findings
        if finding.level == "bad"
    ]
    broken = len(checkup.unreadable)
    if broken >= UNREADABLE_MIN and broken > limits.unreadable * films:
        said = f"{broken} of {films} films cannot be read, where {limits.unreadable:.0%} may"
        found.append(Unfit(text=f"{said}; the first is {checkup.unreadable[0]}", told=said))
    if changed is None:
        return tuple(found)
    for name, n in sorted(changed.before.items()):
        left = changed.after.get(name, 0)
        if left < (1 - limits.shrink) * n:
            rest = f"{left} films where there were {n}; {limits.shrink:.0%} may be gone"
            found.append(
                Unfit(
                    text=f"class {name} has {rest}. If they were removed on purpose, let "
                    "--max-shrink be larger",
                    told=f"a class has {rest}",
                )
            )
    there = sum(changed.before.values()) - changed.removed
    if changed.relabelled > limits.relabelled * there:
        said = (
            f"{changed.relabelled} of {there} films that were there have another class now, where "
            f"{limits.relabelled:.0%} may"
        )
        found.append(
            Unfit(
                text=f"{said}. If they were corrected on purpose, let --max-relabelled be larger",
                told=said,
            )
        )
    return tuple(found)
