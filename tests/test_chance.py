from itertools import combinations

import numpy as np
import pytest

from medretrieval import chance, scores

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
    relevant = np.full(len(hits), r)
    found = {
        "map": scores.average_precision(hits, relevant),
        "map_at_r": scores.average_precision_at_r(hits, relevant),
        "r_precision": scores.r_precision(hits, relevant),
        "mrr": scores.reciprocal_rank(hits),
    }
    for k in KS:
        found |= {
            f"precision_at_{k}": scores.precision_at(hits, k),
            f"recall_at_{k}": scores.recall_at(hits, relevant, k),
            f"hit_rate_at_{k}": scores.hit_rate_at(hits, k),
            f"map_at_{k}": scores.average_precision_at(hits, relevant, k),
            f"map_at_{k}_hits": scores.average_precision_at_hits(hits, k),
            f"ndcg_at_{k}": scores.ndcg_at(hits, relevant, k),
        }
    return {name: values.mean() for name, values in found.items()}


def expected(r, n):
    return chance.expected(KS, np.atleast_1d(r), np.atleast_1d(n))


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
    found = chance.expected([1, 10, 1000], np.array([1, 500, 99_999]), np.array([100_000] * 3))
    assert all(0 < value <= 1 + 1e-12 for value in found.values())
