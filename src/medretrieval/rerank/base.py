"""What a re-ranking method is: from the first results of an index to others, query by query.

Unless a method is transductive, what a query gets does not depend on which other queries are asked:
neighbor lists are of the gallery alone.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import MetricConfig
from medretrieval.errors import UserError
from medretrieval.index.faiss_index import VectorIndex
from medretrieval.protocol.exclusions import Exclusions
from medretrieval.rerank.neighbor_lists import NeighborLists

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
NONE = "none"


@dataclass(frozen=True)
class Gallery:
    """What is searched.

    Attributes:
        vectors: float32 [n, d], as the index has them before it normalizes; may be memory-mapped.
        lists: each item's nearest others; None where the method wants none. Of a transductive method they
            are of all nodes: the gallery, and behind it the queries that are not in it.
        nodes: float32 [n or more, d], the vectors of these nodes.
        index: of the gallery.
    """

    vectors: Floats
    lists: NeighborLists | None
    nodes: Floats
    index: VectorIndex

    @property
    def metric(self) -> MetricConfig:
        """The distance."""
        return self.index.metric

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True)
class Asked:
    """Queries, and what each of them does not find.

    Attributes:
        vectors: float32 [r, d], as the encoder gives them.
        out: what the task leaves out, of all its queries.
        rows: which of these the vectors are of.
    """

    vectors: Floats
    out: Exclusions
    rows: slice

    def left_out(self, row: int) -> Ints:
        """Gallery positions that a query (row of `vectors`) does not find, but for those nobody finds."""
        queries, positions = self.out.pairs
        query = (self.rows.start or 0) + row
        begin, end = np.searchsorted(queries, (query, query + 1))
        return positions[begin:end]

    def first(self, index: VectorIndex, k: int) -> tuple[Ints, Floats]:
        """The first k results that each query may find (int64 and float32 [r, k], fewer in a small gallery).

        Args:
            index: that is searched; -1 and inf where it found no more.
            k: results a query.
        """
        spare = self.out.overfetch
        width = min(k + spare, len(self.out.dropped))
        return self.out.remove(*index.search(self.vectors, width), self.rows)


class Opened(ABC):
    """A method over one gallery."""

    @abstractmethod
    def search(self, asked: Asked, k: int) -> tuple[Ints, Floats]:
        """Results of each query, nothing of what the task leaves out among them.

        Args:
            asked: queries.
            k: results a query, at most what each can find.

        Returns:
            ids int64 [r, k], -1 where there are no more, and what stands for distances, float32 [r, k], never
            decreasing along a row; inf with -1.

        Raises:
            UserError: the index gives fewer results than the method needs.
        """


class Reranker(ABC):
    """A method and its parameters, as in conf/rerank/<name>.yaml.

    Attributes:
        name: of the method.
        transductive: whether a query's results depend on the other queries.
        changes_gallery: whether the method changes the gallery's vectors before they are indexed.
        serves_text: whether sentences can be the queries.
    """

    changes_gallery = False
    serves_text = True
    transductive = False

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """Everything that results depend on, by the names of the YAML file."""

    @property
    @abstractmethod
    def list_width(self) -> int:
        """Neighbors of each gallery item that are wanted; 0 for none."""

    @property
    @abstractmethod
    def needed(self) -> dict[str, int]:
        """Parameters that count neighbors of a query: no more than what it can find."""

    def require(self, gallery: int, findable: int) -> None:
        """Refuse a method that this gallery is too small for.

        Args:
            gallery: its size.
            findable: items that every query can find.

        Raises:
            UserError: naming the parameter and the most it can be.
        """
        for key, value in self.needed.items():
            if value > findable:
                raise UserError(
                    f"rerank.{key}={value}: more neighbors than the {findable} images that a query can find; "
                    f"at most {findable}"
                )
        if self.list_width >= gallery:
            raise UserError(
                f"rerank={self.name}: wants {self.list_width} neighbors of each image, and the gallery has "
                f"{gallery} images; give smaller rerank.{' and rerank.'.join(self.needed)}"
            )

    @abstractmethod
    def open(self, gallery: Gallery, keep: "Keep") -> Opened:
        """Get ready for one gallery.

        Args:
            gallery: what is searched, with lists as wide as `list_width`.
            keep: what is made of the lists once and kept.
        """


class Keep(ABC):
    """Keeps arrays that a method makes of the gallery's lists."""

    @abstractmethod
    def arrays(self, parts: dict[str, Any], make: Any) -> dict[str, NDArray[Any]]:
        """The arrays for `parts`; made by `make()` where they are not kept yet."""


