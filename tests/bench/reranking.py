"""What re-ranking adds to a search: time, as a ratio to the index alone, and memory beyond the vectors."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from tests.bench.measure import by_turns, peak_mib

from medretrieval import compose
from medretrieval.cache.store import Cache
from medretrieval.checks import check
from medretrieval.embed.images import Embeddings
from medretrieval.embed.sides import Sides
from medretrieval.index.faiss_index import build
from medretrieval.rerank.opening import changed_sides, nodes_of, ready, reranker_of
from medretrieval.rerank.search import as_search, nothing_left_out

METHODS = ("alpha_qe", "augmentation", "k_reciprocal", "diffusion")
DEPTH, QUERIES, BLOCK = 100, 256, 20_000


def written(path: Path, n: int, d: int, seed: int) -> Embeddings:
    """Clustered vectors in a file, made in blocks and memory-mapped."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(9).standard_normal((1000, d), dtype=np.float32)
    file = np.lib.format.open_memmap(path, "w+", np.float32, (n, d))
    for begin in range(0, n, BLOCK):
        rows = min(BLOCK, n - begin)
        file[begin : begin + rows] = centers[rng.integers(0, 1000, rows)]
        file[begin : begin + rows] += rng.standard_normal((rows, d), dtype=np.float32)
    file.flush()
    del file
    vectors = np.load(path, mmap_mode="r").view(np.ndarray)
    return Embeddings(vectors, path, f"bench{path.name}{n}x{d}", False, 0.0)


def measured(folder: Path, method: str, gallery: int, d: int, *overrides: str) -> None:
    """Print seconds of both ways, ratios, the lists' seconds and bytes, and the memory beyond the index."""
    settings = check(compose(f"rerank={method}", *overrides))
    sides = Sides(written(folder / "q.npy", QUERIES, d, 1), written(folder / "g.npy", gallery, d, 2))
    cache, chosen = Cache(folder / "cache"), reranker_of(settings)
    queries, out = np.array(sides.query.vectors), nothing_left_out(gallery)
    plain = build(settings.index, settings.metric, sides.gallery, DEPTH, 0, cache)
    plain.search(queries, DEPTH)
    before = peak_mib()
    index = plain
    if chosen.changes_gallery:
        changed = changed_sides(chosen, sides, settings.metric, cache)
        index = build(settings.index, settings.metric, changed.gallery, DEPTH, 0, cache)
    made = ready(chosen, nodes_of(chosen, sides), index, cache)
    search = as_search(made.opened, queries, out)
    row = by_turns("", lambda: plain.search(queries, DEPTH), lambda: search(slice(0, QUERIES), DEPTH))
    print(
        row.base, row.ours, row.ratio, row.low, row.high, made.lists_s, made.lists_bytes, peak_mib() - before
    )


def cells(method: str, gallery: int, d: int, *overrides: str) -> list[str]:
    """A row of the table, from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        words = [folder, method, str(gallery), str(d), *overrides]
        call = [sys.executable, "-m", "tests.bench.reranking", *words]
        done = subprocess.run(call, capture_output=True, text=True, check=True)
    base, ours, ratio, low, high, lists_s, size, peak = (float(word) for word in done.stdout.split()[-8:])
    what = f"search {QUERIES} x {gallery} x {d}: {overrides[0].removeprefix('index=')} / with rerank={method}"
    note = (
        f"{1000 * (ours - base) / QUERIES:.2f} ms a query more; lists {lists_s:.0f} s, "
        f"{size / 2**20:.0f} MiB; peak {peak:.0f} MiB"
    )
    return [what, f"{base:.4g}", f"{ours:.4g}", f"{ratio:.2f}", f"{low:.2f} .. {high:.2f}", note]


if __name__ == "__main__":
    measured(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])
