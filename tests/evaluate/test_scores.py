import functools
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medretrieval.evaluate import scores
from medretrieval.evaluate.score_table import SCORES, less_is_better

quick = settings(max_examples=25, deadline=None)


def precision(h, i):
    return sum(h[:i]) / i


def precision_sum(h, k):
    return sum(precision(h, i) for i in range(1, min(k, len(h)) + 1) if h[i - 1])


def reciprocal_rank(h):
    return next((1 / i for i, hit in enumerate(h, 1) if hit), 0.0)


def ndcg(h, r, k):
    ideal = sum(1 / math.log2(i + 1) for i in range(1, min(k, r) + 1))
    return sum(1 / math.log2(i + 1) for i, hit in enumerate(h[:k], 1) if hit) / ideal


# Entry of the table: its definition for one query with hits h, R = r and depth k.
DEFINITIONS = {
    "precision_at_{k}": lambda h, r, k: precision(h, k),
    "recall_at_{k}": lambda h, r, k: sum(h[:k]) / r,
    "hit_rate_at_{k}": lambda h, r, k: max(h[:k]),
    "map": lambda h, r, k: precision_sum(h, len(h)) / r,
    "map_at_{k}": lambda h, r, k: precision_sum(h, k) / min(k, r),
    "map_at_100": lambda h, r, k: precision_sum(h, 100) / min(100, r),
    "map_at_{k}_hits": lambda h, r, k: precision_sum(h, k) / max(1, sum(h[:k])),
    "map_at_r": lambda h, r, k: precision_sum(h, r) / r,
    "r_precision": lambda h, r, k: sum(h[:r]) / r,
    "mrr": lambda h, r, k: reciprocal_rank(h),
    "ndcg_at_{k}": ndcg,
}
# Not of hits, and defined elsewhere: below, in protocol/test_relevance.py, in test_knn_vote.py.
OTHERS = {"majority_vote_at_{k}", "graded_ndcg_at_{k}", "vote_accuracy"}
every_score = pytest.mark.parametrize("name", DEFINITIONS)


def ours(name, hits, relevant, k):
    """An entry's scores of hits."""
    entry = next(score for score in SCORES if score.name == name)
    return entry.of_query(SimpleNamespace(hits=hits, n_relevant=relevant), k)


@st.composite
def rankings(draw):
    """Hits of a few queries, R (at least the hits, at most far beyond the depth) and k (also beyond it)."""
    depth = draw(st.integers(1, 9))
    row = st.lists(st.booleans(), min_size=depth, max_size=depth)
    hits = np.array(draw(st.lists(row, min_size=1, max_size=4)))
    unseen = draw(st.lists(st.integers(0, 12), min_size=len(hits), max_size=len(hits)))
    return hits, np.maximum(hits.sum(axis=1) + np.array(unseen), 1), draw(st.integers(1, 14))


@st.composite
def votes(draw):
    """Classes of results (-1: missing), classes of queries and k."""
    depth = draw(st.integers(1, 8))
    row = st.lists(st.integers(-1, 3), min_size=depth, max_size=depth)
    results = np.array(draw(st.lists(row, min_size=1, max_size=4)))
    labels = draw(st.lists(st.integers(0, 4), min_size=len(results), max_size=len(results)))
    return results, np.array(labels), draw(st.integers(1, 10))


def test_every_entry_of_the_table_has_a_definition_here():
    assert {score.name for score in SCORES if score.of_query} == DEFINITIONS.keys() | OTHERS


@every_score
@given(case=rankings())
@quick
def test_every_score_follows_its_definition(name, case):
    hits, relevant, k = case
    found = ours(name, hits, relevant, k)
    assert found.dtype == np.float64
    assert found.shape == (len(hits),)
    rows = [([int(x) for x in h], int(r)) for h, r in zip(hits, relevant, strict=True)]
    wanted = [DEFINITIONS[name](h, r, k) for h, r in rows]
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=0)


@every_score
@given(case=rankings())
@quick
def test_every_score_lies_between_zero_and_one(name, case):
    found = ours(name, *case)
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-12


@every_score
@given(case=rankings())
@quick
def test_a_query_scores_the_same_alone_and_among_others(name, case):
    hits, relevant, k = case
    score = functools.partial(ours, name)
    alone = [score(hits[i : i + 1], relevant[i : i + 1], k)[0] for i in range(len(hits))]
    np.testing.assert_allclose(score(hits, relevant, k), alone, rtol=1e-12)


