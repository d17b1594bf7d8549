from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trainer import samples
from trainer.film import rules
from trainer.network import disguise, letters

NONE = torch.zeros(16, dtype=torch.bool)
BARE: list[tuple[disguise.Box, ...]] = [()] * 16


def batch(n: int = 16, size: int = 64) -> Tensor:
    planes = [rules.decode(samples.film(seed, sick=True), size) for seed in range(n)]
    return torch.from_numpy(np.stack(planes)[:, None])


def disguised(x: Tensor, known: Tensor = NONE, boxes: object = None, **draw: object) -> Tensor:
    draw = {"seed": 0, "epoch": 1, "step": 0, **draw}
    return disguise.disguise(x, known, BARE if boxes is None else boxes, **draw)  # type: ignore[arg-type]


@pytest.fixture
def tones_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disguise, "CORNERS", 0.0)
    monkeypatch.setattr(disguise, "MARKED", 0.0)


def test_what_a_batch_becomes_depends_on_seed_epoch_and_step_alone() -> None:
    first = disguised(batch(), seed=1, epoch=2, step=3)
    torch.rand(7)
    assert torch.equal(disguised(batch(), seed=1, epoch=2, step=3), first)
    for seed, epoch, step in ((2, 2, 3), (1, 3, 3), (1, 2, 4)):
        assert not torch.equal(disguised(batch(), seed=seed, epoch=epoch, step=step), first)


def test_pixels_stay_on_the_scale_of_gray_levels() -> None:
    for level in (0, 128, 255):
        flat = torch.full((16, 1, 32, 32), level, dtype=torch.uint8)
        x = disguised(flat, step=level)
        assert x.dtype == torch.float32
        assert x.shape == flat.shape
        assert 0 <= float(x.min()) <= float(x.max()) <= 255


def test_without_strength_a_film_stays_as_it_is() -> None:
    boxes = [((10, 10, 8, 8),)] * 16
    assert torch.equal(disguised(batch(), ~NONE, boxes, strength=0.0), batch().float())


@pytest.mark.usefixtures("tones_alone")
def test_films_of_a_group_take_the_gray_levels_of_others_and_never_give_theirs() -> None:
    x = torch.full((16, 1, 32, 32), 100, dtype=torch.uint8)
    x[8:] = 200
    x[..., ::2] -= 50
    known = torch.arange(16) >= 8
    for step in range(4):
        y = disguised(x, known, step=step)
        # The dark ones have only each other to take from, the bright ones only the dark ones.
        assert torch.equal(y[:8], x[:8].float())
        assert (y[8:].amax((1, 2, 3)) < 151).all()


@pytest.mark.usefixtures("tones_alone")
def test_about_half_of_the_films_of_no_group_take_part_of_anothers_gray_levels() -> None:
    x = (torch.arange(64).repeat(16, 1, 64, 1) * 4 // torch.arange(1, 17).view(16, 1, 1, 1)).byte()
    changed = [
        (disguised(x, step=step) - x.float()).abs().amax((1, 2, 3)) > 2 for step in range(50)
    ]
    # One in sixteen is its own partner.
    assert 0.35 < float(torch.stack(changed).float().mean()) < 0.6


@pytest.mark.usefixtures("tones_alone")
def test_the_marks_of_a_group_are_filled_with_what_is_around_them() -> None:
    x = torch.full((16, 1, 64, 64), 90, dtype=torch.uint8)
    places = [(4, 6, 8, 5), (0, 20, 6, 6), (55, 40, 9, 9)]
    for top, left, high, wide in places:
        x[:, 0, top : top + high, left : left + wide] = 255
    y = disguised(x, ~NONE, [tuple(places)] * 16)
    assert torch.equal(y, torch.full_like(y, 90))


def test_corners_are_hidden_and_letters_stand_near_the_edges() -> None:
    touched = torch.zeros(64, 64)
    for step in range(60):
        x = torch.full((16, 1, 64, 64), 120, dtype=torch.uint8)
        touched += (disguised(x, step=step) != 120).float().mean((0, 1))
    touched /= 60
    assert float(touched[20:44, 20:44].mean()) < 0.05
    for rows in (slice(0, 8), slice(56, 64)):
        for columns in (slice(0, 8), slice(56, 64)):
            assert float(touched[rows, columns].mean()) > 0.2


def test_letters_are_as_wide_as_their_text_and_differ() -> None:
    pictures, ratios = letters.atlas()
    assert pictures.shape == (len(ratios), 1, letters.HEIGHT, letters.WIDTH)
    assert 0 <= float(pictures.min()) < 0.01 < 0.9 < float(pictures.max()) <= 1
    assert float(ratios.min()) > 0.2
    assert float(ratios.max()) > 3
    flat = pictures.flatten(1).half().float()
    apart = (flat[:, None] - flat[None]).abs().mean(2)
    texts = len(letters.TEXTS)
    # R and L come twice, in two shapes of what is around them.
    assert int((apart < 1e-6).sum()) <= 2 * texts + 16
