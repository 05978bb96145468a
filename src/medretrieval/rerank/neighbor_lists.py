"""The nearest others of each gallery item, made once and kept: what re-ranking methods start from."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from medretrieval.config import MetricConfig
from medretrieval.index.distance import FAISS_METRIC, as_distances, order_ties, prepare
from medretrieval.index.exact_search import exact_search

LISTS_FORMAT = 1  # raised when the same key would name other lists
MAX_EXACT = 30_000  # items up to which lists are exact: exact search compares each with all
BLOCK_ROWS = 1024  # items whose lists are searched together
CELLS_PER_ROOT = 4  # cells of an inverted file: so many times the root of the items
PROBED_SHARE = 1 / 16  # of the cells that are searched
TRAINING_PER_CELL = 39  # items that k-means sees for each cell
IDS, DISTANCES = "ids.npy", "distances.npy"
Search = Callable[[NDArray[np.float32], int], tuple[NDArray[np.int64], NDArray[np.float32]]]


@dataclass(frozen=True)
class NeighborLists:
    """Each item's nearest others, nearest first, itself left out.

    Attributes:
        ids: int32 [n, k], -1 where no more were found.
        distances: float32 [n, k], of the run's metric; inf with -1.
    """

    ids: NDArray[np.int32]
    distances: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.ids.nbytes + self.distances.nbytes

    def __len__(self) -> int:
        return len(self.ids)


def key_parts(n: int, k: int, metric: MetricConfig) -> dict[str, Any]:
    """What determines lists besides the vectors."""
    kind = "exact" if n <= MAX_EXACT else f"IVF, {CELLS_PER_ROOT} cells a root, {PROBED_SHARE} probed"
    return {
        "lists_format": LISTS_FORMAT,
        "k": k,
        "kind": kind,
        "metric": [str(metric.faiss), metric.normalize],
        "faiss": faiss.__version__,
    }


def searched(nodes: NDArray[np.float32], metric: MetricConfig) -> Search:
    """How lists are searched: exactly in small galleries, else in an inverted file of the lists' own.

    Not in the run's index, so that lists are the same whatever it is.

    Args:
        nodes: float32 [n, d], as the encoder gives them; may be memory-mapped.
        metric: the distance.
    """
    n, d = nodes.shape
    if n <= MAX_EXACT:
        return lambda vectors, k: exact_search(vectors, nodes, metric, k)
    cells = round(CELLS_PER_ROOT * math.sqrt(n))
    index: Any = faiss.index_factory(d, f"IVF{cells},Flat", FAISS_METRIC[metric.faiss])
    drawn = np.sort(np.random.default_rng(0).choice(n, min(n, TRAINING_PER_CELL * cells), replace=False))
    index.train(prepare(np.asarray(nodes[drawn]), metric, "gallery"))
    for begin in range(0, n, BLOCK_ROWS):
        index.add(prepare(np.asarray(nodes[begin : begin + BLOCK_ROWS]), metric, "gallery", begin))
    index.nprobe = math.ceil(PROBED_SHARE * cells)

    def search(vectors: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        raw, ids = index.search(prepare(vectors, metric, "gallery"), k)
        return order_ties(ids, as_distances(raw, ids, metric))

    return search


def neighbor_lists(nodes: NDArray[np.float32], k: int, search: Search, said: str) -> NeighborLists:
    """Search the lists, block by block, with a progress bar.

    Args:
        nodes: float32 [n, d], as the encoder gives them; may be memory-mapped.
        k: neighbors of each, below n.
        search: vectors and a depth -> ids and distances, as `VectorIndex.search`.
        said: what the bar says.
    """
    from tqdm import tqdm

    n = len(nodes)
    ids, distances = np.empty((n, k), np.int32), np.empty((n, k), np.float32)
    with tqdm(total=n, unit="img", desc=said, leave=False, disable=None) as bar:
        for begin in range(0, n, BLOCK_ROWS):
            rows = np.arange(begin, min(begin + BLOCK_ROWS, n))
            found = search(np.asarray(nodes[rows]), k + 1)
            ids[rows], distances[rows] = without_self(rows, *found)
            bar.update(len(rows))
    return NeighborLists(ids, distances)


def without_self(
    rows: NDArray[np.int64], ids: NDArray[np.int64], distances: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Results of gallery items without themselves, by position (copies are equally near), one fewer each.

    Args:
        rows: int64 [r], the items.
        ids: int64 [r, k + 1].
        distances: float32 [r, k + 1].
    """
    out = ids == rows[:, None]
    out[:, -1] |= ~out.any(axis=1)
    shape = len(ids), ids.shape[1] - 1
    return ids[~out].reshape(shape), distances[~out].reshape(shape)


def write_lists(folder: Path, lists: NeighborLists) -> dict[str, Any]:
    """Write lists into an entry of the cache; returns facts about them."""
    np.save(folder / IDS, lists.ids)
    np.save(folder / DISTANCES, lists.distances)
    return {"bytes": lists.nbytes, "shape": list(lists.ids.shape)}


def read_lists(folder: Path) -> NeighborLists:
    """What `write_lists` wrote, memory-mapped."""
    ids, distances = (
        np.load(folder / name, mmap_mode="r", allow_pickle=False).view(np.ndarray)
        for name in (IDS, DISTANCES)
    )
    return NeighborLists(ids, distances)
