"""Stage 3, evaluate: search, score every query, and keep what is needed to judge the means."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medretrieval import chance, scores
from medretrieval.config import EvaluationConfig
from medretrieval.datasets.base import Split
from medretrieval.errors import UserError
from medretrieval.ranking import Ranking, class_members, drop_own, hits, own_positions, relevant_counts
from medretrieval.vote import Vote, abstention_curve, vote, vote_scores

# Cells of a chunk [queries, depth]: about 200 MB at the peak of scoring.
CHUNK_CELLS = 4_000_000
Search = Callable[[int, int], tuple[NDArray[np.int64], NDArray[np.float32]]]


@dataclass(frozen=True)
class Task:
    """Who queries whom: everything about a protocol that scores depend on.

    Attributes:
        queries, gallery: the two splits (the same one for leave_one_out).
        own: each query's position in the gallery, -1 where it is not there or not excluded; int64 [q].
        relevant: R of each query, int64 [q].
        size: items each query can find, int64 [q].
    """

    queries: Split
    gallery: Split
    own: NDArray[np.int64]
    relevant: NDArray[np.int64]
    size: NDArray[np.int64]

    @classmethod
    def of(cls, queries: Split, gallery: Split, exclude_self: bool) -> "Task":
        """Derive the counts from two splits."""
        own = np.full(len(queries), -1)
        if exclude_self:
            own = own_positions(queries.ids, gallery.ids)
        relevant = relevant_counts(queries.labels, gallery.labels, own)
        return cls(queries, gallery, own, relevant, len(gallery) - (own >= 0).astype(np.int64))

    @property
    def excludes(self) -> bool:
        """Whether any query is in the gallery and left out of its results."""
        return bool((self.own >= 0).any())

    @property
    def reach(self) -> int:
        """Results that every query can have."""
        return int(self.size.min())


@dataclass(frozen=True)
class Evaluation:
    """What a run found.

    Attributes:
        scores: means over the queries with R > 0, macro means over classes, `chance_precision`.
        chance: expectation of a random ranking, under the names of the scores.
        abstention: accuracy of the neighbours' vote by the share of queries answered; empty for
            multi-label data.
        per_query: each score of each query, float64 [q]; NaN for a query with R = 0.
        ranking: the first `save_depth` results.
        counts: queries, gallery, depth, queries_without_relevant, missing_results.
        search_s: seconds spent searching.
        score_s: seconds spent scoring.
    """

    scores: dict[str, float]
    chance: dict[str, float]
    abstention: dict[str, list[float]]
    per_query: dict[str, NDArray[np.float64]]
    ranking: Ranking
    counts: dict[str, int]
    search_s: float
    score_s: float


def require_depths(task: Task, config: EvaluationConfig) -> None:
    """Refuse depths that this gallery cannot fill.

    Raises:
        UserError: a k larger than what a query can find.
    """
    if max(config.ks) > task.reach:
        raise UserError(
            f"evaluation.ks={config.ks}: k={max(config.ks)} is larger than the {task.reach} images of split "
            f"{task.gallery.name!r} that a query can find; at most {task.reach}"
        )


def score_names(ks: list[int], multi_label: bool) -> list[str]:
    """Every score a run can have, without the macro means."""
    kinds = ["precision", "recall", "hit_rate", "map", "ndcg"] + ([] if multi_label else ["majority_vote"])
    names = [f"{kind}_at_{k}" for kind in kinds for k in ks] + [f"map_at_{k}_hits" for k in ks]
    names += [] if multi_label else ["vote_accuracy"]
    return [*names, "map", "map_at_r", "r_precision", "mrr"]


def objective_name(config: EvaluationConfig, multi_label: bool) -> str:
    """The score that the command returns: the configured one, or precision at the middle depth.

    Raises:
        UserError: no score of this name.
    """
    if config.objective is None:
        return f"precision_at_{config.ks[len(config.ks) // 2]}"
    names = score_names(config.ks, multi_label)
    if config.objective.removeprefix("macro_") not in names:
        raise UserError(
            f"evaluation.objective={config.objective}: no such score; choose from (also with macro_ before "
            f"it): {', '.join(names)}"
        )
    return config.objective


def evaluate(search: Search, task: Task, depth: int, config: EvaluationConfig) -> Evaluation:
    """Search and score all queries in chunks of bounded memory.

    Full-depth scores are computed where the ranking is deep enough for their definition, and left out
    where it is not: `map` wants the whole gallery, `map_at_r` and `r_precision` the largest R, `mrr` a
    hit for every query.

    Args:
        search: (begin, end) of the queries -> ids int64 and distances float32 [end - begin, depth],
            the query itself included.
        task: who queries whom.
        depth: results a query after the query itself is left out.
        config: score depths and saved depth.
    """
    clock = {"search": 0.0, "score": 0.0}
    parts: list[dict[str, NDArray[np.float64]]] = []
    votes: list[Vote] = []
    kept: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
    missing, save = 0, config.save_depth or depth
    for begin, end in _chunks(len(task.queries), depth):
        start = time.perf_counter()
        ids, distances = search(begin, end)
        if task.excludes:
            ids, distances = drop_own(ids, distances, task.own[begin:end])
        searched = time.perf_counter()
        parts.append(_score(ids, task, slice(begin, end), config.ks))
        if task.queries.labels.ndim == 1:
            votes.append(_vote(ids[:, : config.vote_k], distances[:, : config.vote_k], task))
        kept.append((ids[:, :save].copy(), distances[:, :save].copy()))
        missing += int((ids[:, : max(config.ks)] < 0).sum())
        clock["search"] += searched - start
        clock["score"] += time.perf_counter() - searched
    per_query = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    voted, abstention = _voted(votes, task)
    if votes:
        per_query["vote_accuracy"] = (
            np.concatenate([v.predicted for v in votes]) == task.queries.labels
        ) * 1.0
    _drop_shallow(per_query, depth, task)
    _drop_irrelevant(per_query, task.relevant)
    random = chance.expected(config.ks, task.relevant, task.size)
    means = {"chance_precision": random.pop("chance_precision")} if random else {}
    return Evaluation(
        scores=_means(per_query, task) | voted | means,
        chance={name: random[name] for name in random if name in per_query},
        abstention=abstention,
        per_query=per_query,
        ranking=_ranking(kept, task),
        counts={
            "queries": len(task.queries),
            "gallery": len(task.gallery),
            "depth": depth,
            "queries_without_relevant": int((task.relevant == 0).sum()),
            "missing_results": missing,
        },
        search_s=clock["search"],
        score_s=clock["score"],
    )


def _chunks(queries: int, depth: int) -> Iterator[tuple[int, int]]:
    step = max(1, CHUNK_CELLS // (depth + 1))
    yield from ((begin, min(begin + step, queries)) for begin in range(0, queries, step))


def _score(ids: NDArray[np.int64], task: Task, rows: slice, ks: list[int]) -> dict[str, NDArray[np.float64]]:
    labels, relevant = task.queries.labels[rows], task.relevant[rows]
    h = hits(ids, labels, task.gallery.labels)
    result: dict[str, NDArray[np.float64]] = {}
    for k in ks:
        result |= {
            f"precision_at_{k}": scores.precision_at(h, k),
            f"recall_at_{k}": scores.recall_at(h, relevant, k),
            f"hit_rate_at_{k}": scores.hit_rate_at(h, k),
            f"map_at_{k}": scores.average_precision_at(h, relevant, k),
            f"map_at_{k}_hits": scores.average_precision_at_hits(h, k),
            f"ndcg_at_{k}": scores.ndcg_at(h, relevant, k),
        }
        if labels.ndim == 1:
            top = ids[:, :k]
            results = np.where(top < 0, -1, task.gallery.labels[top])
            result[f"majority_vote_at_{k}"] = scores.majority_vote_at(results, labels.astype(np.int64), k)
    return result | {
        "map": scores.average_precision(h, relevant),
        "map_at_r": scores.average_precision_at_r(h, relevant),
        "r_precision": scores.r_precision(h, relevant),
        "mrr": scores.reciprocal_rank(h),
    }


def _ranking(kept: list[tuple[NDArray[np.int64], NDArray[np.float32]]], task: Task) -> Ranking:
    return Ranking(
        query_ids=task.queries.ids,
        gallery_ids=task.gallery.ids,
        query_labels=task.queries.labels,
        gallery_labels=task.gallery.labels,
        ids=np.concatenate([ids for ids, _ in kept]),
        distances=np.concatenate([distances for _, distances in kept]),
    )


def _vote(ids: NDArray[np.int64], distances: NDArray[np.float32], task: Task) -> Vote:
    classes = int(max(task.queries.labels.max(), task.gallery.labels.max())) + 1
    return vote(np.where(ids < 0, -1, task.gallery.labels[ids]), distances, classes)


def _voted(votes: list[Vote], task: Task) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Scores and abstention curve of the votes of all queries that have something to find."""
    kept = task.relevant > 0
    if not votes or not kept.any():
        return {}, {}
    cast = Vote(
        np.concatenate([v.probabilities for v in votes])[kept],
        np.concatenate([v.predicted for v in votes])[kept],
    )
    labels = task.queries.labels[kept].astype(np.int64)
    return vote_scores(cast, labels), abstention_curve(cast, labels)


def _drop_shallow(per_query: dict[str, NDArray[np.float64]], depth: int, task: Task) -> None:
    if depth < task.reach:
        del per_query["map"]
    if depth < task.relevant.max():
        del per_query["map_at_r"], per_query["r_precision"]
    if depth < task.reach and (per_query["mrr"][task.relevant > 0] == 0).any():
        del per_query["mrr"]


def _drop_irrelevant(per_query: dict[str, NDArray[np.float64]], relevant: NDArray[np.int64]) -> None:
    for values in per_query.values():
        values[relevant == 0] = np.nan


def _means(per_query: dict[str, NDArray[np.float64]], task: Task) -> dict[str, float]:
    kept = task.relevant > 0
    if not kept.any():
        return {}
    result = {name: float(values[kept].mean()) for name, values in per_query.items()}
    members = class_members(task.queries.labels) & kept[:, None]
    members = members[:, members.any(axis=0)]
    for name, values in per_query.items():
        by_class = np.nan_to_num(values) @ members / members.sum(axis=0)
        result[f"macro_{name}"] = float(by_class.mean())
    return result
