"""What a distance is to the rest of the pipeline: how vectors are prepared for FAISS, and what comes back.

Distances always ascend: 1 - cosine, Euclidean distance, or minus the inner product.
"""

import faiss
import numpy as np
from numpy.typing import NDArray

from medretrieval.config import FaissMetric, MetricConfig
from medretrieval.errors import UserError
from medretrieval.vectors import l2_normalize

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
        zero = ~vectors.any(axis=1)
        if zero.any():
            raise UserError(
                f"metric={metric.name}: {int(zero.sum())} embeddings of the {what} are zero vectors (first "
                f"at row {begin + int(zero.argmax())}), which have no direction; use metric=l2 or another "
                "encoder"
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
        found = ids.ravel()[places]
        last = np.where(found < 0, np.iinfo(np.int64).max, found)
        ids.ravel()[places] = found[np.lexsort((last, runs))]
    return ids, distances
