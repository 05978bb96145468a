"""Retrieval scores of single queries: pure functions of hits and counts, all queries at once.

Every function takes `hits`, bool [q, depth] (true where the i-th result is relevant, a missing result
being a miss), and where it needs them the counts `n_relevant`, int64 [q] (R: relevant items in the
gallery without the query). Every one returns float64 [q]. A query with R = 0 has no score; it is left
out of the means by the caller, and the number it gets here is meaningless.

h_i is hit i, P_i the mean of h_1..h_i. Where libraries disagree about a name, the docstring says so.
What runs report under which name, and all else that is known of a score, stands in `score_table`.
"""

import numpy as np
from numpy.typing import NDArray

Hits = NDArray[np.bool_]
Counts = NDArray[np.int64]
Scores = NDArray[np.float64]


def precision_at(hits: Hits, k: int) -> Scores:
    """sum(h_1..h_k) / k (trec_eval P_k, ranx precision@k; OML divides by min(k, R)).

    >>> precision_at(np.array([[1, 0, 1, 0, 0]], bool), 5)
    array([0.4])
    """
    return np.asarray(hits[:, :k].sum(axis=1) / k)


def recall_at(hits: Hits, n_relevant: Counts, k: int) -> Scores:
    """sum(h_1..h_k) / R (trec_eval recall_k; metric-learning papers' Recall@k is `hit_rate_at`).

    >>> recall_at(np.array([[1, 0, 1, 0, 0]], bool), np.array([10]), 5)
    array([0.2])
    """
    return np.asarray(hits[:, :k].sum(axis=1) / np.maximum(n_relevant, 1))


def hit_rate_at(hits: Hits, k: int) -> Scores:
    """max(h_1..h_k): "ACC@k" of Mahbod et al. 2025, "Recall@k" of metric-learning papers, OML cmc@k.

    >>> hit_rate_at(np.array([[0, 0, 1]], bool), 2)
    array([0.])
    """
    return np.asarray(hits[:, :k].any(axis=1), dtype=np.float64)


def precision_sum(hits: Hits, k: int) -> Scores:
    """Sum over i <= k of h_i P_i: the numerator that all average precisions share."""
    top = hits[:, :k]
    ranks = np.arange(1, top.shape[1] + 1)
    sums: Scores = np.einsum("qi,qi->q", np.cumsum(top, axis=1) / ranks, top)
    return sums


def average_precision(hits: Hits, n_relevant: Counts) -> Scores:
    """Sum over i <= depth of h_i P_i, divided by R (trec_eval map; torchmetrics RetrievalMAP without top_k).

    The full average precision only where the ranking covers the gallery.

    >>> average_precision(np.array([[1, 0, 1]], bool), np.array([2])).round(4)
    array([0.8333])
    """
    return precision_sum(hits, hits.shape[1]) / np.maximum(n_relevant, 1)


def average_precision_at(hits: Hits, n_relevant: Counts, k: int) -> Scores:
    """Sum over i <= k of h_i P_i, divided by min(k, R).

    >>> average_precision_at(np.array([[1, 0, 1, 0, 0]], bool), np.array([10]), 5).round(4)
    array([0.3333])
    """
    return precision_sum(hits, k) / np.maximum(np.minimum(k, n_relevant), 1)


def average_precision_at_hits(hits: Hits, k: int) -> Scores:
    """Sum over i <= k of h_i P_i, divided by max(1, hits in the first k).

    "mAP@k" of Mahbod et al. 2025, OML, torchmetrics RetrievalMAP(top_k=k). It does not fall when
    relevant items are missed: one hit at rank 1 gives 1.

    >>> average_precision_at_hits(np.array([[1, 0, 1, 0, 0]], bool), 5).round(4)
    array([0.8333])
    """
    return precision_sum(hits, k) / np.maximum(hits[:, :k].sum(axis=1), 1)


def average_precision_at_r(hits: Hits, n_relevant: Counts) -> Scores:
    """Sum over i <= R of h_i P_i, divided by R (pytorch-metric-learning mean_average_precision_at_r).

    >>> average_precision_at_r(np.array([[1, 0, 1]], bool), np.array([2]))
    array([0.5])
    """
    within = np.arange(hits.shape[1]) < n_relevant[:, None]
    return precision_sum(hits & within, hits.shape[1]) / np.maximum(n_relevant, 1)


