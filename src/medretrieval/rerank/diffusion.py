"""Diffusion on the gallery's graph of mutual neighbors, cut off at a query's first results.

Iscen, Tolias, Avrithis, Furon, Chum, "Efficient Diffusion on Region Manifolds", CVPR 2017, arXiv 1611.05113:
f = (1 - alpha) (I - alpha S)^-1 y. Solving among the first results alone is their truncation; Yang et al.
2019, arXiv 1811.10907, cut off the same way for each gallery image and solve before any query comes. Here the
small system is solved for each query, so that what a query leaves out is in none of it.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse
from threadpoolctl import threadpool_limits

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
from medretrieval.rerank.neighbor_lists import NeighborLists
from medretrieval.rerank.weighted_means import BLOCK_CELLS, cosines


class Diffusion(Reranker):
    """The first results are put in the order of what reaches them from the query's neighbors.

    Distances in the ranking: for the first `candidates` results 1 - f / (largest f of the query), 0 for the
    first and 1 for what nothing reaches, comparable within a query alone; behind them the index's distances,
    raised by one number where that is needed so that they ascend. Weights are cosines in every metric;
    which neighbors there are says the metric.

    Args:
        name: of the method.
        neighbors: of each image in the graph, where two are each other's.
        seeds: first results from which the query's weight starts.
        gamma: power of the cosines.
        alpha: share that is passed on at each step, 0 to below 1.
        candidates: first results that are put in order, the nodes of the system that is solved.
    """

    def __init__(
        self, name: str, neighbors: int, seeds: int, gamma: float, alpha: float, candidates: int
    ) -> None:
        super().__init__(name)
        self.options = options = Options(neighbors, seeds, gamma, alpha, candidates)
        at_least(1, neighbors=options.neighbors, seeds=options.seeds, candidates=options.candidates)
        at_least(0, gamma=options.gamma)
        if not 0 <= options.alpha < 1:
            raise UserError(f"rerank.alpha={options.alpha}: must be 0 or more and below 1")
        if options.seeds > options.candidates:
            raise UserError(
                f"rerank.seeds={options.seeds}: more than rerank.candidates={options.candidates}; give fewer"
            )

    @property
    def parameters(self) -> dict[str, Any]:
        """See `Reranker.parameters`."""
        return dataclasses.asdict(self.options)

    @property
    def list_width(self) -> int:
        """See `Reranker.list_width`."""
        return self.options.neighbors

    @property
    def needed(self) -> dict[str, int]:
        """See `Reranker.needed`."""
        return {"neighbors": self.options.neighbors, "seeds": self.options.seeds}

    def open(self, gallery: Gallery, keep: Keep) -> Opened:
        """See `Reranker.open`."""
        lists, options = gallery.lists, self.options
        assert lists is not None

        def make() -> dict[str, NDArray[Any]]:
            return transitions(gallery.nodes, lists, options.neighbors, options.gamma)

        parts = {"what": "transitions", "neighbors": options.neighbors, "gamma": options.gamma}
        return Diffused(gallery, options, **keep.arrays(with_name(parts, self), make))


@dataclass(frozen=True)
class Options:
    """Parameters of `Diffusion`."""

    neighbors: int
    seeds: int
    gamma: float
    alpha: float
    candidates: int


def transitions(vectors: Floats, lists: NeighborLists, k: int, gamma: float) -> dict[str, NDArray[Any]]:
    """The normalized graph S = D^-1/2 A D^-1/2, where A has cosine^gamma of images that are each other's.

    Args:
        vectors: float32 [n, d].
        lists: at least k wide.
        k: neighbors.
        gamma: power of the cosines.

    Returns:
        "starts" int64 [n + 1], "columns" int32 and "values" float32 of a sparse matrix [n, n].
    """
    n, ids = len(lists), np.asarray(lists.ids[:, :k])
    there = ids >= 0
    starts = np.append(0, np.cumsum(there.sum(axis=1)))
    pattern = sparse.csr_matrix((np.ones(there.sum(), np.float32), ids[there], starts), (n, n))
    graph = pattern.multiply(pattern.T).tocsr()
    graph.sort_indices()
    rows = np.repeat(np.arange(n), np.diff(graph.indptr))
    step = max(1, BLOCK_CELLS // vectors.shape[1])
    for begin in range(0, len(rows), step):
        some = slice(begin, begin + step)
        a, b = (np.asarray(vectors[i]) for i in (rows[some], graph.indices[some]))
        graph.data[some] = cosines(a, b[:, None])[:, 0] ** np.float32(gamma)
    degrees = np.asarray(graph.sum(axis=1)).ravel()
    scale = np.divide(1, np.sqrt(degrees), out=np.zeros_like(degrees), where=degrees > 0)
    graph.data *= scale[rows] * scale[graph.indices]
    return {
        "starts": graph.indptr.astype(np.int64),
        "columns": graph.indices.astype(np.int32),
        "values": graph.data.astype(np.float32),
    }


@dataclass(frozen=True)
class Diffused(Opened):
    """A gallery with its graph (`transitions`)."""

    gallery: Gallery
    options: Options
    starts: Ints
    columns: NDArray[np.int32]
    values: Floats

    def search(self, asked: Asked, k: int) -> tuple[Ints, Floats]:
        """See `Opened.search`."""
        options, index = self.options, self.gallery.index
        findable = len(self.gallery) - asked.out.overfetch
        ids, distances = asked.first(index, min(findable, max(k, options.candidates)))
        require_enough(ids, min(options.seeds, findable), index, "seeds")
        seeds = ids[:, : options.seeds]
        starting = cosines(asked.vectors, self.gallery.vectors[seeds]) ** np.float32(options.gamma)
        local = np.full(len(self.gallery), -1, np.int32)
        # Several threads at a system this small cost more time than they save.
        with threadpool_limits(1, user_api="blas"):
            solved = [
                self._solved(
                    local, ids[row, : min(options.candidates, int((ids[row] >= 0).sum()))], starting[row]
                )
                for row in range(len(ids))
            ]
        for row, reached in enumerate(solved):
            m, most = len(reached), reached.max(initial=0)
            new = 1 - reached / most if most > 0 else np.ones(m)
            order = np.argsort(new, kind="stable")
            ids[row], distances[row] = behind(ids[row], distances[row], order, new[order].astype(np.float32))
        return ids[:, :k], distances[:, :k]

    def _solved(self, local: NDArray[np.int32], nodes: Ints, starting: Floats) -> NDArray[np.float64]:
        """Solved for f at some nodes (float64 [m]); `local` is all -1 before and after."""
        m = len(nodes)
        local[nodes] = np.arange(m)
        begin, counts = self.starts[nodes], self.starts[nodes + 1] - self.starts[nodes]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        places = np.repeat(begin, counts) + within
        rows, columns = np.repeat(np.arange(m), counts), local[self.columns[places]]
        local[nodes] = -1
        inside = columns >= 0
        system = np.zeros((m, m), order="F")
        system[columns[inside], rows[inside]] = -self.options.alpha * self.values[places[inside]]
        np.fill_diagonal(system, 1)
        y = np.zeros(m)
        y[: len(starting)] = (1 - self.options.alpha) * starting
        # Symmetric and positive definite: S has no eigenvalue above 1, and alpha is below 1.
        _, solved, failed = linalg.lapack.dposv(system, y, lower=1, overwrite_a=1)
        assert failed == 0
        return np.asarray(np.maximum(solved, 0))
