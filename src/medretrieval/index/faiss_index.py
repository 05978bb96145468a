"""Stage 2, index: an index is data, a FAISS factory string and parameters fitted to the gallery.

FAISS: Douze et al., "The Faiss library", 2024.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from medretrieval.cache.store import Cache
from medretrieval.config import IndexConfig, MetricConfig
from medretrieval.embed.images import Embeddings
from medretrieval.errors import UserError
from medretrieval.index.distance import FAISS_METRIC, as_distances, order_ties, prepare
from medretrieval.index.exact_search import BLOCK_VECTORS, rank_all
from medretrieval.index.parameters import MIN_POINTS_PER_CENTROID, IndexSpec, fit, set_parameters
from medretrieval.index.trial import reason, require_harmless

log = logging.getLogger(__name__)

FILE = "index.faiss"
KIND = "indexes"  # in the cache
FLAT = "Flat"  # factory string of exact search
MAX_TRAINING_VECTORS = 131_072  # vectors that k-means and codes are fitted to, or as many as the cells want
SORTED_WHOLE_DIVISOR = 8  # a ranking deeper than this part of the gallery is quicker sorted whole


@dataclass(frozen=True)
class VectorIndex:
    """A searchable gallery.

    Attributes:
        index: the FAISS index.
        spec: what it was built from.
        metric: the distance.
        path: the file it is kept in.
        build_s: seconds that building took when it was built.
        cached: true where an earlier run built it.
        exhaustive: every search compares the query with the whole gallery.
    """

    index: faiss.Index
    spec: IndexSpec
    metric: MetricConfig
    path: Path
    build_s: float
    cached: bool
    exhaustive: bool

    @property
    def is_flat(self) -> bool:
        """Whether this is exact search itself."""
        return self.spec.factory == FLAT

    def search(
        self, queries: NDArray[np.float32], depth: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Nearest gallery positions of each query, nearest first.

        Args:
            queries: float32 [q, d], as the encoder gives them.
            depth: results a query, at most the size of the gallery.

        Returns:
            ids int64 [q, depth], -1 where the index found no more, and distances float32 [q, depth],
            never decreasing: 1 - cosine, Euclidean distance, or minus the inner product; inf with id -1.

        Raises:
            UserError: an index that gives no such distances.
        """
        prepared = prepare(queries, self.metric, "queries")
        if self.is_flat and depth * SORTED_WHOLE_DIVISOR > self.index.ntotal:
            flat: Any = self.index
            vectors = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d)
            return rank_all(prepared, vectors.reshape(-1, flat.d), self.metric, depth)
        raw, ids = self.index.search(prepared, depth)
        distances = as_distances(raw, ids, self.metric)
        if np.isnan(distances).any() or not (distances[:, 1:] >= distances[:, :-1]).all():
            raise UserError(
                f"index.factory={self.spec.factory}: FAISS gives distances that are no numbers, or not in "
                "order; use another index"
            )
        return order_ties(ids, distances)


def build(
    config: IndexConfig,
    metric: MetricConfig,
    gallery: Embeddings,
    depth: int,
    seed: int,
    cache: Cache,
) -> VectorIndex:
    """Build the index of a gallery, or take it from the cache, and set its search parameters.

    One build serves every setting of the search parameters.

    Args:
        config: the index as data. Where it says deterministic, the index is built on one thread, for before
            FAISS 1.15 threads that add to a graph at once race for its links; searching keeps its threads.
        metric: the distance.
        gallery: the vectors, float32 [n, d].
        depth: results a query that will be asked for; fits the search parameters.
        seed: of k-means.
        cache: where built indexes are kept.

    Raises:
        UserError: parameters that do not fit, or a factory string that FAISS refuses.
    """
    n, d = gallery.vectors.shape
    spec = fit(config, n, d, depth)
    recipe = _Recipe(spec, metric, seed, 1 if config.deterministic else None)
    parts = {"embeddings": gallery.key, **recipe.key_parts()}
    entry = cache.get_or_make(KIND, parts, lambda folder: recipe.write(gallery.vectors, folder / FILE))
    index = faiss.read_index(str(entry.folder / FILE))
    set_parameters(index, spec.search, "index.search")
    return VectorIndex(
        index=index,
        spec=spec,
        metric=metric,
        path=entry.folder / FILE,
        build_s=entry.facts["build_s"],
        cached=not entry.fresh,
        exhaustive=is_exhaustive(index),
    )


def place_of(
    settings: IndexConfig, metric: MetricConfig, seed: int, gallery: tuple[str, int, int], cache: Cache
) -> tuple[Path, str]:
    """Where the index of a gallery is kept once it is built, and its factory string.

    Args:
        settings: the index as data.
        metric: the distance.
        seed: of k-means.
        gallery: the key of its embeddings, how many vectors it has, and their dimension.
        cache: where built indexes are kept.

    Raises:
        UserError: as `fit`.
    """
    key, n, d = gallery
    spec = fit(settings, n, d, depth=1)  # which has a say in how it is searched, not in what is built
    recipe = _Recipe(spec, metric, seed, 1 if settings.deterministic else None)
    return cache.place(KIND, {"embeddings": key, **recipe.key_parts()}), spec.factory


