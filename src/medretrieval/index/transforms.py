"""Indexes that change vectors before they compare them: PCA, OPQ, normalizing, rotations.

FAISS: "Pre and post processing", https://github.com/facebookresearch/faiss/wiki/Pre--and-post-processing.
"""

import dataclasses
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from medretrieval.config import FaissMetric, MetricConfig
from medretrieval.index.distance import prepare
from medretrieval.index.exact_search import BLOCK_VECTORS


def transforms_of(index: faiss.Index) -> list[Any]:
    """What an index does to every vector, in this order; empty for one that compares them as they are."""
    if not isinstance(index, faiss.IndexPreTransform):
        return []
    chain: Any = index.chain  # its stub calls it a list
    return [faiss.downcast_VectorTransform(chain.at(i)) for i in range(chain.size())]


def as_compared(
    vectors: NDArray[np.float32], index: faiss.Index, metric: MetricConfig
) -> tuple[NDArray[np.float32], MetricConfig]:
    """Vectors as an index compares them, and by which metric: what exact search beside it should search.

    Args:
        vectors: float32 [n, d], as the encoder gives them; may be memory-mapped.
        index: that changes vectors or does not.
        metric: of the run.

    Returns:
        float32 [n, another d], and the metric without the normalizing, which came before the change; both as
        they were where the index changes nothing.
    """
    chain = transforms_of(index)
    if not chain:
        return vectors, metric
    changed = np.empty((len(vectors), chain[-1].d_out), np.float32)
    for begin in range(0, len(vectors), BLOCK_VECTORS):
        block = prepare(vectors[begin : begin + BLOCK_VECTORS], metric, "embeddings", begin)
        for transform in chain:
            block = transform.apply(block)
        changed[begin : begin + len(block)] = block
    return changed, dataclasses.replace(metric, normalize=False)


def changes_metric(index: faiss.Index, metric: MetricConfig) -> bool:
    """Whether changed vectors are ranked by another distance; a rotation keeps them all."""
    return not all(_keeps(transform, metric) for transform in transforms_of(index))


def _keeps(transform: Any, metric: MetricConfig) -> bool:
    if not isinstance(transform, faiss.LinearTransform) or transform.d_out < transform.d_in:
        return False
    matrix = faiss.vector_to_array(transform.A).reshape(transform.d_out, transform.d_in)
    if not np.allclose(matrix.T @ matrix, np.eye(transform.d_in), atol=1e-4):  # PCAW calls itself orthonormal
        return False
    # A constant that is added (PCA centers) cancels in differences, not in products.
    return metric.faiss == FaissMetric.l2 or not transform.have_bias
