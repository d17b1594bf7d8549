from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression

from trainer.network import negatives, ood

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
    made = negatives.draw(films, count, seed=1)
    assert (made.shape, made.dtype) == ((count, side, side), np.uint8)
    assert np.array_equal(made, negatives.draw(films, count, seed=1))
    assert len(np.unique(made.reshape(count, -1), axis=0)) > 0.9 * count
