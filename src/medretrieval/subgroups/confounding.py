"""Does a ranking go by the class, or by something that comes with it, such as the site or the scanner?

The robustness index of PathoROB (de Jong et al. 2025, arXiv 2507.17845): of the first results that agree with
the query in one of class and value only, the share that agrees in the class.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import Config
from medretrieval.protocol.ranking import Labels
from medretrieval.protocol.task import RetrievalTask
from medretrieval.subgroups.columns import Column
from medretrieval.subgroups.shares import NOT_COUNTED, Share, share

CELLS = 4_000_000  # of a chunk [queries, gallery]
# What a result has in common with its query.
KINDS = (
    "same class, same value",
    "same class, other value",
    "other class, same value",
    "other class, other value",
)
SS, SO, OS, OO = range(4)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sides:
    """The values of a column on both sides of a task.

    Attributes:
        queries: int64 [q], -1 where it is not known.
        gallery: int64 [n], likewise.
        values: what they are called.
    """

    queries: Ints
    gallery: Ints
    values: tuple[str, ...]

    @classmethod
    def from_column(cls, column: Column, queries: int) -> "Sides":
        """Of a column over the queries and then the gallery."""
        return cls(column.codes[:queries], column.codes[queries:], column.values)


@dataclass(frozen=True)
class Association:
    """How strongly class and value go together among the gallery's images.

    Attributes:
        classes: rows of the table.
        values: columns of the table.
        counts: int64 [classes, values]; an image of several findings counts for each.
        cramers_v: 0 for none to 1 (Cramer 1946); of several findings the largest of those of one finding
            against its absence; None where there is one class or one value.
    """

    classes: list[str]
    values: list[str]
    counts: Ints
    cramers_v: float | None


@dataclass(frozen=True)
class Confounding:
    """What the first k results have in common with their queries.

    Attributes:
        k: results of each query.
        queries: whose value is known.
        unknown_queries: whose value is not known; they are left out.
        unknown_results: of the others' first k results; they are left out.
        shares: float64 [q, 4], share of each of KINDS among the known first k results of each query; NaN for
            a query that has none.
        index: the robustness index.
        chance: the same of the counts that a random ranking is expected to have; None where it is not known
            what queries can find, or where it has none to count.
        association: of class and value in the gallery.
    """

    k: int
    queries: int
    unknown_queries: int
    unknown_results: int
    shares: Floats
    index: Share
    chance: float | None
    association: Association


def confounding(
    settings: Config, task: RetrievalTask, ids: Ints, sides: Sides, k: int, classes: Sequence[str]
) -> Confounding:
    """What the first k results have in common with their queries.

    Args:
        settings: the run's configuration.
        task: who queries whom.
        ids: int64 [q, depth], results of each query; deeper than k where halves are to tell an interval.
        sides: the column's values.
        k: results of each query, at most depth.
        classes: names, label i being classes[i].
    """
    kinds = kinds_of(task, ids, sides)
    first = kinds[:, :k]
    counts = np.stack([(first == kind).sum(axis=1) for kind in range(4)], axis=1)
    known = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, known, out=np.full(counts.shape, np.nan), where=known > 0)
    asked = sides.queries >= 0
    marks = np.select([kinds == SO, kinds == OS], [1, 0], NOT_COUNTED).astype(np.int8)
    return Confounding(
        k=k,
        queries=int(asked.sum()),
        unknown_queries=int((~asked).sum()),
        unknown_results=int(((first < 0) & (ids[:, :k] >= 0))[asked].sum()),
        shares=shares,
        index=share(settings, task, marks, ids, k),
        chance=None if settings.protocol.drop_duplicates else chance_index(task, sides),
        association=association(task.gallery.labels, sides, classes),
    )


def kinds_of(task: RetrievalTask, ids: Ints, sides: Sides) -> NDArray[np.int8]:
    """Which of KINDS each result is; -1 where a value is not known or it is missing (int8 [q, depth])."""
    relevant = task.relevance.hits(ids, task.queries.labels, task.gallery.labels)
    own, theirs = sides.queries[:, None], np.append(sides.gallery, -1)[ids]
    kinds = np.where(relevant, SS, OS) + (own != theirs)
    return np.where((own < 0) | (theirs < 0), -1, kinds).astype(np.int8)


def chance_index(task: RetrievalTask, sides: Sides) -> float | None:
    """The index of the counts that a random ranking of the same gallery is expected to have.

    Each image that a query can find is as likely among its first k, so of k results k / N times the images of
    a kind are expected, N being what the query can find.
    """
    sums = np.zeros(4)
    for rows, can in _reachable(task):
        ids = np.broadcast_to(np.arange(len(task.gallery)), can.shape)
        relevant = task.relevance.hits(ids, task.queries.labels[rows], task.gallery.labels)
        own, theirs = sides.queries[rows, None], sides.gallery[None, :]
        known = can & (own >= 0) & (theirs >= 0)
        per = 1 / np.maximum(task.n_candidates[rows], 1)
        sums[SO] += ((known & relevant & (own != theirs)).sum(axis=1) * per).sum()
        sums[OS] += ((known & ~relevant & (own == theirs)).sum(axis=1) * per).sum()
    return None if sums.sum() == 0 else float(sums[SO] / sums.sum())


def _reachable(task: RetrievalTask) -> Iterator[tuple[slice, NDArray[np.bool_]]]:
    """For chunks of queries: which gallery images each can find, bool [rows, n]."""
    queries, n = len(task.queries), len(task.gallery)
    out_rows, out_places = task.exclusions.pairs
    step = max(1, CELLS // max(1, n))
    for begin in range(0, queries, step):
        rows = slice(begin, min(begin + step, queries))
        can = np.tile(~task.exclusions.dropped, (rows.stop - begin, 1))
        own = slice(*np.searchsorted(out_rows, (begin, rows.stop)))
        can[out_rows[own] - begin, out_places[own]] = False
        yield rows, can


def association(labels: Labels, sides: Sides, classes: Sequence[str]) -> Association:
    """How class and value go together among the gallery's images whose value is known.

    Args:
        labels: int64 [n] or bool [n, classes], of the gallery.
        sides: the column's values.
        classes: names, label i being classes[i].
    """
    known = sides.gallery >= 0
    members = labels if labels.ndim == 2 else labels[:, None] == np.arange(len(classes))
    members, values = members[known].astype(np.bool_), sides.gallery[known]
    one_hot = values[:, None] == np.arange(len(sides.values))
    counts = members.T.astype(np.int64) @ one_hot.astype(np.int64)
    if labels.ndim == 1:
        found = cramers_v(counts)
    else:
        every = [cramers_v(np.stack([row, one_hot.sum(axis=0) - row])) for row in counts]
        found = max((v for v in every if v is not None), default=None)
    there = counts.sum(axis=1) > 0
    names = [str(name) for name, some in zip(classes, there, strict=True) if some]
    return Association(names, list(sides.values), counts[there], found)


def cramers_v(counts: Ints) -> float | None:
    """Cramer's V of a table of counts, without correction; None for a single row or column that has any.

    >>> cramers_v(np.array([[5, 0], [0, 5]])), cramers_v(np.array([[2, 2], [3, 3]]))
    (1.0, 0.0)
    """
    counts = counts[counts.sum(axis=1) > 0][:, counts.sum(axis=0) > 0].astype(np.float64)
    if min(counts.shape) < 2:
        return None
    total = counts.sum()
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / total
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    return float(np.sqrt(chi_squared / (total * (min(counts.shape) - 1))))
