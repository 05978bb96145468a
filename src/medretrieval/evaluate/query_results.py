"""The results of some queries, in every form that a score looks at."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medretrieval.datasets.base import LabelType
from medretrieval.evaluate.knn_vote import Vote, vote
from medretrieval.protocol.ranking import Labels
from medretrieval.protocol.task import RetrievalTask

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
CAPTIONS: Literal["captions"] = "captions"
ScoredLabels = Literal[LabelType, "captions"]  # what decides which scores a task has


def label_type(task: RetrievalTask) -> ScoredLabels:
    """Whether an image has one class, one of classes in an order, or any number of findings.

    CAPTIONS where a hit does not depend on classes.
    """
    if not task.by_class:
        return CAPTIONS
    if task.queries.labels.ndim == 2:
        return "multi"
    return "ordinal" if task.is_graded else "single"


def ideal_gains(task: RetrievalTask, ks: list[int]) -> dict[int, Floats]:
    """Depth -> discounted gain of each query's best ranking, float64 [q]; empty for single-label data."""
    return dict(zip(ks, task.ideal(ks).T, strict=True)) if task.is_graded else {}


@dataclass(frozen=True)
class QueryResults:
    """The results of some queries of a task. What several scores look at is worked out once.

    Attributes:
        task: who queries whom.
        rows: which queries, as a slice or positions.
        ids: int64 [q, depth] positions in the gallery, nearest first; -1 for a missing result.
        distances: float32 [q, at least the depth that votes]; inf for a missing result.
        vote_k: neighbors that vote.
        ideals: of all queries of the task, as `ideal_gains`.
    """

    task: RetrievalTask
    rows: slice | Ints
    ids: Ints
    distances: NDArray[np.float32]
    vote_k: int
    ideals: Mapping[int, Floats]

    @property
    def query_labels(self) -> Labels:
        """int64 [q] or bool [q, classes]."""
        return self.task.queries.labels[self.rows]

    @property
    def query_classes(self) -> Ints:
        """int64 [q], where every image has one class."""
        return self.query_labels.astype(np.int64)

    @property
    def n_relevant(self) -> Ints:
        """R of each query, int64 [q]."""
        return self.task.n_relevant[self.rows]

    @cached_property
    def hits(self) -> NDArray[np.bool_]:
        """Which results are relevant, bool [q, depth]."""
        return self.task.hits(self.ids, self.rows)

    def classes_at(self, k: int) -> Ints:
        """Classes of the first k results, -1 for a missing one (int64 [q, k])."""
        top = self.ids[:, :k]
        return np.where(top < 0, -1, self.task.gallery.labels.astype(np.int64, copy=False)[top])

    @cached_property
    def gains(self) -> Floats:
        """Gain of each result to the largest depth of `ideals`, 0 for a missing one (float64 [q, k])."""
        top = self.ids[:, : max(self.ideals)]
        return self.task.relevance.gains(top, self.query_labels, self.task.gallery.labels)

    def ideal(self, k: int) -> Floats:
        """Discounted gain of each query's best ranking to depth k (float64 [q])."""
        return self.ideals[k][self.rows]

    @cached_property
    def vote(self) -> Vote:
        """The vote of the first `vote_k` neighbors, where every image has one class."""
        k = min(self.vote_k, self.distances.shape[1])
        classes = int(max(self.task.queries.labels.max(), self.task.gallery.labels.max())) + 1
        return vote(self.classes_at(k), self.distances[:, :k], classes)
