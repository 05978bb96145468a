import itertools

import numpy as np
import pytest
from scipy import stats

from medretrieval.protocol.ranking import class_members
from medretrieval.uncertainty.bootstrap import (
    MIN_UNITS,
    Resampling,
    bca,
    bootstrap,
    carriers,
    intervals,
    paired_difference,
)
from medretrieval.uncertainty.distributions import exact_interval
from medretrieval.uncertainty.sign_flips import paired_permutation, sign_flips

ONCE = Resampling(1, 0.95, 0)  # where only the means matter


@pytest.fixture
def skewed():
    """Per-query precisions, most of them small."""
    return np.random.default_rng(3).beta(0.5, 3, 80).round(2)


def test_the_interval_is_that_of_scipy():
    skewed = np.random.default_rng(1).beta(0.5, 4, 25)
    expected = stats.bootstrap(
        (skewed,), np.mean, n_resamples=40000, method="BCa", rng=np.random.default_rng(1)
    ).confidence_interval
    low, high = intervals({"map": skewed}, Resampling(40000, 0.95, 0))["map"]
    assert [low, high] == pytest.approx([expected.low, expected.high], abs=0.02 * (high - low))
    assert high - skewed.mean() > 1.5 * (skewed.mean() - low)


def test_ties_with_the_estimate_are_no_bias():
    replicates = np.concatenate([np.linspace(-1, 1, 2001), np.zeros(2000)])
    low, high = bca(0.0, replicates, np.linspace(-1, 1, 11), 0.95, scale=1.0)
    assert low == pytest.approx(-high)


def test_the_acceleration_is_that_of_the_sample_skewness(skewed):
    pull = (lambda j: j.mean() - j)(bootstrap(skewed[:, None], ONCE).jackknife[:, 0])
    acceleration = (pull**3).sum() / (6 * (pull**2).sum() ** 1.5)
    assert acceleration == pytest.approx(stats.skew(skewed) / (6 * np.sqrt(len(skewed))))


def test_intervals_hold_the_true_mean_as_often_as_they_say():
    rng = np.random.default_rng(5)
    simulations, n = 1200, 100
    hits = rng.binomial(5, rng.beta(2, 1, (n, simulations))) / 5  # precision_at_5 with mean 2/3
    found = intervals({str(i): hits[:, i] for i in range(simulations)}, Resampling(4000, 0.95, 6))
    coverage = np.mean([low <= 2 / 3 <= high for low, high in found.values()])
    assert 0.93 < coverage < 0.97


def test_intervals_of_patients_hold_the_true_mean_and_those_of_their_images_do_not():
    rng = np.random.default_rng(7)
    patients, images, simulations = 60, 5, 300
    values = np.repeat(rng.beta(2, 1, (patients, simulations)), images, axis=0)
    values += rng.normal(0, 0.02, values.shape)
    scores = {str(i): values[:, i] for i in range(simulations)}
    groups = np.repeat(np.arange(patients), images)

    def coverage(groups):
        found = intervals(scores, Resampling(1000, 0.95, 0), groups).values()
        return np.mean([low <= 2 / 3 <= high for low, high in found])

    assert coverage(groups) > 0.91
    assert coverage(None) < 0.75


def test_copies_of_queries_widen_the_interval_by_the_root_of_their_number(skewed):
    copies = np.repeat(skewed, 4)
    names = np.array([f"patient {i}" for i in range(80)], dtype=object)
    single = intervals({"x": skewed}, Resampling(20000, 0.95, 0))["x"]
    grouped = intervals({"x": copies}, Resampling(20000, 0.95, 0), np.repeat(names, 4))["x"]
    naive = intervals({"x": copies}, Resampling(20000, 0.95, 0))["x"]
    assert grouped == pytest.approx(single)
    assert np.ptp(grouped) / np.ptp(naive) == pytest.approx(2, rel=0.03)


def test_groups_of_different_sizes_in_any_order_are_a_ratio_of_sums(skewed):
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 12, 80)
    drawn = bootstrap(skewed[:, None], ONCE, groups)
    assert drawn.means[0] == pytest.approx(skewed.mean())
    without = sorted(skewed[groups != g].mean() for g in np.unique(groups))
    assert sorted(drawn.jackknife[:, 0]) == pytest.approx(without)


def test_queries_without_relevant_items_are_left_out(skewed):
    holed = np.insert(skewed, [0, 10], np.nan)
    assert intervals({"x": holed}, Resampling(500, 0.95, 0)) == intervals(
        {"x": skewed}, Resampling(500, 0.95, 0)
    )
    groups = np.insert(np.arange(80), [0, 10], [99, 98])
    assert intervals({"x": holed}, Resampling(500, 0.95, 0), groups)["x"] == pytest.approx(
        intervals({"x": skewed}, Resampling(500, 0.95, 0))["x"]
    )