@every_score
@given(case=rankings(), deeper=st.integers(1, 5))
@quick
def test_missing_results_at_the_end_change_nothing(name, case, deeper):
    hits, relevant, k = case
    padded = np.pad(hits, ((0, 0), (0, deeper)))
    score = functools.partial(ours, name)
    np.testing.assert_allclose(score(padded, relevant, k), score(hits, relevant, k), rtol=1e-12)


# Not map_at_{k}_hits: see below.
@pytest.mark.parametrize("name", [name for name in DEFINITIONS if name != "map_at_{k}_hits"])
@given(case=rankings(), data=st.data())
@quick
def test_moving_a_hit_up_never_makes_a_score_worse(name, case, data):
    hits, relevant, k = case
    upward = np.argwhere(hits[:, 1:] & ~hits[:, :-1])
    if len(upward) == 0:
        return
    query, rank = upward[data.draw(st.integers(0, len(upward) - 1))]
    better = hits.copy()
    better[query, [rank, rank + 1]] = [True, False]
    score = functools.partial(ours, name)
    gain = score(better, relevant, k) - score(hits, relevant, k)
    assert ((-gain if less_is_better(name.format(k=5)) else gain) >= -1e-12).all()


def test_average_precision_by_hits_falls_when_a_hit_enters_the_first_k():
    hits = np.array([[1, 0, 0, 1], [1, 0, 1, 0]], bool)
    np.testing.assert_allclose(scores.average_precision_at_hits(hits, 3), [1, 5 / 6])


@pytest.mark.parametrize(
    "name", ["map", "map_at_{k}", "map_at_{k}_hits", "map_at_r", "r_precision", "mrr", "ndcg_at_{k}"]
)
@given(relevant=st.integers(1, 40), misses=st.integers(0, 20), k=st.integers(1, 70))
@quick
def test_a_perfect_ranking_scores_one(name, relevant, misses, k):
    hits = np.arange(relevant + misses)[None, :] < relevant
    assert ours(name, hits, np.array([relevant]), k) == pytest.approx(1, abs=1e-12)


def test_a_perfect_ranking_has_an_ndcg_of_exactly_one():
    found = [scores.ndcg_at(np.ones((2, k), bool), np.array([k, k + 1]), k) for k in range(1, 101)]
    assert np.unique(found).tolist() == [1.0]


@every_score
def test_a_ranking_without_hits_has_the_worst_score(name):
    hits = np.zeros((2, 6), bool)
    worst = 1 if less_is_better(name.format(k=5)) else 0
    assert ours(name, hits, np.array([1, 9]), 3).tolist() == [worst, worst]


@every_score
def test_a_query_without_relevant_items_gives_a_number_and_no_warning(name):
    with np.errstate(all="raise"):
        assert np.isfinite(ours(name, np.zeros((1, 4), bool), np.array([0]), 3)).all()


def test_the_worked_example_of_the_definitions():
    hits, relevant = np.array([[1, 0, 1, 0, 0]], bool), np.array([10])
    assert scores.precision_at(hits, 5) == 0.4
    assert scores.recall_at(hits, relevant, 5) == 0.2
    assert scores.hit_rate_at(hits, 5) == 1
    assert scores.average_precision_at(hits, relevant, 5) == pytest.approx((1 + 2 / 3) / 5)
    assert scores.average_precision_at_hits(hits, 5) == pytest.approx((1 + 2 / 3) / 2)


@given(case=votes())
@quick
def test_majority_vote_counts_a_class_among_the_most_frequent(case):
    results, labels, k = case
    wanted = []
    for row, label in zip(results.tolist(), labels.tolist(), strict=True):
        cast = [c for c in row[:k] if c >= 0]
        wanted.append(float(label in cast and all(cast.count(label) >= cast.count(c) for c in cast)))
    assert scores.majority_vote_at(results, labels, k).tolist() == wanted


@given(case=votes(), seed=st.integers(0, 99))
@quick
def test_majority_vote_depends_on_no_order_within_the_first_k(case, seed):
    results, labels, k = case
    shuffled = results.copy()
    np.random.default_rng(seed).shuffle(shuffled[:, :k], axis=1)
    assert np.array_equal(
        scores.majority_vote_at(shuffled, labels, k), scores.majority_vote_at(results, labels, k)
    )


@pytest.mark.parametrize(
    ("results", "vote"),
    [
        ([0, 0, 1, 1, 2], 1.0),  # a tie counts as correct
        ([0, 1, 1, 2, 2], 0.0),
        ([0, -1, -1, -1, 1], 1.0),  # missing results form no class of their own
        ([-1, -1, -1, -1, -1], 0.0),  # nobody voted for the query's class
    ],
)
def test_majority_vote_with_ties_and_missing_results(results, vote):
    assert scores.majority_vote_at(np.array([results]), np.array([0]), 5).tolist() == [vote]
