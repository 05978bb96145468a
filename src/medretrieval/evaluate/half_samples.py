"""How sure scores are where every image is both query and gallery item: random halves of the images.

There the scores of two queries depend on each other: one is in the other's list, or both have the same
neighbors. Resampling queries alone does not see that. So the images are split at random into two halves,
each its own queries and its own gallery. The halves share no image, so the mean square of half the
difference of their scores estimates the variance of a score of all images, for any score (repeated half
samples: McCarthy 1969, doi 10.2307/1402116, there for survey means). tests/coverage measures what it covers.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.evaluate.query_results import QueryResults
from medretrieval.evaluate.score_table import MACRO, MAP_DEPTH, Needs, ReportedScore
from medretrieval.evaluate.scores import average_precision_at
from medretrieval.protocol.ranking import class_members
from medretrieval.protocol.task import RetrievalTask

SPLITS = 400  # of the images into halves: their luck adds 3.5 % to a standard error
SPLIT_SEED = 0  # the same for all runs, so that two runs are compared over the same halves
MIN_UNITS = 20  # images or groups, below which no interval is given: coverage is not shown there
MAX_DEEP_CELLS = 2_000_000  # queries times results that are looked at in every split: some 20 s
CURVE_DEPTH = 100
IN_BOTH_ROLES = "in both roles"  # images, or groups of them, as queries and in the gallery
BOUND = 1e-12  # a variance below it is rounding

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class DeepResults:
    """The results of every query, as deep as halves want them.

    Attributes:
        ids: int64 [n, depth] positions in the gallery, -1 for a missing result.
        distances: float32 [n, depth].
        whole: whether they cover all that a query can find.
    """

    ids: Ints
    distances: NDArray[np.float32]
    whole: bool


@dataclass(frozen=True)
class HalfSamples:
    """Half the difference of each score between two random halves of the images, split by split.

    Attributes:
        sides: bool [splits, units], which half each image (or group) is in.
        scores: score or macro mean -> float64 [splits].
        by_depth: "precision" and "recall" -> float64 [splits, depths from 1 on]; empty where results are
            not deep enough.
        by_class: score -> float64 [splits, classes], of the queries of each class; NaN where a half has none.
    """

    sides: Bools
    scores: Mapping[str, Floats]
    by_depth: Mapping[str, Floats]
    by_class: Mapping[str, Floats]

    def save(self, path: Path) -> None:
        """Write what two runs are compared by: names, deviations and halves."""
        with path.open("wb") as file:
            np.savez_compressed(
                file,
                allow_pickle=False,
                scores=np.array(list(self.scores), dtype=np.str_),
                deviations=np.stack(list(self.scores.values()), axis=1)
                if self.scores
                else np.zeros((len(self.sides), 0)),
                sides=self.sides,
            )

    @classmethod
    def load(cls, path: Path) -> "HalfSamples":
        """Read what `save` wrote; by_depth and by_class are not in it."""
        with np.load(path, allow_pickle=False) as npz:
            names, deviations, sides = npz["scores"].tolist(), npz["deviations"], npz["sides"]
        return cls(sides, dict(zip(names, deviations.T, strict=True)), {}, {})

    def interval(self, name: str, value: float, confidence: float) -> tuple[float, float] | None:
        """Interval of a score between 0 and 1 (see `share_interval`); None where none is valid."""
        return (
            share_interval(value, self.scores[name], self.sides, confidence) if name in self.scores else None
        )


def splits(units: int, count: int = SPLITS, seed: int = SPLIT_SEED) -> Bools:
    """Random halves: bool [count, units], each row true for half of the units (of an odd one, at random)."""
    rng = np.random.default_rng(seed)
    order = np.argsort(rng.random((count, units)), axis=1)
    first = units // 2 + (rng.random(count) < 0.5) * (units % 2)
    sides = np.zeros((count, units), dtype=np.bool_)
    np.put_along_axis(sides, order, np.arange(units) < first[:, None], axis=1)
    return sides


def half_depth(k: int, n: int, split: int) -> int:
    """Depth in a half that stands for depth k among n images.

    A depth that is a small part of n stays, since it is the neighborhood that counts; of one that is a large
    part the half is taken, since it is the share of the gallery that counts. Between them some splits take
    the one and some the other: all of them the half from k = n / 4 on.
    """
    if (split // 2 % 50 + 0.5) / 50 >= min(1.0, 4 * k / n):
        return k
    return max(1, k // 2 + k % 2 * (split % 2))


def enough_results(k: int) -> int:
    """Results that a query needs so that practically every half holds k of them."""
    return 2 * k + 6 + math.ceil(5 * math.sqrt(2 * k))


def half_samples(
    task: RetrievalTask, deep: DeepResults, wanted: Sequence[ReportedScore], vote_k: int, count: int = SPLITS
) -> HalfSamples | None:
    """Score both halves of many random splits of the images.

    Args:
        task: whose queries are its gallery.
        deep: the results of every query.
        wanted: scores; those that the results are not deep enough for are left out, and graded ones.
        vote_k: neighbors that vote.
        count: of splits.

    Returns:
        None for fewer than MIN_UNITS images, or groups where the task has them.
    """
    groups = task.queries.groups
    unit = np.arange(len(task.queries)) if groups is None else np.unique(groups, return_inverse=True)[1]
    if unit.max() + 1 < MIN_UNITS:
        return None
    sides = splits(int(unit.max()) + 1, count)
    wanted = [one for one in wanted if _is_deep_enough(one, deep, vote_k)]
    halves = _Halves(task, deep, wanted, vote_k)
    drawn = [halves.deviations(side[unit], i) for i, side in enumerate(sides)]
    parts = [{name: np.stack([d[i][name] for d in drawn]) for name in drawn[0][i]} for i in range(3)]
    plain = {name: values for name, values in parts[0].items() if not np.isnan(values).any()}
    return HalfSamples(sides, plain, *parts[1:])


def _is_deep_enough(reported: ReportedScore, deep: DeepResults, vote_k: int) -> bool:
    if reported.score.of_query is None or reported.name.startswith("graded"):
        return False
    depth = _depth_of(reported, vote_k)
    return deep.whole or (depth > 0 and enough_results(depth) <= deep.ids.shape[1])


def _depth_of(reported: ReportedScore, vote_k: int) -> int:
    """Results that a score looks at; 0 for one that wants the whole ranking."""
    depths = {Needs.FIRST_K: reported.k, Needs.VOTERS: vote_k, Needs.FIRST_100: MAP_DEPTH}
    return depths.get(reported.score.needs, 0)


@dataclass(frozen=True)
class _HalfResults(QueryResults):
    """Results of queries among their own half; hits may be deeper than ids."""

    deep_hits: Bools

    @property
    def hits(self) -> Bools:
        return self.deep_hits


class _Halves:
    """The scores of two halves, from the results of all."""

    def __init__(
        self, task: RetrievalTask, deep: DeepResults, wanted: Sequence[ReportedScore], vote_k: int
    ) -> None:
        self.task, self.deep, self.wanted, self.vote_k = task, deep, wanted, vote_k
        labels = task.queries.labels
        self.hits = task.relevance.hits(deep.ids, labels, task.gallery.labels)
        self.members = class_members(labels).astype(np.float64)
        self.shallow = max([vote_k, *(one.k for one in wanted)])  # as deep as ids of a half are kept
        self.curve = min(CURVE_DEPTH, deep.ids.shape[1])
        if not deep.whole and enough_results(self.curve) > deep.ids.shape[1]:
            self.curve = 0
        depths = [_depth_of(one, vote_k) for one in wanted]
        self.deepest = max([self.shallow, self.curve, *depths])
        # Columns of all results that hold a half's first ones.
        self.columns = deep.ids.shape[1]
        if 0 not in depths:
            self.columns = min(self.columns, enough_results(self.deepest) if self.deepest else 0)
        # Relevant items of a half: by distinct labels, without the pairs that are left out.
        distinct: Any
        distinct, self.code = np.unique(labels, axis=0, return_inverse=True)
        self.code = self.code.reshape(-1)
        everyone = np.tile(np.arange(len(distinct)), (len(distinct), 1))
        self.relevant = task.relevance.hits(everyone, distinct, distinct).astype(np.float64)
        rows, places = task.exclusions.pairs
        out = self.relevant[self.code[rows], self.code[places]] > 0
        self.out_rows, self.out_places = rows[out], places[out]

    def deviations(
        self, side: Bools, split: int
    ) -> tuple[dict[str, Floats], dict[str, Floats], dict[str, Floats]]:
        """Half the difference of the scores of the two halves: scores, by depth, by class."""
        n, found = len(side), self._counts(side)
        kept = found > 0
        results = self._results(side, found, split)
        one, two = kept & side, kept & ~side
        weights = np.stack([one / max(one.sum(), 1), two / max(two.sum(), 1)])
        shares = np.stack([self._class_shares(half) for half in (one, two)])
        plain: dict[str, Floats] = {}
        classes: dict[str, Floats] = {}
        for name, score, k in self.wanted:
            assert score.of_query is not None
            depth = half_depth(k, n, split) if k else 0
            if score.needs is Needs.FIRST_100:
                values = average_precision_at(results.hits, found, half_depth(MAP_DEPTH, n, split))
            else:
                values = score.of_query(results, depth)
            if name.startswith("recall_at"):  # a half has half of the relevant images
                values = values * k / (2 * depth)
            first, second = weights @ values
            plain[name] = np.asarray((first - second) / 2)
            first, second = shares @ values
            by_class = (first - second) / 2
            there = ~np.isnan(by_class)  # a rare class may be in one half alone
            plain[f"{MACRO}{name}"] = np.asarray(by_class[there].mean() if there.any() else np.nan)
            if name.startswith("precision_at"):
                classes[name] = by_class
        return plain, self._curves(results.hits, found, weights, split), classes

    def _class_shares(self, half: Bools) -> Floats:
        """Weights of queries in the mean of each class, [classes, n]; NaN for a class without any."""
        members = self.members * half[:, None]
        sizes = members.sum(axis=0)
        return np.asarray((members / np.where(sizes > 0, sizes, np.nan)).T)

    def _curves(self, hits: Bools, found: Ints, weights: Floats, split: int) -> dict[str, Floats]:
        if not self.curve:
            return {}
        n, top = len(found), hits[:, : self.curve].astype(np.float64)
        kinds = {"precision": top, "recall": top / np.maximum(found, 1)[:, None] / 2}
        ks = np.arange(1, self.curve + 1)
        depths = np.array([half_depth(int(k), n, split) for k in ks])
        curves = {}
        for name, values in kinds.items():
            first, second = np.cumsum(weights @ values, axis=1)
            there = np.minimum(depths, len(first)) - 1
            curves[name] = (first - second)[there] / 2 / depths * (1 if name == "precision" else ks)
        return curves

    def _counts(self, side: Bools) -> Ints:
        """R of each query in its half."""
        there = ~self.task.exclusions.dropped
        found = np.zeros(len(side))
        for half in (side, ~side):
            sizes = np.bincount(self.code[half & there], minlength=len(self.relevant))
            found[half] = (self.relevant @ sizes)[self.code[half]]
        same = side[self.out_rows] == side[self.out_places]
        return np.asarray(found - np.bincount(self.out_rows[same], minlength=len(side)), dtype=np.int64)

    def _results(self, side: Bools, found: Ints, split: int) -> _HalfResults:
        ids = self.deep.ids[:, : self.columns]
        same = (side[ids] == side[:, None]) & (ids >= 0)
        place = np.cumsum(same, axis=1, dtype=np.int32) - 1
        rows, columns = np.nonzero(same)
        places = place[rows, columns]
        deepest = int(places.max(initial=0)) + 1
        hits = np.zeros((len(ids), max(deepest, self.deepest)), dtype=np.bool_)
        hits[rows, places] = self.hits[rows, columns]
        near = places < self.shallow
        rows, columns, places = rows[near], columns[near], places[near]
        own = np.full((len(ids), self.shallow), -1, dtype=np.int64)
        distances = np.full(own.shape, np.inf, dtype=np.float32)
        own[rows, places] = ids[rows, columns]
        distances[rows, places] = self.deep.distances[rows, columns]
        task, voters = replace(self.task, n_relevant=found), half_depth(self.vote_k, len(side), split)
        return _HalfResults(task, slice(None), own, distances, voters, {}, hits)


def spread(deviations: Floats, sides: Bools) -> tuple[float, float]:
    """Standard error of a score of all images, and the degrees of freedom of its square (Satterthwaite).

    The square is less sure where few images carry it (a rare class): their fourth moments say how much.

    Args:
        deviations: float64 [splits], half the difference of the halves' scores.
        sides: bool [splits, units].
    """
    count, units = sides.shape
    variance = float((deviations**2).mean())
    if not variance > BOUND**2:
        return 0.0, 1.0
    pull = (2.0 * sides - 1).T @ deviations / count  # of each image on the score
    pull -= pull.mean()
    heavy = float((pull**4).sum() - 3 * (pull**2).sum() ** 2 / units)
    uncertainty = 2 / (units - 1) + 2 / count + max(heavy, 0.0) / variance**2
    return math.sqrt(variance), max(1.0, 2 / uncertainty)


def share_interval(
    value: float, deviations: Floats, sides: Bools, confidence: float
) -> tuple[float, float] | None:
    """Interval of a score between 0 and 1, by Student's t on the scale of log-odds; None where none is valid.

    None too for a score of 0 or 1, and for one that no half differs in: nothing is known of its spread.
    """
    error, freedom = spread(deviations, sides)
    if error == 0 or not 0 < value < 1 or np.isnan(deviations).any():
        return None
    middle, wide = math.log(value / (1 - value)), error / (value * (1 - value))
    half = student_quantile(confidence, freedom) * wide
    low, high = (0.5 + 0.5 * math.tanh(end / 2) for end in (middle - half, middle + half))
    return low, high


def difference_interval(
    difference: float, deviations: Floats, sides: Bools, confidence: float
) -> tuple[float, float, float]:
    """A difference of two scores with its interval by Student's t: (difference, low, high).

    The ends are the difference itself where it is the same in all halves, as of a run with itself.
    """
    error, freedom = spread(deviations, sides)
    half = student_quantile(confidence, freedom) * error
    return difference, difference - half, difference + half


def difference_p(difference: float, deviations: Floats, sides: Bools) -> float:
    """Two-sided p of a difference of two scores; 1 where the runs do not differ in any half."""
    error, freedom = spread(deviations, sides)
    return 1.0 if error == 0 else student_tails(abs(difference) / error, freedom)


@dataclass(frozen=True)
class PairedHalves:
    """Scores of several runs over the same halves of the same images.

    Attributes:
        means: float64 [runs], over all images.
        deviations: float64 [splits, runs].
        sides: bool [splits, units].
        confidence: of the intervals.
    """

    means: Floats
    deviations: Floats
    sides: Bools
    confidence: float

    def interval(self, run: int) -> tuple[float, float] | None:
        """Of one score (see `share_interval`)."""
        return share_interval(float(self.means[run]), self.deviations[:, run], self.sides, self.confidence)

    def difference(self, a: int, b: int) -> tuple[float, float, float]:
        """Of run a minus run b (see `difference_interval`)."""
        apart = self.deviations[:, a] - self.deviations[:, b]
        return difference_interval(float(self.means[a] - self.means[b]), apart, self.sides, self.confidence)

    def p(self, a: int, b: int) -> float:
        """Two-sided p of run a minus run b (see `difference_p`)."""
        apart = self.deviations[:, a] - self.deviations[:, b]
        return difference_p(float(self.means[a] - self.means[b]), apart, self.sides)


def student_tails(t: float, freedom: float) -> float:
    """Probability that Student's t lies beyond -t and t.

    >>> round(student_tails(2.0, 10.0), 6)
    0.073388
    """
    return _incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5)


def student_quantile(confidence: float, freedom: float) -> float:
    """The t between minus which and which Student's t lies with a given probability, by bisection.

    >>> round(student_quantile(0.95, 10.0), 4)
    2.2281
    """
    low, high = 0.0, 1.0
    while student_tails(high, freedom) > 1 - confidence:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if student_tails(middle, freedom) > 1 - confidence else (low, middle)
    return high


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """Regularized incomplete beta function by its continued fraction (Lentz; DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    total = d
    for term in _fraction(x, a, b):
        d, c = 1 / (1 + term * d), 1 + term / c
        total *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * total / a


def _fraction(x: float, a: float, b: float) -> Iterator[float]:
    for m in range(1, 1000):
        yield m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        yield -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