@dataclass(frozen=True)
class _Recipe:
    """All that an index is built from besides the vectors; `threads` is None for as many as there are."""

    spec: IndexSpec
    metric: MetricConfig
    seed: int
    threads: int | None

    def key_parts(self) -> dict[str, Any]:
        """What determines the bytes of the index of given vectors."""
        parts = {
            "factory": self.spec.factory,
            "build": self.spec.build,
            "metric": asdict(self.metric),
            "seed": self.seed,
            "faiss": faiss.__version__,
        }
        # Not in every key, so that indexes built before this option are still found.
        return parts if self.threads is None else parts | {"threads": self.threads}

    def write(self, vectors: NDArray[np.float32], path: Path) -> dict[str, Any]:
        """Build the index, write it to a file, and return facts about it."""
        spec, start = self.spec, time.perf_counter()
        try:
            index = self._built(vectors)
        except RuntimeError as error:  # of the factory, of training or of adding
            raise UserError(f"index.factory={spec.factory}: FAISS refuses it ({reason(error)})") from error
        except MemoryError as error:
            raise UserError(
                f"index.factory={spec.factory}: more memory is needed than there is; use an index with "
                "codes, such as index=ivfpq"
            ) from error
        build_s = time.perf_counter() - start
        # Through Python, so that a full disk is an OSError and not FAISS's own exception.
        io: Any = faiss
        with path.open("wb") as file:
            io.write_index(index, io.PyCallbackIOWriter(file.write))
        return {"build_s": build_s, "vectors": index.ntotal}

    def _built(self, vectors: NDArray[np.float32]) -> faiss.Index:
        """Trained, with all vectors in it."""
        spec, (n, d) = self.spec, vectors.shape
        require_harmless(spec.factory, spec.search, self.metric.faiss, n, d)
        index = faiss.index_factory(d, spec.factory, FAISS_METRIC[self.metric.faiss])
        _seed(index, self.seed)
        set_parameters(index, spec.build, "index.build")
        with _threads(self.threads):
            if not index.is_trained:  # an IVF over a graph of cells builds that graph here
                index.train(self._training_set(vectors))
            for begin in range(0, n, BLOCK_VECTORS):
                index.add(prepare(vectors[begin : begin + BLOCK_VECTORS], self.metric, "gallery", begin))
        return index

    def _training_set(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """All vectors, or of a large gallery a seeded sample that is large enough for its cells, prepared."""
        wanted = max(MAX_TRAINING_VECTORS, MIN_POINTS_PER_CENTROID * self.spec.parameters.get("nlist", 1))
        if len(vectors) <= wanted:
            return prepare(vectors, self.metric, "gallery")
        drawn = np.sort(np.random.default_rng(self.seed).choice(len(vectors), wanted, replace=False))
        sample = np.empty((wanted, vectors.shape[1]), np.float32)
        for begin in range(0, wanted, BLOCK_VECTORS):  # so that no second copy of it is held
            rows = drawn[begin : begin + BLOCK_VECTORS]
            sample[begin : begin + BLOCK_VECTORS] = prepare(vectors[rows], self.metric, "gallery")
        return sample


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    """Let FAISS use so many threads within the block; None for as many as it has."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(before if threads is None else threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _seed(index: faiss.Index, seed: int) -> None:
    """Seed k-means and silence its warning on stderr; nlist is checked in `fit`."""
    ivf: Any = faiss.try_extract_index_ivf(index)
    if ivf is None:
        return
    ivf = faiss.downcast_index(ivf)
    for clustering in [ivf.cp] + ([ivf.pq.cp] if hasattr(ivf, "pq") else []):
        clustering.seed = seed
        clustering.min_points_per_centroid = 1


@contextmanager
def searched_as_wide_as(index: faiss.Index, depth: int) -> Iterator[None]:
    """Let a graph be searched with efSearch of at least `depth` in the block; other indexes stay as they are.

    Asking for more results than efSearch does not widen the search: FAISS still stops by efSearch.
    """
    graph = hnsw_of(index)
    if graph is None:
        yield
        return
    before = graph.hnsw.efSearch
    graph.hnsw.efSearch = max(before, depth)
    try:
        yield
    finally:
        graph.hnsw.efSearch = before


def hnsw_of(index: faiss.Index) -> faiss.IndexHNSW | None:
    """The HNSW graph inside an index, None where there is none."""
    while isinstance(index, (faiss.IndexPreTransform, faiss.IndexIDMap)):
        index = faiss.downcast_index(index.index)
    return index if isinstance(index, faiss.IndexHNSW) else None


def is_exhaustive(index: faiss.Index) -> bool:
    """Whether every search sees the whole gallery: all but graphs and IVF that skips cells."""
    if hnsw_of(index) is not None:
        return False
    ivf = faiss.try_extract_index_ivf(index)
    return ivf is None or ivf.nprobe >= ivf.nlist


def search_depth(index: VectorIndex, n: int, ks: list[int], wanted: int) -> int:
    """How deep a ranking this index is asked for.

    The whole gallery where the index sees it anyway. Else as deep as is wanted; in a graph no deeper than
    ef_search, beyond which FAISS would search it wider than is configured.

    Args:
        index: the gallery's index.
        n: results a query can have at most.
        ks: depths that are searched in any case.
        wanted: results a query, at least the largest of ks.
    """
    if index.exhaustive:
        return n
    wanted = min(n, wanted)
    graph = hnsw_of(index.index)
    return wanted if graph is None else min(wanted, max(graph.hnsw.efSearch, max(ks)))
