"""Bounds by patients hold what they promise: few films, none that differ, and AUROC near 1."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, gamma, norm

from tests.bench.judging import gate as bench
from tests.bench.judging.gate import Loss, Ranking
from tests.support import soak
from trainer.judging import paired
from trainer.judging.paired import Floats, Sums


def of_events(films: int, lost: Floats, gained: Floats) -> Sums:
    """Samples of single films, of which so many came out worse, and so many better."""
    one = np.full(lost.shape, 1 / films)
    return Sums(
        value=(gained - lost) / films, pp=(gained + lost) / films**2, pq=(gained - lost) / films**2,
        qq=one, one=one, worst=-1.0, best=1.0,
    )  # fmt: skip


def low(sums: Sums) -> Floats:
    return paired.bounds(sums)[0]


def test_where_no_film_differs_the_bound_is_that_of_what_was_not_seen() -> None:
    for films in (20, 73, 500, 2000):
        found = float(low(of_events(films, np.zeros(1), np.zeros(1)))[0])
        exact = 1 - 0.05 ** (1 / films)  # all of a share is missed once in twenty times
        assert -1.35 * exact < found < -exact


def test_the_bound_of_a_count_is_at_least_poisson_s_and_hardly_more() -> None:
    lost = np.arange(200.0)
    exact = gamma.ppf(0.95, lost + 1)
    ours = -low(of_events(100_000, lost, np.zeros(200))) * 100_000
    assert (ours >= exact - 1e-3).all()
    assert (ours[1:] < exact[1:] * 1.1 + 0.2).all()


def test_a_share_that_is_lower_by_the_margin_is_accepted_no_more_than_once_in_twenty() -> None:
    """Of all that may be seen of single films, its probability: no chance is in it."""
    worst = 0.0
    for films in (20, 50, 73, 100, 182, 300, 500, 1000, 2000):
        for margin in (0.02, 0.05, 0.1):
            for gained in (0.0, 0.01, 0.03):
                most = [
                    int(binom.isf(1e-7, films, share)) + 1 for share in (margin + gained, gained)
                ]
                lost, better = np.meshgrid(*(np.arange(n + 1) for n in most), indexing="ij")
                chance = binom.pmf(lost, films, margin + gained) * binom.pmf(
                    better, np.maximum(films - lost, 0), gained / (1 - margin - gained)
                )
                passes = low(of_events(films, lost.astype(float), better.astype(float))) > -margin
                worst = max(worst, float((chance * passes).sum()))
    assert 0.04 < worst <= 0.05


def test_so_it_is_with_patients_of_several_films_that_come_out_alike_or_not() -> None:
    runs, rng = soak.repetitions(300, 4_000), np.random.default_rng(3)
    beyond = 0.05 + 4 * math.sqrt(0.05 * 0.95 / runs)
    for films, per_patient in ((40, 8), (100, 4), (500, 8), (1000, 2)):
        for one in bench.at_the_margin(films, per_patient, (0.05,)):
            assert bench.accepted(rng, one, runs) < beyond, one


@pytest.mark.parametrize("auroc", [0.9, 0.99, 0.999])
@pytest.mark.parametrize("how", ["blurred", "sick", "well"])
def test_so_it_is_with_an_auroc_that_is_lower_by_the_margin_also_near_1(
    auroc: float, how: str
) -> None:
    runs, rng = soak.repetitions(150, 1_500), np.random.default_rng(4)
    beyond = 0.05 + 4 * math.sqrt(0.05 * 0.95 / runs)
    for films, per_patient, margin in ((40, 4, 0.1), (200, 1, 0.03), (600, 2, 0.01)):
        of = Ranking(films=films, per_patient=per_patient, auroc=auroc, margin=margin, how=how)
        assert bench.rankings(rng, of, runs) < beyond, of


def test_films_of_one_patient_that_come_out_alike_count_once() -> None:
    lost, gained = np.arange(100) < 6, np.arange(100) >= 97
    one = gained.astype(float) - lost
    alone = paired.bounds(paired.of_differences(one, np.ones(100)))
    five = paired.bounds(paired.of_differences(5 * one, np.full(100, 5.0)))
    apart = paired.bounds(paired.of_differences(np.repeat(one, 5), np.ones(500)))
    assert np.array(five) == pytest.approx(np.array(alone))
    assert apart[1] - apart[0] < 0.6 * (alone[1] - alone[0])


def test_with_many_films_it_is_the_textbook_s_interval_of_a_paired_difference() -> None:
    films, lost, gained = 100_000, 2_000.0, 1_500.0
    value = (gained - lost) / films
    error = math.sqrt((gained + lost) / films - value**2) / math.sqrt(films)
    found = paired.bounds(of_events(films, np.array([lost]), np.array([gained])))
    for bound, z in zip(found, norm.ppf([0.05, 0.95]), strict=True):
        assert float(bound[0]) == pytest.approx(value + z * error, abs=0.04 * error)


def test_with_many_films_it_is_delong_s_interval_of_two_aurocs() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(40_000) % 2 == 0
    seen = rng.normal(size=40_000) + 1.5 * truth
    sides = [paired.placements(np.round(seen + rng.normal(size=40_000), 1), truth) for _ in "ab"]
    sick, well = (sides[0][k] - sides[1][k] for k in (0, 1))
    owner = np.arange(20_000)
    found = paired.bounds(paired.of_placements(sick, well, owner, owner + 20_000, difference=True))
    error = math.sqrt((sick.var(ddof=1) + well.var(ddof=1)) / 20_000)
    for bound, z in zip(found, norm.ppf([0.05, 0.95]), strict=True):
        assert float(bound) == pytest.approx(sick.mean() + z * error, abs=0.05 * error)


def test_the_films_that_would_decide_are_as_many_as_let_four_in_five_pass() -> None:
    rng = np.random.default_rng(1)
    sums = paired.of_differences(np.repeat([1.0, -1.0, 0.0], [3, 3, 194]), np.ones(200))
    films = round(200 * paired.enough(sums, 0.0, -0.02))
    assert 600 < films < 700
    lost = rng.binomial(films, 0.015, 20_000)
    gained = rng.binomial(films - lost, 0.015 / 0.985)
    passed = low(of_events(films, lost.astype(float), gained.astype(float))) > -0.02
    assert passed.mean() == pytest.approx(0.8, abs=0.03)
    assert paired.enough(sums, -0.02, -0.02) == math.inf


def test_of_hardly_any_patients_the_bounds_are_the_least_and_the_largest_there_is() -> None:
    found = paired.bounds(paired.of_share(np.array([30.0, 1.0]), np.array([30.0, 1.0])))
    assert [float(bound) for bound in found] == [0.0, 1.0]


def test_simulated_losses_are_as_large_as_they_are_said_to_be() -> None:
    rng = np.random.default_rng(2)
    for varied in (False, True):
        of = Loss(films=4_000, per_patient=4, margin=0.05, gained=0.03, together=0.5, varied=varied)
        difference, films = bench.losses(rng, of, 50)
        assert difference.sum() / films.sum() == pytest.approx(-0.05, abs=0.004)
