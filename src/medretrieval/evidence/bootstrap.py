"""How sure a mean over queries is: bootstrap intervals, paired differences, sign-flip tests, Holm.

The gallery is held fixed: queries that are its items depend on each other, and `evaluate.half_samples` is
for those. What is drawn again are the queries, or whole groups of them (the images of one patient). Every
function draws alike for all scores or runs, so that what is the same in two of them cancels in their
difference.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import Config
from medretrieval.protocol.ranking import Labels, class_members

# Cells of one chunk of weights or signs: some 25 MB at the peak.
CHUNK_CELLS = 1_000_000
MAX_KEPT_CELLS = 16_000_000  # of a draw that is kept for the next one: 16 MB
# Sums of the same numbers in another order differ in their last bits; below this they count as equal.
RELATIVE_TIE = 1e-12

Floats = NDArray[np.float64]
Groups = NDArray[Any]


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
    """

    confidence: float
    means: Floats
    replicates: Floats
    jackknife: Floats

    def interval(self, column: int) -> tuple[float, float]:
        """BCa interval of one mean (see `bca`)."""
        estimate = float(self.means[column])
        columns = self.replicates[:, column], self.jackknife[:, column]
        return bca(estimate, *columns, self.confidence, abs(estimate))

    def difference(self, a: int, b: int) -> tuple[float, float, float]:
        """Mean of column a minus mean of column b, and its BCa interval: (difference, low, high)."""
        estimate = float(self.means[a] - self.means[b])
        replicates = self.replicates[:, a] - self.replicates[:, b]
        jackknife = self.jackknife[:, a] - self.jackknife[:, b]
        scale = float(max(abs(self.means[a]), abs(self.means[b])))
        return estimate, *bca(estimate, replicates, jackknife, self.confidence, scale)


@dataclass(frozen=True)
class Flips:
    """Means of columns, and the same means with one set of random signs on their queries.

    The mean of a difference with flipped signs is the difference of the flipped means, so one set of
    signs serves all pairs.

    Attributes:
        means: float64 [s].
        flipped: float64 [permutations, s].
        scale: float64 [s], the largest value that a flipped mean could take.
    """

    means: Floats
    flipped: Floats
    scale: Floats

    def p(self, a: int, b: int) -> float:
        """Two-sided p of the mean of column a minus column b (see `paired_permutation`)."""
        observed = abs(self.means[a] - self.means[b]) - RELATIVE_TIE * (self.scale[a] + self.scale[b])
        beyond = np.count_nonzero(np.abs(self.flipped[:, a] - self.flipped[:, b]) >= observed)
        return float((beyond + 1) / (len(self.flipped) + 1))


def intervals(
    per_query: Mapping[str, Floats],
    resampling: Resampling,
    groups: Groups | None = None,
    labels: Labels | None = None,
) -> dict[str, tuple[float, float]]:
    """Bootstrap intervals of the means of all scores (BCa: Efron 1987, doi 10.1080/01621459.1987.10478410).

    Args:
        per_query: score -> float64 [q]; NaN for a query without relevant items, which is left out.
        resampling: how queries are drawn again, the same for all scores.
        groups: any hashable codes [q], such as patients; whole groups are drawn where given.
        labels: int64 [q] or bool [q, classes]; adds `macro_<score>`, the mean of the class means. A class
            that a sample does not hold is left out of that sample's mean.

    Returns:
        score -> (low, high); (mean, mean) where all values are equal. Empty where fewer than two queries
        (or groups) are left: nothing can be said of the spread of one.

    Raises:
        ValueError: shapes that do not fit, NaN at different queries, impossible numbers.
    """
    if not per_query:
        return {}
    values = np.stack(list(per_query.values()), axis=1)
    if len(_totals(values, groups, None)) < 2:
        return {}
    kinds = {"": None} | ({"macro_": class_members(labels)} if labels is not None else {})
    result: dict[str, tuple[float, float]] = {}
    for prefix, members in kinds.items():
        drawn = bootstrap(values, resampling, groups, members)
        result |= {f"{prefix}{n}": drawn.interval(i) for i, n in enumerate(per_query)}
    return result


def enough(values: Floats, groups: Groups | None = None) -> bool:
    """Whether anything can be said of the spread: two queries, or two groups, that have a score.

    Args:
        values: float64 [q], NaN for a query without relevant items.
        groups: any hashable codes [q].
    """
    return len(_totals(values[:, None], groups, None)) > 1


