"""Recall of neighbors: the share of the first k results that are not farther than the exact k-th.

That of ann-benchmarks (Aumüller et al. 2020), so ties count.
"""

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import FaissMetric, MetricConfig
from medretrieval.index.distance import prepare

TIE = 1e-5  # of distances: their last bits differ between exact and approximate search


def exact_distances(
    queries: NDArray[np.float32], gallery: NDArray[np.float32], ids: NDArray[np.int64], metric: MetricConfig
) -> NDArray[np.float64]:
    """Distances of results from the vectors themselves: an index may keep them compressed.

    Args:
        queries: float32 [q, d].
        gallery: float32 [n, d].
        ids: int64 [q, depth], -1 for a missing result.
        metric: the distance.

    Returns:
        float64 [q, depth], ascending as those of `VectorIndex.search`; inf for a missing result.
    """
    a = prepare(queries, metric, "queries")
    result = np.full(ids.shape, np.inf)
    for i, row in enumerate(ids):
        present = row >= 0
        vectors = prepare(gallery[row[present]], metric, "gallery").astype(np.float64)
        if metric.faiss == FaissMetric.l2:
            result[i, present] = np.linalg.norm(vectors - a[i], axis=1)
        else:
            result[i, present] = (1.0 if metric.normalize else 0.0) - vectors @ a[i].astype(np.float64)
    return result


def neighbor_recall(found: NDArray[np.float64], exact: NDArray[np.float32], k: int) -> float:
    """Share of the first k results that are not farther than the exact k-th.

    Args:
        found: float64 [q, depth], exact distances of the approximate results.
        exact: float32 [q, depth], distances of the exact results, ascending.
        k: depth.

    >>> neighbor_recall(np.array([[0.1, 0.2, 0.9]]), np.array([[0.1, 0.2, 0.2]], np.float32), 3).__round__(2)
    0.67
    """
    limit = exact[:, k - 1 : k].astype(np.float64)
    return float((found[:, :k] <= limit + TIE * np.maximum(np.abs(limit), 1)).mean())
