"""k-reciprocal re-ranking on sparse lists: results whose neighborhoods overlap with the query's come first.

Zhong et al. 2017, arXiv 1701.08398. Theirs is transductive: all queries stand in one graph with the gallery.
Here a query meets the gallery alone, unless it is asked for otherwise.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.errors import UserError
from medretrieval.rerank.base import (
    Asked,
    Floats,
    Gallery,
    Ints,
    Keep,
    Opened,
    Reranker,
    at_least,
    behind,
    require_enough,
    with_name,
)
from medretrieval.rerank.reciprocal_sets import SHARE_IN_COMMON, Nodes, averaged, encoding, half, reciprocal

TOLERANCE = 1e-6  # of a radius, in units of the scale: its last bits are another product's


class KReciprocal(Reranker):
    """The first results are put in the order of a mean of the Jaccard distance and the metric's.

    Distances in the ranking: for the first `candidates` results, jaccard_unit * (1 - weight) * J + weight *
    distance, where the unit is the mean distance of random gallery pairs and J the Jaccard distance, 0 to 1;
    behind them the index's distances, raised by one number so that they ascend.

    Args:
        name: of the method.
        k1: depth of the lists in which two images must be each other's.
        k2: nearest images, itself among them, over which an image's vector of weights is averaged; 1: none.
        weight: of the metric's distance, 0 to 1 (lambda of the paper); 1 changes nothing.
        candidates: first results that are put in order.
        transductive: whether the queries are in one graph with the gallery, as in the paper.
    """

    serves_text = False

    def __init__(
        self, name: str, k1: int, k2: int, weight: float, candidates: int, transductive: bool
    ) -> None:
        super().__init__(name)
        self.transductive = transductive
        self.options = Options(k1, k2, weight, candidates)
        at_least(2, k1=self.options.k1)
        at_least(1, k2=self.options.k2, candidates=self.options.candidates)
        if not 0 <= self.options.weight <= 1:
            raise UserError(f"rerank.weight={self.options.weight}: must lie between 0 and 1")
        if self.options.k2 > self.options.k1:
            raise UserError(
                f"rerank.k2={self.options.k2}: more than rerank.k1={self.options.k1}, the depth of "
                "the lists; give a smaller one"
            )

    @property
    def parameters(self) -> dict[str, Any]:
        """See `Reranker.parameters`."""
        return dataclasses.asdict(self.options)

    @property
    def list_width(self) -> int:
        """One more than k1: a query's own picture may be in a list, and is taken out of it."""
        return self.options.k1 + 1

    @property
    def needed(self) -> dict[str, int]:
        """See `Reranker.needed`."""
        return {"k1": self.options.k1}

    def open(self, gallery: Gallery, keep: Keep) -> Opened:
        """See `Reranker.open`."""
        assert gallery.lists is not None
        options, lists, metric = self.options, gallery.lists, gallery.metric
        nodes = Nodes.measured(gallery.nodes, metric)

        def make() -> dict[str, NDArray[Any]]:
            single = encoding(lists.ids, options.k1, nodes)
            mean = single if options.k2 == 1 else averaged(single, lists.ids, options.k2)
            halves = reciprocal(lists.ids, half(options.k1))
            return _arrays(mean, "mean") | _arrays(single, "single") | _arrays(halves, "half")

        found = keep.arrays(with_name({"k1": options.k1, "k2": options.k2}, self), make)
        mean, single, halves = (_Rows.named(found, name) for name in ("mean", "single", "half"))
        if self.transductive:
            return InOneGraph(gallery, nodes, options, mean)
        return AloneWithGallery(gallery, nodes, options, mean, single, halves, _Marks(len(gallery)))


@dataclass(frozen=True)
class Options:
    """Parameters of `KReciprocal`."""

    k1: int
    k2: int
    weight: float
    candidates: int


@dataclass(frozen=True)
class _Rows:
    """A sparse matrix by rows: where rows begin, columns and values."""

    starts: NDArray[np.integer]
    columns: NDArray[np.integer]
    values: Floats

    @classmethod
    def named(cls, arrays: dict[str, NDArray[Any]], name: str) -> "_Rows":
        """What `_arrays` made."""
        return cls(arrays[f"{name}_starts"], arrays[f"{name}_columns"], arrays[f"{name}_values"])

    def row(self, i: int) -> tuple[NDArray[np.integer], Floats]:
        """Columns and values of one row."""
        place = slice(int(self.starts[i]), int(self.starts[i + 1]))
        return self.columns[place], self.values[place]

    def places(self, rows: Ints) -> tuple[Ints, Ints]:
        """Where the entries of some rows stand, one row after the other, and how many each row has."""
        begin = self.starts[rows].astype(np.int64)
        counts = self.starts[rows + 1].astype(np.int64) - begin
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(begin, counts) + within, counts


