from itertools import combinations, permutations

import numpy as np
import pytest
from tests.oracles import our_scores
from tests.tasks import task_of

from medretrieval.config import EvaluationConfig
from medretrieval.datasets.base import Split
from medretrieval.evaluate import chance, knn_vote, random_votes, scores
from medretrieval.evaluate.closed_forms import RandomRanking
from medretrieval.evaluate.evaluate import evaluate
from medretrieval.evaluate.score_table import MACRO, find, reported_scores
from medretrieval.protocol.relevance import Relevance

# k = 1, inside, at and beyond the largest gallery below.
KS = [1, 2, 3, 5, 6, 9]
GALLERIES = [(r, n) for n in range(1, 7) for r in range(1, n + 1)]


def all_orders(r, n):
    """Hits of every way to place r relevant items among n places: all equally likely (bool [orders, n])."""
    placings = list(combinations(range(n), r))
    hits = np.zeros((len(placings), n), bool)
    for row, places in zip(hits, placings, strict=True):
        row[list(places)] = True
    return hits


def enumerated(r, n):
    hits = all_orders(r, n)
    found = our_scores(hits, np.full(len(hits), r), KS)
    return {name: values.mean() for name, values in found.items()}


def expected_by_query(ks, r, n):
    return chance.expected(reported_scores(ks, "single"), RandomRanking(np.atleast_1d(r), np.atleast_1d(n)))


def expected(r, n):
    """Means over the queries that have something to find."""
    found = expected_by_query(KS, r, n)
    return {name: np.nanmean(values) for name, values in found.items() if np.isfinite(values).any()}


@pytest.mark.parametrize(("r", "n"), GALLERIES)
def test_closed_forms_equal_the_mean_over_all_orders(r, n):
    found = expected(r, n)
    assert found.pop("chance_precision") == pytest.approx(r / n)
    assert found == pytest.approx(enumerated(r, n), rel=1e-12)


@pytest.mark.parametrize("n", range(1, 7))
def test_where_everything_is_relevant_chance_is_perfect(n):
    found = expected(n, n)
    beyond = {f"precision_at_{k}" for k in KS if k > n}
    below = {f"recall_at_{k}" for k in KS if k < n}
    assert all(value == pytest.approx(1) for name, value in found.items() if name not in beyond | below)
    assert found["precision_at_9"] == pytest.approx(n / 9)


def test_chance_precision_is_the_mean_share_of_relevant_items():
    relevant, size = np.array([3, 5, 5, 1]), np.array([10, 10, 10, 9])
    found = expected(relevant, size)
    assert found["chance_precision"] == pytest.approx((0.3 + 0.5 + 0.5 + 1 / 9) / 4)
    # All ks up to 9 lie inside galleries of 9 or more: precision is expected the same at each.
    assert {round(found[f"precision_at_{k}"], 12) for k in KS} == {round(found["chance_precision"], 12)}


def test_the_expectation_over_queries_is_the_mean_of_their_expectations():
    relevant, size = np.array([1, 4, 4, 2]), np.array([6, 6, 6, 5])
    single = [expected(r, n) for r, n in zip(relevant, size, strict=True)]
    means = {name: np.mean([one[name] for one in single]) for name in single[0]}
    assert expected(relevant, size) == pytest.approx(means)


def test_queries_without_relevant_items_are_left_out():
    assert expected([2, 0, 0], [6, 6, 5]) == pytest.approx(expected(2, 6))
    assert expected([0, 0], [6, 6]) == {}


def test_a_large_gallery_gives_finite_numbers_between_zero_and_one():
    found = expected_by_query([1, 10, 1000], [1, 500, 99_999], [100_000] * 3)
    assert all(((values > 0) & (values <= 1 + 1e-12)).all() for values in found.values())


OPTIONS = EvaluationConfig(ks=[1, 4], save_depth=None, vote_k=6)


def random_evaluation(labels, relevance=None, seed=0):
    rng, n = np.random.default_rng(seed), len(labels)
    only = Split("test", np.arange(n, dtype=np.uint8)[:, None, None], labels)
    task = task_of(only, only, relevance)
    ids = rng.permuted(np.tile(np.arange(n), (n, 1)), axis=1)
    # Distances of uneven steps, so that votes weigh unevenly.
    distances = np.sort(rng.random((n, n)).astype(np.float32) ** 2, axis=1)
    return task, evaluate(
        lambda rows, depth: (ids[rows, :depth], distances[rows, :depth]), task, n - 1, OPTIONS
    )


@pytest.mark.parametrize("kind", ["multi", "ordinal"])
def test_graded_ndcg_of_random_rankings_is_what_chance_expects(kind):
    rng = np.random.default_rng(3)
    labels = rng.random((40, 4)) < 0.35 if kind == "multi" else rng.integers(0, 4, 40)
    relevance = Relevance(grades=4 if kind == "ordinal" else None)
    runs = [random_evaluation(labels, relevance, seed)[1] for seed in range(60)]
    for name in ("graded_ndcg_at_1", "graded_ndcg_at_4", "macro_graded_ndcg_at_4"):
        means = np.array([run.scores[name] for run in runs])
        error = means.std(ddof=1) / np.sqrt(len(means))
        assert abs(means.mean() - runs[0].chance[name]) < 4 * error, name


