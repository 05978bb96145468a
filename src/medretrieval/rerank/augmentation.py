"""Database-side augmentation: each gallery vector is drawn toward its neighbors before it is indexed.

Turcot and Lowe, "Better matching with fewer features", ICCV workshops 2009; Arandjelovic and Zisserman,
"Three things everyone should know to improve object retrieval", CVPR 2012. The weights are those of alpha
query expansion (Radenovic et al. 2018).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import MetricConfig
from medretrieval.index.distance import pair_distances
from medretrieval.rerank.base import Asked, Floats, Gallery, Ints, Keep, Opened, Reranker, at_least
from medretrieval.rerank.neighbor_lists import NeighborLists
from medretrieval.rerank.weighted_means import weighted_means


class DatabaseAugmentation(Reranker):
    """Gallery vectors become weighted means of themselves and their nearest others in the gallery.

    Distances in the ranking are those between the query and the changed vectors.

    Args:
        name: of the method.
        neighbors: others that each gallery vector is drawn toward.
        alpha: power of their cosines; 0 for the plain mean.
    """

    changes_gallery = True

    def __init__(self, name: str, neighbors: int, alpha: float) -> None:
        super().__init__(name)
        at_least(1, neighbors=neighbors)
        at_least(0, alpha=alpha)
        self.neighbors, self.alpha = neighbors, alpha

    @property
    def parameters(self) -> dict[str, Any]:
        """See `Reranker.parameters`."""
        return {"neighbors": self.neighbors, "alpha": self.alpha}

    @property
    def list_width(self) -> int:
        """See `Reranker.list_width`."""
        return self.neighbors

    @property
    def needed(self) -> dict[str, int]:
        """None: a query's own neighbors are not used."""
        return {}

    def augmented(self, vectors: Floats, lists: NeighborLists, metric: MetricConfig) -> Floats:
        """The changed vectors.

        Args:
            vectors: float32 [n, d], as the encoder gives them.
            lists: of the gallery, at least `neighbors` wide.
            metric: the distance.

        Returns:
            float32 [n, d].
        """
        return weighted_means(vectors, vectors, lists.ids[:, : self.neighbors], self.alpha, metric)

    def open(self, gallery: Gallery, keep: Keep) -> Opened:
        """Here `gallery.nodes` are the vectors as they were; the others are the changed ones."""
        assert gallery.lists is not None
        lists = np.asarray(gallery.lists.ids[:, : self.neighbors])
        return Augmented(gallery, lists, self.alpha, *_reversed(lists))


@dataclass(frozen=True)
class Augmented(Opened):
    """A changed gallery, in which the query's own picture has no say where it is an item of it.

    Attributes:
        gallery: `nodes` are the vectors as they were.
        lists: int32 [n, neighbors].
        alpha: of the weights.
        starts, holders: whose list holds item i: `holders[starts[i] : starts[i + 1]]`.
    """

    gallery: Gallery
    lists: NDArray[np.int32]
    alpha: float
    starts: Ints
    holders: Ints

    def search(self, asked: Asked, k: int) -> tuple[Ints, Floats]:
        """See `Opened.search`.

        Items whose list holds what the query leaves out are compared as if it did not, and moved to where
        that puts them among the results; what the index did not find stays unfound.
        """
        ids, distances = asked.first(self.gallery.index, k)
        for row in range(len(ids)):
            touched = self._touched(asked.left_out(row), ids[row])
            if len(touched):
                ids[row], distances[row] = self._corrected(asked, row, touched, (ids[row], distances[row]))
        return ids, distances

    def _touched(self, left_out: Ints, ids: Ints) -> Ints:
        """Places in a query's results of items that were drawn toward what it leaves out."""
        parts = [self.holders[self.starts[i] : self.starts[i + 1]] for i in left_out]
        return np.flatnonzero(np.isin(ids, np.concatenate(parts))) if parts else np.zeros(0, np.int64)

    def _corrected(
        self, asked: Asked, row: int, places: Ints, found: tuple[Ints, Floats]
    ) -> tuple[Ints, Floats]:
        ids, distances, nodes, metric = *found, self.gallery.nodes, self.gallery.metric
        items = ids[places]
        lists = np.where(np.isin(self.lists[items], asked.left_out(row)), -1, self.lists[items])
        vectors = weighted_means(np.asarray(nodes[items]), nodes, lists, self.alpha, metric)
        query = asked.vectors[row : row + 1]
        distances = distances.copy()
        distances[places] = pair_distances(query, vectors, np.arange(len(items))[None], metric)[0]
        order = np.argsort(distances, kind="stable")
        return ids[order], distances[order]


def _reversed(lists: NDArray[np.int32]) -> tuple[Ints, Ints]:
    """Of lists [n, k]: where the holders of each item begin (int64 [n + 1]), and the holders (int64)."""
    n, k = lists.shape
    flat = lists.ravel()
    order = np.argsort(flat, kind="stable")
    starts = np.searchsorted(flat[order], np.arange(n + 1))
    return starts, (order // k).astype(np.int64)
