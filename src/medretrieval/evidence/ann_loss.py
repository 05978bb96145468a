"""How fast an index answers, and what an approximate one loses against exact search of the same embeddings.

Recall of neighbors is that of ann-benchmarks (Aumüller et al. 2020): the share of the first k results
that are not farther than the exact k-th, so that ties count.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import Config
from medretrieval.embed.sides import Sides
from medretrieval.evaluate import scores
from medretrieval.evaluate.score_table import highest_values
from medretrieval.index.distance import pair_distances
from medretrieval.index.exact_search import BLOCK_VECTORS, exact_search
from medretrieval.index.faiss_index import VectorIndex
from medretrieval.index.recall import neighbor_recall
from medretrieval.index.transforms import as_compared, transforms_of
from medretrieval.protocol.task import RetrievalTask
from medretrieval.uncertainty.bootstrap import Resampling, bootstrap, enough

MAX_SAMPLED_QUERIES = 1000  # that are compared with exact search
Interval = tuple[float, float, float]


@dataclass(frozen=True)
class AnnLoss:
    """An approximate index beside exact search of the vectors that it compares, over a sample of the queries.

    An index that changes the vectors (PCA) is measured against exact search of the changed ones.

    Attributes:
        queries: size of the sample.
        recall: k -> share of the exact neighbors that were found.
        changes: score -> (this index minus exact search, low, high), paired over the sample, of
            precision_at_k, recall_at_k and map_at_k; empty where fewer than two queries or groups tell.
        missing: results within the largest k that the index did not give (FAISS id -1).
        exact_queries_per_s: of exact search, asked at once, normalizing the gallery included (so that it is
            not made to look fast); None where the gallery is too large for one block of it, or the index
            changes the vectors, so that what is searched here is not what index=flat would search.
    """

    queries: int
    recall: Mapping[int, float]
    changes: Mapping[str, Interval]
    missing: int
    exact_queries_per_s: float | None


def measure(
    settings: Config,
    task: RetrievalTask,
    index: VectorIndex,
    sides: Sides,
    results: NDArray[np.int64] | None = None,
) -> AnnLoss | None:
    """Search a sample of the queries exactly and approximately.

    Args:
        settings: the run's configuration.
        task: who queries whom.
        index: the run's index.
        sides: embeddings of queries and gallery.
        results: what the index has found already, int64 [q, depth]; None, or too few: it is searched again.

    Returns:
        None for an exact index.
    """
    if index.is_flat:
        return None
    config, count = settings.evaluation, len(task.queries)
    query, gallery = sides.query.vectors, sides.gallery.vectors
    rows = np.arange(count)
    if count > MAX_SAMPLED_QUERIES:
        rng = np.random.default_rng(settings.seed)
        rows = np.sort(rng.choice(count, MAX_SAMPLED_QUERIES, replace=False))
    vectors, depth, out = query[rows], max(config.ks), task.exclusions.for_rows(rows)
    if results is not None and results.shape[1] >= depth:
        ids = results[rows, :depth]
    else:
        ids = out.remove(*index.search(vectors, depth + out.overfetch))[0]
    vectors, metric = as_compared(vectors, index.index, settings.metric)
    compared, _ = as_compared(gallery, index.index, settings.metric)
    start = time.perf_counter()
    nearest = out.remove(*exact_search(vectors, compared, metric, depth + out.overfetch))[0]
    exact_s = time.perf_counter() - start
    distances, exact = (pair_distances(vectors, compared, side, metric) for side in (ids, nearest))
    ours, theirs = (_scores(side, task, rows, config.ks) for side in (ids, nearest))
    told = len(gallery) <= BLOCK_VECTORS and not transforms_of(index.index)
    return AnnLoss(
        queries=len(rows),
        recall={k: neighbor_recall(distances, exact, k) for k in config.ks},
        changes=_changes(settings, task, rows, (ours, theirs)),
        missing=int((ids < 0).sum()),
        exact_queries_per_s=len(rows) / exact_s if told else None,
    )


def _changes(
    settings: Config,
    task: RetrievalTask,
    rows: NDArray[np.int64],
    sides: tuple[Mapping[str, NDArray[np.float64]], Mapping[str, NDArray[np.float64]]],
) -> dict[str, Interval]:
    """The first minus the second of every score with its interval; {} for too few queries."""
    ours, theirs = sides
    groups = None if task.queries.groups is None else task.queries.groups[rows]
    if not enough(next(iter(ours.values())), groups):
        return {}
    names = [name for name in ours for _ in sides]
    columns = np.stack([side[name] for name in ours for side in (ours, theirs)], axis=1)
    highest = highest_values(names, task.n_relevant[rows])
    drawn = bootstrap(columns, Resampling.from_settings(settings), groups, highest=highest)
    changes = {name: drawn.difference(2 * i, 2 * i + 1) for i, name in enumerate(ours)}
    return {name: change for name, change in changes.items() if change is not None}


def _scores(
    ids: NDArray[np.int64], task: RetrievalTask, rows: NDArray[np.int64], ks: list[int]
) -> dict[str, NDArray[np.float64]]:
    relevant = task.n_relevant[rows]
    h = task.hits(ids, rows)
    per_query: dict[str, NDArray[np.float64]] = {}
    for k in ks:
        per_query[f"precision_at_{k}"] = scores.precision_at(h, k)
        per_query[f"recall_at_{k}"] = scores.recall_at(h, relevant, k)
        per_query[f"map_at_{k}"] = scores.average_precision_at(h, relevant, k)
    return {name: np.where(relevant > 0, values, np.nan) for name, values in per_query.items()}
