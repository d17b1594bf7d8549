"""A fingerprint knows films of a group again, by their pixels as a network gets them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from tests.support.acquired import Films
from tests.trainer.acquisition import plants
from trainer.acquisition import fingerprint
from trainer.acquisition.fingerprint import LIMIT, Alike, Fingerprint, Part

SIDE, OTHERS, GROUP = 64, 200, 40

#: Of letters as `plants.lettered` writes them, as shares of the side.
BOX = np.array([0.06, 0.06, 0.08, 0.12])


def fitted(look: str, laid: Films, boxes: object = None) -> Part | None:
    """The sign of a group of films, learned beside others that nothing was laid on."""
    films = np.concatenate([plants.films(OTHERS, SIDE, seed=1), laid])
    rows = np.arange(OTHERS, OTHERS + len(laid))
    group = Alike(look=look, rows=rows, boxes=None if boxes is None else np.asarray(boxes))
    patients = [f"p{n}" for n in range(len(films))]
    (part,) = fingerprint.fit(films, np.arange(len(films)), [group], patients)
    return part


@pytest.mark.parametrize(
    ("look", "lay"),
    [
        ("mark", plants.lettered),
        ("frame", plants.framed),
        ("tone", plants.toned),
        ("sharpness", plants.blurred),
    ],
)
def test_films_of_others_on_which_the_same_is_laid_are_marked_and_few_besides(
    look: str, lay: Callable[[Films], Films]
) -> None:
    boxes = np.tile(BOX, (GROUP, 1)) if look == "mark" else None
    part = fitted(look, lay(plants.films(GROUP, SIDE, seed=2)), boxes)
    assert part is not None
    assert part.found >= 0.7
    assert part.false <= fingerprint.FALSE
    learned = Fingerprint((part,))
    strangers = plants.films(100, SIDE, seed=3)
    assert (learned(lay(strangers)) >= LIMIT).mean() >= 0.7
    assert (learned(strangers) >= LIMIT).mean() <= 0.03


@pytest.mark.parametrize("look", ["tone", "sharpness", "frame", "size"])
def test_a_group_that_has_no_sign_is_left_out(look: str) -> None:
    assert fitted(look, plants.films(GROUP, SIDE, seed=2)) is None


def test_a_mark_that_is_anywhere_is_left_out() -> None:
    rng = np.random.default_rng(0)
    at = rng.uniform(0.05, 0.8, (GROUP, 2))
    films = plants.films(GROUP, SIDE, seed=2)
    laid = [plants.lettered(f[None], at=(x, y)) for f, (y, x) in zip(films, at, strict=True)]
    boxes = np.column_stack([at + 0.01, np.tile(BOX[2:], (GROUP, 1))])
    assert fitted("mark", np.concatenate(laid), boxes) is None


def test_patients_of_one_half_alone_teach_no_sign() -> None:
    films = plants.lettered(plants.films(GROUP, SIDE))
    group = Alike(look="mark", rows=np.arange(GROUP), boxes=np.tile(BOX, (GROUP, 1)))
    rows = np.arange(GROUP)
    assert fingerprint.fit(films, rows, [group], ["one"] * GROUP) == [None]


def test_the_same_films_teach_the_same_signs() -> None:
    laid = plants.lettered(plants.films(GROUP, SIDE, seed=2))
    one, other = (fitted("mark", laid, np.tile(BOX, (GROUP, 1))) for _ in range(2))
    assert one is not None
    assert other is not None
    assert dataclasses.replace(one, sign=other.sign) == other
    strangers = plants.films(20, SIDE, seed=3)
    assert np.array_equal(one.sign(strangers), other.sign(strangers))
