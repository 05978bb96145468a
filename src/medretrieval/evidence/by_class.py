"""Precision of the queries of each class, with intervals, chance and the pixel baseline."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import Config
from medretrieval.evidence.failures import Outcome
from medretrieval.protocol.task import RetrievalTask
from medretrieval.uncertainty.bootstrap import Resampling, bootstrap, enough
from medretrieval.uncertainty.half_intervals import share_interval
from medretrieval.uncertainty.half_samples import MIN_UNITS, HalfSamples

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
        halves: the scores in halves of the images, where intervals come from these.
    """
    labels = task.queries.labels
    one_hot = labels if labels.ndim == 2 else labels[:, None] == np.arange(len(classes))
    members: NDArray[np.bool_] = one_hot.astype(np.bool_) & outcome.counted[:, None]
    there = np.flatnonzero(members.any(axis=0)).tolist()
    members = members[:, there]
    means = _means(outcome.precision, members)
    if task.in_halves(settings.evaluation.resample):
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
    """Intervals by halves of the images; None for a class of fewer than MIN_UNITS queries."""
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
    """Intervals of the classes' means, the queries (or groups) of each class drawn again."""
    resampling, groups = Resampling.from_settings(settings), task.queries.groups
    found: list[tuple[float, float] | None] = []
    for member in members.T:
        values = np.where(member, outcome.precision, np.nan)
        drawn = bootstrap(values[:, None], resampling, groups) if enough(values, groups) else None
        found.append(None if drawn is None else drawn.interval(0))
    return found
