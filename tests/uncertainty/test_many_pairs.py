import itertools

import numpy as np
import pytest

from medretrieval.uncertainty.bootstrap import Resampling, bootstrap, paired_difference
from medretrieval.uncertainty.half_intervals import PairedHalves
from medretrieval.uncertainty.half_samples import splits
from medretrieval.uncertainty.many_pairs import OfImages, OfQueries, corrected
from medretrieval.uncertainty.sign_flips import paired_permutation, sign_flips

HOW = Resampling(500, 0.95, 0)


def of_queries(values, permutations=999):
    return OfQueries(bootstrap(values, HOW), sign_flips(values, permutations, 0))


def of_images(values, count=200, draws=2000):
    """Halves of images whose scores are independent: half the difference of their means."""
    sides = splits(len(values), count)
    halves = np.stack([(values[s].mean(axis=0) - values[~s].mean(axis=0)) / 2 for s in sides])
    return OfImages(PairedHalves(values.mean(axis=0), halves, sides, 0.95), draws, 0)


KINDS = pytest.mark.parametrize("kind", [of_queries, of_images])


def scores(n, better, rng):
    """Of runs that are better by so much: float64 [n, runs] between 0 and 1."""
    ease = rng.normal(0, 0.1, (n, 1))
    return np.clip(0.5 + ease + rng.normal(0, 0.1, (n, len(better))) + better, 0, 1)


def naive_step_down(signs, differences):
    """Westfall and Young's algorithm as it is written, over given signs: differences float64 [q, pairs]."""
    drawn = np.abs(signs @ differences)
    spread = np.sqrt((drawn**2).mean(axis=0))
    observed, drawn = np.abs(differences.sum(axis=0)) / spread, drawn / spread
    order = np.argsort(-observed)
    adjusted, so_far = np.zeros(len(order)), 0.0
    for place, i in enumerate(order):
        beyond = drawn[:, order[place:]].max(axis=1) >= observed[i] - 1e-9
        so_far = max(so_far, (beyond.sum() + 1) / (len(signs) + 1))
        adjusted[i] = so_far
    return adjusted


def test_p_is_that_of_the_algorithm_as_it_is_written():
    values = scores(40, [0, 0.02, 0.05, 0.0], np.random.default_rng(0))
    pairs = list(itertools.combinations(range(4), 2))
    bits = np.random.default_rng(0).integers(0, 2**64 - 1, (999, 1), dtype=np.uint64, endpoint=True)
    signs = 1.0 - 2.0 * np.unpackbits(bits.view(np.uint8), axis=1, count=40)
    expected = naive_step_down(signs, np.stack([values[:, a] - values[:, b] for a, b in pairs], axis=1))
    assert corrected(of_queries(values), pairs, 0.95).p == pytest.approx(expected)


@KINDS
def test_one_comparison_is_not_corrected(kind):
    values = scores(60, [0.0, 0.03], np.random.default_rng(1))
    drawn = kind(values)
    found = corrected(drawn, [(0, 1)], 0.95)
    assert found.p[0] == pytest.approx(drawn.p(0, 1), abs=0.02)
    assert found.p[0] >= drawn.p(0, 1)
    assert found.ends == [drawn.scores.difference(0, 1)[1:]]
    if kind is of_queries:
        assert found.p[0] == paired_permutation(*values.T, 999, 0)
        assert drawn.scores.difference(0, 1) == paired_difference(*values.T, HOW)


@KINDS
def test_runs_that_are_alike_cost_nothing(kind):
    """Index variants of one encoder: their pairs add no statistic that is not there already."""
    rng = np.random.default_rng(2)
    two = scores(80, [0.0, 0.04], rng)
    six = two[:, [0, 0, 0, 1, 1, 1]]
    pairs = list(itertools.combinations(range(6), 2))
    found = corrected(kind(six), pairs, 0.95)
    alone = corrected(kind(two), [(0, 1)], 0.95)
    for (a, b), p, ends in zip(pairs, found.p, found.ends, strict=True):
        if (a < 3) == (b < 3):
            assert p == 1.0
            # No query differs: none in halves, and an exact interval around 0 for queries.
            assert ends is None if kind is of_images else ends[0] == -ends[1]
        else:
            assert p == pytest.approx(alone.p[0], abs=1e-9)


@KINDS
def test_corrected_intervals_hold_the_plain_ones_and_agree_with_p(kind):
    values = scores(80, [0, 0.01, 0.03, 0.05, 0.08], np.random.default_rng(3))
    drawn, pairs = kind(values), list(itertools.combinations(range(5), 2))
    found = corrected(drawn, pairs, 0.95)
    assert np.all(np.array(found.p) >= [drawn.p(a, b) for a, b in pairs])
    for (a, b), ends in zip(pairs, found.ends, strict=True):
        _, low, high = drawn.scores.difference(a, b)
        assert high - low < ends[1] - ends[0]
    apart = [ends[0] > 0 or ends[1] < 0 for ends in found.ends]
    assert all(p < 0.06 for p, away in zip(found.p, apart, strict=True) if away)
    assert any(apart)


@KINDS
def test_any_false_alarm_among_equal_runs_is_as_rare_as_promised(kind):
    alarms, simulations = 0, 150
    pairs = list(itertools.combinations(range(6), 2))
    for seed in range(simulations):
        values = scores(50, [0] * 6, np.random.default_rng([seed, 5]))
        drawn = of_queries(values, 199) if kind is of_queries else of_images(values, 100, 300)
        alarms += min(corrected(drawn, pairs, 0.95).p) < 0.05
    assert alarms / simulations < 0.05 + 3 * np.sqrt(0.05 * 0.95 / simulations)
