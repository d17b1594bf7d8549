"""Which groups of one class earlier films had not."""

from __future__ import annotations

from pathlib import Path

from trainer.checking import unseen
from trainer.checking.acquired import Alike
from trainer.data.gathering import Gathered
from trainer.data.labelled import TRAIN, Film

LABELS = ("NORMAL", "PNEUMONIA")


def films(sick: int, well: int) -> Gathered:
    """So many films, each of a patient of its own."""
    return Gathered(
        root=Path("/films"), labels=LABELS, unreadable=(), added=frozenset(), settled=False,
        notes=(),
        films=tuple(
            Film(path=f"{n}.png", label=int(n < sick), patient=f"p{n}", sha256=f"s{n}", split=TRAIN)
            for n in range(sick + well)
        ),
    )  # fmt: skip


def group(gathered: Gathered) -> Alike:
    """All films as one group of the sick."""
    return Alike(
        look="mark", what="the same mark", label="PNEUMONIA", patients=len(gathered.films),
        chance=0.0, boxes={},
        films={
            name: tuple(film.path for film in gathered.films if film.label == label)
            for label, name in enumerate(LABELS)
        },
    )  # fmt: skip


def new(gathered: Gathered, earlier: dict[str, str]) -> bool:
    """Whether the films are a group that the earlier ones had not."""
    return bool(unseen.groups([group(gathered)], gathered, earlier))


def of(gathered: Gathered, *left_out: int) -> dict[str, str]:
    """What an earlier model was made with: these films, less some."""
    return {
        film.sha256: LABELS[film.label]
        for n, film in enumerate(gathered.films)
        if n not in left_out
    }


def test_a_film_more_makes_no_group_new() -> None:
    # The earlier films were just not one-sided enough to be named, or of one patient too few.
    assert not new(films(187, 14), of(films(187, 14), 0))
    assert not new(films(20, 0), of(films(20, 0), 0))


def test_films_too_few_to_be_a_group_among_the_earlier_ones_were_none() -> None:
    """A unit that sends some films a night would never be told of."""
    others = {f"o{n}": LABELS[n % 4 > 0] for n in range(5230)}
    assert new(films(300, 0), of(films(77, 0)) | others)
    assert not new(films(300, 0), of(films(80, 0)) | others)


def test_a_group_is_new_where_it_grew_or_became_of_one_class_since() -> None:
    assert new(films(40, 0), {})
    assert new(films(40, 0), of(films(40, 0), *range(21)))
    assert not new(films(40, 0), of(films(40, 0), *range(20)))
    relabelled = films(40, 0)
    assert new(relabelled, of(relabelled) | dict.fromkeys(("s0", "s1", "s2", "s3"), "NORMAL"))
