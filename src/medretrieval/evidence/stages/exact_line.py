"""What vectors score by exact search on a task, kept in the cache: a line that a run is compared with."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.cache.store import Cache
from medretrieval.config import Config
from medretrieval.datasets.groups import groups_sha256
from medretrieval.embed.sides import Sides
from medretrieval.evaluate.evaluate import SCORING_FORMAT, Search, evaluate
from medretrieval.evaluate.score_table import MAP_DEPTH
from medretrieval.index.exact_search import exact_search
from medretrieval.protocol.task import RetrievalTask
from medretrieval.uncertainty.half_samples import HALVES_FORMAT, SPLITS, HalfSamples, halves_of

FILE = "per_query.npz"
HALVES = "halves.npz"
KIND = "lines"  # in the cache
Pair = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class Line:
    """What some vectors score.

    Attributes:
        scores: as `Evaluation.scores`.
        per_query: as `Evaluation.per_query`, float64 [q] each.
        halves: the scores in halves of the images, where intervals come from these.
    """

    scores: Mapping[str, float]
    per_query: Mapping[str, NDArray[np.float64]]
    halves: HalfSamples | None


def line_of(settings: Config, task: RetrievalTask, sides: Sides, cache: Cache) -> Line:
    """As `exact_line`, of embeddings."""
    key = {"embeddings": [sides.query.key, sides.gallery.key]}
    return exact_line(settings, task, key, lambda: (sides.query.vectors, sides.gallery.vectors), cache)


def exact_line(
    settings: Config, task: RetrievalTask, key: Mapping[str, Any], vectors: Callable[[], Pair], cache: Cache
) -> Line:
    """Score the vectors of a task by exact search with the run's metric, as deep as `map_at_100` wants.

    Args:
        settings: the run's configuration.
        task: who queries whom.
        key: what determines the vectors, as JSON values.
        vectors: gives those of queries and gallery, float32 [q, d] and [n, d].
        cache: where the scores are kept.
    """
    parts = task_parts(settings, task) | {
        "depth": depth_of(settings, task),
        "vectors": dict(key),
        "metric": asdict(settings.metric),
    }

    def make(folder: Path) -> Mapping[str, Any]:
        query, gallery = vectors()
        line = scored(settings, task, lambda rows, k: exact_search(query[rows], gallery, settings.metric, k))
        write_line(folder, line.per_query, line.halves)
        return {"scores": line.scores}

    entry = cache.get_or_make(KIND, parts, make)
    return read_line(entry.folder, entry.facts["scores"])


def depth_of(settings: Config, task: RetrievalTask) -> int:
    """Results of each query that a line looks at."""
    return min(task.max_depth, max(*settings.evaluation.ks, settings.evaluation.vote_k, MAP_DEPTH))


def scored(settings: Config, task: RetrievalTask, search: Search) -> Line:
    """The line of a search, made now and not kept."""
    config = dataclasses.replace(settings.evaluation, save_depth=1)
    found = evaluate(search, task, depth_of(settings, task), config)
    return Line(found.scores, found.per_query, halves_of(task, found, config))


def task_parts(settings: Config, task: RetrievalTask) -> dict[str, Any]:
    """What determines the scores of a task beside vectors, metric and depth, as JSON values."""
    return {
        "scoring_format": SCORING_FORMAT,
        "labels": [task.queries.labels_sha256, task.gallery.labels_sha256],
        "groups": [groups_sha256(task.queries.groups), groups_sha256(task.gallery.groups)],
        "protocol": asdict(settings.protocol),
        "relevance": asdict(task.relevance),
        "ks": settings.evaluation.ks,
        "vote_k": settings.evaluation.vote_k,
        "halves": [HALVES_FORMAT, SPLITS] if task.in_halves(settings.evaluation.resample) else None,
    }


def write_line(
    folder: Path, per_query: Mapping[str, NDArray[np.float64]], halves: HalfSamples | None
) -> None:
    """Write the scores of each query, and in halves of the images."""
    with (folder / FILE).open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **per_query)
    if halves is not None:
        halves.save(folder / HALVES)


def read_line(folder: Path, scores: Mapping[str, float]) -> Line:
    """Read what `write_line` wrote."""
    with np.load(folder / FILE, allow_pickle=False) as npz:
        per_query = {name: npz[name] for name in npz.files}
    path = folder / HALVES
    return Line(scores, per_query, HalfSamples.load(path) if path.exists() else None)
