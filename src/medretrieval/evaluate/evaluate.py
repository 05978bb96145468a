"""Stage 3, evaluate: search, score every query, and keep what is needed to judge the means."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import EvaluationConfig
from medretrieval.errors import UserError
from medretrieval.evaluate import chance, scores
from medretrieval.evaluate.knn_vote import Vote, abstention_curve, vote, vote_scores
from medretrieval.protocol.ranking import Ranking, class_members
from medretrieval.protocol.task import RetrievalTask

# Raised when the same ranking would get other scores, other votes, or scores of other names.
SCORING_FORMAT = 1
# Cells of a chunk [queries, depth]: about 200 MB at the peak of scoring.
CHUNK_CELLS = 4_000_000
Search = Callable[[slice, int], tuple[NDArray[np.int64], NDArray[np.float32]]]


@dataclass(frozen=True)
class Evaluation:
    """What a run found.

    Attributes:
        scores: means over the queries with R > 0, macro means over classes, `chance_precision`.
        chance: expectation of a random ranking, under the names of the scores that have a closed form.
        abstention: accuracy of the neighbors' vote by the share of queries answered; empty for
            multi-label data.
        vote: the neighbors' vote on every query; None for multi-label data.
        per_query: each score of each query, float64 [q]; NaN for a query with R = 0.
        vote_distances: of the neighbors that vote, float32 [q, at most vote_k].
        ranking: the first `save_depth` results.
        counts: queries, gallery, depth, queries_without_relevant, missing_results.
        search_s: seconds spent searching.
        score_s: seconds spent scoring.
    """

    scores: dict[str, float]
    chance: dict[str, float]
    abstention: dict[str, list[float]]
    vote: Vote | None
    per_query: dict[str, NDArray[np.float64]]
    vote_distances: NDArray[np.float32]
    ranking: Ranking
    counts: dict[str, int]
    search_s: float
    score_s: float


def require_depths(task: RetrievalTask, config: EvaluationConfig) -> None:
    """Refuse depths that this gallery cannot fill.

    Raises:
        UserError: a k larger than what a query can find.
    """
    if max(config.ks) > task.max_depth:
        raise UserError(
            f"evaluation.ks={config.ks}: k={max(config.ks)} is larger than the {task.max_depth} images of "
            f"split {task.gallery.name!r} that a query can find; at most {task.max_depth}"
        )


def score_names(ks: list[int], multi_label: bool, graded: bool) -> list[str]:
    """Every score a run can have, without the macro means."""
    kinds = ["precision", "recall", "hit_rate", "map", "ndcg"] + ([] if multi_label else ["majority_vote"])
    kinds += ["graded_ndcg"] if graded else []
    names = [f"{kind}_at_{k}" for kind in kinds for k in ks] + [f"map_at_{k}_hits" for k in ks]
    names += [] if multi_label else ["vote_accuracy"]
    return [*names, "map", "map_at_r", "r_precision", "mrr"]


def objective_name(config: EvaluationConfig, task: RetrievalTask) -> str:
    """The score that the command returns: the configured one, or precision at the middle depth.

    Raises:
        UserError: no score of this name.
    """
    if config.objective is None:
        return f"precision_at_{config.ks[len(config.ks) // 2]}"
    names = score_names(config.ks, task.queries.labels.ndim == 2, task.is_graded)
    if config.objective.removeprefix("macro_") not in names:
        raise UserError(
            f"evaluation.objective={config.objective}: no such score; choose from (also with macro_ before "
            f"it): {', '.join(names)}"
        )
    return config.objective


def evaluate(search: Search, task: RetrievalTask, depth: int, config: EvaluationConfig) -> Evaluation:
    """Search and score all queries in chunks of bounded memory.

    Full-depth scores are computed where the ranking is deep enough for their definition, and left out
    where it is not: `map` wants the whole gallery, `map_at_r` and `r_precision` the largest R, `mrr` a
    hit for every query.

    Args:
        search: rows of the queries, results a query -> ids int64 and distances float32, nothing left out.
        task: who queries whom.
        depth: results a query after what the task leaves out.
        config: score depths and saved depth.
    """
    search_s, score_s = 0.0, 0.0
    parts: list[_Part] = []
    ideal = task.ideal(config.ks) if task.is_graded else None
    for rows in _chunks(len(task.queries), depth + task.exclusions.overfetch):
        start = time.perf_counter()
        found = search(rows, depth + task.exclusions.overfetch)
        searched = time.perf_counter()
        parts.append(_part(*task.exclusions.remove(*found, rows), task, rows, config, ideal))
        search_s += searched - start
        score_s += time.perf_counter() - searched
    per_query = {name: np.concatenate([part.scores[name] for part in parts]) for name in parts[0].scores}
    cast = _joined([part.vote for part in parts if part.vote is not None])
    voted, abstention = _voted(cast, task)
    if cast is not None:
        per_query["vote_accuracy"] = (cast.predicted == task.queries.labels) * 1.0
    _drop_shallow(per_query, depth, task)
    _drop_irrelevant(per_query, task.n_relevant)
    random = _chance(task, config.ks, ideal)
    means = {name: random.pop(name) for name in ("chance_precision",) if name in random}
    return Evaluation(
        scores=_means(per_query, task) | voted | means,
        chance={name: random[name] for name in random if name.removeprefix("macro_") in per_query},
        abstention=abstention,
        vote=cast,
        per_query=per_query,
        vote_distances=np.concatenate([part.voting for part in parts]),
        ranking=_ranking(parts, task),
        counts={
            "queries": len(task.queries),
            "gallery": len(task.gallery),
            "depth": depth,
            "queries_without_relevant": int((task.n_relevant == 0).sum()),
            "missing_results": sum(part.missing for part in parts),
        },
        search_s=search_s,
        score_s=score_s,
    )


@dataclass(frozen=True)
class _Part:
    """A chunk of the queries: scores, the vote (None for several findings), and the results that are kept."""

    scores: dict[str, NDArray[np.float64]]
    vote: Vote | None
    ids: NDArray[np.int64]
    distances: NDArray[np.float32]
    voting: NDArray[np.float32]
    missing: int


def _part(
    ids: NDArray[np.int64],
    distances: NDArray[np.float32],
    task: RetrievalTask,
    rows: slice,
    config: EvaluationConfig,
    ideal: NDArray[np.float64] | None,
) -> _Part:
    scored, k = _score(ids, task, rows, config.ks), config.vote_k
    if ideal is not None:
        scored |= _graded(ids, task, rows, config.ks, ideal)
    save = config.save_depth or ids.shape[1]
    return _Part(
        scored,
        _vote(ids[:, :k], distances[:, :k], task) if task.queries.labels.ndim == 1 else None,
        ids[:, :save].copy(),  # copies, so that the chunk itself can go
        distances[:, :save].copy(),
        distances[:, :k].copy(),
        int((ids[:, : max(config.ks)] < 0).sum()),
    )


def _chunks(queries: int, depth: int) -> Iterator[slice]:
    step = max(1, CHUNK_CELLS // max(1, depth))
    yield from (slice(begin, min(begin + step, queries)) for begin in range(0, queries, step))


def _score(
    ids: NDArray[np.int64], task: RetrievalTask, rows: slice, ks: list[int]
) -> dict[str, NDArray[np.float64]]:
    labels, relevant = task.queries.labels[rows], task.n_relevant[rows]
    h = task.relevance.hits(ids, labels, task.gallery.labels)
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


def _graded(
    ids: NDArray[np.int64], task: RetrievalTask, rows: slice, ks: list[int], ideal: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    gains = task.relevance.gains(ids[:, : max(ks)], task.queries.labels[rows], task.gallery.labels)
    return {f"graded_ndcg_at_{k}": scores.graded_ndcg_at(gains, ideal[rows, i], k) for i, k in enumerate(ks)}


def _chance(task: RetrievalTask, ks: list[int], ideal: NDArray[np.float64] | None) -> dict[str, float]:
    """Closed-form expectations of a random ranking, as means over queries and over classes."""
    per_query = chance.expected(ks, task.n_relevant, task.n_candidates)
    if ideal is not None:
        gain = task.relevance.mean_gain(task.queries.labels, task.gallery.labels, task.exclusions)
        per_query |= chance.expected_graded(ks, ideal, gain, task.n_candidates)
    return _means(per_query, task)


def _ranking(parts: list[_Part], task: RetrievalTask) -> Ranking:
    return Ranking(
        query_ids=task.queries.ids,
        gallery_ids=task.gallery.ids,
        query_labels=task.queries.labels,
        gallery_labels=task.gallery.labels,
        ids=np.concatenate([part.ids for part in parts]),
        distances=np.concatenate([part.distances for part in parts]),
    )


def _vote(ids: NDArray[np.int64], distances: NDArray[np.float32], task: RetrievalTask) -> Vote:
    classes = int(max(task.queries.labels.max(), task.gallery.labels.max())) + 1
    return vote(np.where(ids < 0, -1, task.gallery.labels[ids]), distances, classes)


def _joined(votes: list[Vote]) -> Vote | None:
    """The votes of all chunks as one; None where nobody votes."""
    if not votes:
        return None
    return Vote(
        np.concatenate([v.probabilities for v in votes]), np.concatenate([v.predicted for v in votes])
    )


def _voted(cast: Vote | None, task: RetrievalTask) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Scores and abstention curve of the votes on all queries that have something to find."""
    kept = task.n_relevant > 0
    if cast is None or not kept.any():
        return {}, {}
    cast = Vote(cast.probabilities[kept], cast.predicted[kept])
    labels = task.queries.labels[kept].astype(np.int64)
    return vote_scores(cast, labels), abstention_curve(cast, labels)


