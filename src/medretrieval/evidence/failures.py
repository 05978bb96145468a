"""Where retrieval fails: which queries, which gallery items, which classes. Pure analysis, nothing is drawn.

"First k" are the first k results of a ranking. A query fails where its first k hold fewer relevant items
than they could, min(k, R). One without relevant items (R = 0) is no failure and is never chosen.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medretrieval.evaluate.evaluate import Evaluation
from medretrieval.evaluate.scores import average_precision, precision_at
from medretrieval.evidence.stages.hubs import skewness
from medretrieval.protocol.inputs import Inputs
from medretrieval.protocol.ranking import Labels, class_members
from medretrieval.protocol.task import RetrievalTask

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
MAX_MISLED_QUERIES = 5  # queries that are named with a hub, at most


@dataclass(frozen=True)
class Outcome:
    """A ranking, judged at one depth.

    Attributes:
        k: the depth.
        hits: bool [q, depth], which saved results are relevant.
        precision: precision at k, float64 [q]; NaN where R = 0.
        average_precision: of the whole ranking where the run has it, else of the saved part; float64 [q].
        n_relevant: R, int64 [q].
    """

    k: int
    hits: NDArray[np.bool_]
    precision: Floats
    average_precision: Floats
    n_relevant: Ints

    @classmethod
    def from_evaluation(cls, evaluation: Evaluation, task: RetrievalTask, k: int) -> "Outcome":
        """Judge a run at depth k, at most the depth of its saved ranking."""
        ranking, nothing = evaluation.ranking, task.n_relevant == 0
        hits = task.hits(ranking.ids)
        precision = np.where(nothing, np.nan, precision_at(hits, k))
        partly = np.where(nothing, np.nan, average_precision(hits, task.n_relevant))
        return cls(k, hits, precision, evaluation.per_query.get("map", partly), task.n_relevant)

    @property
    def counted(self) -> NDArray[np.bool_]:
        """Queries that have something to find, bool [q]."""
        return ~np.isnan(self.precision)

    @property
    def failed(self) -> NDArray[np.bool_]:
        """Queries whose first k hold fewer relevant items than they could, bool [q]."""
        found = self.hits[:, : self.k].sum(axis=1)
        return self.counted & (found < np.minimum(self.k, self.n_relevant))


@dataclass(frozen=True)
class Hubs:
    """How often each gallery item is among the first k of a query (Radovanovic et al. 2010, JMLR 11).

    Attributes:
        k: the depth.
        lists: int64 [n], the k-occurrence: queries that have the item among their first k.
        wrong: int64 [n], those of them to which it is not relevant ("bad k-occurrence").
        found: bool [n], items that any query may find.
    """

    k: int
    lists: Ints
    wrong: Ints
    found: NDArray[np.bool_]

    @property
    def skewness(self) -> float:
        """Third standardized moment of the k-occurrence: large where a few items crowd the lists."""
        return skewness(self.lists[self.found])

    @property
    def never_retrieved(self) -> float:
        """Share of the items that no query has among its first k ("antihubs")."""
        return float((self.lists[self.found] == 0).mean())

    def most_wrong(self, count: int) -> Ints:
        """The items in the most wrong lists, of equals those in more lists first; none in no wrong list."""
        order = np.lexsort((np.arange(len(self.lists)), -self.lists, -self.wrong))[:count]
        return order[self.wrong[order] > 0]


@dataclass(frozen=True)
class Confident:
    """Queries whose first result is wrong and near.

    Attributes:
        queries: positions, the nearest first, int64 [m].
        nearer_than: share of the right first results that are farther than each one's, float64 [m].
    """

    queries: Ints
    nearer_than: Floats


@dataclass(frozen=True)
class Failures:
    """Which queries and gallery items to show of a run, and which classes are retrieved for which.

    Attributes:
        sample: queries, drawn from the classes in turn, int64.
        worst: queries that fail, those of the lowest precision first, int64.
        confident: queries whose first result is wrong and near.
        hubs: counts of all gallery items.
        crowding: the items in the most wrong lists, int64.
        misled: for each of them queries that it misleads, int64 each.
        confusion: see `confusion`.
    """

    sample: Ints
    worst: Ints
    confident: Confident
    hubs: Hubs
    crowding: Ints
    misled: tuple[Ints, ...]
    confusion: Floats


def failures(inputs: Inputs, evaluation: Evaluation, outcome: Outcome, count: int, seed: int) -> Failures:
    """Choose what to show of a run.

    Args:
        inputs: dataset and task.
        evaluation: the run's ranking.
        outcome: the ranking judged at the depth of the lists.
        count: queries of each kind, and hubs.
        seed: of the sample.
    """
    ranking = evaluation.ranking
    counted = hubs(ranking.ids, outcome, inputs.task.exclusions.dropped)
    crowding = counted.most_wrong(count)
    labels = ranking.query_labels, ranking.gallery_labels
    return Failures(
        sample=balanced_sample(labels[0], outcome.counted, count, seed).by_class,
        worst=worst_queries(outcome, count),
        confident=confidently_wrong(outcome, ranking.distances, count),
        hubs=counted,
        crowding=crowding,
        misled=tuple(spoiled(int(item), ranking.ids, outcome, MAX_MISLED_QUERIES) for item in crowding),
        confusion=confusion(ranking.ids[:, : outcome.k], *labels, len(inputs.dataset.classes)),
    )


@dataclass(frozen=True)
class Sample:
    """Queries drawn in turn from every class.

    Attributes:
        queries: positions in the order they were drawn, int64 [m].
        drawn_for: int64 [m], the place of the class that each was drawn for.
    """

    queries: Ints
    drawn_for: Ints

    @property
    def by_class(self) -> Ints:
        """The same positions, those of a class together and in their own order."""
        return self.queries[np.lexsort((self.queries, self.drawn_for))]


def balanced_sample(labels: Labels, allowed: NDArray[np.bool_], count: int, seed: int) -> Sample:
    """Draw queries from the classes in turn, one of each class a turn; a class that has none left is passed.

    Args:
        labels: int64 [q] or bool [q, classes]; a query with several findings is drawn for one of them, and
            those without any are a class of their own.
        allowed: bool [q], which may be drawn.
        count: how many; fewer where fewer are allowed.
        seed: the same seed draws the same ones.
    """
    rng = np.random.default_rng(seed)
    members = class_members(labels) & allowed[:, None]
    if (without := allowed & ~members.any(axis=1)).any():
        members = np.column_stack([members, without])
    waiting = [rng.permutation(np.flatnonzero(column)).tolist() for column in members.T]
    drawn: dict[int, int] = {}
    turns = rng.permutation(len(waiting)).tolist()
    while len(drawn) < count and any(waiting):
        for number in turns:
            while waiting[number] and waiting[number][-1] in drawn:
                waiting[number].pop()
            if waiting[number] and len(drawn) < count:
                drawn[waiting[number].pop()] = number
    return Sample(np.array(list(drawn), np.int64), np.array(list(drawn.values()), np.int64))


def worst_queries(outcome: Outcome, count: int) -> Ints:
    """Queries that fail, the lowest precision at k first, of equals the lowest average precision.

    Args:
        outcome: the judged ranking.
        count: how many; fewer where fewer fail.

    Returns:
        Positions, int64.
    """
    places = np.flatnonzero(outcome.failed)
    order = np.lexsort((places, outcome.average_precision[places], outcome.precision[places]))
    return places[order][:count]


def confidently_wrong(outcome: Outcome, distances: NDArray[np.float32], count: int) -> Confident:
    """Queries whose first result is wrong but nearer than a typical right one.

    Typical is the median distance of right first results; where no first result is right, every wrong one
    counts, and `nearer_than` is 1.

    Args:
        outcome: the judged ranking.
        distances: float32 [q, depth], of the results.
        count: how many queries at most.
    """
    first, right = distances[:, 0].astype(np.float64), outcome.hits[:, 0]
    usual = np.sort(first[right & outcome.counted])
    places = np.flatnonzero(~right & outcome.counted & np.isfinite(first))
    if len(usual):
        places = places[first[places] <= np.median(usual)]
    places = places[np.lexsort((places, first[places]))][:count]
    if not len(usual):
        return Confident(places, np.ones(len(places)))
    return Confident(places, 1 - np.searchsorted(usual, first[places], side="right") / len(usual))


def hubs(ids: Ints, outcome: Outcome, dropped: NDArray[np.bool_]) -> Hubs:
    """Count, for every gallery item, the lists it is in and the wrong ones.

    Args:
        ids: int64 [q, depth], -1 for a missing result.
        outcome: the judged ranking; the lists of queries with R = 0 are left out.
        dropped: bool [n], items that no query may find.
    """
    top = ids[outcome.counted, : outcome.k]
    wrong = top[~outcome.hits[outcome.counted, : outcome.k]]
    counts = [np.bincount(found[found >= 0], minlength=len(dropped)) for found in (top.ravel(), wrong)]
    return Hubs(outcome.k, counts[0], counts[1], ~dropped)


def spoiled(item: int, ids: Ints, outcome: Outcome, count: int) -> Ints:
    """Queries among whose first k an item is without being relevant, best-ranked first (positions, int64)."""
    k = outcome.k
    rows, ranks = np.nonzero((ids[:, :k] == item) & ~outcome.hits[:, :k] & outcome.counted[:, None])
    return rows[np.lexsort((rows, ranks))][:count]


def confusion(ids: Ints, query_labels: Labels, gallery_labels: Labels, classes: int) -> Floats:
    """Mean share of the results that are of each class, for the queries of each class.

    An image with several findings counts for each, one without any for a last class of its own, so rows
    sum to 1 for single-label data only (to less where results are missing).

    Args:
        ids: the first k results, int64 [q, k], -1 for a missing one.
        query_labels: int64 [q] or bool [q, classes].
        gallery_labels: int64 [n] or bool [n, classes].
        classes: their number.

    Returns:
        float64 [c, c], row the query's class, column the result's; c is `classes`, plus one for "none"
        with multi-label data. A class without queries has a row of NaN.
    """
    asked, shown = (_one_hot(labels, classes) for labels in (query_labels, gallery_labels))
    shown = np.vstack([shown, np.zeros(shown.shape[1])])  # a last row for -1 to point at
    shares = sum(shown[ids[:, i]] for i in range(ids.shape[1])) / ids.shape[1]
    queries = asked.sum(axis=0)[:, None]
    return np.divide(asked.T @ shares, queries, out=np.full((len(queries),) * 2, np.nan), where=queries > 0)


def _one_hot(labels: Labels, classes: int) -> Floats:
    if labels.ndim == 1:
        return np.eye(classes)[labels]
    return np.column_stack([labels, ~labels.any(axis=1)]).astype(np.float64)