def paired_difference(
    a: Floats,
    b: Floats,
    resampling: Resampling,
    groups: Groups | None = None,
    members: NDArray[np.bool_] | None = None,
) -> tuple[float, float, float]:
    """Mean of a minus mean of b over the same queries, with its paired BCa bootstrap interval.

    Args:
        a: float64 [q].
        b: float64 [q], NaN at the same queries as a.
        resampling: how queries are drawn again.
        groups: any hashable codes [q]; whole groups are drawn where given.
        members: bool [q, classes]; the means are then means over classes of the class means.

    Returns:
        (difference, low, high).

    Raises:
        ValueError: as `intervals`, and where fewer than two queries or groups are left.
    """
    pair = np.stack([a, b], axis=1)
    return bootstrap(pair, resampling, groups, members).difference(0, 1)


def paired_permutation(
    a: Floats, b: Floats, permutations: int, seed: int, groups: Groups | None = None
) -> float:
    """Two-sided p of the mean difference: were the signs of the queries' differences a matter of luck?

    p = (beyond + 1) / (permutations + 1), with ties counted as beyond (Phipson & Smyth 2010, doi
    10.2202/1544-6115.1585), so it is never 0 and never too small.

    Args:
        a: float64 [q].
        b: float64 [q], NaN at the same queries as a.
        permutations: random sign flips.
        seed: the same seed draws the same signs.
        groups: any hashable codes [q]; the signs of whole groups are flipped where given.

    Raises:
        ValueError: shapes or NaN that do not fit, no query left, fewer than one permutation.
    """
    return sign_flips(np.stack([a, b], axis=1), permutations, seed, groups).p(0, 1)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction for many tests (Holm 1979, Scand. J. Statist. 6, 65-70).

    Args:
        p: p-values in any order.

    Returns:
        Adjusted p-values in the same order, at most 1.

    >>> [round(x, 2) for x in holm([0.01, 0.04, 0.03, 0.005])]
    [0.03, 0.06, 0.06, 0.02]
    """
    raw = np.asarray(p, dtype=np.float64)
    order = np.argsort(raw, kind="stable")
    steps = (len(raw) - np.arange(len(raw))) * raw[order]
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(x) for x in adjusted]


def not_different(adjusted: Sequence[float], alpha: float) -> list[bool]:
    """Which runs are not shown to differ from the one they were all tested against.

    The rule: adjusted p >= alpha. It is no proof that they are equal.

    Args:
        adjusted: p-values of each run against the best (or the baseline), after `holm`.
        alpha: 1 - confidence.

    >>> not_different([0.2, 0.05, 0.01], alpha=0.05)
    [True, True, False]
    """
    return [p >= alpha for p in adjusted]


def means(values: Floats, members: NDArray[np.bool_] | None = None) -> Floats:
    """Means of all columns, nothing drawn.

    Args:
        values: float64 [q, s], NaN in whole rows only.
        members: bool [q, classes]; the mean is then the mean over classes of the class means.

    Returns:
        float64 [s].
    """
    return _means(_totals(values, None, members).sum(axis=0))


def bootstrap(
    values: Floats,
    resampling: Resampling,
    groups: Groups | None = None,
    members: NDArray[np.bool_] | None = None,
) -> Resamples:
    """Draw queries (or groups) with replacement and take the means of all columns, by matrix products.

    Args:
        values: float64 [q, s], NaN in whole rows only.
        resampling: how queries are drawn again.
        groups: any hashable codes [q]; whole groups are drawn, and a mean is a ratio of sums.
        members: bool [q, classes]; the mean is then the mean over classes of the class means.

    Raises:
        ValueError: shapes or NaN that do not fit, fewer than two queries or groups, no resamples.
    """
    totals = _totals(values, groups, members)
    units, resamples = len(totals), resampling.resamples
    if units < 2 or resamples < 1:
        raise ValueError(f"{resamples} resamples of {units} queries or groups; give at least 1 and 2")
    flat = totals.reshape(units, -1)
    draws = (_kept_draws if resamples * units <= MAX_KEPT_CELLS else _draws)(
        resampling.seed, resamples, units
    )
    parts = [
        _means((times.astype(np.float64) @ flat).reshape(len(times), *totals.shape[1:])) for times in draws
    ]
    everything, begin, without = totals.sum(axis=0), 0, []
    for rows in _chunks(units, flat.shape[1]):
        without.append(_means(everything - totals[begin : begin + rows]))
        begin += rows
    columns = (np.asfortranarray(np.concatenate(side)) for side in (parts, without))  # read one by one
    return Resamples(resampling.confidence, _means(everything), *columns)


def _draws(seed: int, resamples: int, units: int) -> Iterator[NDArray[np.uint8]]:
    """How often each unit is drawn in each resample, in chunks: uint8 [rows, units].

    A unit is drawn once on average; 256 times in one resample has odds below 1e-500.
    """
    rng = np.random.default_rng(seed)
    for rows in _chunks(resamples, units):
        drawn = rng.integers(0, units, (rows, units))
        drawn += np.arange(rows)[:, None] * units
        yield np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units).astype(np.uint8)


@functools.lru_cache(maxsize=2)
def _kept_draws(seed: int, resamples: int, units: int) -> tuple[NDArray[np.uint8], ...]:
    """The same, kept: a run wants it three times, and a sweep's runs have one seed."""
    return tuple(_draws(seed, resamples, units))


