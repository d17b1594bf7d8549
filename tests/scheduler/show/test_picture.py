"""The annotated picture: the film as the model's film rule sees it, and the map where it looked."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scheduler.show import picture
from tests.support import hostile
from trainer.film import rules
from worker.classify.answer import Answer


@dataclasses.dataclass(frozen=True)
class Card:
    """What of a model's card the picture asks for."""

    film_rule: str
    size: int = 224
    threshold: float = 0.5
    positive: str = "PNEUMONIA"


def drawn(data: bytes, out: Path, cam: np.ndarray | None, rule: str) -> np.ndarray:
    """What is written for a film, `int [H, W, 3]`."""
    answer = Answer(
        label="PNEUMONIA", probability=0.9, scores={}, ood=None, unusual=False, cam=cam,
        card=Card(rule), film=data, labels=("NORMAL", "PNEUMONIA"), positive="PNEUMONIA",  # type: ignore[arg-type]
        threshold=0.5,
    )  # fmt: skip
    picture.annotate(out, answer)
    with Image.open(out) as image:
        assert image.mode == "RGB"
        return np.asarray(image, int)


@pytest.mark.parametrize("good", hostile.good_variants(), ids=lambda good: good.name)
def test_every_form_of_a_film_is_drawn_as_it_is_scored(good: hostile.Good, tmp_path: Path) -> None:
    pixels = drawn(good.data, tmp_path / "out.png", None, rules.DEFAULT_RULE)
    expected = hostile.picture().astype(int)
    assert pixels.shape == (*expected.shape, 3)
    assert (pixels == pixels[..., :1]).all()
    below = slice(60, None)  # the answer is written above
    apart = np.abs(pixels[below, :, 0] - expected[below])
    assert apart.mean() <= good.tolerance + 1


@pytest.mark.parametrize("rule", sorted(rules.RULES))
@pytest.mark.parametrize("shape", [(448, 900), (900, 448), (500, 500)])
def test_the_map_lies_where_the_model_looked(
    rule: str, shape: tuple[int, int], tmp_path: Path
) -> None:
    film = hostile.picture(*shape) // 2 + 40
    data = hostile.encoded(Image.fromarray(film), "PNG")
    cam = np.full((7, 7), -1.0, np.float32)
    cam[3:5, 1:3] = 2.0  # below the middle and to the left
    pixels = drawn(data, tmp_path / "out.png", cam, rule)
    red = pixels[..., 0] - pixels[..., 2]
    height, width = shape
    cropped = rule == "gray-crop-1"
    side = min(shape)
    left, top = ((width - side) / 2, (height - side) / 2) if cropped else (0, 0)
    across, down = (side, side) if cropped else (width, height)
    rows, columns = np.nonzero(red > red.max() / 2)
    for found, start, length, first in ((rows, top, down, 3), (columns, left, across, 1)):
        assert abs(found.mean() - (start + length * (first + 1) / 7)) < 0.02 * length
        assert abs(np.ptp(found) - length * 2 / 7) < 0.08 * length
    lines = 5 * max(12, height // 30)  # the answer is written there
    outside = red[lines:] == 0
    assert np.abs(pixels[lines:, :, 0] - film[lines:])[outside].max() <= 2
    if cropped and height != width:
        assert outside[:, : round(left)].all() or outside[: round(top) - lines].all()


def test_evidence_below_the_threshold_is_not_drawn(tmp_path: Path) -> None:
    data = hostile.encoded(Image.fromarray(hostile.picture()), "PNG")
    pixels = drawn(data, tmp_path / "out.png", np.full((7, 7), -1, np.float32), "gray-crop-1")
    assert (pixels[..., 0] == pixels[..., 2]).all()
