"""Searching: what our search adds to a bare FAISS call, and what approximate indexes gain and lose."""

from pathlib import Path

import numpy as np
from tests.bench.measure import Row, by_turns

from medretrieval import compose
from medretrieval.cache.store import Cache
from medretrieval.checks import check
from medretrieval.embed.images import Embeddings
from medretrieval.index.distance import prepare
from medretrieval.index.faiss_index import VectorIndex, build


def clustered(n: int, d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((max(n // 100, 1), d), dtype=np.float32)
    vectors = centers[rng.integers(0, len(centers), n)]
    vectors += rng.standard_normal((n, d), dtype=np.float32)
    return vectors


def built(folder: Path, vectors: np.ndarray, *overrides: str) -> VectorIndex:
    settings = check(compose(*overrides))
    gallery = Embeddings(vectors, folder / "none.npy", f"bench{vectors.shape}", False, 0.0)
    return build(settings.index, settings.metric, gallery, 10, 0, Cache(folder / "cache"))


def overhead(folder: Path, n: int, turns: int) -> list[Row]:
    """Bare FAISS calls over our search: below 1 is what normalizing, distances and ties cost."""
    rows, vectors = [], clustered(n, 128)
    queries = vectors[:1000]
    for name in ("flat", "ivf", "hnsw"):
        index = built(folder, vectors, f"index={name}")
        prepared = prepare(queries, index.metric, "queries")

        def bare(index: VectorIndex = index, prepared: np.ndarray = prepared) -> object:
            return index.index.search(prepared, 10)

        def ours(index: VectorIndex = index) -> object:
            return index.search(queries, 10)

        rows.append(by_turns(f"search 1000 x {n} x 128: bare FAISS {name} / ours", bare, ours, turns))
    return rows


def approximate(folder: Path, n: int, turns: int) -> list[Row]:
    vectors = clustered(n, 128)
    queries = vectors[:1000]
    flat = built(folder, vectors, "index=flat")
    exact = flat.search(queries, 10)[0]
    rows = []
    for name in ("ivf", "hnsw", "ivfpq"):
        index = built(folder, vectors, f"index={name}")
        found = index.search(queries, 10)[0]
        recall = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(found, exact, strict=True)])

        def ours(index: VectorIndex = index) -> object:
            return index.search(queries, 10)

        what = f"search 1000 x {n} x 128: flat / {name}"
        rows.append(by_turns(what, lambda: flat.search(queries, 10), ours, turns, f"recall@10 {recall:.2f}"))
    return rows


def whole_rankings(folder: Path, n: int, turns: int) -> Row:
    """All results of each query: FAISS asked for n results over ours."""
    vectors = clustered(n, 128)
    index = built(folder, vectors, "index=flat")
    prepared, queries = prepare(vectors[:500], index.metric, "queries"), vectors[:500]
    return by_turns(
        f"whole rankings 500 x {n} x 128: bare FAISS / ours",
        lambda: index.index.search(prepared, n),
        lambda: index.search(queries, n),
        turns,
    )
