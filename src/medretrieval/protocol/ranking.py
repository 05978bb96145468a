"""A ranking as a value: checked when it is made, saved and read back as it is.

Scores are functions of its hits and of the counts of relevant items; a new score needs no new search.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medretrieval.errors import UserError

Labels = NDArray[np.int64] | NDArray[np.bool_]
NONE = "none"  # what an image without any finding is called


@dataclass(frozen=True)
class Ranking:
    """Results of queries over a gallery, nearest first.

    Attributes:
        query_ids: str [q].
        gallery_ids: str [n].
        query_labels: int64 [q] classes or bool [q, classes] findings.
        gallery_labels: int64 [n] or bool [n, classes].
        ids: int64 [q, depth] positions in the gallery; -1 where the index found no more.
        distances: float32 [q, depth], never decreasing along a row; inf where ids is -1.

    Raises:
        ValueError: shapes that do not fit each other, ids outside the gallery, distances out of order or NaN.
    """

    query_ids: NDArray[np.str_]
    gallery_ids: NDArray[np.str_]
    query_labels: Labels
    gallery_labels: Labels
    ids: NDArray[np.int64]
    distances: NDArray[np.float32]

    def __post_init__(self) -> None:
        q, n = len(self.query_ids), len(self.gallery_ids)
        if self.ids.ndim != 2 or self.ids.shape != self.distances.shape or len(self.ids) != q:
            raise ValueError(f"ids {self.ids.shape} and distances {self.distances.shape} for {q} queries")
        if len(self.query_labels) != q or len(self.gallery_labels) != n:
            raise ValueError("as many labels as ids are wanted, of queries and of gallery")
        if self.ids.size and (self.ids.min() < -1 or self.ids.max() >= n):
            raise ValueError(f"ids must lie between -1 and {n - 1}")
        if np.isnan(self.distances).any():
            raise ValueError("distances must be numbers")
        # Subtracting would turn inf - inf into NaN.
        if (self.distances[:, 1:] < self.distances[:, :-1]).any():
            raise ValueError("distances must not decrease along a ranking")

    @property
    def depth(self) -> int:
        """Results a query."""
        return int(self.ids.shape[1])

    def save(self, path: Path) -> None:
        """Write the arrays to a compressed .npz; ids as int32."""
        arrays = {name: getattr(self, name) for name in self.__dataclass_fields__}
        arrays["ids"] = self.ids.astype(np.int32)
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> "Ranking":
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as npz:
            arrays = {name: npz[name] for name in cls.__dataclass_fields__}
        arrays["ids"] = arrays["ids"].astype(np.int64)
        return cls(**arrays)


def own_positions(query_ids: NDArray[np.str_], gallery_ids: NDArray[np.str_]) -> NDArray[np.int64]:
    """Where each query itself stands in the gallery, by id; -1 where it does not (int64 [q])."""
    order = np.argsort(gallery_ids)
    place = np.searchsorted(gallery_ids, query_ids, sorter=order)
    found = order[np.minimum(place, len(order) - 1)]
    return np.where(gallery_ids[found] == query_ids, found, -1)


def class_name(labels: Labels, position: int, classes: Sequence[str]) -> str:
    """An image's class in words: several findings joined with ", ", "none" where there is none."""
    return ", ".join(findings(labels, position, classes)) or NONE


def findings(labels: Labels, position: int, classes: Sequence[str]) -> tuple[str, ...]:
    """An image's class, or of a multi-label dataset the findings it has; none where it has none."""
    if labels.ndim == 1:
        return (str(classes[int(labels[position])]),)
    return tuple(str(classes[int(i)]) for i in np.flatnonzero(labels[position]))


def class_members(labels: Labels) -> NDArray[np.bool_]:
    """Which query counts for which class: bool [q, classes], from int64 [q] or bool [q, classes]."""
    if labels.ndim == 2:
        return labels.astype(np.bool_)
    members: NDArray[np.bool_] = labels[:, None] == np.unique(labels)
    return members


def require_companions(labels: Labels, classes: tuple[str, ...], where: str) -> None:
    """Refuse classes of one member where every image searches the others.

    Raises:
        UserError: naming the classes; their only image would have nothing to find.
    """
    if labels.ndim == 1:
        counts = np.bincount(labels, minlength=len(classes))
        if lone := [classes[i] for i in np.flatnonzero(counts == 1)]:
            raise UserError(
                f"{where} has a single image of class {', '.join(map(repr, lone))}, which has nothing to "
                "find where a split searches itself; use protocol=query_gallery or leave the class out of "
                "the file"
            )
