"""What difference can be shown: the formulas, and the power of the real test at the difference they name."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import nct, norm
from tests.coverage.power import WORLDS, sampled
from tests.coverage.simulate import simulate

from medretrieval.uncertainty.distributions import student_quantile
from medretrieval.uncertainty.power import Model, Spread, correlated, of_one, of_pair
from medretrieval.uncertainty.sign_flips import sign_flips

ALPHA, POWER, STUDIES = 0.05, 0.8, 600


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-4, 0.2), st.floats(1e-4, 0.2), st.floats(0.5, 0.99))
def test_power_at_the_smallest_difference_is_the_wanted_one(error, alpha, power):
    for spread in (Spread(error, 399.0, 400), Spread(error, 40.0, 400)):
        smallest = spread.smallest(alpha, power)
        assert spread.power(smallest, alpha) == pytest.approx(power, abs=1e-6)
        assert spread.units_for(smallest, alpha, power) == 400
        assert spread.power(2 * smallest, alpha) >= spread.power(smallest, alpha)
        assert spread.units_for(smallest / 2, alpha, power) > 400


def test_many_queries_need_the_textbook_difference():
    textbook = norm.ppf(1 - ALPHA / 2) + norm.ppf(POWER)
    assert Spread(0.01, 1e6, 10**6).smallest(ALPHA, POWER) == pytest.approx(textbook * 0.01, rel=1e-4)


def test_power_of_halves_is_nearly_that_of_the_noncentral_t():
    spread = Spread(0.01, 60.0, 300)
    smallest = spread.smallest(ALPHA, POWER)
    exact = 1 - nct.cdf(student_quantile(1 - ALPHA, 60), 60, smallest / 0.01)
    assert exact == pytest.approx(POWER, abs=0.01)


def test_the_spread_of_groups_is_that_of_their_totals():
    rng = np.random.default_rng(0)
    groups, values = rng.integers(0, 40, 300), rng.random((300, 2))
    values[5] = np.nan
    kept = ~np.isnan(values[:, 0])
    apart = (values[:, 0] - values[:, 1])[kept]
    mean, sizes = apart.mean(), np.bincount(groups[kept], minlength=40)
    sums = np.bincount(groups[kept], apart, minlength=40)
    expected = np.sqrt(((sums - sizes * mean) ** 2).sum() * 40 / 39) / kept.sum()
    found = of_pair(values, groups)
    assert (found.error, found.units) == (pytest.approx(expected), 40)
    alone = of_pair(values)
    assert alone.error == pytest.approx(apart.std(ddof=1) / np.sqrt(kept.sum()))
    assert alone.freedom == pytest.approx(kept.sum() - 1)


def test_a_correlation_gives_the_spread_of_a_difference():
    rng = np.random.default_rng(1)
    for correlation in (0.0, 0.3, 0.9):
        pair = rng.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], 100_000)
        one = of_one(pair[:, 0])
        assert correlated(one, correlation).error == pytest.approx(of_pair(pair).error, rel=0.02)


@pytest.mark.parametrize("group", [1, 4])
def test_simulated_scores_have_the_precision_and_correlation_that_are_assumed(group):
    groups = None if group == 1 else np.arange(4000) // group
    model = Model(np.full(4000, 0.7), 5, groups)
    for correlation in (0.3, 0.7):
        rng = np.random.default_rng(0)
        codes = np.arange(4000) // group
        scores = model._scores(codes, rng)
        assert scores.mean() == pytest.approx(0.7, abs=0.03)
        alone = of_one(scores, groups)
        wanted = correlated(alone, correlation).error
        assert model.spread(correlation, 0).error == pytest.approx(wanted, rel=0.05)
    # 0.7 * 0.3 * (1 / 5 + 4 / 5 * 0.5), and within a patient 1 + 3 * 0.5 times as much.
    variance = 0.7 * 0.3 * 0.6 * (1 if group == 1 else 2.5)
    assert alone.error**2 * 4000 == pytest.approx(variance, rel=0.1)


@pytest.mark.parametrize(("queries", "group"), [(25, 1), (60, 1), (240, 4)])
def test_the_real_test_shows_the_smallest_difference_as_often_as_is_said(queries, group):
    rng = np.random.default_rng(queries)
    groups = np.arange(queries) // group

    def study(difference):
        # Differences of single queries as of precision_at_5: fifths, alike within a patient.
        shared = rng.integers(-2, 3, groups[-1] + 1)[groups]
        own = rng.integers(-1, 2, queries)
        shift = difference + rng.normal(0, 0.1, queries)
        return np.stack([(shared + own) / 5 + shift, np.zeros(queries)], axis=1)

    spread = of_pair(np.concatenate([study(0.0) for _ in range(400)]), np.arange(400 * queries) // group)
    spread = Spread(spread.error * 20, queries / group - 1, queries // group)
    smallest = spread.smallest(ALPHA, POWER)
    p = [sign_flips(study(smallest), 499, i, groups).p(0, 1) for i in range(STUDIES)]
    assert 0.76 <= np.mean(np.array(p) <= ALPHA) <= 0.84


@pytest.mark.slow
@pytest.mark.parametrize("place", [2, 4, 5], ids=lambda place: WORLDS[place][0])
def test_retrieval_tests_have_the_power_that_is_said_of_them(place):
    world = replace(WORLDS[place][1], blind=0.4)
    found = simulate(sampled, world, 200, seed=1)
    truth = np.mean([one.difference for one in found])
    said = np.mean([one.spread.power(truth, ALPHA) for one in found])
    shown = np.mean([one.p < ALPHA + 1e-12 for one in found])
    assert shown == pytest.approx(said, abs=3 * np.sqrt(0.25 / 200))