def test_a_score_has_the_same_interval_alone_and_among_others(skewed):
    both = intervals({"x": skewed, "y": skewed**2}, Resampling(1000, 0.9, 4))
    assert both["y"] == pytest.approx(intervals({"y": skewed**2}, Resampling(1000, 0.9, 4))["y"])
    assert both["x"] != pytest.approx(intervals({"x": skewed}, Resampling(1000, 0.9, 5))["x"], abs=1e-9)


def test_chunks_change_nothing(skewed, monkeypatch):
    whole = (
        intervals({"x": skewed}, Resampling(1000, 0.95, 0)),
        paired_permutation(skewed, skewed[::-1], 999, 0),
    )
    monkeypatch.setattr("medretrieval.uncertainty.totals.CHUNK_CELLS", 700)
    parts = (
        intervals({"x": skewed}, Resampling(1000, 0.95, 0)),
        paired_permutation(skewed, skewed[::-1], 999, 0),
    )
    assert parts[0]["x"] == pytest.approx(whole[0]["x"])
    assert parts[1] == whole[1]


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
def test_equal_values_do_not_make_a_mean_certain(value):
    low, high = intervals({"x": np.full(50, value)}, Resampling(100, 0.95, 0))["x"]
    assert low <= value <= high
    assert high - low > 0.05


@pytest.mark.parametrize("misses", [0, 1, 4])
def test_few_misses_give_the_exact_interval(misses):
    hits = np.r_[np.zeros(misses), np.ones(50 - misses)]
    expected = stats.binomtest(50 - misses, 50).proportion_ci(method="exact")
    found = intervals({"x": hits}, Resampling(100, 0.95, 0))["x"]
    assert found == pytest.approx((expected.low, expected.high), abs=1e-9)
    # A patient's four images say no more than one where all are alike.
    groups = np.repeat(np.arange(50), 4)
    assert intervals({"x": np.repeat(hits, 4)}, Resampling(100, 0.95, 0), groups)["x"] == pytest.approx(found)


def test_a_score_that_cannot_reach_1_has_an_interval_below_what_it_can_reach():
    """All 50 queries find their first relevant image of 40: recall_at_1 is 1/40, and cannot be more."""
    relevant = np.full(50, 40)
    found = intervals({"recall_at_1": np.full(50, 1 / 40)}, Resampling(100, 0.95, 0), n_relevant=relevant)
    low, high = exact_interval(1.0, 50, 0.95)
    assert found["recall_at_1"] == pytest.approx((low / 40, high / 40))


def test_a_score_near_1_is_covered_as_promised():
    """Precision at 1 of 0.98 with 50 queries: BCa alone covers 60 to 66 %."""
    hits = np.random.default_rng(0).random((50, 500)) < 0.98
    found = intervals({str(i): hits[:, i] * 1.0 for i in range(500)}, Resampling(200, 0.95, 0)).values()
    assert np.mean([low <= 0.98 <= high for low, high in found]) > 0.95


def test_values_that_are_no_shares_have_no_interval_where_few_carry_the_variance():
    values = np.r_[np.full(40, 2.0), 5.0]
    assert intervals({"x": values}, Resampling(200, 0.95, 0)) == {}
    assert carriers(np.zeros(3)) == 0


def test_few_queries_that_differ_give_an_interval_with_width():
    a, b = np.ones(60), np.ones(60)
    for lost in (0, 1, 3):
        b[:lost] = 0
        difference, low, high = paired_difference(a, b, Resampling(200, 0.95, 0))
        assert difference == pytest.approx(lost / 60)
        assert low < 0 < difference < high or (lost == 0 and low == -high)
        at_most = exact_interval(lost / 60, 60, 0.975)[1]
        assert high == pytest.approx(at_most)


def test_nothing_is_said_of_few_queries_or_patients(skewed):
    few = skewed[: MIN_UNITS - 1]
    assert intervals({"x": few}, Resampling(100, 0.95, 0)) == {}
    assert intervals({"x": skewed}, Resampling(100, 0.95, 0), groups=np.arange(80) % (MIN_UNITS - 1)) == {}
    assert intervals({"x": np.full(3, np.nan)}, Resampling(100, 0.95, 0)) == {}
    assert intervals({}, Resampling(100, 0.95, 0)) == {}
    assert paired_difference(few, few[::-1], Resampling(100, 0.95, 0)) is None
    with pytest.raises(ValueError, match="of 1 queries or groups"):
        paired_difference(np.array([0.5]), np.array([0.1]), Resampling(100, 0.95, 0))


@pytest.mark.parametrize("as_findings", [False, True])
def test_macro_means_are_over_classes(skewed, as_findings):
    labels = np.array([0] * 70 + [1] * 10)
    labels = np.eye(3, dtype=bool)[labels] if as_findings else labels  # a third class without queries
    found = intervals({"x": skewed}, Resampling(5000, 0.95, 0), labels=labels)
    assert set(found) == {"x", "macro_x"}
    halves = skewed[:70], skewed[70:]
    drawn = bootstrap(skewed[:, None], Resampling(5000, 0.95, 0), members=class_members(labels))
    assert drawn.means[0] == pytest.approx(np.mean([h.mean() for h in halves]))
    spread = np.sqrt(sum(h.var() / len(h) for h in halves)) / 2
    assert drawn.replicates.std() == pytest.approx(spread, rel=0.1)
    assert found["macro_x"][0] < drawn.means[0] < found["macro_x"][1]


