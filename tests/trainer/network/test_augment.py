from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.trainer import samples
from trainer.film import rules
from trainer.network import augment as changes
from trainer.network.augment import augment


def batch(n: int = 16, size: int = 64) -> torch.Tensor:
    planes = [rules.decode(samples.film(seed, sick=True), size) for seed in range(n)]
    return torch.from_numpy(np.stack(planes)[:, None])


def test_what_a_batch_becomes_depends_on_seed_epoch_and_step_alone() -> None:
    first = augment(batch(), seed=1, epoch=2, step=3)
    torch.rand(7)
    assert torch.equal(augment(batch(), seed=1, epoch=2, step=3), first)
    for seed, epoch, step in ((2, 2, 3), (1, 3, 3), (1, 2, 4)):
        assert not torch.equal(augment(batch(), seed=seed, epoch=epoch, step=step), first)


def test_pixels_stay_on_the_scale_of_gray_levels() -> None:
    for level in (0, 128, 255):
        flat = torch.full((8, 1, 32, 32), level, dtype=torch.uint8)
        x = augment(flat, seed=0, epoch=1, step=level)
        assert x.dtype == torch.float32
        assert x.shape == flat.shape
        assert 0 <= float(x.min()) <= float(x.max()) <= 255
    assert augment(batch(), seed=0, epoch=1, step=0).isfinite().all()


def test_a_film_is_never_mirrored_or_turned_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "BOXES", 0)  # one may hide the corner
    corner = torch.zeros((64, 1, 64, 64), dtype=torch.uint8)
    corner[:, :, 8:24, 8:24] = 255  # upper left
    for step in range(5):
        x = augment(corner, seed=0, epoch=1, step=step)
        quarters = [
            x[:, :, i : i + 32, j : j + 32].mean((1, 2, 3)) for i in (0, 32) for j in (0, 32)
        ]
        assert (torch.stack(quarters).argmax(0) == 0).all()


def test_most_films_are_not_changed_beyond_recognition() -> None:
    x = batch()
    y = augment(x, seed=0, epoch=1, step=0)
    alike = [
        float(torch.corrcoef(torch.stack([before.flatten(), after.flatten()]))[0, 1])
        for before, after in zip(x.float(), y, strict=True)
    ]
    assert np.median(alike) > 0.4


def test_boxes_hide_a_part_of_some_films_and_leave_the_rest_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(changes, "BOXES", 0)
    before = augment(batch(), seed=0, epoch=1, step=0)
    monkeypatch.undo()
    after = augment(batch(), seed=0, epoch=1, step=0)
    changed = (before != after).float().mean((1, 2, 3))
    assert (changed == 0).any()
    assert 0.02 < float(changed.max()) < 2 * changes.BOX_AREA[1] + 0.05


def test_how_sharp_a_film_was_can_hardly_be_told_afterwards() -> None:
    x = batch().float()
    softer = torch.nn.functional.interpolate(
        torch.nn.functional.interpolate(x, size=(40, 48), mode="area"), size=(64, 64)
    )

    def sharp(films: torch.Tensor) -> torch.Tensor:
        return (films[..., 1:] - films[..., :-1]).abs().mean((1, 2, 3))

    plain, soft = (
        torch.cat([sharp(augment(films, seed=0, epoch=1, step=s)) for s in range(8)])
        for films in (x, softer)
    )
    between = float((plain[:, None] > soft[None]).float().mean())
    assert between < 0.8  # as they were, it is 1
    assert float((sharp(x)[:, None] > sharp(softer)[None]).float().mean()) > 0.95


def test_without_strength_a_film_stays_as_it_is() -> None:
    x = batch()
    y = augment(x, seed=0, epoch=1, step=0, strength=0)
    assert float((y - x.float()).abs().max()) < 0.01


@pytest.mark.parametrize("side", [32, 33])
@pytest.mark.parametrize("n", [1, 5, 16, 17, 25, 38])
def test_films_changed_in_parts_are_changed_as_if_at_once(n: int, side: int) -> None:
    image = torch.randint(0, 256, (n, 1, side, side), dtype=torch.uint8,
                          generator=torch.Generator().manual_seed(n))  # fmt: skip
    whole = augment(image, seed=1, epoch=0, step=2, strength=0.5)
    parts = [
        changes.apply(image[part], some)
        for part, some in changes.parts(n, side, seed=1, epoch=0, step=2, strength=0.5)
    ]
    assert torch.equal(torch.cat(parts), whole)
    assert max(map(len, parts)) < 2 * changes.PART
