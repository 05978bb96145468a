"""How sure a mean over queries is: bootstrap intervals and paired differences.

The gallery is held fixed: where it varies as the queries do, `half_samples` is the way. What is drawn again
are the queries, or whole groups of them (the images of one patient). Every function draws alike for all
scores or runs, so that what is the same in two of them cancels in their difference.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import Config
from medretrieval.evaluate.score_table import highest_values
from medretrieval.protocol.ranking import Labels, class_members
from medretrieval.uncertainty.distributions import exact_interval
from medretrieval.uncertainty.totals import (
    RELATIVE_TIE,
    Floats,
    Groups,
    chunks,
    means_of,
    parts_of,
    totals_of,
)

MAX_KEPT_CELLS = 16_000_000  # of a draw that is kept for the next one: 16 MB
MIN_UNITS = 10  # queries or groups, below which no interval is given: coverage is not shown there
# Queries (or groups) that carry the variance, below which many resamples have none of them and the exact
# interval is taken: it covered 94 % or more for 20 to 200 queries and means from 0.80 to 0.99.
MIN_CARRIERS = 5.0


@dataclass(frozen=True)
class Resampling:
    """How intervals are made.

    Attributes:
        resamples: bootstrap samples.
        confidence: of the intervals, between 0 and 1.
        seed: the same seed draws the same samples.
    """

    resamples: int
    confidence: float
    seed: int

    @classmethod
    def from_settings(cls, settings: Config) -> "Resampling":
        """As a run's configuration says."""
        return cls(settings.evaluation.resamples, settings.evaluation.confidence, settings.seed)


@dataclass(frozen=True)
class Resamples:
    """Means of columns, and the same means under one set of bootstrap weights.

    Attributes:
        confidence: of the intervals.
        means: float64 [s].
        replicates: float64 [resamples, s].
        jackknife: float64 [g, s], the means without each query or group.
        parts: float64 [g, s], what each query or group gives to the means.
        effective: number of queries or groups, if all had one weight (Kish 1965).
        highest: float64 [s], what each mean can be at most, its values being 0 or more; NaN where these are
            not bounded.
    """

    confidence: float
    means: Floats
    replicates: Floats
    jackknife: Floats
    parts: Floats
    effective: float
    highest: Floats

    def interval(self, column: int) -> tuple[float, float] | None:
        """BCa interval of one mean (see `bca`), or the exact one of a share where few carry the variance.

        None for fewer than MIN_UNITS queries or groups, and in the second case for values without bounds.
        """
        if len(self.parts) < MIN_UNITS:
            return None
        estimate = float(self.means[column])
        columns = self.replicates[:, column], self.jackknife[:, column]
        ends = bca(estimate, *columns, self.confidence, abs(estimate))
        if ends is not None and carriers(columns[1] - columns[1].mean()) >= MIN_CARRIERS:
            return ends
        return self._exact(max(estimate, 0.0), column, self.confidence)

    def difference(
        self, a: int, b: int, confidence: float | None = None
    ) -> tuple[float, float, float] | None:
        """Mean of column a minus mean of column b, and its interval: (difference, low, high).

        The BCa interval, or, where few queries differ, exact intervals of what is gained and of what is lost,
        each for half of the error; None for fewer than MIN_UNITS queries or groups.

        Args:
            a: column.
            b: column.
            confidence: another than that of the resamples.
        """
        if len(self.parts) < MIN_UNITS:
            return None
        confidence = self.confidence if confidence is None else confidence
        estimate = float(self.means[a] - self.means[b])
        if self.few_differ(a, b):
            column = a if self.highest[a] > self.highest[b] else b
            more, less = (self._exact(p, column, (1 + confidence) / 2) for p in self._gained_and_lost(a, b))
            return None if more is None or less is None else (estimate, more[0] - less[1], more[1] - less[0])
        replicates = self.replicates[:, a] - self.replicates[:, b]
        jackknife = self.jackknife[:, a] - self.jackknife[:, b]
        scale = float(max(abs(self.means[a]), abs(self.means[b])))
        ends = bca(estimate, replicates, jackknife, confidence, scale)
        return None if ends is None else (estimate, *ends)

    def few_differ(self, a: int, b: int) -> bool:
        """Whether so few queries differ that many resamples have none of them."""
        apart = self.parts[:, a] - self.parts[:, b]
        return bool(np.isfinite(self.highest[[a, b]]).all()) and carriers(apart) < MIN_CARRIERS

    def _exact(self, mean: float, column: int, confidence: float) -> tuple[float, float] | None:
        """Exact interval of a mean as a share of what it can be at most."""
        most = float(self.highest[column])
        if not most > 0:  # also NaN
            return None
        low, high = exact_interval(min(mean / most, 1.0), self.effective, confidence)
        return low * most, high * most

    def _gained_and_lost(self, a: int, b: int) -> tuple[float, float]:
        apart = self.parts[:, a] - self.parts[:, b]
        return float(apart[apart > 0].sum()), float(-apart[apart < 0].sum())

    def error(self, a: int, b: int) -> float:
        """Standard error of mean a minus mean b."""
        return float((self.replicates[:, a] - self.replicates[:, b]).std())


