import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tests.tasks import task_of

from medretrieval.config import Resample
from medretrieval.datasets.base import Split
from medretrieval.evaluate.evaluate import DeepResults
from medretrieval.evaluate.score_table import reported_scores
from medretrieval.uncertainty.distributions import student_quantile, student_tails
from medretrieval.uncertainty.half_intervals import (
    PairedHalves,
    difference_interval,
    difference_p,
    share_interval,
    spread,
)
from medretrieval.uncertainty.half_samples import (
    MIN_UNITS,
    HalfSamples,
    Units,
    enough_results,
    half_depth,
    half_samples,
    splits,
)

N, SPLIT_COUNT = 60, 12
RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(N, 3))
LABELS = RNG.integers(0, 3, N)
WHOLE = [r for r in reported_scores([1, 5], "single") if r.score.of_query]


def searched(images, leave_out_groups=None):
    """Positions and distances of all that each of some images may find among them, nearest first."""
    apart = np.linalg.norm(VECTORS[images][:, None] - VECTORS[images][None], axis=2)
    out = np.eye(len(images), dtype=bool)
    if leave_out_groups is not None:
        out = leave_out_groups[images][:, None] == leave_out_groups[images]
    apart[out] = np.inf
    order = np.argsort(apart, axis=1, kind="stable")
    distances = np.take_along_axis(apart, order, axis=1).astype(np.float32)
    depth = int((~out).sum(axis=1).min())
    return order[:, :depth], distances[:, :depth]


def task_over(images, groups=None, labels=LABELS):
    names = None if groups is None else groups[images].astype(str)
    only = Split("test", np.zeros((len(images), 1, 1), np.uint8), labels[images], groups=names)
    return task_of(only, only, exclude_same_group=groups is not None)


def halves_by_hand(side, score, split, groups=None):
    """Half the difference of a score between two halves, each a task of its own, searched on its own."""
    from medretrieval.evaluate.query_results import QueryResults

    means, k = [], half_depth(score.k, N, split) if score.k else 0
    for half in (side, ~side):
        images = np.flatnonzero(half)
        task = task_over(images, groups)
        results = QueryResults(task, slice(None), *searched(images, groups), half_depth(10, N, split), {})
        values = score.score.of_query(results, k)
        if score.name.startswith("recall"):
            values = values * score.k / (2 * k)
        means.append(values[task.n_relevant > 0].mean())
    return (means[0] - means[1]) / 2


@pytest.fixture(scope="module")
def drawn():
    return half_samples(
        task_over(np.arange(N)), DeepResults(*searched(np.arange(N)), True), WHOLE, 10, SPLIT_COUNT
    )


@pytest.mark.parametrize("score", [r for r in WHOLE if r.name != "map_at_100"], ids=lambda r: r.name)
def test_the_halves_are_what_two_runs_over_them_would_find(drawn, score):
    wanted = [halves_by_hand(side, score, i) for i, side in enumerate(drawn.sides)]
    assert drawn.scores[score.name] == pytest.approx(wanted, abs=1e-12)


