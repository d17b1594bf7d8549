"""Groups of films that look acquired alike and are of one class, and that earlier films had not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trainer.acquisition.groups import fewest
from trainer.acquisition.one_sided import NEARLY, PATIENTS
from trainer.checking.acquired import Alike
from trainer.data.gathering import Gathered


def groups(
    found: Sequence[Alike], gathered: Gathered, earlier: Mapping[str, str]
) -> tuple[Alike, ...]:
    """Those of the groups that the earlier films, content → class, did not have.

    They had a group where, of its films, those that they had were as many, and of as many patients,
    as a group is named from, and as nearly of that class as a named one is; or where nearly all of
    its films are theirs, each of the class that it was: a film more or less makes no group new.
    """
    least = fewest(len(earlier))
    of = {film.path: film for film in gathered.films}
    unseen = []
    for group in found:
        theirs = [of[path] for paths in group.films.values() for path in paths]
        had = [film for film in theirs if film.sha256 in earlier]
        alike = sum(earlier[film.sha256] == group.label for film in had)
        same = sum(earlier[film.sha256] == gathered.labels[film.label] for film in had)
        many = len(had) >= least and len({film.patient for film in had}) >= PATIENTS
        was_one = many and alike >= NEARLY * len(had)
        if not was_one and same < NEARLY * len(theirs):
            unseen.append(group)
    return tuple(unseen)