def intervals(
    per_query: Mapping[str, Floats],
    resampling: Resampling,
    groups: Groups | None = None,
    labels: Labels | None = None,
    n_relevant: NDArray[np.int64] | None = None,
) -> dict[str, tuple[float, float]]:
    """Bootstrap intervals of the means of all scores (BCa: Efron 1987, doi 10.1080/01621459.1987.10478410).

    Args:
        per_query: score -> float64 [q]; NaN for a query without relevant items, which is left out.
        resampling: how queries are drawn again, the same for all scores.
        groups: any hashable codes [q], such as patients; whole groups are drawn where given.
        labels: int64 [q] or bool [q, classes]; adds `macro_<score>`, the mean of the class means. A class
            that a sample does not hold is left out of that sample's mean.
        n_relevant: int64 [q], by which a score may be bounded (`highest_values`); None: all by 1.

    Returns:
        score -> (low, high), of those that have one (see `Resamples.interval`). Empty where fewer than
        MIN_UNITS queries (or groups) are left.

    Raises:
        ValueError: shapes that do not fit, NaN at different queries, impossible numbers.
    """
    if not per_query:
        return {}
    values = np.stack(list(per_query.values()), axis=1)
    if len(totals_of(values, groups, None)) < MIN_UNITS:
        return {}
    highest = None if n_relevant is None else highest_values(list(per_query), n_relevant)
    kinds = {"": None} | ({"macro_": class_members(labels)} if labels is not None else {})
    result: dict[str, tuple[float, float]] = {}
    for prefix, members in kinds.items():
        drawn = bootstrap(values, resampling, groups, members, highest)
        ends = {f"{prefix}{n}": drawn.interval(i) for i, n in enumerate(per_query)}
        result |= {name: pair for name, pair in ends.items() if pair is not None}
    return result


def enough(values: Floats, groups: Groups | None = None) -> bool:
    """Whether an interval can be given: MIN_UNITS queries, or groups, that have a score.

    Args:
        values: float64 [q], NaN for a query without relevant items.
        groups: any hashable codes [q].
    """
    return len(totals_of(values[:, None], groups, None)) >= MIN_UNITS


def paired_difference(
    a: Floats,
    b: Floats,
    resampling: Resampling,
    groups: Groups | None = None,
    members: NDArray[np.bool_] | None = None,
    highest: Floats | None = None,
) -> tuple[float, float, float] | None:
    """Mean of a minus mean of b over the same queries, with its paired interval (`Resamples.difference`).

    Args:
        a: float64 [q].
        b: float64 [q], NaN at the same queries as a.
        resampling: how queries are drawn again.
        groups: any hashable codes [q]; whole groups are drawn where given.
        members: bool [q, classes]; the means are then means over classes of the class means.
        highest: float64 [q], the largest value that each query can have; None for 1.

    Returns:
        (difference, low, high); None where no interval is valid.

    Raises:
        ValueError: as `intervals`, and where fewer than two queries or groups are left.
    """
    pair = np.stack([a, b], axis=1)
    most = None if highest is None else np.stack([highest, highest], axis=1)
    return bootstrap(pair, resampling, groups, members, most).difference(0, 1)


def means(values: Floats, members: NDArray[np.bool_] | None = None) -> Floats:
    """Means of all columns, nothing drawn.

    Args:
        values: float64 [q, s], NaN in whole rows only.
        members: bool [q, classes]; the mean is then the mean over classes of the class means.

    Returns:
        float64 [s].
    """
    return means_of(totals_of(values, None, members).sum(axis=0))


