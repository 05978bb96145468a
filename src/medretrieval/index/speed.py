"""How fast an index answers: queries one by one and many at once, and how large it is."""

import multiprocessing
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medretrieval.index.faiss_index import VectorIndex

TIMED_QUERIES = 200  # queries that are timed one by one
WARM_UP_QUERIES = 10
WARM_UP_BATCH_QUERIES = 64  # queries at once that are not counted
MAX_BATCH_QUERIES = 1000  # queries that are timed at once
TIMING_BUDGET_S = 0.5  # that timing may take, one by one and at once


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


def timed_alone() -> bool:
    """Whether this process is none of several that a launcher (joblib) starts at once."""
    return multiprocessing.current_process().name == "MainProcess"


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
    for i in range(WARM_UP_QUERIES + TIMED_QUERIES):
        start = time.perf_counter()
        ask(i % queries)
        seconds.append(time.perf_counter() - start)
        if i > WARM_UP_QUERIES and sum(seconds) > TIMING_BUDGET_S:
            break
    return np.array(seconds[WARM_UP_QUERIES:])


def _rate(ask: Callable[[int], object], queries: int, single: float) -> float:
    """Queries a second, asked at once: as many as there are or as fit the time, after a warm-up."""
    n = int(np.clip(TIMING_BUDGET_S / max(single, 1e-9), 1, min(queries, MAX_BATCH_QUERIES)))
    ask(min(n, WARM_UP_BATCH_QUERIES))
    start = time.perf_counter()
    ask(n)
    return n / (time.perf_counter() - start)