def sign_flips(
    values: Floats,
    permutations: int,
    seed: int,
    groups: Groups | None = None,
    members: NDArray[np.bool_] | None = None,
) -> Flips:
    """Put random signs on the queries (or groups) and take the means of all columns, by matrix products.

    Args:
        values: float64 [q, s], NaN in whole rows only.
        permutations: random sign flips.
        seed: the same seed draws the same signs.
        groups: any hashable codes [q]; a group has one sign.
        members: bool [q, classes]; the mean is then the mean over classes of the class means.

    Raises:
        ValueError: shapes or NaN that do not fit, no query left, fewer than one permutation.
    """
    totals = _totals(values, groups, members)
    units = len(totals)
    if units < 1 or permutations < 1:
        raise ValueError(f"{permutations} permutations of {units} queries or groups; give at least 1 of 1")
    sizes = totals[..., -1].sum(axis=0)
    filled = sizes > 0
    # The share of a query or group in each mean; the number of queries does not change with signs.
    shares = (totals[:, filled, :-1] / sizes[filled, None]).mean(axis=1)
    rng, words, parts = np.random.default_rng(seed), -(-units // 64), []
    for rows in _chunks(permutations, units):
        random = rng.integers(0, 2**64 - 1, (rows, words), dtype=np.uint64, endpoint=True)
        bits = np.unpackbits(random.view(np.uint8), axis=1, count=units)
        parts.append((1.0 - 2.0 * bits) @ shares)
    return Flips(shares.sum(axis=0), np.concatenate(parts), np.abs(shares).sum(axis=0))


def bca(
    estimate: float, replicates: Floats, jackknife: Floats, confidence: float, scale: float
) -> tuple[float, float]:
    """Bias-corrected and accelerated interval (Efron 1987; ties count half, as in scipy.stats.bootstrap).

    Args:
        estimate: of the sample.
        replicates: of the resamples, float64 [resamples].
        jackknife: without each query or group, float64 [g].
        confidence: between 0 and 1.
        scale: size of the numbers the estimate was computed from; smaller spreads are rounding.

    Returns:
        (low, high); (estimate, estimate) where leaving out any query changes nothing.

    Raises:
        ValueError: a confidence that is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    tie = RELATIVE_TIE * scale
    pull = jackknife.mean() - jackknife
    if np.abs(pull).max() * len(pull) <= tie:
        return estimate, estimate
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


def _totals(values: Floats, groups: Groups | None, members: NDArray[np.bool_] | None) -> Floats:
    """Sums of every column and, last, numbers of queries: float64 [g, classes, s + 1]."""
    missing = np.isnan(values)
    kept = ~missing.any(axis=1)
    if (missing.any(axis=1) != missing.all(axis=1)).any():
        raise ValueError("scores must be missing (NaN) at the same queries")
    members = np.ones((len(values), 1), dtype=np.bool_) if members is None else members
    if len(members) != len(values) or (groups is not None and len(groups) != len(values)):
        raise ValueError(f"as many groups and labels as queries are wanted: {len(values)}")
    kept &= members.any(axis=1)
    counted = np.concatenate([values[kept], np.ones((kept.sum(), 1))], axis=1)
    totals: Floats = members[kept][:, :, None] * counted[:, None, :]
    if groups is None or len(totals) == 0:
        return totals
    numbers: dict[Any, int] = {}
    group = np.array([numbers.setdefault(code, len(numbers)) for code in groups[kept].tolist()])
    order = np.argsort(group, kind="stable")
    firsts = np.flatnonzero(np.diff(group[order], prepend=-1))
    summed: Floats = np.add.reduceat(totals[order], firsts, axis=0)
    return summed


def _means(totals: Floats) -> Floats:
    """Mean over the classes that have queries of their means: [..., classes, s + 1] -> [..., s]."""
    sizes = totals[..., -1:]
    filled = sizes > 0
    means = np.divide(totals[..., :-1], sizes, out=np.zeros_like(totals[..., :-1]), where=filled)
    result: Floats = means.sum(axis=-2) / filled.sum(axis=-2)
    return result


def _chunks(rows: int, columns: int) -> Iterator[int]:
    step = max(1, CHUNK_CELLS // columns)
    yield from (min(step, rows - begin) for begin in range(0, rows, step))
