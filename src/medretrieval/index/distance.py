"""What a distance is to the rest of the pipeline: how vectors are prepared for FAISS, and what comes back.

Distances always ascend: 1 - cosine, Euclidean distance, or minus the inner product.
"""

import faiss
import numpy as np
from numpy.typing import NDArray

from medretrieval.config import FaissMetric, MetricConfig
from medretrieval.errors import UserError
from medretrieval.vectors import l2_normalize, unit_rows, zero_rows

PAIR_CHUNK_CELLS = 4_000_000  # of gallery vectors that are compared with a query at a time
FAISS_METRIC = {FaissMetric.l2: faiss.METRIC_L2, FaissMetric.inner_product: faiss.METRIC_INNER_PRODUCT}


def prepare(
    vectors: NDArray[np.float32], metric: MetricConfig, what: str, begin: int = 0
) -> NDArray[np.float32]:
    """The vectors as FAISS wants them: contiguous, and a normalized copy where the metric says so.

    Args:
        vectors: float32 [n, d].
        metric: the distance.
        what: what they are of, for the message.
        begin: the row of the first of them, for the message.

    Raises:
        UserError: a zero vector, which has no direction for cosine and ip to compare.
    """
    if metric.faiss == FaissMetric.inner_product:
        zero = zero_rows(vectors)
        if len(zero):
            raise UserError(
                f"metric={metric.name}: {len(zero)} embeddings of the {what} are zero vectors (the first "
                f"at row {begin + int(zero[0])}), which have no direction; use metric=l2 or another encoder"
            )
    return l2_normalize(vectors) if metric.normalize else np.ascontiguousarray(vectors, dtype=np.float32)


def as_distances(
    raw: NDArray[np.float32], ids: NDArray[np.int64], metric: MetricConfig
) -> NDArray[np.float32]:
    """FAISS's squares and similarities as distances that ascend (float32 [q, depth]; inf with id -1)."""
    if metric.faiss == FaissMetric.l2:
        distances = np.sqrt(np.maximum(raw, 0))
    else:
        distances = (1 - raw) if metric.normalize else -raw
    distances[ids < 0] = np.inf
    return distances


def pair_distances(
    queries: NDArray[np.float32], gallery: NDArray[np.float32], ids: NDArray[np.int64], metric: MetricConfig
) -> NDArray[np.float64]:
    """Distances of chosen pairs from the vectors themselves, by differences in float64: of equal vectors 0.

    Searches take a product of the vectors in float32, which leaves some 1e-3 of a distance where there is
    none, and an index may keep its vectors compressed.

    Args:
        queries: float32 [q, d], as the encoder gives them, none of them 0 but for l2.
        gallery: float32 [n, d], the same; may be memory-mapped.
        ids: int64 [q, depth] positions in the gallery; -1 for none.
        metric: the distance.

    Returns:
        float64 [q, depth]; inf with id -1. In the order of `VectorIndex.search`, so not quite ascending.
    """
    distances = np.full(ids.shape, np.inf)
    step = max(1, PAIR_CHUNK_CELLS // gallery.shape[1])
    for row in range(len(queries)):
        query, places = queries[row : row + 1], np.flatnonzero(ids[row] >= 0)
        for begin in range(0, len(places), step):
            some = places[begin : begin + step]
            distances[row, some] = _distances(query, gallery[ids[row, some]], metric)
    return distances


def _distances(
    query: NDArray[np.float32], others: NDArray[np.float32], metric: MetricConfig
) -> NDArray[np.float64]:
    """From one query, float32 [1, d], to others, float32 [n, d] (float64 [n])."""
    if metric.faiss == FaissMetric.inner_product and not metric.normalize:
        return np.asarray(-(others.astype(np.float64) @ query[0].astype(np.float64)))
    a, b = (unit_rows(v) if metric.normalize else v.astype(np.float64) for v in (query, others))
    b -= a
    squares = np.square(b).sum(axis=-1)  # by rows, as `unit_rows` does: twins are equally far
    # Of vectors of length 1: 1 - cosine is half the squared difference.
    return np.asarray(np.sqrt(squares) if metric.faiss == FaissMetric.l2 else squares / 2)


def order_ties(
    ids: NDArray[np.int64], distances: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Put equally distant results into the order of the gallery; FAISS's own order differs by metric.

    Args:
        ids: int64 [q, depth]; changed in place.
        distances: float32 [q, depth], never decreasing along a row.
    """
    equal = distances[:, 1:] == distances[:, :-1]
    tied = np.zeros(distances.shape, dtype=np.bool_)
    tied[:, 1:] = equal
    tied[:, :-1] |= equal
    places = np.flatnonzero(tied)
    if len(places):
        follows = np.zeros(distances.shape, dtype=np.bool_)
        follows[:, 1:] = equal
        runs = np.cumsum(~follows.ravel()[places])
        tied_ids = ids.ravel()[places]
        last = np.where(tied_ids < 0, np.iinfo(np.int64).max, tied_ids)
        ids.ravel()[places] = tied_ids[np.lexsort((last, runs))]
    return ids, distances
