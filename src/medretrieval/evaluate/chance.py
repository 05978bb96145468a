"""What a random ranking of this gallery would score: in closed form, exactly by votes, else drawn."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import EvaluationConfig
from medretrieval.evaluate import random_votes
from medretrieval.evaluate.closed_forms import RandomRanking, first_hit_by_rank
from medretrieval.evaluate.query_results import QueryResults, ideal_gains, label_type
from medretrieval.evaluate.score_table import MACRO, ReportedScore, find, reported_scores
from medretrieval.protocol.ranking import class_members
from medretrieval.protocol.task import RetrievalTask

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
TARGET_ERROR = 0.0015  # standard error of a drawn chance
TARGET_RANK_ERROR = 0.005  # standard error of a drawn chance that is a rank, as a share of it
ROUNDS_AT_ONCE, MAX_ROUNDS = 25, 1000  # of drawing a ranking for every query
STACKED_ROWS = 65_536  # results of queries that are looked at in one go


def random_ranking(task: RetrievalTask, ideals: Mapping[int, Floats]) -> RandomRanking:
    """What the expectations of a task depend on.

    Args:
        task: who queries whom.
        ideals: as `query_results.ideal_gains`.
    """
    if not task.is_graded:
        return RandomRanking(task.n_relevant, task.n_candidates)
    gain = task.relevance.mean_gain(task.queries.labels, task.gallery.labels, task.exclusions)
    return RandomRanking(task.n_relevant, task.n_candidates, ideals, gain)


def expected(reported: Iterable[ReportedScore], ranking: RandomRanking) -> dict[str, Floats]:
    """Expected scores of a random ranking, for each query.

    Args:
        reported: scores of a run.
        ranking: what they depend on.

    Returns:
        Under its name every score that has a closed form; float64 [q] each, without meaning (mostly NaN)
        for a query with R = 0.
    """
    return {name: score.chance(ranking, k) for name, score, k in reported if score.chance is not None}


def by_depth(score: str, ks: list[int], n_relevant: Counts, n_candidates: Counts) -> Floats:
    """Expected score of a random ranking at every depth, for each query (float64 [q, ks]).

    Args:
        score: "precision", "recall" or another that has a depth and a closed form.
        ks: depths.
        n_relevant: R of each query, int64 [q]; a row of NaN where it is 0.
        n_candidates: items each query can find, int64 [q].
    """
    entry = find(f"{score}_at_{ks[0]}")
    assert entry is not None
    assert entry.chance is not None
    ranking = RandomRanking(n_relevant, n_candidates)
    return np.stack([entry.chance(ranking, k) for k in ks], axis=1)


class Estimate(NamedTuple):
    """The expectation of a score under random rankings, and its standard error: 0 where it is exact."""

    value: float
    error: float


def without_closed_form(
    task: RetrievalTask, vote_distances: NDArray[np.float32], config: EvaluationConfig, seed: int
) -> dict[str, Estimate]:
    """What random rankings score on average, for the scores whose chance does not depend on R and N alone.

    Votes are exact where that is quick (`random_votes`); for the rest random rankings are drawn until every
    standard error is at most TARGET_ERROR, or MAX_ROUNDS times. The same holds of scores of ranks.

    Args:
        task: who queries whom.
        vote_distances: float32 [q, depth], at which the real neighbors that vote stand; the drawn ones take
            them over, so that they weigh alike.
        config: depths of the scores and of the vote.
        seed: the same seed draws the same rankings.

    Returns:
        Every such score, and the mean over classes of those that each query has.
    """
    kept = np.flatnonzero(task.n_relevant > 0)
    if not len(kept):
        return {}
    reported = reported_scores(config.ks, label_type(task))
    of_ranks = {r.name: r.score.of_ranks for r in reported if r.score.of_ranks is not None}
    ranks = {name: _of_ranks(task, kept, score, seed) for name, score in of_ranks.items()}
    wanted = [r for r in reported if r.score.is_drawn]
    if not wanted:
        return ranks
    members = class_members(task.queries.labels[kept])
    exact = _exact_votes(task, kept, vote_distances, config, members)
    found = {name: Estimate(value, 0.0) for name, value in exact.items()}
    drawn = [reported for reported in wanted if reported.name not in exact]
    return ranks | found | (_by_drawing(task, drawn, vote_distances, config, seed) if drawn else {})


def _of_ranks(task: RetrievalTask, kept: Counts, score: Callable[[Floats], float], seed: int) -> Estimate:
    """A median of ranks of random rankings, one ranking a query, exactly where each has one image to find.

    There a rank is as likely as n + 1 minus it, so the median is expected in the middle.
    """
    relevant, candidates = task.n_relevant[kept], task.n_candidates[kept]
    if (relevant == 1).all() and (candidates == candidates[0]).all():
        return Estimate(float(candidates[0] + 1) / 2, 0.0)
    both, back = np.unique(np.stack([relevant, candidates], axis=1), axis=0, return_inverse=True)
    reached = [first_hit_by_rank(int(r), int(n)) for r, n in both]
    rows = [np.flatnonzero(back.reshape(-1) == i) for i in range(len(both))]
    rng, drawn, ranks = np.random.default_rng(seed), list[float](), np.zeros(len(kept))
    while True:
        for _ in range(ROUNDS_AT_ONCE):
            for mine, shares in zip(rows, reached, strict=True):
                ranks[mine] = 1 + np.searchsorted(shares, rng.random(len(mine)), side="right")
            drawn.append(score(ranks))
        error = float(np.std(drawn, ddof=1) / np.sqrt(len(drawn)))
        if len(drawn) >= MAX_ROUNDS or error <= TARGET_RANK_ERROR * np.mean(drawn):
            return Estimate(float(np.mean(drawn)), error)


def _exact_votes(
    task: RetrievalTask,
    kept: Counts,
    vote_distances: NDArray[np.float32],
    config: EvaluationConfig,
    members: NDArray[np.bool_],
) -> dict[str, float]:
    if task.queries.labels.ndim == 2:
        return {}
    counts, own = random_votes.class_counts(task, kept), task.queries.labels[kept].astype(np.int64)
    distances = vote_distances[kept, : config.vote_k]
    votes = random_votes.majority_votes(counts, own, config.ks) or {}
    means: dict[str, float] = {}
    for k, values in votes.items():
        means |= _over_queries(f"majority_vote_at_{k}", values, members)
    means["vote_brier"] = float(random_votes.brier_scores(counts, own, distances).mean())
    right = random_votes.weighted_votes(counts, own, distances)
    if right is not None:
        means |= _over_queries("vote_accuracy", right, members)
        means["vote_balanced_accuracy"] = means[f"{MACRO}vote_accuracy"]
    return means


def _over_queries(name: str, values: Floats, members: NDArray[np.bool_]) -> dict[str, float]:
    """The mean over queries, and over classes of the class means."""
    some = members[:, members.any(axis=0)]
    by_class = values @ some / some.sum(axis=0)
    return {name: float(values.mean()), MACRO + name: float(by_class.mean())}


def _by_drawing(
    task: RetrievalTask,
    drawn: list[ReportedScore],
    vote_distances: NDArray[np.float32],
    config: EvaluationConfig,
    seed: int,
) -> dict[str, Estimate]:
    kept = np.flatnonzero(task.n_relevant > 0)
    depth = min(max(*config.ks, config.vote_k), task.max_depth)
    exclusions, ideals = task.exclusions.for_rows(kept), ideal_gains(task, config.ks)
    members, rng = class_members(task.queries.labels[kept]), np.random.default_rng(seed)
    together, rounds = max(1, min(ROUNDS_AT_ONCE, STACKED_ROWS // len(kept))), list[dict[str, float]]()
    while True:
        for begin in range(0, ROUNDS_AT_ONCE, together):
            n = min(together, ROUNDS_AT_ONCE - begin)
            # Side by side they are looked at in one go, which for few queries is many times quicker.
            ids = np.concatenate([exclusions.random_results(rng, len(kept), depth) for _ in range(n)])
            rows, distances = np.tile(kept, n), np.tile(vote_distances[kept], (n, 1))
            stacked = QueryResults(task, rows, ids, distances, config.vote_k, ideals)
            rounds += _means(drawn, stacked, members)
        table = np.array([list(means.values()) for means in rounds])
        errors = table.std(axis=0, ddof=1) / np.sqrt(len(table))
        if len(rounds) >= MAX_ROUNDS or errors.max(initial=0) <= TARGET_ERROR:
            ends = zip(rounds[0], table.mean(axis=0), errors, strict=True)
            return {name: Estimate(float(value), float(error)) for name, value, error in ends}


def _means(
    drawn: list[ReportedScore], stacked: QueryResults, members: NDArray[np.bool_]
) -> list[dict[str, float]]:
    """Means over queries and over classes of each of some rounds of drawing, whose results are stacked."""
    n = len(members)
    rounds = [slice(begin, begin + n) for begin in range(0, len(stacked.ids), n)]
    means: list[dict[str, float]] = [{} for _ in rounds]
    for name, score, k in drawn:
        if score.of_query is not None:
            values = score.of_query(stacked, k)
            for found, rows in zip(means, rounds, strict=True):
                found |= _over_queries(name, values[rows], members)
        elif score.of_votes is not None:
            for found, rows in zip(means, rounds, strict=True):
                value = score.of_votes(stacked.vote.of_rows(rows), stacked.query_classes[rows])
                found |= {} if value is None else {name: value}
    return means