def _drop_shallow(per_query: dict[str, NDArray[np.float64]], depth: int, task: RetrievalTask) -> None:
    if depth < task.max_depth:
        del per_query["map"]
    if depth < task.n_relevant.max():
        del per_query["map_at_r"], per_query["r_precision"]
    if depth < task.max_depth and (per_query["mrr"][task.n_relevant > 0] == 0).any():
        del per_query["mrr"]


def _drop_irrelevant(per_query: dict[str, NDArray[np.float64]], relevant: NDArray[np.int64]) -> None:
    for values in per_query.values():
        values[relevant == 0] = np.nan


def _means(per_query: dict[str, NDArray[np.float64]], task: RetrievalTask) -> dict[str, float]:
    """Means over the queries that have something to find, and over classes of the class means."""
    kept = task.n_relevant > 0
    if not kept.any():
        return {}
    values = np.stack([column[kept] for column in per_query.values()])
    members = class_members(task.queries.labels[kept]).astype(np.float64)
    members = members[:, members.any(axis=0)]
    plain = values.mean(axis=1)
    macro = (values @ members / members.sum(axis=0)).mean(axis=1)
    result = {name: float(mean) for name, mean in zip(per_query, plain, strict=True)}
    return result | {f"macro_{name}": float(mean) for name, mean in zip(per_query, macro, strict=True)}