def bootstrap(
    values: Floats,
    resampling: Resampling,
    groups: Groups | None = None,
    members: NDArray[np.bool_] | None = None,
    highest: Floats | None = None,
) -> Resamples:
    """Draw queries (or groups) with replacement and take the means of all columns, by matrix products.

    Args:
        values: float64 [q, s], NaN in whole rows only.
        resampling: how queries are drawn again.
        groups: any hashable codes [q]; whole groups are drawn, and a mean is a ratio of sums.
        members: bool [q, classes]; the mean is then the mean over classes of the class means.
        highest: float64 [q, s], the largest value that each query can have; None for 1.

    Raises:
        ValueError: shapes or NaN that do not fit, fewer than two queries or groups, no resamples.
    """
    totals = totals_of(values, groups, members)
    units, resamples = len(totals), resampling.resamples
    if units < 2 or resamples < 1:
        raise ValueError(f"{resamples} resamples of {units} queries or groups; give at least 1 and 2")
    flat = totals.reshape(units, -1)
    draws = (_kept_draws if resamples * units <= MAX_KEPT_CELLS else _draws)(
        resampling.seed, resamples, units
    )
    parts = [
        means_of((times.astype(np.float64) @ flat).reshape(len(times), *totals.shape[1:])) for times in draws
    ]
    everything, begin, without = totals.sum(axis=0), 0, []
    for rows in chunks(units, flat.shape[1]):
        without.append(means_of(everything - totals[begin : begin + rows]))
        begin += rows
    replicates, jackknife = (np.asfortranarray(np.concatenate(side)) for side in (parts, without))
    of_units = parts_of(totals)
    effective = 1 / float((of_units[:, -1] ** 2).sum())
    missing = np.isnan(values)
    most = np.where(missing, np.nan, 1.0 if highest is None else highest)
    bounded = (values >= 0) & (values <= most * (1 + RELATIVE_TIE)) | missing
    return Resamples(
        resampling.confidence,
        means_of(everything),
        replicates,  # their columns are read one by one
        jackknife,
        of_units[:, :-1],
        effective,
        np.where(bounded.all(axis=0), means_of(totals_of(most, groups, members).sum(axis=0)), np.nan),
    )


def _draws(seed: int, resamples: int, units: int) -> Iterator[NDArray[np.uint8]]:
    """How often each unit is drawn in each resample, in chunks: uint8 [rows, units].

    A unit is drawn once on average; 256 times in one resample has odds below 1e-500.
    """
    rng = np.random.default_rng(seed)
    for rows in chunks(resamples, units):
        drawn = rng.integers(0, units, (rows, units))
        drawn += np.arange(rows)[:, None] * units
        yield np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units).astype(np.uint8)


@functools.lru_cache(maxsize=2)
def _kept_draws(seed: int, resamples: int, units: int) -> tuple[NDArray[np.uint8], ...]:
    """The same, kept: a run wants it three times, and a sweep's runs have one seed."""
    return tuple(_draws(seed, resamples, units))


def carriers(pulls: Floats) -> float:
    """How many units carry a variance, by their fourth moments; 0 where there is none.

    >>> carriers(np.array([1.0, -1.0, 1.0, -1.0])), carriers(np.array([1.0, 0.0, 0.0, 0.0]))
    (4.0, 1.0)
    """
    fourth = float((pulls**4).sum())
    return float((pulls**2).sum()) ** 2 / fourth if fourth > 0 else 0.0


def bca(
    estimate: float, replicates: Floats, jackknife: Floats, confidence: float, scale: float
) -> tuple[float, float] | None:
    """Bias-corrected and accelerated interval (Efron 1987; ties count half, as in scipy.stats.bootstrap).

    Args:
        estimate: of the sample.
        replicates: of the resamples, float64 [resamples].
        jackknife: without each query or group, float64 [g].
        confidence: between 0 and 1.
        scale: size of the numbers the estimate was computed from; smaller spreads are rounding.

    Returns:
        (low, high); None where leaving out any query changes nothing.

    Raises:
        ValueError: a confidence that is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    tie = RELATIVE_TIE * scale
    pull = jackknife.mean() - jackknife
    if np.abs(pull).max() * len(pull) <= tie:
        return None
    normal, few = NormalDist(), 0.5 / len(replicates)
    below = np.count_nonzero(replicates < estimate - tie) + np.count_nonzero(replicates <= estimate + tie)
    bias = normal.inv_cdf(min(max(below * few, few), 1 - few))
    acceleration = float((pull**3).sum() / (6 * (pull**2).sum() ** 1.5))

    def level(tail: float) -> float:
        shifted = bias + normal.inv_cdf(tail)
        # Beyond the pole of the formula the level is the end of its range.
        return normal.cdf(bias + shifted / max(1 - acceleration * shifted, 1e-9))

    tail = (1 - confidence) / 2
    low, high = np.quantile(replicates, [level(tail), level(1 - tail)])
    return float(low), float(high)
