"""Sets of k-reciprocal neighbors as sparse matrices: all items of a gallery at once, in blocks of rows.

Zhong, Zheng, Cao, Li, "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017,
arXiv 1701.08398. Their dense matrices take the square of all images; here lists of neighbors do.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from medretrieval.config import FaissMetric, MetricConfig
from medretrieval.vectors import l2_normalize

BLOCK_ROWS = 2048  # items whose sets are expanded together
BLOCK_CELLS = 8_000_000  # of gathered vectors that are held at once
SCALE_PAIRS = 4096  # random pairs that say how far apart images are
SHARE_IN_COMMON = 2 / 3  # of a neighbor's own set that must be in an item's set for it to be taken in
Floats = NDArray[np.float32]
Matrix = Any  # scipy.sparse.csr_matrix, which has no types


def half(k: int) -> int:
    """The smaller depth, by which sets are expanded: half of k, as NumPy rounds it."""
    return int(np.around(k / 2))


def reciprocal(ids: NDArray[np.integer], k: int) -> Matrix:
    """Who are among each other's first k, each item with itself: 1.0 in a sparse matrix [n, n].

    Args:
        ids: int [n, at least k], each item's nearest others; -1 for none.
        k: depth.
    """
    n = len(ids)
    rows, columns = np.repeat(np.arange(n), k), np.asarray(ids[:, :k]).ravel()
    there = columns >= 0
    rows, columns = np.append(rows[there], np.arange(n)), np.append(columns[there], np.arange(n))
    forward = sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), (n, n))
    return forward.multiply(forward.T).tocsr()


def expanded(sets: Matrix, halves: Matrix, rows: slice) -> Matrix:
    """Sets of some items, with the smaller sets of those members that have most of theirs in common with it.

    Args:
        sets: `reciprocal` at k.
        halves: `reciprocal` at half of k.
        rows: which items.
    """
    own = sets[rows]
    common = (own @ halves.T).multiply(own).tocsr()
    sizes = np.diff(halves.indptr)
    common.data = (common.data > SHARE_IN_COMMON * sizes[common.indices]).astype(np.float32)
    common.eliminate_zeros()
    union = (own + common @ halves).tocsr()
    union.sort_indices()
    return union


def kernel_distances(a: Floats, b: Floats, metric: MetricConfig) -> Floats:
    """Distances of pairs of rows that weights fall off with: 1 - cosine, squared Euclidean, minus product.

    Args:
        a: float32 [p, d], normalized where the metric says so.
        b: float32 [p, d], the same.
        metric: the distance.
    """
    if metric.faiss == FaissMetric.l2:
        return np.asarray(np.square(a - b).sum(axis=1), np.float32)
    products = np.einsum("pd,pd->p", a, b)
    return np.asarray(1 - products if metric.normalize else -products, np.float32)


@dataclass(frozen=True)
class Nodes:
    """Vectors by which weights are made.

    Attributes:
        vectors: float32 [n, d], as the encoder gives them.
        metric: the distance.
        scale: mean kernel distance of random pairs beyond that of items to themselves.
    """

    vectors: Floats
    metric: MetricConfig
    scale: float

    @classmethod
    def measured(cls, vectors: Floats, metric: MetricConfig) -> "Nodes":
        """With the scale of a fixed draw of pairs."""
        rng, n = np.random.default_rng(0), len(vectors)
        drawn = rng.integers(0, n, (2, SCALE_PAIRS))
        a, b = (_ready(vectors[rows], metric) for rows in drawn)
        spread = kernel_distances(a, b, metric).mean() - kernel_distances(a, a, metric).mean()
        return cls(vectors, metric, float(spread) if spread > 0 else 1.0)

    @property
    def unit(self) -> float:
        """The scale in the distances that rankings show."""
        return float(np.sqrt(self.scale)) if self.metric.faiss == FaissMetric.l2 else self.scale

    def ready(self, rows: Any) -> Floats:
        """Vectors of some nodes, normalized where the metric says so."""
        return _ready(self.vectors[rows], self.metric)

    def weights(self, own: Floats, items: NDArray[np.integer]) -> Floats:
        """Weights of items for one vector, exp(-distance / scale), of sum 1 (float32 [m]).

        Args:
            own: float32 [d], normalized where the metric says so.
            items: int [m].
        """
        near = self.ready(items)
        found = kernel_distances(np.broadcast_to(own, near.shape), near, self.metric) / np.float32(self.scale)
        falling = np.exp(found.min(initial=np.inf) - found)
        return np.asarray(falling / falling.sum(), np.float32)

    def encoded(self, union: Matrix, begin: int) -> Matrix:
        """Sets of rows from `begin` on with their weights, each row of sum 1."""
        rows = np.repeat(np.arange(union.shape[0]) + begin, np.diff(union.indptr))
        step = max(1, BLOCK_CELLS // self.vectors.shape[1])
        found = np.empty(len(rows), np.float32)
        for at in range(0, len(rows), step):
            some = slice(at, at + step)
            found[some] = kernel_distances(
                self.ready(rows[some]), self.ready(union.indices[some]), self.metric
            )
        found /= np.float32(self.scale)
        least = np.minimum.reduceat(found, union.indptr[:-1])  # no row is empty: each has itself
        falling = np.exp(np.repeat(least, np.diff(union.indptr)) - found)
        sums = np.add.reduceat(falling, union.indptr[:-1])
        union.data = (falling / np.repeat(sums, np.diff(union.indptr))).astype(np.float32)
        return union


def encoding(ids: NDArray[np.integer], k1: int, nodes: Nodes) -> Matrix:
    """Each item as a sparse vector over all items: the weights of its set.

    Args:
        ids: int [n, at least k1], each item's nearest others.
        k1: depth of the sets.
        nodes: vectors of the items.

    Returns:
        A sparse matrix float32 [n, n], rows of sum 1.
    """
    n, sets, halves = len(ids), reciprocal(ids, k1), reciprocal(ids, half(k1))
    blocks = [
        nodes.encoded(expanded(sets, halves, slice(begin, begin + BLOCK_ROWS)), begin)
        for begin in range(0, n, BLOCK_ROWS)
    ]
    return sparse.vstack(blocks, format="csr", dtype=np.float32)


def averaged(rows: Matrix, ids: NDArray[np.integer], k2: int) -> Matrix:
    """Each row's mean with the rows of its nearest k2 - 1 others (the paper's local query expansion)."""
    n = len(ids)
    others = np.asarray(ids[:, : k2 - 1])
    members = np.concatenate([np.arange(n)[:, None], others], axis=1)
    there = members >= 0
    starts = np.append(0, np.cumsum(there.sum(axis=1)))
    values = np.repeat(1 / there.sum(axis=1), there.sum(axis=1)).astype(np.float32)
    mean = sparse.csr_matrix((values, members[there], starts), (n, n))
    blocks = [mean[begin : begin + BLOCK_ROWS] @ rows for begin in range(0, n, BLOCK_ROWS)]
    return sparse.vstack(blocks, format="csr", dtype=np.float32)


def _ready(vectors: Floats, metric: MetricConfig) -> Floats:
    vectors = np.asarray(vectors)
    return l2_normalize(vectors) if metric.normalize else vectors
