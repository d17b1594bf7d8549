from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression

from tests.support import soak
from trainer.network import augment, model, negatives, ood

Features = list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]


def test_the_covariance_is_shrunk_as_scikit_learn_shrinks_it() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 30)) @ rng.normal(size=(30, 30))
    x -= x.mean(axis=0)
    theirs, _ = ledoit_wolf(x, assume_centered=True)
    assert np.allclose(ood.shrunk_covariance(x), theirs)


def test_the_head_is_scikit_learns_logistic_regression() -> None:
    rng = np.random.default_rng(0)
    good, bad = rng.normal(size=(300, 20)), rng.normal(0.4, 1.2, size=(120, 20))
    weights, bias = ood._logistic(good, bad)
    share = np.repeat([0.5 / 300, 0.5 / 120], [300, 120])
    theirs = LogisticRegression(C=1 / (2 * ood.DECAY), tol=1e-8).fit(
        np.concatenate([good, bad]), np.repeat([0, 1], [300, 120]), sample_weight=share
    )
    assert np.allclose(weights, theirs.coef_[0], atol=1e-2)
    assert bias == pytest.approx(float(theirs.intercept_[0]), abs=1e-2)


def drawn(rng: np.random.Generator, n: int, mix: list[np.ndarray]) -> Features:
    return [rng.normal(size=(n, 20)) @ m for m in mix]


def test_what_is_like_neither_films_nor_negatives_is_flagged_and_new_films_are_not() -> None:
    rng = np.random.default_rng(0)
    mix = [rng.normal(size=(20, d)) / 5 for d in (64, 64, 128, 128, 256)]
    train, val, new = (drawn(rng, n, mix) for n in (600, 400, 2000))
    away = [rng.normal(size=x.shape[1]) for x in new]
    strange = [x[:400] + a * 2 for x, a in zip(new, away, strict=True)]
    other = [x - a * 2 for x, a in zip(new, away, strict=True)]
    detector = ood.fit_features(train, strange, val)
    assert np.median(detector(new)) == pytest.approx(1, abs=0.05)
    assert (detector(new) > detector.threshold).mean() < 0.02
    assert (detector(strange) > detector.threshold).mean() > 0.99
    assert (detector(other) > detector.threshold).mean() > 0.99


def test_features_that_never_vary_are_no_error() -> None:
    same = [np.ones((10, 8), np.float32)] * 5
    assert np.isfinite(ood.fit_features(same, same, same)(same)).all()


@pytest.mark.parametrize("side", [32, 48, 65])
def test_negatives_of_every_kind_are_drawn_at_any_size_and_again_the_same(side: int) -> None:
    films = np.random.default_rng(0).integers(0, 256, (3, side, side), dtype=np.uint8)
    count = 3 * len(negatives.KINDS)
    made = np.stack([*negatives.draw(films, count, seed=1)])
    assert (made.shape, made.dtype) == ((count, side, side), np.uint8)
    assert np.array_equal(made, [*negatives.draw(films, count, seed=1)])
    assert len(np.unique(made.reshape(count, -1), axis=0)) > 0.9 * count


def test_what_is_fitted_film_by_film_is_what_is_fitted_to_all_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To the bit, and as of all films, changed ones and negatives in an array each."""
    rng = np.random.default_rng(0)
    planes = rng.integers(0, 256, (78, 32, 32), dtype=np.uint8)
    net, _ = model.build(2, model.SCRATCH)
    train, val = np.arange(68), ood.observe(net, planes[68:])
    monkeypatch.setattr(ood, "NEGATIVES", 44)

    order = np.random.default_rng(3)
    films = planes[np.sort(order.permutation(train))]
    held_out = np.sort(order.permutation(10))
    again = torch.from_numpy(films[::2, None].copy())
    changed = augment.augment(again, seed=3, epoch=0, step=0, strength=ood.STRENGTH)
    strange = np.stack([*negatives.draw(films, 44, seed=3)])
    films = np.concatenate([films, changed.round().byte().numpy()[:, 0]])
    expected = ood.fit_features(
        ood.observe(net, films), ood.observe(net, strange), [x[held_out] for x in val]
    )

    found = ood.fit(net, planes, train, val, seed=3)
    assert (found.bias, found.threshold) == (expected.bias, expected.threshold)
    for one, other in zip(found.parts, expected.parts, strict=True):
        for name in ("mean", "gain", "map", "head"):
            assert np.array_equal(getattr(one, name), getattr(other, name))


#: Does with the films of a file, an array `planes`, what is to be done, in so many bytes more than
#: it has when it begins.
LIMITED = """
import resource, sys
import numpy as np, torch
from trainer.network import model, ood
torch.set_num_threads(1)
planes = np.load(sys.argv[1], mmap_mode="r")
net, _ = model.build(2, model.SCRATCH)
val = [np.concatenate([x] * 4) for x in ood.observe(net, planes[:2])]
has = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if "VmData" in line)
resource.setrlimit(resource.RLIMIT_DATA, (has + int(sys.argv[2]),) * 2)
"""


def done_within(bytes_: int, planes: NDArray[np.uint8], what: str, folder: Path) -> None:
    """Do it to films `uint8 [N, S, S]` in a process of its own."""
    np.save(folder / "planes.npy", planes)
    command = [sys.executable, "-c", LIMITED + what, str(folder / "planes.npy"), str(bytes_)]
    subprocess.run(command, check=True)


def test_changed_films_are_never_all_in_memory(tmp_path: Path) -> None:
    """All at once these take 930 MB."""
    planes = np.random.default_rng(0).integers(0, 256, (350, 256, 256), dtype=np.uint8)
    what = "assert sum(1 for _ in ood._augmented(list(planes), 0)) == 350"
    done_within(250 << 20, planes, what, tmp_path)


@soak.ONLY
@pytest.mark.timeout(3600)
def test_large_films_are_learned_in_bounded_memory(tmp_path: Path) -> None:
    """Of 340, 7 GB are all changed films at once; a part of the soak takes fewer, for time."""
    n = soak.repetitions(quick=24, full=340, part=24)
    planes = np.random.default_rng(0).integers(0, 256, (n, 1024, 1024), dtype=np.uint8)
    what = f"ood.NEGATIVES = 22; ood.fit(net, planes, np.arange({n}), val)"
    done_within(2 << 30, planes, what, tmp_path)
