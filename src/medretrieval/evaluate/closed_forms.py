"""What a random ranking is expected to score, in closed form.

For a query with R relevant among N items in uniformly random order, h_i is relevant with probability
R / N, and given h_i the mean of h_1..h_i is (1 + (i - 1) (R - 1) / (N - 1)) / i; the rest follows by
linearity (Bestgen, "Exact expected average precision of the random baseline", 2015).

The functions of (r, n, k) are expectations of the scores of the same names, for one query with r > 0
relevant among n items; k may be larger than n.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
ClosedForm = Callable[[int, int, int], float]


@dataclass(frozen=True)
class RandomRanking:
    """All that the expectation of a random ranking depends on.

    Attributes:
        n_relevant: R of each query, int64 [q].
        n_candidates: items each query can find (the gallery without what is left out for it), int64 [q].
        ideals: depth -> discounted gain of each query's best ranking, float64 [q]; empty for
            single-label data.
        mean_gain: over the items each query can find, float64 [q]; empty in the same case.
    """

    n_relevant: Counts
    n_candidates: Counts
    ideals: Mapping[int, Floats] = field(default_factory=dict)
    mean_gain: Floats = field(default_factory=lambda: np.zeros(0))

    @cached_property
    def _pairs(self) -> tuple[Counts, Counts]:
        """The distinct (R, N), int64 [pairs, 2], and which of them each query has, int64 [q]."""
        both = np.stack([self.n_relevant, self.n_candidates], axis=1)
        pairs, back = np.unique(both, axis=0, return_inverse=True)
        return pairs, back

    def each(self, form: ClosedForm, k: int) -> Floats:
        """A closed form for each query (float64 [q]); NaN where R = 0.

        >>> RandomRanking(np.array([1, 0, 2]), np.array([4, 4, 4])).each(precision_at, 2)
        array([0.25,  nan, 0.5 ])
        """
        pairs, back = self._pairs
        return np.array([form(int(r), int(n), k) if r else np.nan for r, n in pairs])[back]


def for_each(form: ClosedForm) -> Callable[[RandomRanking, int], Floats]:
    """A closed form of one query as a function of all of them."""
    return lambda ranking, k: ranking.each(form, k)


def share_of_relevant(r: int, n: int, k: int) -> float:
    """R / N: the expected precision of a random ranking, at any depth that the gallery fills."""
    return r / n


def precision_at(r: int, n: int, k: int) -> float:
    """Of `scores.precision_at`."""
    return min(k, n) * r / n / k


def recall_at(r: int, n: int, k: int) -> float:
    """Of `scores.recall_at`."""
    return min(k, n) / n


def hit_rate_at(r: int, n: int, k: int) -> float:
    """Of `scores.hit_rate_at`."""
    return 1 - float(_no_hit(r, n, min(k, n))[-1])


def average_precision(r: int, n: int, k: int) -> float:
    """Of `scores.average_precision` over the whole gallery."""
    return _precision_sum(r, n, n) / r


def average_precision_at(r: int, n: int, k: int) -> float:
    """Of `scores.average_precision_at`."""
    return _precision_sum(r, n, k) / min(k, r)


def average_precision_at_hits(r: int, n: int, k: int) -> float:
    """Of `scores.average_precision_at_hits`.

    Given h hits among the first k, every placing of them is equally likely; h is hypergeometric.
    """
    k = min(k, n)
    harmonic = float((1 / np.arange(1, k + 1)).sum())
    total = 0.0
    for h in range(max(1, k - (n - r)), min(k, r) + 1):
        probability = math.comb(r, h) * math.comb(n - r, k - h) / math.comb(n, k)
        total += probability * (harmonic + (h - 1) / max(k - 1, 1) * (k - harmonic)) / k
    return total


def average_precision_at_r(r: int, n: int, k: int) -> float:
    """Of `scores.average_precision_at_r`."""
    return _precision_sum(r, n, r) / r


def reciprocal_rank(r: int, n: int, k: int) -> float:
    """Of `scores.reciprocal_rank` over the whole gallery."""
    first = -np.diff(_no_hit(r, n, n))
    return float((first / np.arange(1, n + 1)).sum())


def first_hit_by_rank(r: int, n: int) -> Floats:
    """Probability that the first hit stands at rank i or before it, for i = 1..n (float64 [n]).

    >>> first_hit_by_rank(2, 4)
    array([0.5       , 0.83333333, 1.        , 1.        ])
    """
    return np.asarray(1 - _no_hit(r, n, n)[1:])


def ndcg_at(r: int, n: int, k: int) -> float:
    """Of `scores.ndcg_at`."""
    return r / n * _discounts(min(k, n)) / _discounts(min(k, r))


def graded_ndcg_at(ranking: RandomRanking, k: int) -> Floats:
    """Of `scores.graded_ndcg_at`, for each query (float64 [q]): every place has the mean gain."""
    sizes, back = np.unique(ranking.n_candidates, return_inverse=True)
    reached = np.array([_discounts(min(k, int(n))) for n in sizes])[back]
    ideal = ranking.ideals[k]
    return np.divide(ranking.mean_gain * reached, ideal, out=np.zeros(len(ideal)), where=ideal > 0)


def _precision_sum(r: int, n: int, k: int) -> float:
    i = np.arange(1, min(k, n) + 1)
    return float((r / n * (1 + (i - 1) * (r - 1) / max(n - 1, 1)) / i).sum())


def _no_hit(r: int, n: int, k: int) -> Floats:
    """Probability that the first i results hold no relevant one, for i = 0..k (float64 [k + 1])."""
    i = np.arange(k)
    return np.concatenate([[1.0], np.cumprod(np.maximum(n - r - i, 0) / (n - i))])


def _discounts(k: int) -> float:
    """Discounted gain of k results that each gain 1."""
    return float((1 / np.log2(np.arange(2, k + 2))).sum())
