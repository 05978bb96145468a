"""Alpha query expansion: the query is drawn toward its first results, and the index is asked again.

Radenovic, Tolias, Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation", 2018, arXiv 1711.02512.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from medretrieval.rerank.base import (
    Asked,
    Floats,
    Gallery,
    Ints,
    Keep,
    Opened,
    Reranker,
    at_least,
    require_enough,
)
from medretrieval.rerank.weighted_means import weighted_means


class AlphaQueryExpansion(Reranker):
    """The weighted mean of a query and its first results asks in the query's place.

    Distances in the ranking are those of the expanded query.

    Args:
        name: of the method.
        neighbors: first results that the query is drawn toward; 0 changes nothing.
        alpha: power of their cosines; 0 for the plain mean.
    """

    def __init__(self, name: str, neighbors: int, alpha: float) -> None:
        super().__init__(name)
        at_least(0, neighbors=neighbors, alpha=alpha)
        self.neighbors, self.alpha = neighbors, alpha

    @property
    def parameters(self) -> dict[str, Any]:
        """See `Reranker.parameters`."""
        return {"neighbors": self.neighbors, "alpha": self.alpha}

    @property
    def list_width(self) -> int:
        """None: only the query's own results are used."""
        return 0

    @property
    def needed(self) -> dict[str, int]:
        """See `Reranker.needed`."""
        return {"neighbors": self.neighbors}

    def open(self, gallery: Gallery, keep: Keep) -> Opened:
        """See `Reranker.open`."""
        return ExpandedQueries(gallery, self.neighbors, self.alpha)


@dataclass(frozen=True)
class ExpandedQueries(Opened):
    """A gallery that is asked twice."""

    gallery: Gallery
    neighbors: int
    alpha: float

    def search(self, asked: Asked, k: int) -> tuple[Ints, Floats]:
        """See `Opened.search`."""
        index = self.gallery.index
        if self.neighbors == 0:
            return asked.first(index, k)
        near, _ = asked.first(index, self.neighbors)
        require_enough(near, self.neighbors, index, "neighbors")
        expanded = weighted_means(asked.vectors, self.gallery.vectors, near, self.alpha, index.metric)
        return dataclasses.replace(asked, vectors=expanded).first(index, k)
