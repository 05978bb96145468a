"""Recall of neighbors: the share of the first k results that are not farther than the exact k-th.

That of ann-benchmarks (Aumüller et al. 2020), so ties count.
"""

import numpy as np
from numpy.typing import NDArray

TIE_TOLERANCE = 1e-5  # of distances: their last bits differ between exact and approximate search


def neighbor_recall(distances: NDArray[np.float64], exact: NDArray[np.float64], k: int) -> float:
    """Share of the first k results that are not farther than the exact k-th.

    Both sides want distances from the vectors themselves: those of a search in float32 are off by more than
    the tolerance where vectors are long, and would call true neighbors missed.

    Args:
        distances: float64 [q, depth], of the approximate results, from the vectors themselves
            (`distance.pair_distances`).
        exact: float64 [q, depth], of the results of exact search, in the same way.
        k: depth.

    >>> neighbor_recall(np.array([[0.1, 0.2, 0.9]]), np.array([[0.1, 0.2, 0.2]]), 3).__round__(2)
    0.67
    """
    limit = exact[:, :k].max(axis=1, keepdims=True)  # float32 may have put the k-th elsewhere
    return float((distances[:, :k] <= limit + TIE_TOLERANCE * np.maximum(np.abs(limit), 1)).mean())
