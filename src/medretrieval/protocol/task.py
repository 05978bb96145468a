"""Who queries whom: everything about a protocol that scores depend on."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import Resample
from medretrieval.datasets.base import Split
from medretrieval.protocol.exclusions import Exclusions
from medretrieval.protocol.queries import Queries
from medretrieval.protocol.ranking import Labels
from medretrieval.protocol.relevance import Relevance

# What varies, beside "queries" and "groups" of them with the gallery held fixed.
IMAGES_IN_BOTH_ROLES, GROUPS_IN_BOTH_ROLES = "images in both roles", "groups in both roles"
BOTH_SIDES, GROUPS_OF_BOTH_SIDES = "queries and gallery", "groups of queries and gallery"
BY_HALVES = (IMAGES_IN_BOTH_ROLES, GROUPS_IN_BOTH_ROLES, BOTH_SIDES, GROUPS_OF_BOTH_SIDES)


@dataclass(frozen=True)
class RetrievalTask:
    """Who queries whom: everything about a protocol that scores depend on.

    Attributes:
        queries: a split (the same as the gallery for leave_one_out), prompts, or captions of the gallery.
        gallery: the split that is searched.
        exclusions: what is left out of each query's results.
        relevance: what makes a result relevant.
        n_relevant: R of each query, int64 [q].
        n_candidates: items each query can find, int64 [q].
    """

    queries: Queries
    gallery: Split
    exclusions: Exclusions
    relevance: Relevance
    n_relevant: NDArray[np.int64]
    n_candidates: NDArray[np.int64]

    @classmethod
    def from_sides(
        cls, queries: Queries, gallery: Split, exclusions: Exclusions, relevance: Relevance | None = None
    ) -> "RetrievalTask":
        """Derive the counts from both sides."""
        relevance = relevance or Relevance()
        compared = queries.targets() or (queries.labels, gallery.labels)
        relevant = relevance.counts(*compared, exclusions)
        return cls(queries, gallery, exclusions, relevance, relevant, exclusions.sizes(len(queries)))

    @cached_property
    def queries_are_gallery(self) -> bool:
        """Whether every image is both query and gallery item, by id: the only place where this is decided."""
        return np.array_equal(self.queries.ids, self.gallery.ids)

    @cached_property
    def compared(self) -> tuple[Labels, Labels]:
        """What decides whether a result is relevant: labels of queries and of gallery.

        Where captions ask, these are numbers of images or groups in place of classes.
        """
        return self.queries.targets() or (self.queries.labels, self.gallery.labels)

    @property
    def by_class(self) -> bool:
        """Whether a hit is of the query's class; where captions ask it is the image, or of its group."""
        return self.queries.targets() is None

    def hits(
        self, ids: NDArray[np.int64], rows: slice | NDArray[np.int64] = slice(None)
    ) -> NDArray[np.bool_]:
        """Which results are relevant (bool [r, depth]).

        Args:
            ids: int64 [r, depth] positions in the gallery, -1 for a missing result.
            rows: which queries they are of.
        """
        asked, there = self.compared
        return self.relevance.hits(ids, asked[rows], there)

    @cached_property
    def is_one_set(self) -> bool:
        """Whether queries and gallery are the same pictures too: corrupted queries are other ones."""
        return self.queries_are_gallery and self.queries.content_sha256 == self.gallery.content_sha256

    @property
    def clean(self) -> "RetrievalTask":
        """The task with the queries as they were before they were corrupted; itself where they were not."""
        split = self.queries.split
        return self if split is None or split.clean is None else replace(self, queries=split.clean)

    def what_varies(self, resample: Resample) -> str:
        """What intervals are about: one of BY_HALVES, or "queries" or "groups" with the gallery fixed."""
        grouped = self.queries.groups is not None
        if self.queries_are_gallery:
            return GROUPS_IN_BOTH_ROLES if grouped else IMAGES_IN_BOTH_ROLES
        if resample is Resample.both:
            return GROUPS_OF_BOTH_SIDES if grouped else BOTH_SIDES
        return "groups" if grouped else "queries"

    def in_halves(self, resample: Resample) -> bool:
        """Whether intervals come from halves of the images (`uncertainty.half_samples`)."""
        return self.what_varies(resample) in BY_HALVES

    @property
    def max_depth(self) -> int:
        """Results that every query can have."""
        return int(self.n_candidates.min())

    @property
    def is_graded(self) -> bool:
        """Whether results can be relevant by degrees."""
        return self.by_class and self.relevance.is_graded(self.queries.labels)

    def ideal(self, ks: list[int]) -> NDArray[np.float64]:
        """Discounted gain of each query's best ranking (float64 [q, ks])."""
        return self.relevance.ideal(self.queries.labels, self.gallery.labels, self.exclusions, ks)
