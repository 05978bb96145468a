"""Ratios of speed, each measured side by side in one run: `make bench`. Nothing here is asserted."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from medretrieval import compose, run, scores
from medretrieval.summary import table

REPEATS = 5


def seconds(call: Callable[[], object], repeats: int = REPEATS) -> float:
    """The fastest of some repeats: noise only ever adds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def row(what: str, base: float, ours: float) -> list[str]:
    return [what, f"{base:.4f}", f"{ours:.4f}", f"{base / ours:.1f}"]


def scoring() -> list[str]:
    """Average precision of all queries at once against a loop over queries."""
    hits = np.random.default_rng(0).random((624, 4708)) < 0.5
    relevant = hits.sum(axis=1)

    def loop() -> list[float]:
        ranks = np.arange(1, hits.shape[1] + 1)
        return [float((np.cumsum(h) / ranks)[h].sum() / r) for h, r in zip(hits, relevant, strict=True)]

    def vectorised() -> np.ndarray:
        return scores.average_precision(hits, relevant)

    assert np.allclose(loop(), vectorised())
    return row("map: a loop over queries / all at once", seconds(loop), seconds(vectorised))


def cached(root: Path) -> list[str]:
    """The default run with and without what an earlier one has kept."""
    places = ("tracking=none", "force=true", f"paths.outputs={root}/outputs", f"paths.cache={root}/cache")
    cfg = compose(*places)
    cold = seconds(lambda: run(cfg), repeats=1)
    return row("default run: cold / embeddings cached", cold, seconds(lambda: run(cfg), repeats=2))


def searching(root: Path) -> list[list[str]]:
    """Approximate search of 20,000 random clustered vectors against exact search of the same."""
    from medretrieval.cache import Cache
    from medretrieval.config import check
    from medretrieval.embed import Embeddings
    from medretrieval.index import build

    rng = np.random.default_rng(0)
    centres = rng.standard_normal((200, 128), dtype=np.float32)
    vectors = centres[rng.integers(0, 200, 20_000)] + rng.standard_normal((20_000, 128), dtype=np.float32)
    queries = vectors[:1000]
    gallery = Embeddings(vectors, root / "none.npy", "bench", False, 0.0)
    times, found = {}, {}
    for name in ("flat", "ivf", "hnsw", "ivfpq"):
        cfg = check(compose(f"index={name}"))
        index = build(cfg.index, cfg.metric, gallery, 10, 0, Cache(root / "cache"))
        times[name] = seconds(lambda index=index: index.search(queries, 10))
        found[name] = index.search(queries, 10)[0]

    def recall(name: str) -> float:
        pairs = zip(found[name], found["flat"], strict=True)
        return float(np.mean([len(np.intersect1d(a, b)) / 10 for a, b in pairs]))

    return [
        row(f"search: flat / {name} (recall {recall(name):.2f})", times["flat"], times[name])
        for name in ("ivf", "hnsw", "ivfpq")
    ]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = [scoring(), *searching(Path(folder)), cached(Path(folder))]
    print("\n".join(table(["what", "s", "s", "ratio"], rows)))


if __name__ == "__main__":
    main()