@dataclass(frozen=True)
class _Reordering(Opened):
    """What both ways have in common: the Jaccard distance of a query to its first results.

    Attributes:
        gallery: what is searched, with lists.
        nodes: vectors of the graph.
        options: parameters.
        rows: each node's weights, averaged over its first k2.
    """

    gallery: Gallery
    nodes: Nodes
    options: Options
    rows: _Rows

    def search(self, asked: Asked, k: int) -> tuple[Ints, Floats]:
        """See `Opened.search`."""
        options, index = self.options, self.gallery.index
        findable = len(self.gallery) - asked.out.overfetch
        ids, distances = asked.first(index, min(findable, max(k, options.candidates, options.k1)))
        require_enough(ids, options.k1, index, "k1")
        dense = np.zeros(len(self.nodes.vectors), np.float32)
        for row in range(len(ids)):
            columns, values = self.encode(asked, row, ids[row], distances[row])
            m = min(options.candidates, int((ids[row] >= 0).sum()))
            jaccard = self._jaccard(dense, (columns, values), ids[row, :m])
            near = distances[row, :m]
            if options.weight == 1:
                mixed = near  # the same bits
            else:
                apart = np.float32((1 - options.weight) * self.nodes.unit)
                mixed = apart * jaccard + np.float32(options.weight) * near
            order = np.argsort(mixed, kind="stable")
            ids[row], distances[row] = behind(ids[row], distances[row], order, mixed[order])
        return ids[:, :k], distances[:, :k]

    def encode(
        self, asked: Asked, row: int, ids: Ints, distances: Floats
    ) -> tuple[NDArray[np.integer], Floats]:
        """A query as a sparse vector over the nodes: columns, each once, and values."""
        raise NotImplementedError

    def _jaccard(self, dense: Floats, query: tuple[NDArray[np.integer], Floats], items: Ints) -> Floats:
        """Jaccard distances of a query to items (float32 [m]); `dense` is all 0 before and after."""
        columns, values = query
        dense[columns] = values
        places, counts = self.rows.places(items)
        least = np.minimum(self.rows.values[places], dense[self.rows.columns[places]])
        dense[columns] = 0
        starts = np.cumsum(counts) - counts
        shared = np.add.reduceat(least, starts) if len(least) else np.zeros(len(items), np.float32)
        return np.asarray(1 - shared / (2 - shared), np.float32)


class InOneGraph(_Reordering):
    """Transductive, as in the paper: a query is a node, and its vector of weights is that of the node."""

    def encode(
        self, asked: Asked, row: int, ids: Ints, distances: Floats
    ) -> tuple[NDArray[np.integer], Floats]:
        """The row of the query's node: behind the gallery, or in it where the queries are the gallery."""
        apart = len(self.nodes.vectors) > len(self.gallery)
        return self.rows.row((asked.rows.start or 0) + row + (len(self.gallery) if apart else 0))


@dataclass(frozen=True)
class AloneWithGallery(_Reordering):
    """A query meets the gallery's own lists, from which its own picture is taken out.

    Attributes:
        single: each gallery item's weights before they are averaged.
        sets: the gallery's reciprocal sets at half of k1.
        marks: room to mark items in.
    """

    single: _Rows
    sets: _Rows
    marks: "_Marks"

    def encode(
        self, asked: Asked, row: int, ids: Ints, distances: Floats
    ) -> tuple[NDArray[np.integer], Floats]:
        """Weights over the gallery items that the query may find."""
        options, out = self.options, asked.left_out(row)
        near = ids[: options.k1]
        apart = self.marks.of(out)
        members = near[distances[: options.k1] <= self._radii(near, apart)]
        union = self._expanded(members, apart)
        parts = [self.single.row(int(g)) for g in near[: options.k2 - 1]]
        if len(union):
            own = asked.vectors[row]
            if self.nodes.metric.normalize:
                own = own / np.linalg.norm(own)
            parts.append((union, self.nodes.weights(own, union)))
        columns = np.concatenate([union[:0], *(c for c, _ in parts)])
        values = np.concatenate([np.zeros(0, np.float32), *(v for _, v in parts)])
        kept = ~apart[columns]
        apart[out] = False
        unique, inverse = np.unique(columns[kept], return_inverse=True)
        sums = np.bincount(inverse, values[kept], len(unique)) / options.k2
        return unique, sums.astype(np.float32)

    def _radii(self, items: Ints, apart: NDArray[np.bool_]) -> Floats:
        """How near a query must be to be among an item's first k1: by its lists without what is left out."""
        lists, k1 = self.gallery.lists, self.options.k1
        assert lists is not None
        among = apart[lists.ids[items, :k1]].sum(axis=1)
        last = np.minimum(k1 - 1 + among, lists.ids.shape[1] - 1)
        found = lists.distances[items, last]
        return np.asarray(found + TOLERANCE * self.nodes.unit, np.float32)

    def _expanded(self, members: Ints, apart: NDArray[np.bool_]) -> Ints:
        """The query's set, with the smaller sets of members that have most of theirs in common with it."""
        if not len(members):
            return members
        places, counts = self.sets.places(members)
        columns = self.sets.columns[places]
        inside = self.marks.of(members, second=True)
        found, shared = ~apart[columns], inside[columns]
        inside[members] = False
        starts = np.cumsum(counts) - counts  # no set is empty: each item is in its own
        sizes = np.add.reduceat(found.astype(np.int64), starts)
        common = np.add.reduceat((found & shared).astype(np.int64), starts)
        taken = np.repeat(common > SHARE_IN_COMMON * sizes, counts) & found
        return np.unique(np.concatenate([members, columns[taken]]))


class _Marks:
    """Places of the gallery that are marked for a moment, without a new array each time."""

    def __init__(self, n: int) -> None:
        self.arrays = np.zeros((2, n + 1), np.bool_)  # the last for -1 to point at

    def of(self, places: Ints, second: bool = False) -> NDArray[np.bool_]:
        """An array, all false but there; whoever asks takes the marks away again."""
        marked = self.arrays[int(second)]
        marked[places] = True
        return marked


def _arrays(matrix: Any, prefix: str) -> dict[str, NDArray[Any]]:
    """A sparse matrix as arrays of plain types."""
    matrix.sort_indices()
    return {
        f"{prefix}_starts": matrix.indptr.astype(np.int64),
        f"{prefix}_columns": matrix.indices.astype(np.int32),
        f"{prefix}_values": matrix.data.astype(np.float32),
    }
