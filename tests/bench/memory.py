"""The most memory that building an index, searching it and scoring takes, in a process of its own."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from tests.bench.measure import peak_mib
from tests.tasks import task_of

from medretrieval import compose
from medretrieval.cache.store import Cache
from medretrieval.checks import check
from medretrieval.config import EvaluationConfig
from medretrieval.datasets.base import Split
from medretrieval.embed.images import Embeddings
from medretrieval.evaluate.evaluate import evaluate
from medretrieval.index.faiss_index import build, search_depth

BLOCK = 50_000
OPTIONS = EvaluationConfig(ks=[1, 5, 10], save_depth=100, vote_k=10)


def written(path: Path, n: int, d: int, classes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Clustered vectors in a file, made in blocks and memory-mapped (float32 [n, d])."""
    rng = np.random.default_rng(n)
    file = np.lib.format.open_memmap(path, "w+", np.float32, (n, d))
    for begin in range(0, n, BLOCK):
        part = labels[begin : begin + BLOCK]
        file[begin : begin + BLOCK] = classes[part] + rng.standard_normal((len(part), d), dtype=np.float32)
    file.flush()
    del file
    vectors: np.ndarray = np.load(path, mmap_mode="r").view(np.ndarray)
    return vectors


def search(folder: Path, queries: int, gallery: int, d: int, *overrides: str) -> None:
    """Build, search and score; print MiB of vectors, of the index, and beyond what there was before."""
    rng = np.random.default_rng(0)
    classes = rng.standard_normal((1000, d), dtype=np.float32)
    sides, vectors = [], []
    for name, n in (("test", queries), ("train", gallery)):
        labels = rng.integers(0, 1000, n)
        vectors.append(written(folder / f"{name}.npy", n, d, classes, labels))
        sides.append(Split(name, np.zeros((n, 1, 1), np.uint8), labels))
    settings, task = check(compose(*overrides)), task_of(*sides)
    before = peak_mib()
    embedded = Embeddings(vectors[1], folder / "train.npy", "memory", False, 0.0)
    index = build(settings.index, settings.metric, embedded, 100, 0, Cache(folder / "cache"))
    depth = search_depth(index, task.max_depth, OPTIONS.ks, 100)
    evaluate(lambda rows, k: index.search(vectors[0][rows], k), task, depth, OPTIONS)
    held = sum(v.nbytes for v in vectors) / 2**20
    print(held, index.path.stat().st_size / 2**20, peak_mib() - before)


def cells(queries: int, gallery: int, d: int, *overrides: str) -> list[str]:
    """A row of the table, from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        words = [folder, str(queries), str(gallery), str(d), *overrides]
        call = [sys.executable, "-m", "tests.bench.memory", *words]
        done = subprocess.run(call, capture_output=True, text=True, check=True)
    vectors, index, peak = (float(word) for word in done.stdout.split()[-3:])
    what = (
        f"{overrides[0]}: build, search, score {queries} x {gallery} x {d}: vectors and index / peak memory"
    )
    ratio = peak / (vectors + index)
    return [
        what,
        f"{vectors + index:.0f} MiB",
        f"{peak:.0f} MiB",
        f"{1 / ratio:.2f}",
        "",
        f"{ratio:.2f} times",
    ]


if __name__ == "__main__":
    search(Path(sys.argv[1]), *(int(word) for word in sys.argv[2:5]), *sys.argv[5:])
