"""What a random ranking of this gallery would score: in closed form, and by drawing where there is none.

For a query with R relevant among N items in uniformly random order, h_i is relevant with probability
R / N, and given h_i the mean of h_1..h_i is (1 + (i - 1) (R - 1) / (N - 1)) / i; the rest follows by
linearity (Bestgen, "Exact expected average precision of the random baseline", 2015).
"""

import functools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from medretrieval.evaluate.knn_vote import vote, vote_scores
from medretrieval.evaluate.scores import majority_vote_at
from medretrieval.protocol.ranking import class_members

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
DRAWS = 20_000  # of random rankings in all: a standard error of 0.4 points at most


def expected(ks: list[int], n_relevant: Counts, n_candidates: Counts) -> dict[str, Floats]:
    """Expected scores of a random ranking, for each query.

    Args:
        ks: score depths.
        n_relevant: R of each query, int64 [q].
        n_candidates: items each query can find (the gallery without what is left out for it), int64 [q].

    Returns:
        `chance_precision` and, under the score's own name, every score that has a closed form; float64 [q]
        each, NaN for a query with R = 0.
    """
    pairs, back = np.unique(np.stack([n_relevant, n_candidates], axis=1), axis=0, return_inverse=True)

    def each(score: Callable[[int, int], float]) -> Floats:
        return np.array([score(int(r), int(n)) if r else np.nan for r, n in pairs])[back]

    result = {"chance_precision": each(lambda r, n: r / n)}
    for k in ks:
        result |= {f"{name}_at_{k}": each(functools.partial(score, k=k)) for name, score in AT_DEPTH.items()}
        result[f"map_at_{k}_hits"] = each(functools.partial(_map_at_hits, k=k))
    return result | {
        "map": each(lambda r, n: _precision_sum(r, n, n) / r),
        "map_at_r": each(lambda r, n: _precision_sum(r, n, r) / r),
        "r_precision": each(lambda r, n: r / n),
        "mrr": each(_mrr),
    }


def by_depth(score: str, ks: list[int], n_relevant: Counts, n_candidates: Counts) -> Floats:
    """Expected score of a random ranking at every depth, for each query (float64 [q, ks]).

    Args:
        score: "precision", "recall" or another key of AT_DEPTH.
        ks: depths.
        n_relevant: R of each query, int64 [q]; a row of NaN where it is 0.
        n_candidates: items each query can find, int64 [q].
    """
    pairs, back = np.unique(np.stack([n_relevant, n_candidates], axis=1), axis=0, return_inverse=True)
    rows = [[AT_DEPTH[score](int(r), int(n), k) if r else np.nan for k in ks] for r, n in pairs]
    return np.array(rows)[back]


def expected_graded(
    ks: list[int], ideal: Floats, mean_gain: Floats, n_candidates: Counts
) -> dict[str, Floats]:
    """Expected graded nDCG of a random ranking, for each query (float64 [q]): every place has the mean gain.

    Args:
        ks: score depths.
        ideal: float64 [q, ks], as `relevance.Relevance.ideal`.
        mean_gain: float64 [q].
        n_candidates: items each query can find, int64 [q].
    """
    sizes, back = np.unique(n_candidates, return_inverse=True)
    reached = np.array([[_dcg(min(k, int(n))) for k in ks] for n in sizes])[back]
    found = np.divide(mean_gain[:, None] * reached, ideal, out=np.zeros_like(ideal), where=ideal > 0)
    return {f"graded_ndcg_at_{k}": found[:, i] for i, k in enumerate(ks)}


def permuted(
    labels: Counts,
    gallery_labels: Counts,
    distances: NDArray[np.float32],
    draw: Callable[[np.random.Generator], Counts],
    ks: list[int],
    vote_k: int,
    seed: int,
) -> dict[str, float]:
    """What votes of randomly drawn neighbors score: for these no closed form is at hand.

    Args:
        labels: classes of the queries that have something to find, int64 [q].
        gallery_labels: int64 [n].
        distances: float32 [q, depth], the distances at which the real neighbors stood; the drawn ones
            take them over, so that they weigh alike.
        draw: gives the results of a random ranking, int64 [q, at least max(ks) and vote_k].
        ks: depths of the majority vote.
        vote_k: depth of the weighted vote.
        seed: the same seed draws the same rankings.

    Returns:
        Means over `rounds` of drawing: every score of the votes, and their means over classes.
    """
    vote_k = min(vote_k, distances.shape[1])
    rng, classes = np.random.default_rng(seed), int(max(labels.max(), gallery_labels.max())) + 1
    members = class_members(labels)
    rounds = []
    for _ in range(int(np.clip(DRAWS // len(labels), 5, 50))):
        results = gallery_labels[draw(rng)]
        cast = vote(results[:, :vote_k], distances[:, :vote_k], classes)
        per_query = {f"majority_vote_at_{k}": majority_vote_at(results, labels, k) for k in ks}
        per_query["vote_accuracy"] = (cast.predicted == labels) * 1.0
        found = vote_scores(cast, labels) | {name: float(v.mean()) for name, v in per_query.items()}
        for name, values in per_query.items():
            found[f"macro_{name}"] = float((values @ members / members.sum(axis=0)).mean())
        rounds.append(found)
    return {name: float(np.mean([found[name] for found in rounds])) for name in rounds[0]}


def _precision_sum(r: int, n: int, k: int) -> float:
    i = np.arange(1, min(k, n) + 1)
    return float((r / n * (1 + (i - 1) * (r - 1) / max(n - 1, 1)) / i).sum())


def _no_hit(r: int, n: int, k: int) -> NDArray[np.float64]:
    """Probability that the first i results hold no relevant one, for i = 0..k (float64 [k + 1])."""
    i = np.arange(k)
    return np.concatenate([[1.0], np.cumprod(np.maximum(n - r - i, 0) / (n - i))])


def _mrr(r: int, n: int) -> float:
    first = -np.diff(_no_hit(r, n, n))
    return float((first / np.arange(1, n + 1)).sum())


def _dcg(k: int) -> float:
    return float((1 / np.log2(np.arange(2, k + 2))).sum())


def _precision_at(r: int, n: int, k: int) -> float:
    return min(k, n) * r / n / k


def _recall_at(r: int, n: int, k: int) -> float:
    return min(k, n) / n


def _hit_rate_at(r: int, n: int, k: int) -> float:
    return 1 - float(_no_hit(r, n, min(k, n))[-1])


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
