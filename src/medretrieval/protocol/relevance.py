"""What makes a result relevant to a query, and by how much.

Single-label: the same class. Multi-label: at least one finding shared, or findings that overlap by a given
Jaccard index. Gains, for graded nDCG: the Jaccard index of the findings, or for classes in an order
1 - distance / (classes - 1). What is not relevant in the binary sense may still have a gain.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medretrieval.protocol.exclusions import Exclusions
from medretrieval.protocol.ranking import Labels

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Codes = NDArray[np.uint64]
CELLS = 4_000_000  # of a chunk [queries, distinct label sets]


@dataclass(frozen=True)
class Relevance:
    """How relevance is decided.

    Attributes:
        min_jaccard: for multi-label data: relevant from this Jaccard index of the findings on; None: where
            any finding is shared.
        grades: number of classes of ordinal data; None where classes have no order.
    """

    min_jaccard: float | None = None
    grades: int | None = None

    def is_graded(self, labels: Labels) -> bool:
        """Whether results can be relevant by degrees."""
        return labels.ndim == 2 or self.grades is not None

    def hits(self, ids: Ints, query_labels: Labels, gallery_labels: Labels) -> NDArray[np.bool_]:
        """Which results are relevant; a missing result is a miss.

        Args:
            ids: int64 [q, depth], -1 for a missing result.
            query_labels: int64 [q] or bool [q, classes].
            gallery_labels: int64 [n] or bool [n, classes].

        Returns:
            bool [q, depth].

        >>> Relevance().hits(np.array([[1, 0, -1]]), np.array([3]), np.array([3, 4]))
        array([[False,  True, False]])
        """
        multi = query_labels.ndim == 2
        return self._relevant(codes(query_labels)[:, None], _with_nobody(gallery_labels)[ids], multi)

    def counts(self, query_labels: Labels, gallery_labels: Labels, out: Exclusions) -> Ints:
        """R: relevant items in the gallery for each query, without what is left out for it (int64 [q])."""
        query_codes, gallery_codes = codes(query_labels), codes(gallery_labels)
        queries, back = np.unique(query_codes, return_inverse=True)
        kept, frequency = np.unique(gallery_codes[~out.dropped], return_counts=True)
        multi = query_labels.ndim == 2
        if multi:
            totals = (self._relevant(queries[:, None], kept[None, :], multi) * frequency).sum(axis=1)[back]
        else:  # one number each, of which there may be as many as images
            places = np.searchsorted(kept, queries).clip(max=len(kept) - 1)
            totals = np.where(kept[places] == queries, frequency[places], 0)[back]
        rows, positions = out.pairs
        lost = self._relevant(query_codes[rows], gallery_codes[positions], multi)
        found: Ints = totals - np.bincount(rows[lost], minlength=len(query_codes))
        return found

    def gains(self, ids: Ints, query_labels: Labels, gallery_labels: Labels) -> Floats:
        """Gain of each result, 0 for a missing one (float64 [q, depth]; arguments as `hits`).

        >>> Relevance(grades=5).gains(np.array([[0, 1, -1]]), np.array([4]), np.array([4, 1]))
        array([[1.  , 0.25, 0.  ]])
        """
        return self._gain(
            codes(query_labels)[:, None], _with_nobody(gallery_labels)[ids], query_labels.ndim == 2
        )

    def ideal(self, query_labels: Labels, gallery_labels: Labels, out: Exclusions, ks: list[int]) -> Floats:
        """Discounted gain of the best first k results that each query could have (float64 [q, ks])."""
        discounts = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, max(ks) + 2)))])
        parts = []
        for gains, counts in self._supply(query_labels, gallery_labels, out):
            # Items of equal gain fill a run of places.
            last = np.cumsum(counts, axis=1)
            columns = [
                (gains * (discounts[np.minimum(last, k)] - discounts[np.minimum(last - counts, k)])).sum(
                    axis=1
                )
                for k in ks
            ]
            parts.append(np.stack(columns, axis=1))
        return np.concatenate(parts)

    def mean_gain(self, query_labels: Labels, gallery_labels: Labels, out: Exclusions) -> Floats:
        """Mean gain over the items that each query can find (float64 [q])."""
        parts = [
            (gains * counts).sum(axis=1) / np.maximum(counts.sum(axis=1), 1)
            for gains, counts in self._supply(query_labels, gallery_labels, out)
        ]
        return np.concatenate(parts)

    def _supply(
        self, query_labels: Labels, gallery_labels: Labels, out: Exclusions
    ) -> Iterator[tuple[Floats, Ints]]:
        """For chunks of queries: the gains to be had, largest first, and of how many items each [q, sets]."""
        query_codes, gallery_codes = codes(query_labels), codes(gallery_labels)
        sets, frequency = np.unique(gallery_codes[~out.dropped], return_counts=True)
        queries, back = np.unique(query_codes, return_inverse=True)
        gains = self._gain(queries[:, None], sets[None, :], query_labels.ndim == 2)
        order = np.argsort(-gains, axis=1, kind="stable")
        rows, positions = out.pairs
        places = np.searchsorted(sets, gallery_codes[positions])
        step = max(1, CELLS // max(1, len(sets)))
        for begin in range(0, len(query_codes), step):
            mine = back[begin : begin + step]
            counts = np.tile(frequency, (len(mine), 1))
            own = slice(*np.searchsorted(rows, (begin, begin + len(mine))))
            np.subtract.at(counts, (rows[own] - begin, places[own]), 1)
            yield (
                np.take_along_axis(gains[mine], order[mine], axis=1),
                np.take_along_axis(counts, order[mine], axis=1),
            )

    def _relevant(self, query: Codes, gallery: Codes, multi: bool) -> NDArray[np.bool_]:
        if not multi:
            return np.asarray(query == gallery)
        if self.min_jaccard is None:
            return np.asarray((query & gallery) != 0)
        # 1/3 + 1/3 + 1/3 is not quite 1, so a threshold is met from just below on.
        return np.asarray(((query & gallery) != 0) & (_jaccard(query, gallery) >= self.min_jaccard - 1e-9))

    def _gain(self, query: Codes, gallery: Codes, multi: bool) -> Floats:
        if multi:
            return _jaccard(query, gallery)
        assert self.grades is not None
        apart = np.abs(query.astype(np.int64) - gallery.astype(np.int64))
        return np.asarray(np.where(gallery == 0, 0.0, 1 - apart / max(self.grades - 1, 1)))


def codes(labels: Labels) -> Codes:
    """A label, or a set of findings as bits, in one number; 0 stands for "no class" (uint64 [n])."""
    if labels.ndim == 1:
        return labels.astype(np.uint64) + np.uint64(1)
    if labels.shape[1] > 64:
        raise ValueError(f"{labels.shape[1]} findings; at most 64 fit the bit sets used here")
    bits = np.uint64(1) << np.arange(labels.shape[1], dtype=np.uint64)
    sets: Codes = (labels * bits).sum(axis=1, dtype=np.uint64)
    return sets


def _with_nobody(labels: Labels) -> Codes:
    """Codes with a last one without any class, for -1 to point at."""
    return np.append(codes(labels), np.uint64(0))


def _jaccard(a: Codes, b: Codes) -> Floats:
    """Shared findings over all findings of both; 0 where neither has any."""
    either = np.bitwise_count(a | b)
    shared = np.bitwise_count(a & b)
    return np.asarray(shared / np.maximum(either, 1), dtype=np.float64)