def test_whole_groups_stand_in_one_half_and_find_none_of_their_own():
    groups = np.arange(N) // 2
    task = task_over(np.arange(N), groups)
    wanted = [r for r in WHOLE if r.name in ("precision_at_5", "recall_at_5", "map")]
    found = half_samples(task, DeepResults(*searched(np.arange(N), groups), True), wanted, 10, SPLIT_COUNT)
    assert found.sides.shape == (SPLIT_COUNT, N // 2)
    unit = np.unique(groups.astype(str), return_inverse=True)[1]
    for score in wanted:
        by_hand = [halves_by_hand(side[unit], score, i, groups) for i, side in enumerate(found.sides)]
        assert found.scores[score.name] == pytest.approx(by_hand, abs=1e-12)


def two_sided(rows, columns):
    """Test images that search train images, and the task of some of each."""
    apart = np.linalg.norm(VECTORS[:25][rows][:, None] - VECTORS[25:][columns][None], axis=2)
    order = np.argsort(apart, axis=1, kind="stable")
    sides = [
        Split(name, np.zeros((len(labels), 1, 1), np.uint8), labels)
        for name, labels in (("test", LABELS[:25][rows]), ("train", LABELS[25:][columns]))
    ]
    distances = np.take_along_axis(apart, order, axis=1).astype(np.float32)
    return task_of(*sides), order, distances


@pytest.mark.parametrize("score", [r for r in WHOLE if r.name != "map_at_100"], ids=lambda r: r.name)
def test_queries_and_gallery_are_halved_together_where_both_vary(score):
    from medretrieval.evaluate.query_results import QueryResults

    task, ids, distances = two_sided(np.arange(25), np.arange(35))
    assert task.in_halves(Resample.both)
    assert task.what_varies(Resample.queries) == "queries"
    found = half_samples(task, DeepResults(ids, distances, True), [score], 10, SPLIT_COUNT)
    for i, side in enumerate(found.sides):
        means, k = [], half_depth(score.k, 35, i) if score.k else 0
        for half in (side, ~side):
            part, *results = two_sided(np.flatnonzero(half[:25]), np.flatnonzero(half[25:]))
            values = score.score.of_query(
                QueryResults(part, slice(None), *results, half_depth(10, 35, i), {}), k
            )
            if score.name.startswith("recall"):
                values = values * score.k / (2 * k)
            means.append(values[part.n_relevant > 0].mean())
        assert found.scores[score.name][i] == pytest.approx((means[0] - means[1]) / 2, abs=1e-12)


def test_a_patient_on_both_sides_is_in_one_half():
    names = np.array([f"p{i}" for i in range(60)])
    sides = [
        Split(name, np.zeros((40, 1, 1), np.uint8), LABELS[:40], groups=groups)
        for name, groups in (("test", names[:40]), ("train", names[20:]))
    ]
    units = Units.from_task(task_of(*sides))
    assert units.count == 60
    assert np.array_equal(units.of_queries[20:], units.of_gallery[:20])


def test_the_curves_hold_the_scores_at_their_depths(drawn):
    for name in ("precision", "recall"):
        for k in (1, 5):
            assert drawn.by_depth[name][:, k - 1] == pytest.approx(drawn.scores[f"{name}_at_{k}"], abs=1e-12)


def test_macro_means_are_those_of_the_classes_where_none_is_rare(drawn, monkeypatch):
    assert not [name for name in drawn.scores if name.startswith("macro_")]
    monkeypatch.setattr("medretrieval.uncertainty.half_samples.MIN_CLASS_QUERIES", 10)
    drawn = half_samples(
        task_over(np.arange(N)), DeepResults(*searched(np.arange(N)), True), WHOLE, 10, SPLIT_COUNT
    )
    assert drawn.scores["macro_precision_at_5"] == pytest.approx(
        drawn.by_class["precision_at_5"].mean(axis=1)
    )


def test_a_ranking_that_is_not_whole_gives_the_same_where_it_is_deep_enough(drawn):
    ids, distances = searched(np.arange(N))
    depth = enough_results(5)
    cut = DeepResults(ids[:, :depth], distances[:, :depth], False)
    found = half_samples(task_over(np.arange(N)), cut, WHOLE, 5, SPLIT_COUNT)
    assert {"precision_at_5", "vote_accuracy"} <= found.scores.keys()
    assert not {"map", "mrr", "r_precision", "map_at_100"} & found.scores.keys()
    assert found.scores["precision_at_5"] == pytest.approx(drawn.scores["precision_at_5"])
    less = DeepResults(ids[:, : depth - 1], distances[:, : depth - 1], False)
    shallow = half_samples(task_over(np.arange(N)), less, WHOLE, 5, SPLIT_COUNT)
    assert "precision_at_1" in shallow.scores
    assert not {"precision_at_5", "vote_accuracy"} & shallow.scores.keys()


def test_no_interval_for_a_handful_of_images():
    few = np.arange(MIN_UNITS - 1)
    assert half_samples(task_over(few), DeepResults(*searched(few), True), WHOLE, 5, 3) is None
    enough = np.arange(MIN_UNITS)
    assert half_samples(task_over(enough), DeepResults(*searched(enough), True), WHOLE, 5, 3) is not None


def test_halves_are_halves_and_the_same_for_all_runs():
    for units in (20, 21):
        sides = splits(units, 50)
        assert set(sides.sum(axis=1)) <= {units // 2, units - units // 2}
        assert (sides == splits(units, 50)).all()
    assert len(np.unique(splits(21, 50).sum(axis=1))) == 2


def test_small_depths_stay_and_large_ones_are_halved():
    assert {half_depth(5, 100_000, split) for split in range(100)} == {5}
    assert {half_depth(50, 200, split) for split in range(100)} == {25}
    assert {half_depth(5, 16, split) for split in range(100)} == {2, 3}
    assert {half_depth(1, 4, split) for split in range(100)} == {1}
    halved = np.mean([half_depth(50, 400, split) == 25 for split in range(100)])
    assert halved == 0.5


def test_of_a_plain_mean_the_standard_error_is_the_textbook_one():
    values = np.random.default_rng(1).normal(size=400)
    sides = splits(400, 4000)
    deviations = np.array([(values[side].mean() - values[~side].mean()) / 2 for side in sides])
    error, freedom = spread(deviations, sides)
    assert error == pytest.approx(values.std(ddof=1) / 20, rel=0.03)
    assert 250 < freedom < 400


def test_a_few_images_that_carry_the_spread_leave_few_degrees_of_freedom():
    values = np.r_[np.ones(3), np.zeros(197)] + 0.001 * np.random.default_rng(1).normal(size=200)
    sides = splits(200, 2000)
    deviations = np.array([(values[side].mean() - values[~side].mean()) / 2 for side in sides])
    assert spread(deviations, sides)[1] < 10


@given(st.floats(0.01, 40), st.floats(1, 2000))
def test_tails_are_those_of_scipy(t, freedom):
    assert student_tails(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), rel=1e-8, abs=1e-300)


@given(st.floats(0.5, 0.9999), st.floats(1, 2000))
def test_quantiles_are_those_of_scipy(confidence, freedom):
    assert student_quantile(confidence, freedom) == pytest.approx(
        stats.t.ppf((1 + confidence) / 2, freedom), rel=1e-7
    )


def test_intervals_stay_within_0_and_1_and_none_has_no_width(drawn):
    sides, deviations = drawn.sides, drawn.scores["precision_at_5"]
    low, high = share_interval(0.999, deviations, sides, 0.95)
    assert 0 <= low < 0.999 < high <= 1
    assert share_interval(1.0, deviations, sides, 0.95) is None
    assert share_interval(0.0, deviations, sides, 0.95) is None
    assert share_interval(0.5, np.zeros(SPLIT_COUNT), sides, 0.95) is None


def test_interval_and_p_of_a_difference_agree(drawn):
    deviations = drawn.scores["precision_at_5"]
    for difference in (0.001, 0.05, 0.2):
        p = difference_p(difference, deviations, drawn.sides)
        _, low, _ = difference_interval(difference, deviations, drawn.sides, 1 - p)
        assert low == pytest.approx(0, abs=1e-6)
    same = PairedHalves(np.array([0.5, 0.5]), np.stack([deviations] * 2, axis=1), drawn.sides, 0.95)
    assert same.difference(0, 1) is None
    assert same.p(0, 1) == 1


def test_what_is_saved_is_read_back(drawn, tmp_path):
    drawn.save(tmp_path / "halves.npz")
    found = HalfSamples.load(tmp_path / "halves.npz")
    assert (found.sides == drawn.sides).all()
    assert found.scores.keys() == drawn.scores.keys()
    assert all((found.scores[name] == drawn.scores[name]).all() for name in found.scores)