class Unkept(Keep):
    """Makes them every time."""

    def arrays(self, parts: dict[str, Any], make: Any) -> dict[str, NDArray[Any]]:
        """What `make()` returns."""
        made: dict[str, NDArray[Any]] = make()
        return made


class NoReranking(Reranker):
    """The results as the index gives them."""

    @property
    def parameters(self) -> dict[str, Any]:
        """None."""
        return {}

    @property
    def list_width(self) -> int:
        """None."""
        return 0

    @property
    def needed(self) -> dict[str, int]:
        """None."""
        return {}

    def open(self, gallery: Gallery, keep: Keep) -> Opened:
        """The index itself."""
        return AsIndexed(gallery.index)


@dataclass(frozen=True)
class AsIndexed(Opened):
    """The results as an index gives them."""

    index: VectorIndex

    def search(self, asked: Asked, k: int) -> tuple[Ints, Floats]:
        """See `Opened.search`."""
        return asked.first(self.index, k)


def require_enough(ids: Ints, wanted: int, index: VectorIndex, key: str) -> None:
    """Refuse an index that gives fewer results than a method needs.

    Args:
        ids: int64 [r, depth], -1 where the index found no more.
        wanted: results that every query must have.
        index: that was asked.
        key: the parameter that wants them.

    Raises:
        UserError: saying how many there are, and for how many queries.
    """
    if not wanted:
        return
    found = (ids[:, :wanted] >= 0).sum(axis=1)
    short = found < wanted
    if short.any():
        settings = index.spec.search or index.spec.factory
        raise UserError(
            f"rerank.{key}={wanted}: the index ({settings}) gives {int(short.sum())} queries fewer results, "
            f"the least {int(found.min())}; let it search wider (index.nprobe, index.ef_search), use "
            f"index=flat, or set rerank.{key} lower"
        )


def at_least(least: float, **parameters: float) -> None:
    """Refuse parameters below a limit.

    Raises:
        UserError: naming the first.
    """
    for key, value in parameters.items():
        if not value >= least:
            raise UserError(f"rerank.{key}={value}: must be {least} or more")


def behind(ids: Ints, distances: Floats, order: Ints, new: Floats) -> tuple[Ints, Floats]:
    """The first results of a query in a new order, and the others behind them as they were.

    Args:
        ids: int64 [k], as the index gives them.
        distances: float32 [k].
        order: int64 [m], the first m places in their new order.
        new: float32 [m], what stands for their distances, never decreasing.

    Returns:
        ids and distances [k]: the distances of the others are raised by what it takes to stay ascending, the
        same for all of them.
    """
    m = len(order)
    result_ids = np.concatenate([ids[:m][order], ids[m:]])
    rest = distances[m:]
    raise_by = max(0.0, float(new[-1]) - float(rest[0])) if m and len(rest) else 0.0
    rest = rest + np.float32(raise_by)
    if m and len(rest):
        rest = np.maximum(rest, new[-1])  # what rounding may have left
    return result_ids, np.concatenate([new, rest]).astype(np.float32)


def with_name(parameters: dict[str, Any], reranker: Reranker) -> dict[str, Any]:
    """Parameters with the name of their method, as a part of a key."""
    return {"method": type(reranker).__name__, **parameters}