def r_precision(hits: Hits, n_relevant: Counts) -> Scores:
    """sum(h_1..h_R) / R (trec_eval Rprec).

    >>> r_precision(np.array([[1, 0, 1]], bool), np.array([2]))
    array([0.5])
    """
    within = np.arange(hits.shape[1]) < n_relevant[:, None]
    return (hits & within).sum(axis=1) / np.maximum(n_relevant, 1)


def reciprocal_rank(hits: Hits) -> Scores:
    """1 / rank of the first hit, 0 without one (trec_eval recip_rank).

    >>> reciprocal_rank(np.array([[0, 1, 1], [0, 0, 0]], bool))
    array([0.5, 0. ])
    """
    return np.asarray(np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1), 0.0))


def first_rank(hits: Hits) -> Scores:
    """Rank of the first hit, inf where there is none.

    >>> first_rank(np.array([[0, 1, 1], [0, 0, 0]], bool))
    array([ 2., inf])
    """
    return np.asarray(np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, np.inf))


def ndcg_at(hits: Hits, n_relevant: Counts, k: int) -> Scores:
    """Binary gains, log2 discount, over the ideal of min(k, R) ones (trec_eval ndcg_cut_k).

    >>> ndcg_at(np.array([[0, 1]], bool), np.array([1]), 2).round(4)
    array([0.6309])
    """
    discount = 1 / np.log2(np.arange(2, k + 2))
    top = hits[:, :k]
    ideal = np.cumsum(discount)[np.clip(n_relevant, 1, k) - 1]
    # Summed in the same order as the ideal, so that a perfect ranking is 1 and not about 1.
    return np.asarray(np.cumsum(top * discount[: top.shape[1]], axis=1)[:, -1] / ideal)


def graded_ndcg_at(gains: Scores, ideal: Scores, k: int) -> Scores:
    """Sum of gain_i / log2(i + 1) over i <= k, over the same sum of the best ranking there could be.

    Gains are taken as they are (Järvelin & Kekäläinen 2002; sklearn ndcg_score, trec_eval ndcg_cut_k), not
    as 2^gain - 1 (torchmetrics and learning-to-rank papers vary).

    Args:
        gains: float64 [q, depth], gain of each result, 0 for a missing one.
        ideal: float64 [q], the sum of the best ranking (`relevance.Relevance.ideal`).
        k: depth.

    >>> graded_ndcg_at(np.array([[0.5, 1.0]]), np.array([1 + 0.5 / np.log2(3)]), 2).round(4)
    array([0.8597])
    """
    top = gains[:, :k]
    found = top @ (1 / np.log2(np.arange(2, top.shape[1] + 2)))
    return np.asarray(np.divide(found, ideal, out=np.zeros(len(gains)), where=ideal > 0))


def majority_vote_at(results: NDArray[np.int64], query_labels: NDArray[np.int64], k: int) -> Scores:
    """1 where the query's class is (one of) the most frequent among the first k.

    "mMV@k" of Mahbod et al. 2025; a tie counts as correct. Single-label only.

    Args:
        results: int64 [q, depth], the classes of the results, -1 for a missing one.
        query_labels: int64 [q].
        k: depth.

    >>> majority_vote_at(np.array([[0, 1, 1, 0, -1]]), np.array([0]), 5)
    array([1.])
    """
    classes = int(max(results.max(initial=0), query_labels.max(initial=0))) + 1
    top = results[:, :k]
    rows = np.broadcast_to(np.arange(len(top))[:, None], top.shape)
    # A missing result votes in a last column that is cut off.
    cells = rows * (classes + 1) + np.where(top < 0, classes, top)
    votes = np.bincount(cells.ravel(), minlength=len(top) * (classes + 1))
    votes = votes.reshape(len(top), classes + 1)[:, :classes]
    own = votes[np.arange(len(top)), query_labels]
    return ((own == votes.max(axis=1)) & (own > 0)).astype(np.float64)