def test_votes_of_random_rankings_are_what_drawing_expects():
    labels = np.random.default_rng(5).choice(3, 60, p=[0.6, 0.3, 0.1])
    runs = [random_evaluation(labels, seed=seed) for seed in range(60)]
    task, first = runs[0]
    drawn = chance.without_closed_form(task, first.vote_distances, OPTIONS, 0)
    assert drawn.keys() == {name for name in first.scores if find(name.removeprefix(MACRO)).is_drawn}
    for name, (value, its_error) in drawn.items():
        means = np.array([found.scores[name] for _, found in runs])
        error = np.hypot(means.std(ddof=1) / np.sqrt(60), its_error)
        assert abs(means.mean() - value) < 4 * error, name
    assert {name for name, found in drawn.items() if found.error == 0} >= {"majority_vote_at_4", "vote_brier"}


def all_outcomes(counts, k):
    """Classes of the first k of every order of so many items of each class: all equally likely."""
    items = np.repeat(np.arange(len(counts)), counts)
    return np.array([[items[i] for i in order] for order in permutations(range(len(items)), k)])


@pytest.mark.parametrize("counts", [(3, 3), (4, 1, 1), (2, 2, 2), (1, 5), (0, 3, 2)])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_votes_are_the_mean_over_all_orders(counts, k):
    outcomes, rng = all_outcomes(counts, k), np.random.default_rng(k)
    distances = np.sort(rng.random((1, k)).astype(np.float32), axis=1)
    cast = knn_vote.vote(outcomes, np.repeat(distances, len(outcomes), axis=0), len(counts))
    table = np.array([counts])
    for own in range(len(counts)):
        labels, query = np.full(len(outcomes), own), np.array([own])
        exact = random_votes.majority_votes(table, query, [k])[k][0]
        assert exact == pytest.approx(scores.majority_vote_at(outcomes, labels, k).mean(), abs=1e-12)
        assert random_votes.weighted_votes(table, query, distances)[0] == pytest.approx(
            cast.right(labels).mean(), abs=1e-12
        )
        assert random_votes.brier_scores(table, query, distances)[0] == pytest.approx(
            knn_vote.brier_score(cast.probabilities, labels), abs=1e-12
        )


def test_a_vote_of_one_is_the_precision_at_one_and_a_vote_beyond_the_gallery_is_of_all():
    labels = np.random.default_rng(5).choice(3, 60, p=[0.6, 0.3, 0.1])
    task, found = random_evaluation(labels)
    exact = chance.without_closed_form(task, found.vote_distances, OPTIONS, 0)
    for prefix in ("", MACRO):
        wanted = found.chance[f"{prefix}precision_at_1"]
        assert exact[f"{prefix}majority_vote_at_1"] == (pytest.approx(wanted, abs=1e-12), 0)
    beyond = random_votes.majority_votes(np.array([[3, 2], [2, 3]]), np.array([0, 0]), [5, 9])
    assert [values.round(12).tolist() for values in beyond.values()] == [[1, 0]] * 2


def test_majority_votes_of_a_large_gallery_are_finite_and_near_the_binomial():
    stats = pytest.importorskip("scipy.stats")
    found = random_votes.majority_votes(np.array([[60_000, 40_000]]), np.array([1]), [101, 9])
    for k, values in found.items():
        assert values[0] == pytest.approx(stats.hypergeom(100_000, 40_000, k).sf(k // 2), rel=1e-9)


def test_a_drawn_chance_is_drawn_until_its_error_is_small():
    labels = np.random.default_rng(5).choice(6, 200)
    task, found = random_evaluation(labels)
    drawn = chance.without_closed_form(task, found.vote_distances, OPTIONS, 0)
    assert 0 < drawn["vote_accuracy"].error <= chance.TARGET_ERROR
    assert all(estimate.error < 0.002 for estimate in drawn.values())
    again = [chance.without_closed_form(task, found.vote_distances, OPTIONS, seed) for seed in range(1, 6)]
    spread = np.std([other["vote_accuracy"].value for other in again], ddof=1)
    assert spread < 3 * drawn["vote_accuracy"].error


def test_drawing_is_the_same_for_one_seed():
    labels = np.arange(30) % 3
    task, found = random_evaluation(labels)

    def drawn(seed):
        return chance.without_closed_form(task, found.vote_distances, OPTIONS, seed)

    assert drawn(1) == drawn(1) != drawn(2)


def test_chance_by_depth_is_that_of_each_depth():
    relevant, size = np.array([3, 0, 5, 1]), np.array([10, 10, 10, 9])
    found = expected_by_query([1, 2, 3], relevant, size)
    for score in ("precision", "recall"):
        wanted = np.stack([found[f"{score}_at_{k}"] for k in (1, 2, 3)], axis=1)
        np.testing.assert_array_equal(chance.by_depth(score, [1, 2, 3], relevant, size), wanted)


def test_multi_label_data_has_no_votes_to_draw():
    task, found = random_evaluation(np.random.default_rng(3).random((40, 4)) < 0.35)
    drawn = chance.without_closed_form(task, found.vote_distances, OPTIONS, 0)
    assert drawn.keys() == {name for name in found.scores if find(name.removeprefix(MACRO)).is_drawn}
    assert not any("vote" in name for name in drawn)
