"""How seconds grow with the gallery, as a log-log picture."""

import tempfile
import time
from pathlib import Path

import numpy as np
from tests.bench.search import clustered
from tests.tasks import task_of

from medretrieval import compose
from medretrieval.cache.store import Cache
from medretrieval.checks import check
from medretrieval.config import EvaluationConfig
from medretrieval.datasets.base import Split
from medretrieval.embed.images import Embeddings
from medretrieval.evaluate.evaluate import evaluate
from medretrieval.index.faiss_index import build

QUERIES, D, DEPTH = 1000, 64, 100
LARGEST = {"flat": 10**6, "ivf": 10**6, "hnsw": 10**5}  # a graph of a million takes many minutes to build
OPTIONS = EvaluationConfig(ks=[1, 5, 10], save_depth=DEPTH, vote_k=10)


def measured(largest: int) -> dict[str, list[tuple[int, float]]]:
    """Seconds by size of the gallery: building, and searching with scoring, of each index type."""
    lines: dict[str, list[tuple[int, float]]] = {}
    sizes = [10**e for e in range(3, 7) if 10**e <= largest]
    for n in sizes:
        vectors = clustered(n + QUERIES, D)
        labels = np.random.default_rng(0).integers(0, 10, n + QUERIES)
        sides = [
            Split(name, np.zeros((len(part), 1, 1), np.uint8), part)
            for name, part in (("test", labels[:QUERIES]), ("train", labels[QUERIES:]))
        ]
        task = task_of(*sides)
        for name in (name for name, most in LARGEST.items() if n <= most):
            with tempfile.TemporaryDirectory() as folder:
                settings = check(compose(f"index={name}"))
                gallery = Embeddings(vectors[QUERIES:], Path(folder) / "none.npy", "growth", False, 0.0)
                index = build(settings.index, settings.metric, gallery, DEPTH, 0, Cache(Path(folder)))
            start, asked = time.perf_counter(), vectors[:QUERIES]
            evaluate(lambda rows, k, i=index, q=asked: i.search(q[rows], k), task, DEPTH, OPTIONS)
            lines.setdefault(f"{name}: search and score", []).append((n, time.perf_counter() - start))
            if name != "flat":
                lines.setdefault(f"{name}: build", []).append((n, index.build_s))
    return lines


def picture(path: Path, lines: dict[str, list[tuple[int, float]]]) -> None:
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = drawing.add_subplot()
    for (name, points), marker in zip(lines.items(), "osD^v", strict=False):
        axes.plot(*zip(*points, strict=True), marker=marker, label=name)
    axes.set(xscale="log", yscale="log", xlabel="gallery", ylabel="seconds")
    axes.set_title(f"{QUERIES} queries, {D} dimensions, depth {DEPTH}")
    axes.grid(alpha=0.3, which="both", linewidth=0.5)
    axes.legend()
    drawing.savefig(path)
