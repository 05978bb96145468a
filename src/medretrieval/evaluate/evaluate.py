"""Stage 3, evaluate: search, score every query, and keep what is needed to judge the means."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import EvaluationConfig
from medretrieval.errors import UserError, suggestion
from medretrieval.evaluate import chance
from medretrieval.evaluate.knn_vote import Vote, abstention_curve
from medretrieval.evaluate.query_results import QueryResults, ideal_gains, label_type
from medretrieval.evaluate.score_table import (
    MACRO,
    MAP_DEPTH,
    Needs,
    ReportedScore,
    less_is_better,
    query_scores,
    reported_scores,
)
from medretrieval.evaluate.scores import first_rank
from medretrieval.protocol.ranking import Ranking, class_members
from medretrieval.protocol.task import RetrievalTask

MAX_DEEP_CELLS = 2_000_000  # queries times results that halves look at in every split: some 10 s in all
# Raised when the same ranking would get other scores, other votes, or scores of other names.
SCORING_FORMAT = 2
# Cells of a chunk [queries, depth]: about 200 MB at the peak of scoring.
CHUNK_CELLS = 4_000_000
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
T = TypeVar("T")
Search = Callable[[slice, int], tuple[Ints, NDArray[np.float32]]]


@dataclass(frozen=True)
class DeepResults:
    """The results of every query, as deep as halves of the images (`uncertainty.half_samples`) want them.

    Attributes:
        ids: int64 [n, depth] positions in the gallery, -1 for a missing result.
        distances: float32 [n, depth].
        whole: whether they cover all that a query can find.
    """

    ids: Ints
    distances: NDArray[np.float32]
    whole: bool


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
        deep: the results as deep as halves of the images want them; None where the gallery is held fixed.
        counts: queries, gallery, depth, queries_without_relevant, missing_results.
        search_s: seconds spent searching.
        score_s: seconds spent scoring.
    """

    scores: dict[str, float]
    chance: dict[str, float]
    abstention: dict[str, list[float]]
    vote: Vote | None
    per_query: dict[str, Floats]
    vote_distances: NDArray[np.float32]
    ranking: Ranking
    deep: DeepResults | None
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


def objective_name(config: EvaluationConfig, task: RetrievalTask) -> str:
    """The score that the command returns: the configured one, or precision at the middle depth.

    Where captions ask it is recall, because a caption may have one image to find.

    Raises:
        UserError: no score of this name, or one of which less is better.
    """
    if config.objective is None:
        return f"{'precision' if task.by_class else 'recall'}_at_{config.ks[len(config.ks) // 2]}"
    # Sweepers and the choice of a best run look for the largest value.
    names = [name for name in query_scores(config.ks, label_type(task)) if not less_is_better(name)]
    if config.objective.removeprefix(MACRO) not in names:
        raise UserError(
            f"evaluation.objective={config.objective}: no score that can be the objective; "
            f"{suggestion(config.objective, names)}choose from (also with {MACRO} before it): "
            f"{', '.join(names)}"
        )
    return config.objective


def evaluate(search: Search, task: RetrievalTask, depth: int, config: EvaluationConfig) -> Evaluation:
    """Search and score all queries in chunks of bounded memory.

    A score is left out where the ranking is not as deep as its entry in the table needs.

    Args:
        search: rows of the queries, results a query -> ids int64 and distances float32, nothing left out.
        task: who queries whom.
        depth: results a query after what the task leaves out.
        config: score depths and saved depth.
    """
    plan = _Plan(task, depth, config)
    chunks: list[_Chunk] = []
    search_s, score_s = 0.0, 0.0
    for rows in plan.chunks():
        start = time.perf_counter()
        ids, distances = search(rows, depth + task.exclusions.overfetch)
        searched = time.perf_counter()
        chunks.append(plan.score(rows, *task.exclusions.remove(ids, distances, rows)))
        search_s += searched - start
        score_s += time.perf_counter() - searched
    per_query = _per_query(plan, chunks)
    cast = _votes(chunks)
    of_votes, abstention = _of_votes(plan, cast)
    of_ranks = _of_ranks(plan, chunks)
    lines, random = _chance(plan)
    return Evaluation(
        scores=_means(per_query, task) | of_ranks | of_votes | lines,
        chance={name: random[name] for name in random if name.removeprefix(MACRO) in per_query},
        abstention=abstention,
        vote=cast,
        per_query=per_query,
        vote_distances=np.concatenate([chunk.vote_distances for chunk in chunks]),
        ranking=_ranking(chunks, task),
        deep=_deep(plan, chunks),
        counts={
            "queries": len(task.queries),
            "gallery": len(task.gallery),
            "depth": depth,
            "queries_without_relevant": int((task.n_relevant == 0).sum()),
            "missing_results": sum(chunk.missing for chunk in chunks),
        },
        search_s=search_s,
        score_s=score_s,
    )


