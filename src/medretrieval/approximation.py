"""What an approximate index loses against exact search on the same embeddings, and what it gains.

Recall of neighbours is that of ann-benchmarks (Aumüller et al. 2020): the share of the first k results
that are not farther than the exact k-th, so that ties count.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from medretrieval import scores
from medretrieval.baseline import EXACT
from medretrieval.cache import Cache
from medretrieval.config import Config, FaissMetric, MetricConfig
from medretrieval.embed import Embeddings
from medretrieval.evaluate import Task
from medretrieval.index import VectorIndex, build, prepare
from medretrieval.ranking import drop_own, hits
from medretrieval.uncertainty import paired_difference

SAMPLE = 1000  # queries that are compared with exact search
TIMED = 200  # queries that are timed one by one
WARM_UP = 10
TIE = 1e-5  # of distances: their last bits differ between exact and approximate search


@dataclass(frozen=True)
class Approximation:
    """An approximate index beside exact search, over a seeded sample of the queries.

    Attributes:
        queries: size of the sample.
        recall: k -> share of the exact neighbours that were found.
        precision: k -> (change of precision_at_k, low, high), paired over the sample.
        queries_per_s_single: asked one by one.
        queries_per_s_batched: asked all at once.
        latency_ms: "p50", "p95", "p99" of single queries.
        bytes_per_vector: size of the index's file over the size of the gallery.
    """

    queries: int
    recall: Mapping[int, float]
    precision: Mapping[int, tuple[float, float, float]]
    queries_per_s_single: float
    queries_per_s_batched: float
    latency_ms: Mapping[str, float]
    bytes_per_vector: float

    def document(self) -> dict[str, object]:
        """Its part of scores.json."""
        return {
            key: {str(k): v for k, v in value.items()} if isinstance(value, Mapping) else value
            for key, value in asdict(self).items()
        }


def measure(
    settings: Config, task: Task, index: VectorIndex, query: Embeddings, gallery: Embeddings, cache: Cache
) -> Approximation | None:
    """Search a sample of the queries exactly and approximately.

    Args:
        settings: the run's configuration.
        task: who queries whom.
        index: the run's index.
        query: embeddings of the queries.
        gallery: embeddings of the gallery.
        cache: where the exact index is kept.

    Returns:
        None for an exact index.
    """
    if index.spec.factory == EXACT.factory:
        return None
    config, count = settings.evaluation, len(task.queries)
    rows = np.arange(count)
    if count > SAMPLE:
        rows = np.sort(np.random.default_rng(settings.seed).choice(count, SAMPLE, replace=False))
    vectors, own = query.vectors[rows], task.own[rows]
    depth = max(config.ks)
    exact = build(EXACT, settings.metric, gallery, depth, settings.seed, cache)
    start = time.perf_counter()
    found = _search(index, vectors, own, depth, task.excludes)
    batched = time.perf_counter() - start
    wanted = _search(exact, vectors, own, depth, task.excludes)
    distances = exact_distances(vectors, gallery.vectors, found[0], settings.metric)
    h = [hits(ids, task.queries.labels[rows], task.gallery.labels) for ids, _ in (found, wanted)]
    kept = task.relevant[rows] > 0
    precision = {}
    for k in config.ks:
        ours, theirs = (scores.precision_at(side, k)[kept] for side in h)
        precision[k] = paired_difference(ours, theirs, config.resamples, config.confidence, settings.seed)
    seconds = _latencies(index, vectors, depth)
    return Approximation(
        queries=len(rows),
        recall={k: neighbour_recall(distances, wanted[1], k) for k in config.ks},
        precision=precision,
        queries_per_s_single=float(1 / seconds.mean()),
        queries_per_s_batched=len(rows) / batched,
        latency_ms={f"p{p}": float(np.percentile(seconds, p) * 1000) for p in (50, 95, 99)},
        bytes_per_vector=index.path.stat().st_size / len(task.gallery),
    )


def _search(
    index: VectorIndex, vectors: NDArray[np.float32], own: NDArray[np.int64], depth: int, excludes: bool
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    ids, distances = index.search(vectors, depth + 1 if excludes else depth)
    return drop_own(ids, distances, own) if excludes else (ids, distances)


def _latencies(index: VectorIndex, vectors: NDArray[np.float32], depth: int) -> NDArray[np.float64]:
    """Seconds of single queries, after some that are not counted."""
    seconds = []
    for i in range(WARM_UP + min(TIMED, len(vectors))):
        vector = vectors[i % len(vectors)][None]
        start = time.perf_counter()
        index.search(vector, depth)
        seconds.append(time.perf_counter() - start)
    return np.array(seconds[WARM_UP:])


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
        float64 [q, depth], ascending in nearness as `VectorIndex.search`; inf for a missing result.
    """
    a, b = prepare(queries, metric, "queries"), prepare(gallery, metric, "gallery")
    result = np.full(ids.shape, np.inf)
    for i, row in enumerate(ids):
        present = row >= 0
        vectors = b[row[present]].astype(np.float64)
        if metric.faiss == FaissMetric.l2:
            result[i, present] = np.linalg.norm(vectors - a[i], axis=1)
        else:
            result[i, present] = (1.0 if metric.normalize else 0.0) - vectors @ a[i].astype(np.float64)
    return result


def neighbour_recall(found: NDArray[np.float64], exact: NDArray[np.float32], k: int) -> float:
    """Share of the first k results that are not farther than the exact k-th.

    Args:
        found: float64 [q, depth], exact distances of the approximate results.
        exact: float32 [q, depth], distances of the exact results, ascending.
        k: depth.

    >>> neighbour_recall(np.array([[0.1, 0.2, 0.9]]), np.array([[0.1, 0.2, 0.2]], np.float32), 3).__round__(2)
    0.67
    """
    limit = exact[:, k - 1 : k].astype(np.float64)
    return float((found[:, :k] <= limit + TIE * np.maximum(np.abs(limit), 1)).mean())
