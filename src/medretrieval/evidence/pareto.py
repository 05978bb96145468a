"""Which of several runs no other run beats in score and cost at once."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def pareto_front(points: NDArray[np.float64], maximize: Sequence[bool]) -> NDArray[np.bool_]:
    """Which points no other point dominates: none is at least as good in everything and better in something.

    Equal points are on the front together. A point with a NaN is never on it and dominates none.

    Args:
        points: float64 [n, m], one row a point.
        maximize: for each of the m columns, whether more is better.

    Returns:
        bool [n].

    Raises:
        ValueError: points that are not [n, m], or another number of directions than columns.

    >>> pareto_front(np.array([[0.9, 5.0], [0.8, 1.0], [0.7, 2.0]]), maximize=[True, False])
    array([ True,  True, False])
    """
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != len(maximize):
        raise ValueError(f"points {points.shape} with {len(maximize)} directions: [n, m] and m are wanted")
    better = np.where(maximize, points, -points)
    whole = np.atleast_1d(~np.isnan(better).any(axis=1))
    front = whole.copy()
    for i in np.flatnonzero(whole):
        beaten_by = (better >= better[i]).all(axis=1) & (better > better[i]).any(axis=1)
        front[i] = not beaten_by.any()
    return front
