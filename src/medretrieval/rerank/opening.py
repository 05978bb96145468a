"""From a configuration to a method that is ready for a gallery; what it needs of the gallery is kept."""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.cache.store import Cache
from medretrieval.config import Config, MetricConfig
from medretrieval.embed.images import VECTORS
from medretrieval.embed.sides import Sides
from medretrieval.errors import UserError
from medretrieval.files import file_sha256
from medretrieval.index.faiss_index import VectorIndex
from medretrieval.instantiate import instantiate
from medretrieval.protocol.task import RetrievalTask
from medretrieval.rerank.augmentation import DatabaseAugmentation
from medretrieval.rerank.base import NONE, Floats, Gallery, Keep, NoReranking, Opened, Reranker
from medretrieval.rerank.neighbor_lists import (
    NeighborLists,
    key_parts,
    neighbor_lists,
    read_lists,
    searched,
    write_lists,
)

KIND = "neighbors"  # in the cache: lists, and what methods make of them
MADE_FORMAT = 1  # raised when the same key would name other arrays


def reranker_of(settings: Config) -> Reranker:
    """The method that a configuration names; of one kept before there were any, none.

    Raises:
        UserError: no such method, or parameters that cannot be meant.
    """
    if settings.rerank is None:
        return NoReranking(NONE)
    return instantiate(settings.rerank, Reranker, "rerank")  # type: ignore[type-abstract]


def require_rerank(settings: Config, task: RetrievalTask) -> None:
    """Refuse a method that a task has no use for, before anything is embedded.

    Raises:
        UserError: parameters that the gallery cannot fill, sentences that the method cannot serve, or queries
            in one graph with what they may not find.
    """
    method = reranker_of(settings)
    method.require(len(task.gallery), task.max_depth)
    if task.queries.split is None:
        require_serves_text(method)
    if not method.transductive:
        return
    if settings.evaluation.subgroups:
        raise UserError(
            f"rerank.transductive=true with evaluation.subgroups={settings.evaluation.subgroups}: subgroups "
            "are judged by intervals that take queries as independent; leave one of the two out"
        )
    out, own = task.exclusions, task.is_one_set and task.exclusions.overfetch <= 1
    if out.dropped.any() or (len(out.pairs[0]) and not own):
        raise UserError(
            "rerank.transductive=true: puts the queries into one graph with the gallery, where they would "
            "meet the images that the protocol leaves out; set it to false, or leave out no groups and copies"
        )


def require_serves_text(method: Reranker) -> None:
    """Refuse a method that sentences get nothing from.

    Raises:
        UserError: saying why.
    """
    if not method.serves_text:
        raise UserError(
            f"rerank={method.name}: wants queries that are among an image's nearest, and sentences "
            "are farther from images than these from each other; use rerank=alpha_qe, augmentation, "
            "diffusion or none"
        )


@dataclass(frozen=True)
class Vectors:
    """Vectors, and what they are known by.

    Attributes:
        values: float32 [n, d]; may be memory-mapped.
        digest: SHA-256 of their file.
    """

    values: Floats
    digest: str

    @classmethod
    def of(cls, values: Floats, path: Path) -> "Vectors":
        """Of a .npy file."""
        return cls(values, file_sha256(path))


@dataclass(frozen=True)
class Nodes:
    """What neighbor lists are of: the gallery, and behind it the queries of a transductive method.

    Attributes:
        gallery: as the encoder gives it.
        queries: None where they are no nodes, or are the gallery.
    """

    gallery: Vectors
    queries: Vectors | None = None

    @property
    def values(self) -> Floats:
        """float32 [n, d]."""
        if self.queries is None:
            return self.gallery.values
        return np.concatenate([self.gallery.values, self.queries.values])

    @property
    def digests(self) -> list[str]:
        """Of both."""
        return [side.digest for side in (self.gallery, self.queries) if side is not None]


@dataclass(frozen=True)
class Listed:
    """A gallery's lists.

    Attributes:
        lists: None where the method wants none.
        seconds: that making them took when they were made.
        key: what they are known by.
    """

    lists: NeighborLists | None
    seconds: float
    key: dict[str, Any]


@dataclass(frozen=True)
class Ready:
    """A method ready for a gallery.

    Attributes:
        opened: what is searched.
        lists_s: seconds that the gallery's lists, and what is made of them, took when they were made.
        lists_bytes: their bytes.
    """

    opened: Opened
    lists_s: float
    lists_bytes: int


