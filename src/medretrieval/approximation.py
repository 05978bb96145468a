"""How fast an index answers, and what an approximate one loses against exact search of the same embeddings.

Recall of neighbours is that of ann-benchmarks (Aumüller et al. 2020): the share of the first k results
that are not farther than the exact k-th, so that ties count.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval import scores
from medretrieval.config import Config, EvaluationConfig, FaissMetric, MetricConfig
from medretrieval.distance import prepare
from medretrieval.evaluate import Task
from medretrieval.exact import BLOCK, exact_search
from medretrieval.index import VectorIndex
from medretrieval.uncertainty import bootstrap, enough

SAMPLE = 1000  # queries that are compared with exact search
TIMED = 200  # queries that are timed one by one
WARM_UP = 10
WARMING = 64  # queries at once that are not counted
SECONDS = 0.5  # that timing may take, one by one and at once
TIE = 1e-5  # of distances: their last bits differ between exact and approximate search
Interval = tuple[float, float, float]


@dataclass(frozen=True)
class Speed:
    """How an index answers.

    Attributes:
        queries_per_s_single: asked one by one.
        queries_per_s_batched: asked many at once.
        latency_ms: "p50", "p95", "p99" of single queries.
        bytes_per_vector: size of the index's file over the size of the gallery.
    """

    queries_per_s_single: float
    queries_per_s_batched: float
    latency_ms: Mapping[str, float]
    bytes_per_vector: float


@dataclass(frozen=True)
class Approximation:
    """An approximate index beside exact search, over a seeded sample of the queries.

    Attributes:
        queries: size of the sample.
        recall: k -> share of the exact neighbours that were found.
        changes: score -> (this index minus exact search, low, high), paired over the sample, of
            precision_at_k, recall_at_k and map_at_k; empty where fewer than two queries or groups tell.
        missing: results within the largest k that the index did not give (FAISS id -1).
        exact_queries_per_s: of exact search, asked at once, normalising the gallery included (so that it is
            not made to look fast); None where the gallery is too large for one block of it.
    """

    queries: int
    recall: Mapping[int, float]
    changes: Mapping[str, Interval]
    missing: int
    exact_queries_per_s: float | None

    def document(self) -> dict[str, Any]:
        """Its part of scores.json."""
        return asdict(self) | {"recall": {str(k): v for k, v in self.recall.items()}}


def speed(index: VectorIndex, queries: NDArray[np.float32], gallery: int, depth: int) -> Speed:
    """Time an index with warm-up, for about two seconds at most.

    Args:
        index: the run's index.
        queries: float32 [q, d], as the encoder gives them.
        gallery: its size.
        depth: results a query.
    """
    seconds = _latencies(lambda i: index.search(queries[i : i + 1], depth), len(queries))
    return Speed(
        queries_per_s_single=float(1 / seconds.mean()),
        queries_per_s_batched=_rate(lambda n: index.search(queries[:n], depth), len(queries), seconds.mean()),
        latency_ms={f"p{p}": float(np.percentile(seconds, p) * 1000) for p in (50, 95, 99)},
        bytes_per_vector=index.path.stat().st_size / gallery,
    )


def _latencies(ask: Callable[[int], object], queries: int) -> NDArray[np.float64]:
    """Seconds of single queries, after some that are not counted."""
    seconds: list[float] = []
    for i in range(WARM_UP + TIMED):
        start = time.perf_counter()
        ask(i % queries)
        seconds.append(time.perf_counter() - start)
        if i > WARM_UP and sum(seconds) > SECONDS:
            break
    return np.array(seconds[WARM_UP:])


def _rate(ask: Callable[[int], object], queries: int, single: float) -> float:
    """Queries a second, asked at once: as many as there are or as fit the time, after a warm-up."""
    n = int(np.clip(SECONDS / max(single, 1e-9), 1, min(queries, SAMPLE)))
    ask(min(n, WARMING))
    start = time.perf_counter()
    ask(n)
    return n / (time.perf_counter() - start)


def measure(
    settings: Config,
    task: Task,
    index: VectorIndex,
    query: NDArray[np.float32],
    gallery: NDArray[np.float32],
    results: NDArray[np.int64] | None = None,
) -> Approximation | None:
    """Search a sample of the queries exactly and approximately.

    Args:
        settings: the run's configuration.
        task: who queries whom.
        index: the run's index.
        query: embeddings of the queries, float32 [q, d].
        gallery: embeddings of the gallery, float32 [n, d].
        results: what the index has found already, int64 [q, depth]; None, or too few: it is searched again.

    Returns:
        None for an exact index.
    """
    if index.is_flat:
        return None
    config, count, groups = settings.evaluation, len(task.queries), task.queries.groups
    rows = np.arange(count)
    if count > SAMPLE:
        rows = np.sort(np.random.default_rng(settings.seed).choice(count, SAMPLE, replace=False))
    vectors, depth, out = query[rows], max(config.ks), task.exclusions.of_rows(rows)
    if results is not None and results.shape[1] >= depth:
        found = results[rows, :depth]
    else:
        found = out.remove(*index.search(vectors, depth + out.extra))[0]
    start = time.perf_counter()
    wanted = out.remove(*exact_search(vectors, gallery, settings.metric, depth + out.extra))
    exact_s = time.perf_counter() - start
    distances = exact_distances(vectors, gallery, found, settings.metric)
    ours, theirs = (_scores(ids, task, rows, config.ks) for ids in (found, wanted[0]))
    return Approximation(
        queries=len(rows),
        recall={k: neighbour_recall(distances, wanted[1], k) for k in config.ks},
        changes=_changes(ours, theirs, config, settings.seed, groups if groups is None else groups[rows]),
        missing=int((found < 0).sum()),
        exact_queries_per_s=len(rows) / exact_s if len(gallery) <= BLOCK else None,
    )


def _changes(
    ours: Mapping[str, NDArray[np.float64]],
    theirs: Mapping[str, NDArray[np.float64]],
    config: EvaluationConfig,
    seed: int,
    groups: NDArray[np.str_] | None,
) -> dict[str, Interval]:
    """Ours minus theirs of every score with its interval, all under the same resamples; {} for too few."""
    if not enough(next(iter(ours.values())), groups):
        return {}
    columns = np.stack([side[name] for name in ours for side in (ours, theirs)], axis=1)
    drawn = bootstrap(columns, config.resamples, seed, groups)
    return {name: drawn.difference(2 * i, 2 * i + 1, config.confidence) for i, name in enumerate(ours)}


def _scores(
    ids: NDArray[np.int64], task: Task, rows: NDArray[np.int64], ks: list[int]
) -> dict[str, NDArray[np.float64]]:
    relevant = task.relevant[rows]
    h = task.relevance.hits(ids, task.queries.labels[rows], task.gallery.labels)
    found: dict[str, NDArray[np.float64]] = {}
    for k in ks:
        found[f"precision_at_{k}"] = scores.precision_at(h, k)
        found[f"recall_at_{k}"] = scores.recall_at(h, relevant, k)
        found[f"map_at_{k}"] = scores.average_precision_at(h, relevant, k)
    return {name: np.where(relevant > 0, values, np.nan) for name, values in found.items()}


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
