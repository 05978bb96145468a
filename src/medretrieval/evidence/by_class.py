"""Precision of the queries of each class, with intervals, chance and the pixel baseline."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import Config
from medretrieval.evaluate.half_samples import MIN_UNITS, HalfSamples, share_interval
from medretrieval.evidence.bootstrap import Resampling, bca, bootstrap, enough
from medretrieval.evidence.failures import Outcome
from medretrieval.protocol.task import RetrievalTask

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ClassScores:
    """Precision at k of the queries of each class that has any with something to find.

    Attributes:
        k: the depth.
        names: of the classes.
        queries: of each class.
        mean: float64 [c].
        ends: low and high of its interval; None where one query (or group) leaves nothing to draw.
        chance: float64 [c], what a random ranking scores.
        baseline: float64 [c], what the baseline encoder scores; None for none.
    """

    k: int
    names: list[str]
    queries: list[int]
    mean: Floats
    ends: list[tuple[float, float] | None]
    chance: Floats
    baseline: Floats | None


def class_scores(
    settings: Config,
    task: RetrievalTask,
    outcome: Outcome,
    classes: Sequence[str],
    baseline: Floats | None,
    halves: HalfSamples | None,
) -> ClassScores:
    """Mean precision of each class with its interval.

    Args:
        settings: the run's configuration.
        task: who queries whom.
        outcome: the judged ranking.
        classes: names, label i being classes[i].
        baseline: precision at k of each query with the baseline encoder, float64 [q]; None for none.
        halves: the scores in halves of the images, where the queries are the gallery.
    """
    labels = task.queries.labels
    one_hot = labels if labels.ndim == 2 else labels[:, None] == np.arange(len(classes))
    members: NDArray[np.bool_] = one_hot.astype(np.bool_) & outcome.counted[:, None]
    there = np.flatnonzero(members.any(axis=0)).tolist()
    members = members[:, there]
    means = _means(outcome.precision, members)
    if task.queries_are_gallery:
        ends = _of_halves(settings, f"precision_at_{outcome.k}", means, members, halves)
    else:
        ends = _intervals(settings, task, outcome, members)
    random = task.n_relevant / task.n_candidates * np.minimum(outcome.k, task.n_candidates) / outcome.k
    return ClassScores(
        outcome.k,
        [classes[i] for i in there],
        members.sum(axis=0).tolist(),
        means,
        ends,
        _means(random, members),
        None if baseline is None else _means(baseline, members),
    )


def _means(values: Floats, members: NDArray[np.bool_]) -> Floats:
    found: Floats = np.nan_to_num(values) @ members / members.sum(axis=0)
    return found


def _of_halves(
    settings: Config, score: str, means: Floats, members: NDArray[np.bool_], halves: HalfSamples | None
) -> list[tuple[float, float] | None]:
    """Intervals where the queries are the gallery; None for a class of fewer than MIN_UNITS queries."""
    if halves is None or score not in halves.by_class or halves.by_class[score].shape[1] != len(means):
        return [None] * len(means)
    columns, confidence = halves.by_class[score].T, settings.evaluation.confidence
    return [
        share_interval(float(mean), column, halves.sides, confidence) if size >= MIN_UNITS else None
        for mean, column, size in zip(means, columns, members.sum(axis=0), strict=True)
    ]


def _intervals(
    settings: Config, task: RetrievalTask, outcome: Outcome, members: NDArray[np.bool_]
) -> list[tuple[float, float] | None]:
    """BCa intervals of the classes' means, each a ratio of two means under the draws of all queries."""
    resampling, groups = Resampling.from_settings(settings), task.queries.groups
    columns = members.shape[1]
    if not enough(outcome.precision, groups):
        return [None] * columns
    sides = np.hstack([outcome.precision[:, None] * members, members])
    sides[~outcome.counted] = np.nan
    drawn = bootstrap(sides, resampling, groups)
    found: list[tuple[float, float] | None] = []
    for i in range(columns):
        mean, replicates, jackknife = (
            side[..., i] / np.where(side[..., columns + i] > 0, side[..., columns + i], np.nan)
            for side in (drawn.means, drawn.replicates, drawn.jackknife)
        )
        if np.isnan(jackknife).any():  # one query, or one group, is all that the class has
            found.append(None)
            continue
        replicates = replicates[~np.isnan(replicates)]
        found.append(bca(float(mean), replicates, jackknife, resampling.confidence, float(mean)))
    return found
