"""Snapshot: what changed in labelled films since last time, and whether that may be trained on.

A folder that many people write to breaks in ways that training does not notice: half a class moved
away by accident, labels turned, a disk that lost the ends of files. What is found here keeps the
champion where it is, and says why.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from trainer.checking.checkup import Checkup
from trainer.data.dataset import Dataset
from trainer.data.gathering import Gathered

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

    #: For a person, with what to do. It names classes, and no film.
    text: str
    #: The same without anything from the folder.
    shareable: str


def change(before: Mapping[str, str], data: Dataset | Gathered) -> Change:
    """What changed since `before`, content → class, as the films were then.

    Content that lies in two classes now is none that can be used, and counts as removed.
    """
    classes = collections.defaultdict(set)
    for film in data.films:
        classes[film.sha256].add(data.labels[film.label])
    after = {content: names.pop() for content, names in classes.items() if len(names) == 1}
    kept = before.keys() & after.keys()
    return Change(
        added=len(after.keys() - before.keys()),
        removed=len(before.keys() - after.keys()),
        relabelled=sum(before[content] != after[content] for content in kept),
        before=dict(collections.Counter(before.values())),
        after=dict(collections.Counter(after.values())),
    )


def unfit(
    data: Dataset | Gathered,
    checkup: Checkup | None,
    change: Change | None,
    *,
    max_shrink: float,
    max_relabelled: float,
    max_unreadable: float = 0.02,
) -> tuple[Unfit, ...]:
    """Every reason not to train on these films; none where they are fit.

    `checkup` is that of the same folders, and `change` what is new, if there was a last time. At
    most the share `max_shrink` of a class's films may be gone, `max_relabelled` of those that were
    there have another class, and `max_unreadable` of all, or `UNREADABLE_MIN` - 1, be unreadable.
    """
    found = [
        Unfit(
            text=f"the films did not pass the check ({finding.code}): `pneumoq dataset check` says "
            "more",
            shareable=f"the films did not pass the check ({finding.code})",
        )
        for finding in (checkup.findings if checkup else ())
        if finding.level == "bad"
    ]
    found += _unreadable(data, checkup, max_unreadable)
    if change is not None:
        found += _shrunk(change, max_shrink)
        found += _relabelled(change, max_relabelled)
    return tuple(found)


def _unreadable(data: Dataset | Gathered, checkup: Checkup | None, most: float) -> Iterator[Unfit]:
    left_out = data.left_out if isinstance(data, Dataset) else data.unreadable
    broken = {file.path for file in left_out if file.code != "two_labels"}
    broken |= set(checkup.unreadable if checkup else ())
    n = len(broken | {film.path for film in data.films} | {file.path for file in left_out})
    if len(broken) >= UNREADABLE_MIN and _above(len(broken), most, n):
        fact = f"{len(broken):,} of {n:,} films cannot be read, where {most:.0%} may"
        text = f"{fact}; `pneumoq dataset check` names them. Bring them back, or remove them"
        yield Unfit(text=text, shareable=fact)


def _shrunk(change: Change, most: float) -> Iterator[Unfit]:
    for name, n in sorted(change.before.items()):
        left = change.after.get(name, 0)
        if _above(n - left, most, n):
            fact = f"has {left:,} films where there were {n:,}: {(n - left) / n:.0%} are gone, "
            fact += f"where {most:.0%} may be"
            yield Unfit(
                text=f"{name} {fact}. If they were removed on purpose, let --max-shrink be larger",
                shareable=f"a class {fact}",
            )


def _relabelled(change: Change, most: float) -> Iterator[Unfit]:
    there = sum(change.before.values()) - change.removed
    if _above(change.relabelled, most, there):
        fact = f"{change.relabelled:,} of {there:,} films that were there have another class now, "
        fact += f"where {most:.0%} may"
        text = f"{fact}. If they were corrected on purpose, let --max-relabelled be larger"
        yield Unfit(text=text, shareable=fact)


def _above(n: int, share: float, of: int) -> bool:
    """Whether n is more than a share of so many; exactly the share is not, however it rounds."""
    return n > share * of + 1e-9
