"""Mean precision and recall by depth, with intervals, chance and the pixel baseline."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import Config
from medretrieval.evaluate import chance
from medretrieval.protocol.task import RetrievalTask
from medretrieval.uncertainty.bootstrap import Resampling, bootstrap, enough
from medretrieval.uncertainty.half_intervals import share_interval
from medretrieval.uncertainty.half_samples import CURVE_DEPTH, HalfSamples

Ends = list[tuple[float, float] | tuple[None, None]]


@dataclass(frozen=True)
class Line:
    """What the baseline encoder scores at some depths."""

    ks: list[int]
    mean: list[float]


@dataclass(frozen=True)
class DepthCurve:
    """One score at every depth.

    Attributes:
        mean: over the queries that have something to find.
        low, high: ends of its interval; None where a single query (or group) leaves nothing to draw.
        chance: what a random ranking scores.
        baseline: of the baseline encoder, None for none.
    """

    mean: list[float]
    low: list[float | None]
    high: list[float | None]
    chance: list[float]
    baseline: Line | None


@dataclass(frozen=True)
class DepthCurves:
    """The content of curves.json: depths, and the two scores at each."""

    ks: list[int]
    precision: DepthCurve
    recall: DepthCurve


def depth_curves(
    settings: Config,
    task: RetrievalTask,
    hits: NDArray[np.bool_],
    baseline: Mapping[str, float],
    halves: HalfSamples | None,
) -> DepthCurves:
    """Mean precision and recall at every depth up to 100, with intervals, chance and the baseline.

    The bootstrap draws as that of scores.json does, so at its depths the numbers are the same.

    Args:
        settings: the run's configuration.
        task: who queries whom.
        hits: bool [q, depth], of the saved ranking.
        baseline: headline scores of the baseline encoder, by name; empty for none.
        halves: the scores in halves of the images, where intervals come from these.
    """
    ks = list(range(1, min(hits.shape[1], CURVE_DEPTH) + 1))
    found = np.cumsum(hits[:, : ks[-1]], axis=1, dtype=np.float64)
    values = {"precision": found / ks, "recall": found / np.maximum(task.n_relevant, 1)[:, None]}
    # Both in one bootstrap, so that queries are drawn once.
    both = np.where(task.n_relevant[:, None] > 0, np.hstack(list(values.values())), np.nan)
    means = np.nanmean(both, axis=0)
    if task.in_halves(settings.evaluation.resample):
        ends = _of_halves(settings, means, halves)
    else:
        ends = _intervals(settings, task, both)
    drawn: dict[str, DepthCurve] = {}
    for i, name in enumerate(values):
        mine = slice(i * len(ks), (i + 1) * len(ks))
        random = np.nanmean(chance.by_depth(name, ks, task.n_relevant, task.n_candidates), axis=0)
        there = [k for k in settings.evaluation.ks if f"{name}_at_{k}" in baseline]
        drawn[name] = DepthCurve(
            mean=means[mine].tolist(),
            low=[low for low, _ in ends[mine]],
            high=[high for _, high in ends[mine]],
            chance=random.tolist(),
            baseline=Line(there, [baseline[f"{name}_at_{k}"] for k in there]) if there else None,
        )
    return DepthCurves(ks, **drawn)


def _of_halves(settings: Config, means: NDArray[np.float64], halves: HalfSamples | None) -> Ends:
    """Intervals by halves of the images, of precision and then recall at every depth."""
    if halves is None or not halves.by_depth:
        return [(None, None)] * len(means)
    depths, confidence = len(means) // 2, settings.evaluation.confidence
    columns = np.hstack([halves.by_depth[name][:, :depths] for name in ("precision", "recall")]).T
    found = (
        share_interval(float(mean), column, halves.sides, confidence)
        for mean, column in zip(means, columns, strict=True)
    )
    return [ends or (None, None) for ends in found]


def _intervals(settings: Config, task: RetrievalTask, values: NDArray[np.float64]) -> Ends:
    resampling, groups = Resampling.from_settings(settings), task.queries.groups
    if not enough(values[:, 0], groups):
        return [(None, None)] * values.shape[1]
    ks = np.arange(1, values.shape[1] // 2 + 1)
    recall = np.minimum(ks, task.n_relevant[:, None]) / np.maximum(task.n_relevant, 1)[:, None]
    drawn = bootstrap(values, resampling, groups, highest=np.hstack([np.ones(recall.shape), recall]))
    # All that a query can find is the same in any order: nothing varies there.
    varies = np.tile(ks < task.max_depth, 2)
    return [drawn.interval(i) or (None, None) if varies[i] else (None, None) for i in range(len(varies))]