def test_a_class_of_one_query_may_be_missing_from_a_sample(skewed):
    labels = np.array([0] * 79 + [1])
    assert np.isfinite(intervals({"x": skewed}, Resampling(500, 0.95, 0), labels=labels)["macro_x"]).all()


def test_what_does_not_fit_is_refused(skewed):
    with pytest.raises(ValueError, match="same queries"):
        intervals({"x": skewed, "y": np.insert(skewed[1:], 0, np.nan)}, Resampling(10, 0.95, 0))
    with pytest.raises(ValueError, match="as many groups"):
        intervals({"x": skewed}, Resampling(10, 0.95, 0), groups=np.arange(79))
    with pytest.raises(ValueError, match=r"confidence 95"):
        intervals({"x": skewed}, Resampling(10, 95, 0))
    with pytest.raises(ValueError, match="0 permutations"):
        paired_permutation(skewed, skewed, 0, 0)


def test_a_paired_difference_is_the_mean_of_the_differences(skewed):
    other = skewed + np.random.default_rng(0).normal(0.02, 0.01, 80)
    difference, low, high = paired_difference(other, skewed, Resampling(5000, 0.95, 0))
    assert difference == pytest.approx((other - skewed).mean())
    assert (low, high) == pytest.approx(intervals({"d": other - skewed}, Resampling(5000, 0.95, 0))["d"])
    assert high - low < 0.1 * np.ptp(intervals({"x": skewed}, Resampling(5000, 0.95, 0))["x"])


@pytest.mark.parametrize("n", [5, 8, 10])
def test_the_permutation_test_agrees_with_all_sign_flips(n):
    rng = np.random.default_rng(n)
    a, b = rng.integers(0, 6, (2, n)) / 5  # with ties
    d = a - b
    sums = np.array([np.dot(signs, d) for signs in itertools.product([1, -1], repeat=n)])
    exact = np.mean(np.abs(sums) >= abs(d.sum()) - 1e-9)
    m = 20000
    assert paired_permutation(a, b, m, 0) == pytest.approx(exact, abs=4 * np.sqrt(exact / m) + 1 / m)


def test_ties_count_as_beyond():
    a, b = np.array([0.1, 0.2, 0.3]), np.array([0.0, 0.0, 0.0])
    assert paired_permutation(a, b, 20000, 0) == pytest.approx(0.25, abs=0.02)  # +++ and --- of eight
    assert paired_permutation(a, a, 100, 0) == 1.0
    assert paired_permutation(a, a[[1, 0, 2]], 100, 0) == 1.0


def false_alarms(draw, simulations):
    alarms = 0
    for seed in range(simulations):
        ease = np.random.default_rng(seed).beta(2, 1, 60)  # what the two runs share
        rng = np.random.default_rng([seed, 1])
        alarms += paired_permutation(draw(rng, ease), draw(rng, ease), 499, seed) <= 0.05
    return alarms / simulations


def test_the_permutation_test_raises_as_many_false_alarms_as_it_says():
    rate = false_alarms(lambda rng, ease: ease + rng.exponential(0.1, 60), 3000)
    assert rate == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / 3000))


def test_the_permutation_test_is_no_bolder_with_ties():
    rate = false_alarms(lambda rng, ease: rng.binomial(5, ease) / 5, 1500)
    assert 0.02 < rate < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1500)


def test_p_is_never_zero():
    assert paired_permutation(np.arange(1.0, 65), np.zeros(64), 99, 0) == 0.01


def test_class_means_are_flipped_as_they_are_resampled(skewed):
    values = np.stack([skewed, skewed**2], axis=1)
    findings = np.random.default_rng(0).random((80, 3)) < [0.9, 0.3, 0.1]
    findings[:5] = False  # without a finding: in no class
    flips = sign_flips(values, 2000, 0, members=findings)
    assert flips.means == pytest.approx(bootstrap(values, ONCE, members=findings).means)
    kept = findings.any(axis=1)
    assert len(bootstrap(values, ONCE, members=findings).jackknife) == kept.sum()
    assert flips.p(0, 1) == sign_flips(values[kept], 2000, 0, members=findings[kept]).p(0, 1)
    shares = (findings / findings.sum(axis=0)).mean(axis=1)
    assert flips.p(0, 1) == paired_permutation(*(values * shares[:, None])[kept].T, 2000, 0)


def test_signs_are_those_of_groups():
    d = np.repeat([0.3, 0.1, 0.2], 40)
    groups = np.repeat(np.array(["a", "b", "c"]), 40)
    assert paired_permutation(d, 0 * d, 20000, 0, groups) == pytest.approx(0.25, abs=0.02)
    assert paired_permutation(d, 0 * d, 20000, 0) < 0.001
