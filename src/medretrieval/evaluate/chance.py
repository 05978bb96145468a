"""What a random ranking of this gallery would score: in closed form, and by drawing where there is none."""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import EvaluationConfig
from medretrieval.evaluate.closed_forms import RandomRanking
from medretrieval.evaluate.query_results import QueryResults, ideal_gains, label_type
from medretrieval.evaluate.score_table import MACRO, ReportedScore, find, reported_scores
from medretrieval.protocol.ranking import class_members
from medretrieval.protocol.task import RetrievalTask

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
DRAWS = 20_000  # of random rankings in all: a standard error of 0.4 points at most


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


def by_drawing(
    task: RetrievalTask, vote_distances: NDArray[np.float32], config: EvaluationConfig, seed: int
) -> dict[str, float]:
    """What random rankings score on average that are drawn: for the scores that have no closed form.

    Args:
        task: who queries whom.
        vote_distances: float32 [q, depth], at which the real neighbors that vote stand; the drawn ones take
            them over, so that they weigh alike.
        config: depths of the scores and of the vote.
        seed: the same seed draws the same rankings.

    Returns:
        Means over the rounds of drawing: every score, and the mean over classes of those that each query
        has.
    """
    kept = np.flatnonzero(task.n_relevant > 0)
    drawn = [r for r in reported_scores(config.ks, label_type(task)) if r.score.is_drawn]
    if not drawn or not len(kept):
        return {}
    depth = min(max(*config.ks, config.vote_k), task.max_depth)
    exclusions, ideals = task.exclusions.for_rows(kept), ideal_gains(task, config.ks)
    members, rng = class_members(task.queries.labels[kept]), np.random.default_rng(seed)
    rounds = []
    for _ in range(int(np.clip(DRAWS // len(kept), 5, 50))):
        ids = exclusions.random_results(rng, len(kept), depth)
        results = QueryResults(task, kept, ids, vote_distances[kept], config.vote_k, ideals)
        rounds.append(_means(drawn, results, members))
    return {name: float(np.mean([means[name] for means in rounds])) for name in rounds[0]}


def _means(drawn: list[ReportedScore], results: QueryResults, members: NDArray[np.bool_]) -> dict[str, float]:
    """Means over queries and over classes of one round of drawing."""
    means = {}
    for name, score, k in drawn:
        if score.of_query is not None:
            values = score.of_query(results, k)
            means[name] = float(values.mean())
            means[MACRO + name] = float((values @ members / members.sum(axis=0)).mean())
        elif score.of_votes is not None:
            value = score.of_votes(results.vote, results.query_classes)
            means |= {} if value is None else {name: value}
    return means
