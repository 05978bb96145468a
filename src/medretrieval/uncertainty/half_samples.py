"""How sure scores are where the gallery varies as the queries do: random halves of the images.

Scores of two queries depend on each other: both have the same neighbors, or, where the queries are the
gallery, one is in the other's list. Resampling queries alone does not see that. So queries and gallery are
split at random into two halves, each a task of its own. The halves share no image, so the mean square of half
the difference of their scores estimates the variance of a score of all images, for any score (repeated half
samples: McCarthy 1969, doi 10.2307/1402116, there for survey means). tests/coverage measures what it covers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import EvaluationConfig
from medretrieval.evaluate.evaluate import DeepResults, Evaluation
from medretrieval.evaluate.query_results import QueryResults, label_type
from medretrieval.evaluate.score_table import MACRO, MAP_DEPTH, Needs, ReportedScore, reported_scores
from medretrieval.evaluate.scores import average_precision_at
from medretrieval.protocol.ranking import class_members
from medretrieval.protocol.task import RetrievalTask
from medretrieval.uncertainty.half_intervals import share_interval

HALVES_FORMAT = 1  # raised when the same ranking would get other halves, or other scores in them
SPLITS = 200  # of the images into halves: their luck adds 5 % to a standard error
SPLIT_SEED = 0  # the same for all runs, so that two runs are compared over the same halves
MIN_UNITS = 20  # images or groups, below which no interval is given: coverage is not shown there
MIN_CLASS_QUERIES = 50  # of the rarest class, below which a mean over classes has no interval
CURVE_DEPTH = 100

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class HalfSamples:
    """Half the difference of each score between two random halves of the images, split by split.

    Attributes:
        sides: bool [splits, units], which half each image (or group) is in; queries before the gallery
            where these are not the same images.
        scores: score or macro mean -> float64 [splits].
        by_depth: "precision" and "recall" -> float64 [splits, depths from 1 on]; empty where results are
            not deep enough.
        by_class: score -> float64 [splits, classes], of the queries of each class; NaN where a half has none.
        by_member: score -> float64 [splits, m], of the queries of each set that was asked for; NaN likewise.
    """

    sides: Bools
    scores: Mapping[str, Floats]
    by_depth: Mapping[str, Floats]
    by_class: Mapping[str, Floats]
    by_member: Mapping[str, Floats] = field(default_factory=dict)

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
        """Read what `save` wrote; by_depth, by_class and by_member are not in it."""
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


@dataclass(frozen=True)
class Units:
    """What stands in one half or the other: images, or whole groups of them.

    Attributes:
        of_queries: int64 [q].
        of_gallery: int64 [n].
        count: of units.
    """

    of_queries: Ints
    of_gallery: Ints
    count: int

    @classmethod
    def from_task(cls, task: RetrievalTask) -> "Units | None":
        """The units of a task; None where queries or gallery have fewer than MIN_UNITS."""
        one_set, queries, gallery = task.queries_are_gallery, task.queries.groups, task.gallery.groups
        if queries is None:
            of_queries = np.arange(len(task.queries))
            of_gallery = of_queries if one_set else len(of_queries) + np.arange(len(task.gallery))
        elif one_set or gallery is None:
            of_queries = np.unique(queries, return_inverse=True)[1]
            of_gallery = of_queries if one_set else of_queries.max() + 1 + np.arange(len(task.gallery))
        else:  # a patient with images on both sides is one unit
            codes = np.unique(np.concatenate([queries, gallery]), return_inverse=True)[1]
            of_queries, of_gallery = codes[: len(queries)], codes[len(queries) :]
        if min(len(np.unique(of_queries)), len(np.unique(of_gallery))) < MIN_UNITS:
            return None
        return cls(of_queries, of_gallery, int(max(of_queries.max(), of_gallery.max())) + 1)


def half_samples(
    task: RetrievalTask,
    deep: DeepResults,
    wanted: Sequence[ReportedScore],
    vote_k: int,
    count: int = SPLITS,
    members: Bools | None = None,
) -> HalfSamples | None:
    """Score both halves of many random splits of the images.

    Args:
        task: who queries whom.
        deep: the results of every query.
        wanted: scores; those that the results are not deep enough for are left out, and graded ones.
        vote_k: neighbors that vote.
        count: of splits.
        members: bool [q, m], sets of queries whose scores are wanted too, such as subgroups; None for none.

    Returns:
        None for fewer than MIN_UNITS images, or groups where the task has them, on a side. Means over classes
        are left out where a class has fewer than MIN_CLASS_QUERIES queries.
    """
    units = Units.from_task(task)
    if units is None:
        return None
    sides = splits(units.count, count)
    wanted = [one for one in wanted if _is_deep_enough(one, deep, vote_k)]
    halves = _Halves(task, deep, wanted, vote_k)
    halves.sets = np.zeros((len(task.queries), 0)) if members is None else members.astype(np.float64)
    drawn = [
        halves.deviations(side[units.of_queries], side[units.of_gallery], i) for i, side in enumerate(sides)
    ]
    parts = [{name: np.stack([d[i][name] for d in drawn]) for name in drawn[0][i]} for i in range(4)]
    few = halves.members.sum(axis=0).min() < MIN_CLASS_QUERIES
    plain = {
        name: values
        for name, values in parts[0].items()
        if not np.isnan(values).any() and not (few and name.startswith(MACRO))
    }
    return HalfSamples(sides, plain, *parts[1:])


def halves_of(
    task: RetrievalTask, evaluation: Evaluation, config: EvaluationConfig, members: Bools | None = None
) -> HalfSamples | None:
    """All scores in halves of the images; None where the gallery is held fixed, or images are too few.

    Args:
        task: who queries whom.
        evaluation: its scores.
        config: score depths.
        members: bool [q, m], sets of queries whose scores are wanted too; None for none.
    """
    if evaluation.deep is None:
        return None
    wanted = [r for r in reported_scores(config.ks, label_type(task)) if r.name in evaluation.per_query]
    return half_samples(task, evaluation.deep, wanted, config.vote_k, members=members)


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
        hits = task.relevance.hits(deep.ids, labels, task.gallery.labels)
        self.members = class_members(labels).astype(np.float64)
        self.sets = np.zeros((len(labels), 0))
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
        self.flat_hits = hits[:, : self.columns].ravel()
        self.flat_distances = deep.distances[:, : self.columns].ravel()
        # Relevant items of a half: by distinct labels, without the pairs that are left out.
        distinct: Any
        distinct, code = np.unique(np.concatenate([labels, task.gallery.labels]), axis=0, return_inverse=True)
        self.query_code, self.gallery_code = np.split(code.reshape(-1), [len(labels)])
        everyone = np.tile(np.arange(len(distinct)), (len(distinct), 1))
        self.relevant = task.relevance.hits(everyone, distinct, distinct).astype(np.float64)
        rows, places = task.exclusions.pairs
        out = self.relevant[self.query_code[rows], self.gallery_code[places]] > 0
        self.out_rows, self.out_places = rows[out], places[out]

    def deviations(self, side: Bools, of_gallery: Bools, split: int) -> tuple[dict[str, Floats], ...]:
        """Half the difference of the scores of the two halves: scores, by depth, by class, by set.

        Args:
            side: the half of each query.
            of_gallery: the half of each gallery item.
            split: its number.
        """
        n, found = len(of_gallery), self._counts(side, of_gallery)
        kept = found > 0
        results = self._results(side, of_gallery, found, split)
        one, two = kept & side, kept & ~side
        weights = np.stack([one / max(one.sum(), 1), two / max(two.sum(), 1)])
        shares = np.stack([_shares(self.members, half) for half in (one, two)])
        of_sets = np.stack([_shares(self.sets, half) for half in (one, two)])
        plain: dict[str, Floats] = {}
        classes: dict[str, Floats] = {}
        sets: dict[str, Floats] = {}
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
            first, second = of_sets @ values
            sets[name] = (first - second) / 2
            first, second = shares @ values
            by_class = (first - second) / 2
            there = ~np.isnan(by_class)  # a rare class may be in one half alone
            plain[f"{MACRO}{name}"] = np.asarray(by_class[there].mean() if there.any() else np.nan)
            if name.startswith("precision_at"):
                classes[name] = by_class
        return plain, self._curves(results, weights, n, split), classes, sets

    def _curves(self, results: QueryResults, weights: Floats, n: int, split: int) -> dict[str, Floats]:
        if not self.curve:
            return {}
        found, top = results.n_relevant, results.hits[:, : self.curve].astype(np.float64)
        kinds = {"precision": top, "recall": top / np.maximum(found, 1)[:, None] / 2}
        ks = np.arange(1, self.curve + 1)
        depths = np.array([half_depth(int(k), n, split) for k in ks])
        curves = {}
        for name, values in kinds.items():
            first, second = np.cumsum(weights @ values, axis=1)
            there = np.minimum(depths, len(first)) - 1
            curves[name] = (first - second)[there] / 2 / depths * (1 if name == "precision" else ks)
        return curves

    def _counts(self, side: Bools, of_gallery: Bools) -> Ints:
        """R of each query in its half."""
        there = ~self.task.exclusions.dropped
        found = np.zeros(len(side))
        for half, items in ((side, of_gallery), (~side, ~of_gallery)):
            sizes = np.bincount(self.gallery_code[items & there], minlength=len(self.relevant))
            found[half] = (self.relevant @ sizes)[self.query_code[half]]
        same = side[self.out_rows] == of_gallery[self.out_places]
        return np.asarray(found - np.bincount(self.out_rows[same], minlength=len(side)), dtype=np.int64)

    def _results(self, side: Bools, of_gallery: Bools, found: Ints, split: int) -> _HalfResults:
        ids = self.deep.ids[:, : self.columns]
        same = (of_gallery[ids] == side[:, None]) & (ids >= 0)
        # Packed to the left in one pass: the results of a row follow each other in the flat order.
        counts, cells = np.count_nonzero(same, axis=1), np.flatnonzero(same)
        rows = np.repeat(np.arange(len(ids)), counts)
        places = np.arange(len(cells)) - np.repeat(np.cumsum(counts) - counts, counts)
        hits = np.zeros((len(ids), max(int(counts.max(initial=0)), self.deepest)), dtype=np.bool_)
        hits.ravel()[rows * hits.shape[1] + places] = self.flat_hits[cells]
        near = places < self.shallow
        rows, places, cells = rows[near], places[near], cells[near]
        own = np.full((len(ids), self.shallow), -1, dtype=np.int64)
        distances = np.full(own.shape, np.inf, dtype=np.float32)
        own[rows, places] = ids.ravel()[cells]
        distances[rows, places] = self.flat_distances[cells]
        task, voters = replace(self.task, n_relevant=found), half_depth(self.vote_k, len(of_gallery), split)
        return _HalfResults(task, slice(None), own, distances, voters, {}, hits)


def _shares(members: Floats, half: Bools) -> Floats:
    """Weights of queries in the mean of each class or set, [classes, n]; NaN for one without any."""
    inside = members * half[:, None]
    sizes = inside.sum(axis=0)
    return np.asarray((inside / np.where(sizes > 0, sizes, np.nan)).T)