def with_score(shallow: Evaluation, deep: Evaluation, name: str) -> Evaluation:
    """An evaluation with one score, and its mean over classes, of a deeper search of the same task."""
    names = {name, f"{MACRO}{name}"}

    def joined(kept: Mapping[str, T], added: Mapping[str, T]) -> dict[str, T]:
        """In the order of the deeper search, which has all scores that a shallower one has."""
        return {n: kept.get(n, value) for n, value in added.items() if n in kept or n in names}

    return replace(
        shallow,
        scores=joined(shallow.scores, deep.scores),
        chance=joined(shallow.chance, deep.chance),
        per_query=joined(shallow.per_query, deep.per_query),
        search_s=shallow.search_s + deep.search_s,
        score_s=shallow.score_s + deep.score_s,
    )


@dataclass(frozen=True)
class _Chunk:
    """Some of the queries: scores, ranks, the vote (None where nobody votes) and the results kept."""

    scores: dict[str, Floats]
    first_ranks: Floats
    vote: Vote | None
    ids: Ints
    distances: NDArray[np.float32]
    vote_distances: NDArray[np.float32]
    deep_ids: Ints
    deep_distances: NDArray[np.float32]
    missing: int


@dataclass(frozen=True)
class _Plan:
    """What is to be scored, and how deep the ranking is."""

    task: RetrievalTask
    depth: int
    config: EvaluationConfig

    @cached_property
    def reported(self) -> list[ReportedScore]:
        """All that such a task can have."""
        return reported_scores(self.config.ks, label_type(self.task))

    @cached_property
    def of_query(self) -> list[ReportedScore]:
        """What each query has at this depth; of FIRST_HIT the ranking itself will tell."""
        return [r for r in self.reported if r.score.of_query and self._is_deep_enough(r.score.needs)]

    @cached_property
    def ideals(self) -> Mapping[int, Floats]:
        return ideal_gains(self.task, self.config.ks)

    @property
    def is_whole(self) -> bool:
        """Whether the ranking covers all that a query can find."""
        return self.depth >= self.task.max_depth

    @property
    def in_halves(self) -> bool:
        """Whether intervals come from halves of the images."""
        return self.task.in_halves(self.config.resample)

    @cached_property
    def deep_depth(self) -> int:
        """Results of each query that are kept for halves of the images."""
        if not self.in_halves:
            return 0
        return min(self.depth, MAX_DEEP_CELLS // len(self.task.queries))

    def _is_deep_enough(self, needs: Needs) -> bool:
        if needs is Needs.GALLERY:
            return self.is_whole
        if needs is Needs.FIRST_100:
            return self.depth >= min(MAP_DEPTH, self.task.max_depth)
        return needs is not Needs.LARGEST_R or self.depth >= self.task.n_relevant.max()

    def chunks(self) -> Iterator[slice]:
        """Rows of the queries, as many at once as memory allows."""
        queries = len(self.task.queries)
        step = max(1, CHUNK_CELLS // max(1, self.depth + self.task.exclusions.overfetch))
        yield from (slice(begin, min(begin + step, queries)) for begin in range(0, queries, step))

    def score(self, rows: slice, ids: Ints, distances: NDArray[np.float32]) -> _Chunk:
        """Score the results of some queries (ids and distances [rows, depth])."""
        k, save = self.config.vote_k, self.config.save_depth or ids.shape[1]
        results = QueryResults(self.task, rows, ids, distances, k, self.ideals)
        return _Chunk(
            {name: score.of_query(results, at) for name, score, at in self.of_query if score.of_query},
            first_rank(results.hits),
            results.vote if any(r.score.of_votes for r in self.reported) else None,
            ids[:, :save].copy(),  # copies, so that the chunk itself can go
            distances[:, :save].copy(),
            distances[:, :k].copy(),
            ids[:, : self.deep_depth].copy(),
            distances[:, : self.deep_depth].copy(),
            int((ids[:, : max(self.config.ks)] < 0).sum()),
        )


def _per_query(plan: _Plan, chunks: list[_Chunk]) -> dict[str, Floats]:
    """Scores of all queries, NaN where R = 0, without those for which a hit is missing."""
    found, kept = {}, plan.task.n_relevant > 0
    for name, score, _ in plan.of_query:
        values = np.concatenate([chunk.scores[name] for chunk in chunks])
        if score.needs is Needs.FIRST_HIT and not plan.is_whole and (values[kept] == 0).any():
            continue
        found[name] = np.where(kept, values, np.nan)
    return found


def _votes(chunks: list[_Chunk]) -> Vote | None:
    """The votes of all queries as one; None for multi-label data."""
    votes = [chunk.vote for chunk in chunks if chunk.vote is not None]
    if not votes:
        return None
    return Vote(
        np.concatenate([vote.probabilities for vote in votes]),
        np.concatenate([vote.predicted for vote in votes]),
    )


def _of_votes(plan: _Plan, votes: Vote | None) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Scores and abstention curve of the votes on all queries that have something to find."""
    kept = plan.task.n_relevant > 0
    if votes is None or not kept.any():
        return {}, {}
    counted = Vote(votes.probabilities[kept], votes.predicted[kept])
    labels = plan.task.queries.labels[kept].astype(np.int64)
    values = {name: score.of_votes(counted, labels) for name, score, _ in plan.reported if score.of_votes}
    return {name: v for name, v in values.items() if v is not None}, abstention_curve(counted, labels)


def _of_ranks(plan: _Plan, chunks: list[_Chunk]) -> dict[str, float]:
    """Scores of the ranks of all queries that have something to find, where the ranking is deep enough."""
    kept = plan.task.n_relevant > 0
    if not kept.any():
        return {}
    ranks = np.concatenate([chunk.first_ranks for chunk in chunks])[kept]
    values = {name: score.of_ranks(ranks) for name, score, _ in plan.reported if score.of_ranks}
    return {name: value for name, value in values.items() if np.isfinite(value)}


def _chance(plan: _Plan) -> tuple[dict[str, float], dict[str, float]]:
    """Closed-form expectations of a random ranking: those that are scores themselves, and all the others."""
    expected = chance.expected(plan.reported, chance.random_ranking(plan.task, plan.ideals))
    means = _means(expected, plan.task)
    lines = {name: means.pop(name) for name, score, _ in plan.reported if score.is_chance and name in means}
    return lines, means


def _ranking(chunks: list[_Chunk], task: RetrievalTask) -> Ranking:
    return Ranking(
        query_ids=task.queries.ids,
        gallery_ids=task.gallery.ids,
        query_labels=task.queries.labels,
        gallery_labels=task.gallery.labels,
        ids=np.concatenate([chunk.ids for chunk in chunks]),
        distances=np.concatenate([chunk.distances for chunk in chunks]),
    )


def _deep(plan: _Plan, chunks: list[_Chunk]) -> DeepResults | None:
    if not plan.in_halves:
        return None
    ids = np.concatenate([chunk.deep_ids for chunk in chunks])
    distances = np.concatenate([chunk.deep_distances for chunk in chunks])
    return DeepResults(ids, distances, plan.is_whole and plan.deep_depth == plan.depth)


def _means(per_query: Mapping[str, Floats], task: RetrievalTask) -> dict[str, float]:
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
    return result | {f"{MACRO}{name}": float(mean) for name, mean in zip(per_query, macro, strict=True)}
