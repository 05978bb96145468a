"""Exact search without an index: whole rankings by one product and one sort, the nearest in blocks."""

import faiss
import numpy as np
from numpy.typing import NDArray

from medretrieval.config import FaissMetric, MetricConfig
from medretrieval.index.distance import FAISS_METRIC, as_distances, order_ties, prepare

BLOCK_VECTORS = 65_536  # gallery vectors that are looked at together


def exact_search(
    queries: NDArray[np.float32], gallery: NDArray[np.float32], metric: MetricConfig, depth: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Exact neighbors without an index, the gallery read in blocks (it may be memory-mapped).

    Args:
        queries: float32 [q, d], as the encoder gives them.
        gallery: float32 [n, d], the same.
        metric: the distance.
        depth: results a query, at most n.

    Returns:
        ids and distances as `VectorIndex.search`.
    """
    prepared, kind = prepare(queries, metric, "queries"), FAISS_METRIC[metric.faiss]
    heap = faiss.ResultHeap(len(queries), depth, keep_max=kind == faiss.METRIC_INNER_PRODUCT)
    for begin in range(0, len(gallery), BLOCK_VECTORS):
        block = prepare(gallery[begin : begin + BLOCK_VECTORS], metric, "gallery", begin)
        raw, ids = faiss.knn(prepared, block, min(depth, len(block)), kind)
        heap.add_result(raw, ids + begin)
    heap.finalize()
    return order_ties(heap.I, as_distances(heap.D, heap.I, metric))


def rank_all(
    queries: NDArray[np.float32], gallery: NDArray[np.float32], metric: MetricConfig, depth: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rank the whole gallery for each query: several times quicker than asking FAISS for so many results.

    Distance and position are packed into one number each, so that one sort orders both, ties by position.
    Memory: some 32 bytes a query and gallery item.

    Args:
        queries: float32 [q, d], prepared (`distance.prepare`).
        gallery: float32 [n, d], prepared.
        metric: the distance.
        depth: results a query, at most n.

    Returns:
        ids and distances as `VectorIndex.search`.
    """
    raw = queries @ gallery.T
    if metric.faiss == FaissMetric.l2:
        raw *= -2
        raw += np.einsum("nd,nd->n", gallery, gallery)
        raw += np.einsum("qd,qd->q", queries, queries)[:, None]
        distances = np.sqrt(np.maximum(raw, 0, out=raw), out=raw)
    else:
        distances = np.subtract(1, raw, out=raw) if metric.normalize else np.negative(raw, out=raw)
    distances += 0.0  # -0 and 0 are equal and must be ordered as equals
    keys = (_ordered(distances.view(np.uint32)).astype(np.uint64) << np.uint64(32)) | np.arange(
        len(gallery), dtype=np.uint64
    )
    keys.sort(axis=1)
    keys = keys[:, :depth]
    bits = _float_bits((keys >> np.uint64(32)).astype(np.uint32))
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64), bits.view(np.float32)


def _ordered(bits: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Bits of floats as whole numbers of the same order."""
    flip = np.where(bits >> np.uint32(31), np.uint32(0xFFFFFFFF), np.uint32(0x80000000))
    return np.asarray(bits ^ flip)


def _float_bits(ordered: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """What `_ordered` was made from."""
    flip = np.where(ordered >> np.uint32(31), np.uint32(0x80000000), np.uint32(0xFFFFFFFF))
    return np.asarray(ordered ^ flip)
