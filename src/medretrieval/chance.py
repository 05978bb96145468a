"""What a random ranking of this gallery would score: expectations in closed form.

For a query with R relevant among N items in uniformly random order, h_i is relevant with probability
R / N, and given h_i the mean of h_1..h_i is (1 + (i - 1) (R - 1) / (N - 1)) / i; the rest follows by
linearity (Bestgen, "Exact expected average precision of the random baseline", 2015).
"""

import functools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


def expected(ks: list[int], relevant: Counts, size: Counts) -> dict[str, float]:
    """Expected scores of a random ranking, averaged over the queries with R > 0.

    Args:
        ks: score depths.
        relevant: R of each query, int64 [q].
        size: items each query can find (the gallery without the query), int64 [q].

    Returns:
        `chance_precision` and, under the score's own name, every score that has a closed form; empty
        where no query has a relevant item.
    """
    pairs, weight = np.unique(np.stack([relevant, size], axis=1)[relevant > 0], axis=0, return_counts=True)
    if len(pairs) == 0:
        return {}

    def mean(score: Callable[[int, int], float]) -> float:
        return float(np.average([score(int(r), int(n)) for r, n in pairs], weights=weight))

    result = {"chance_precision": mean(lambda r, n: r / n)}
    for k in ks:
        result |= {f"{name}_at_{k}": mean(functools.partial(score, k=k)) for name, score in AT_DEPTH.items()}
        result[f"map_at_{k}_hits"] = mean(functools.partial(_map_at_hits, k=k))
    return result | {
        "map": mean(lambda r, n: _precision_sum(r, n, n) / r),
        "map_at_r": mean(lambda r, n: _precision_sum(r, n, r) / r),
        "r_precision": mean(lambda r, n: r / n),
        "mrr": mean(_mrr),
    }


def _precision_sum(r: int, n: int, k: int) -> float:
    i = np.arange(1, min(k, n) + 1)
    return float((r / n * (1 + (i - 1) * (r - 1) / max(n - 1, 1)) / i).sum())


def _no_hit(r: int, n: int) -> NDArray[np.float64]:
    """Probability that the first i results hold no relevant one, for i = 0..n (float64 [n + 1])."""
    i = np.arange(n)
    return np.concatenate([[1.0], np.cumprod(np.maximum(n - r - i, 0) / (n - i))])


def _mrr(r: int, n: int) -> float:
    first = -np.diff(_no_hit(r, n))
    return float((first / np.arange(1, n + 1)).sum())


def _dcg(k: int) -> float:
    return float((1 / np.log2(np.arange(2, k + 2))).sum())


def _precision_at(r: int, n: int, k: int) -> float:
    return min(k, n) * r / n / k


def _recall_at(r: int, n: int, k: int) -> float:
    return min(k, n) / n


def _hit_rate_at(r: int, n: int, k: int) -> float:
    return 1 - float(_no_hit(r, n)[min(k, n)])


def _map_at(r: int, n: int, k: int) -> float:
    return _precision_sum(r, n, k) / min(k, r)


def _map_at_hits(r: int, n: int, k: int) -> float:
    """Given h hits among the first k, every placing of them is equally likely; h is hypergeometric."""
    k = min(k, n)
    harmonic = float((1 / np.arange(1, k + 1)).sum())
    total = 0.0
    for h in range(max(1, k - (n - r)), min(k, r) + 1):
        probability = math.comb(r, h) * math.comb(n - r, k - h) / math.comb(n, k)
        total += probability * (harmonic + (h - 1) / max(k - 1, 1) * (k - harmonic)) / k
    return total


def _ndcg_at(r: int, n: int, k: int) -> float:
    return r / n * _dcg(min(k, n)) / _dcg(min(k, r))


AT_DEPTH: dict[str, Callable[..., float]] = {
    "precision": _precision_at,
    "recall": _recall_at,
    "hit_rate": _hit_rate_at,
    "map": _map_at,
    "ndcg": _ndcg_at,
}