class Kept(Keep):
    """Keeps arrays in the cache, under the key of the lists that they are made of."""

    def __init__(self, cache: Cache, key: dict[str, Any]) -> None:
        self.cache, self.key = cache, key
        self.seconds, self.bytes = 0.0, 0

    def arrays(self, parts: dict[str, Any], make: Any) -> dict[str, NDArray[Any]]:
        """See `Keep.arrays`; memory-mapped."""

        def write(folder: Path) -> dict[str, Any]:
            start = time.perf_counter()
            made = make()
            for name, array in made.items():
                np.save(folder / f"{name}.npy", array)
            sizes = sum(array.nbytes for array in made.values())
            return {"names": list(made), "seconds": time.perf_counter() - start, "bytes": sizes}

        entry = self.cache.get_or_make(KIND, {**self.key, **parts, "made_format": MADE_FORMAT}, write)
        self.seconds += entry.facts["seconds"]
        self.bytes += entry.facts["bytes"]
        return {
            name: np.load(entry.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False).view(np.ndarray)
            for name in entry.facts["names"]
        }


def listed(method: Reranker, nodes: Nodes, metric: MetricConfig, cache: Cache) -> Listed:
    """The lists that a method wants, from the cache or made now.

    Args:
        method: of re-ranking.
        nodes: what the lists are of.
        metric: the distance.
        cache: where lists are kept.
    """
    k = method.list_width
    if k == 0:
        return Listed(None, 0.0, {})
    n = len(nodes.gallery.values) + (0 if nodes.queries is None else len(nodes.queries.values))
    key = {"vectors": nodes.digests, **key_parts(n, k, metric)}

    def make(folder: Path) -> dict[str, Any]:
        start, values = time.perf_counter(), nodes.values
        found = neighbor_lists(values, k, searched(values, metric), "neighbors of the gallery")
        return write_lists(folder, found) | {"seconds": time.perf_counter() - start}

    entry = cache.get_or_make(KIND, key, make)
    return Listed(read_lists(entry.folder), entry.facts["seconds"], key)


def ready(method: Reranker, nodes: Nodes, index: VectorIndex, cache: Cache) -> Ready:
    """Open a method for a gallery.

    Args:
        method: of re-ranking.
        nodes: the gallery's vectors as the encoder gives them, and the queries of a transductive method.
        index: of the gallery; of a method that changes the gallery, of the changed vectors.
        cache: where lists are kept.

    Raises:
        UserError: vectors that cannot be compared.
    """
    found, vectors = listed(method, nodes, index.metric, cache), nodes.gallery.values
    if isinstance(method, DatabaseAugmentation):
        vectors = augmented(method, nodes.gallery, index.metric, cache)[0]
    keep = Kept(cache, found.key)
    opened = method.open(Gallery(vectors, found.lists, nodes.values, index), keep)
    size = 0 if found.lists is None else found.lists.nbytes
    return Ready(opened, found.seconds + keep.seconds, size + keep.bytes)


def augmented(
    method: DatabaseAugmentation, gallery: Vectors, metric: MetricConfig, cache: Cache
) -> tuple[Floats, Path, str]:
    """The changed vectors of a gallery: they, their file, and the key under which they are kept."""
    found = listed(method, Nodes(gallery), metric, cache)
    parts = {**found.key, "augmented": method.parameters, "made_format": MADE_FORMAT}

    def make(folder: Path) -> dict[str, Any]:
        assert found.lists is not None
        changed = method.augmented(gallery.values, found.lists, metric)
        np.save(folder / VECTORS, changed)
        return {"bytes": changed.nbytes}

    entry = cache.get_or_make(KIND, parts, make)
    path = entry.folder / VECTORS
    vectors = np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    return vectors, path, entry.folder.name


def changed_sides(method: Reranker, sides: Sides, metric: MetricConfig, cache: Cache) -> Sides:
    """The queries, and the vectors that are indexed: of some methods, what they make of the gallery's."""
    if not isinstance(method, DatabaseAugmentation):
        return sides
    gallery = sides.gallery
    vectors, path, key = augmented(method, Vectors.of(gallery.vectors, gallery.path), metric, cache)
    return dataclasses.replace(
        sides, gallery=dataclasses.replace(gallery, vectors=vectors, path=path, key=key)
    )


def nodes_of(method: Reranker, sides: Sides) -> Nodes:
    """What a method's lists are of, from the embeddings of a run."""
    query, gallery = (Vectors.of(side.vectors, side.path) for side in (sides.query, sides.gallery))
    return nodes_between(method, query, gallery)


def nodes_between(method: Reranker, query: Vectors, gallery: Vectors) -> Nodes:
    """What a method's lists are of: the gallery, with the queries where these are to be in the graph.

    Args:
        method: of re-ranking.
        query: of the queries; where they are the gallery's file, they are in the graph already.
        gallery: of the gallery.
    """
    beside = method.transductive and query.digest != gallery.digest
    return Nodes(gallery, query if beside else None)
