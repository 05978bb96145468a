"""Shares of results over all queries, such as how many are of the query's own patient, with intervals.

A share is a ratio of sums: marked results over counted ones. Its interval is made as those of scores are: the
queries, or whole patients, drawn again with the gallery held fixed; random halves of the images where these
vary on both sides.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import Config
from medretrieval.protocol.task import RetrievalTask
from medretrieval.uncertainty.bootstrap import Resampling, bootstrap
from medretrieval.uncertainty.half_intervals import share_interval
from medretrieval.uncertainty.half_samples import MIN_UNITS as MIN_HALVED_UNITS
from medretrieval.uncertainty.half_samples import SPLITS, Units, enough_results, half_depth, splits

MIN_UNITS = 10  # queries or patients that have a counted result, below which no interval is given
NOT_COUNTED = -1

Ints = NDArray[np.int64]
Marks = NDArray[np.int8]


@dataclass(frozen=True)
class Share:
    """A share of results.

    Attributes:
        value: marked results over counted ones; None where none is counted.
        interval: (low, high); None where none is valid.
        counted: results that are counted.
        queries: that have one of them.
    """

    value: float | None
    interval: tuple[float, float] | None
    counted: int
    queries: int


def share(
    settings: Config, task: RetrievalTask, marks: Marks, ids: Ints, k: int, count: int = SPLITS
) -> Share:
    """The share of marked results among the first k of all queries.

    Args:
        settings: the run's configuration.
        task: who queries whom.
        marks: int8 [q, depth], 1 for a marked result, 0 for another, NOT_COUNTED for one that does not count.
        ids: int64 [q, depth], positions of these results in the gallery; -1 for a missing one.
        k: results of a query.
        count: of splits into halves.
    """
    first = marks[:, :k]
    counted = first != NOT_COUNTED
    if not counted.any():
        return Share(None, None, 0, 0)
    value = float((first == 1).sum() / counted.sum())
    queries = np.flatnonzero(counted.any(axis=1))
    if task.in_halves(settings.evaluation.resample):
        ends = _of_halves(settings, task, marks, ids, k, count)
    else:
        ends = _drawn(settings, task, first)
    return Share(value, ends, int(counted.sum()), len(queries))


def _drawn(settings: Config, task: RetrievalTask, first: Marks) -> tuple[float, float] | None:
    """By a bootstrap of the queries, or of whole patients: every counted result is a row of its own."""
    groups = task.queries.groups
    units = np.arange(len(first)) if groups is None else np.unique(groups, return_inverse=True)[1]
    rows, _ = np.nonzero(first != NOT_COUNTED)
    if len(np.unique(units[rows])) < MIN_UNITS:
        return None
    values = first[first != NOT_COUNTED].astype(np.float64)[:, None]
    return bootstrap(values, Resampling.from_settings(settings), units[rows]).interval(0)


def _of_halves(
    settings: Config, task: RetrievalTask, marks: Marks, ids: Ints, k: int, count: int
) -> tuple[float, float] | None:
    """By random halves: the share in both halves of many splits, each query among its own half."""
    units, n = Units.from_task(task), len(task.gallery)
    whole = ids.shape[1] >= task.max_depth
    if units is None or (enough_results(k) > ids.shape[1] and not whole):
        return None
    some = np.unique(units.of_queries[(marks[:, :k] != NOT_COUNTED).any(axis=1)])
    if len(some) < MIN_HALVED_UNITS:
        return None
    sides = splits(units.count, count)
    columns = min(ids.shape[1], enough_results(k)) if not whole else ids.shape[1]
    ids, marks, deviations = ids[:, :columns], marks[:, :columns], []
    for number, side in enumerate(sides):
        own, theirs = side[units.of_queries], side[units.of_gallery]
        same = (theirs[ids] == own[:, None]) & (ids >= 0)
        near = same & (np.cumsum(same, axis=1) <= half_depth(k, n, number)) & (marks != NOT_COUNTED)
        halves = [
            float((marks[half][near[half]] == 1).mean()) if near[half].any() else np.nan
            for half in (own, ~own)
        ]
        deviations.append((halves[0] - halves[1]) / 2)
    value = float((marks[:, :k] == 1).sum() / (marks[:, :k] != NOT_COUNTED).sum())
    return share_interval(value, np.array(deviations), sides, settings.evaluation.confidence)
