"""Vectors drawn toward their neighbors: what query expansion and database augmentation share.

A neighbor's weight is its cosine to the vector, 0 where that is negative, to the power of alpha (Radenovic
et al. 2018, arXiv 1711.02512); with alpha=0 all weigh the same, the plain mean.
"""

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import MetricConfig
from medretrieval.vectors import l2_normalize

BLOCK_CELLS = 8_000_000  # of gathered neighbors that are held at once
Floats = NDArray[np.float32]


def weighted_means(
    own: Floats, gallery: Floats, ids: NDArray[np.integer], alpha: float, metric: MetricConfig
) -> Floats:
    """The mean of each vector, which weighs 1, and its weighted neighbors.

    Where the metric normalizes, vectors are normalized first. It is a mean and not a sum, so that Euclidean
    distances and inner products keep their scale.

    Args:
        own: float32 [r, d].
        gallery: float32 [n, d]; may be memory-mapped.
        ids: int [r, k] positions in the gallery; -1 for none.
        alpha: 0 or more.
        metric: the distance.

    Returns:
        float32 [r, d].
    """
    means = np.empty(own.shape, np.float32)
    step = max(1, BLOCK_CELLS // max(1, ids.shape[1] * own.shape[1]))
    for begin in range(0, len(own), step):
        rows = slice(begin, begin + step)
        means[rows] = _means(np.asarray(own[rows]), gallery, ids[rows], alpha, metric)
    return means


def _means(
    own: Floats, gallery: Floats, ids: NDArray[np.integer], alpha: float, metric: MetricConfig
) -> Floats:
    near = np.asarray(gallery[np.maximum(ids, 0).ravel()])
    if metric.normalize:
        own, near = l2_normalize(own), l2_normalize(near)
    near = near.reshape(*ids.shape, own.shape[1])
    weights = np.where(ids >= 0, cosines(own, near) ** np.float32(alpha), np.float32(0))
    total = own + np.einsum("rk,rkd->rd", weights, near)
    return np.asarray(total / (1 + weights.sum(axis=1, keepdims=True)), np.float32)


def cosines(own: Floats, near: Floats) -> Floats:
    """Cosine of each vector to each of its neighbors, 0 where it is negative or a vector is 0.

    Args:
        own: float32 [r, d].
        near: float32 [r, k, d].

    Returns:
        float32 [r, k].
    """
    lengths = np.linalg.norm(own, axis=1)[:, None] * np.linalg.norm(near, axis=2)
    products = np.einsum("rd,rkd->rk", own, near)
    found = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return np.asarray(np.clip(found, 0, 1), np.float32)
