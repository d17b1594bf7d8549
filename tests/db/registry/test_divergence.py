"""Two spreads of scores are compared as the literature defines it, and alarms are few."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import scipy.special
import scipy.stats

from db.registry import divergence

#: How a good model's scores are spread: nearly all near 0 or 1.
SHARP = (0.25, 0.02, *[0.002] * 16, 0.03, 0.668)

#: How a model's are that is sure of little.
FLAT = (0.05,) * 20

#: Sharp, with hardly anything between.
SHARPEST = (0.3, *[0.0003] * 18, 0.6946)


def _counts(histogram: Sequence[int], unusual: int | None = 0) -> divergence.Counts:
    return divergence.Counts(histogram=histogram, unusual=unusual)


def test_the_limit_of_psi_is_the_quantile_of_chi_square() -> None:
    assert scipy.stats.chi2.ppf(0.999, divergence.BUCKETS - 1) == pytest.approx(
        divergence.CHI_SQUARE, abs=5e-4
    )
    compared = divergence.compare(_counts([10] * 20), _counts([40] * 20))
    assert compared.psi_limit == pytest.approx(divergence.CHI_SQUARE * (1 / 200 + 1 / 800))


def test_psi_is_as_it_is_defined_and_finite_where_buckets_are_empty() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        found, reference = (rng.multinomial(300, SHARP).tolist() for _ in range(2))
        p, q = ((np.array(x) + 0.5) / (300 + 10) for x in (found, reference))
        expected = scipy.special.rel_entr(p, q).sum() + scipy.special.rel_entr(q, p).sum()
        assert divergence.population_stability(found, reference) == pytest.approx(expected)
        assert divergence.population_stability(found, found) == 0
    apart = divergence.population_stability([100] + [0] * 19, [0] * 19 + [100])
    assert 5 < apart < 15


def test_the_distance_is_that_of_scipy_on_the_middles_of_the_buckets() -> None:
    rng = np.random.default_rng(1)
    for n, m in ((60, 300), (5000, 300), (40, 40)):
        found, reference = rng.multinomial(n, SHARP), rng.multinomial(m, FLAT)
        middles = (np.arange(20) + 0.5) / 20
        scores = [np.repeat(middles, counts) for counts in (found, reference)]
        expected = scipy.stats.ks_2samp(*scores, method="asymp")
        assert divergence.distance(found.tolist(), reference.tolist()) == pytest.approx(
            expected.statistic
        )


def test_the_p_value_of_the_distance_is_kolmogorovs() -> None:
    for x in np.linspace(0.01, 4, 400):
        assert divergence.kolmogorov(float(x)) == pytest.approx(
            scipy.special.kolmogorov(x), abs=1e-12
        ), x


def test_buckets_hide_distance_but_never_add_any() -> None:
    rng = np.random.default_rng(2)
    for _ in range(100):
        a, b = rng.beta(0.5, 0.7, 200), rng.beta(0.6, 0.6, 300)
        found, reference = (np.histogram(x, bins=20, range=(0, 1))[0].tolist() for x in (a, b))
        true = scipy.stats.ks_2samp(a, b).statistic
        assert divergence.distance(found, reference) <= true + 1e-12


def test_two_shares_are_compared_as_fishers_exact_test_does() -> None:
    rng = np.random.default_rng(3)
    cases = [(0, 50, 0, 300), (3, 50, 0, 1000), (0, 50, 40, 300), (50, 50, 0, 300), (50, 50, 9, 9)]
    for _ in range(300):
        n, m = (int(x) for x in rng.integers(1, 3000, 2))
        cases.append((int(rng.binomial(n, 0.05)), n, int(rng.binomial(m, 0.08)), m))
    for a, n, b, m in cases:
        table = [[a, n - a], [b, m - b]]
        tails = [scipy.stats.fisher_exact(table, side)[1] for side in ("greater", "less")]
        assert divergence.same_share(a, n, b, m) == pytest.approx(
            min(1, 2 * min(tails)), rel=1e-6, abs=1e-300
        ), (a, n, b, m)


def test_millions_of_films_are_compared_in_no_time() -> None:
    assert divergence.same_share(500_000, 10_000_000, 51_000, 1_000_000) < 1e-4
    assert divergence.same_share(500_000, 10_000_000, 50_000, 1_000_000) == pytest.approx(
        1, abs=0.01
    )


@pytest.mark.parametrize("spread", [SHARP, SHARPEST, FLAT], ids=["sharp", "sharpest", "flat"])
@pytest.mark.parametrize(
    ("n", "m"), [(50, 60), (50, 5000), (400, 300), (20_000, 300), (10_000, 10_000)]
)
def test_of_a_thousand_jobs_like_the_reference_hardly_one_is_warned_of(
    spread: Sequence[float], n: int, m: int
) -> None:
    rng = np.random.default_rng(4)
    times = 1000
    drawn = (
        rng.multinomial(n, spread, times), rng.binomial(n, 0.04, times),
        rng.multinomial(m, spread, times), rng.binomial(m, 0.04, times),
    )  # fmt: skip

    alarms = sum(
        divergence.compare(_counts(a.tolist(), int(x)), _counts(b.tolist(), int(y))).warned
        for a, x, b, y in zip(*drawn, strict=True)
    )

    # Three tests, each wrong once in a thousand: six alarms would be seen once in fifty times.
    assert alarms <= 6


def test_each_of_the_three_signs_warns_by_itself() -> None:
    habit = [int(1000 * share) for share in SHARP]
    shifted = list(habit)
    shifted[0], shifted[19] = habit[0] + 150, habit[19] - 150
    spread_out = [50] * 20
    assert not divergence.compare(_counts(habit, 40), _counts(habit, 40)).warned

    more_healthy = divergence.compare(_counts(shifted, 40), _counts(habit, 40))
    assert more_healthy.warned
    assert more_healthy.psi < divergence.LEAST_PSI
    assert more_healthy.ks >= divergence.LEAST_KS
    unsure = divergence.compare(_counts(spread_out, 40), _counts(habit, 40))
    assert unsure.warned
    assert unsure.psi > max(divergence.LEAST_PSI, unsure.psi_limit)
    strangers = divergence.compare(_counts(habit, 140), _counts(habit, 40))
    assert strangers.warned
    assert (strangers.psi, strangers.ks) == (0, 0)
    assert strangers.unusual_p is not None
    assert strangers.unusual_p < divergence.SURE


def test_a_sure_but_small_difference_and_a_fall_of_the_unusual_are_no_warning() -> None:
    habit = [int(1_000_000 * share) for share in SHARP]
    moved = list(habit)
    moved[0], moved[19] = habit[0] + 50_000, habit[19] - 50_000
    compared = divergence.compare(_counts(moved, 40_000), _counts(habit, 55_000))
    assert compared.psi > compared.psi_limit
    assert compared.ks_p < 1e-6
    assert compared.unusual_p is not None
    assert compared.unusual_p < 1e-6
    assert not compared.warned
    assert not divergence.compare(_counts(habit, 0), _counts(habit, 100_000)).warned


def test_fewer_films_than_fifty_are_no_ground_for_a_warning() -> None:
    far = [0] * 19
    assert not divergence.compare(_counts([49, *far]), _counts([*far, 1000])).warned
    assert divergence.compare(_counts([50, *far]), _counts([*far, 1000])).warned
