"""The whole score set against pytorch-metric-learning and torchmetrics, and what scoring adds to a search."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from tests.bench.measure import Row, by_turns, row
from tests.oracles import torchmetrics_of
from tests.tasks import task_of

from medretrieval import compose
from medretrieval.cache.store import Cache
from medretrieval.checks import check
from medretrieval.config import EvaluationConfig
from medretrieval.datasets.base import Split
from medretrieval.embed.images import Embeddings
from medretrieval.evaluate.evaluate import Evaluation, evaluate
from medretrieval.index.faiss_index import build

KS = [1, 5, 10]
OPTIONS = EvaluationConfig(ks=KS, save_depth=100, vote_k=10)
FEW = 250  # queries for torchmetrics, which wants seconds for so many


def labeled(n: int, d: int, name: str = "test", classes: int = 10, seed: int = 0) -> tuple[Split, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    vectors = 0.3 * rng.standard_normal((classes, d))[labels] + rng.standard_normal((n, d))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Split(name, np.zeros((n, 1, 1), np.uint8), labels), vectors.astype(np.float32)


class Scored:
    """Search and score over a flat index."""

    def __init__(self, folder: Path, n: int, d: int = 512, queries: int | None = None) -> None:
        gallery, self.gallery = labeled(n, d, "train")
        asked = slice(None) if queries is None else slice(queries)
        self.queries = self.gallery[asked]
        # Leave-one-out over all, or the first few of them as queries of their own.
        split = gallery if queries is None else Split("test", gallery.images[asked], gallery.labels[asked])
        self.task = task_of(split, gallery)
        settings = check(compose())
        embedded = Embeddings(self.gallery, folder / "none.npy", f"bench{n}", False, 0.0)
        self.index = build(settings.index, settings.metric, embedded, n, 0, Cache(folder / "cache"))

    def __call__(self, depth: int | None = None) -> Evaluation:
        return evaluate(
            lambda rows, k: self.index.search(self.queries[rows], k),
            self.task,
            depth or self.task.max_depth,
            OPTIONS,
        )


def against_metric_learning(folder: Path, n: int, turns: int) -> Row:
    import torch
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    names = ("precision_at_1", "r_precision", "mean_average_precision_at_r", "mean_average_precision")
    calculator = AccuracyCalculator(k=None, include=names, device=torch.device("cpu"))
    ours = Scored(folder, n)
    vectors, labels = torch.tensor(ours.gallery), torch.tensor(ours.task.gallery.labels)
    found, theirs = ours(), calculator.get_accuracy(vectors, labels)
    assert abs(found.scores["map"] - theirs["mean_average_precision"]) < 1e-5
    return by_turns(
        f"search and all scores, {n} x {n}: pytorch-metric-learning's 4 / ours",
        lambda: calculator.get_accuracy(vectors, labels),
        ours,
        turns,
        f"{len(found.scores)} scores and macro scores",
    )


def against_torchmetrics(folder: Path, n: int, turns: int) -> Row:
    import torch

    ours = Scored(folder, n, queries=FEW)
    metrics = torchmetrics_of(KS)
    labels = torch.tensor(ours.task.gallery.labels)
    target = labels[:FEW, None] == labels[None]
    rows = torch.arange(FEW)[:, None].expand(target.shape)

    def theirs() -> dict[str, float]:
        similar = torch.tensor(ours.queries) @ torch.tensor(ours.gallery).T
        similar = similar + 2  # scores up to 0 would be left out
        found = {}
        for name, metric in metrics.items():
            metric.update(similar.flatten(), target.flatten(), rows.flatten())
            found[name] = float(metric.compute())
            metric.reset()
        return found

    found, wanted = ours().scores, theirs()
    assert all(abs(found[name] - wanted[name]) < 1e-4 for name in wanted)
    what = f"search and scores, {FEW} x {n}: torchmetrics, the same {len(metrics)} / ours, all"
    return by_turns(what, theirs, ours, turns)


def share_of_search(folder: Path, n: int, turns: int) -> Row:
    """At depth 10: the search alone over the search with its scoring (1 would be scoring for nothing)."""
    ours = Scored(folder, n)
    ours(10)
    pairs, everything = [], []
    for _ in range(turns):
        start = time.perf_counter()
        found = ours(10)
        everything.append((time.perf_counter() - start) / found.search_s - 1)
        pairs.append((found.search_s, found.search_s + found.score_s))
    note = f"with means, votes and chance {100 * statistics.median(everything):.1f} % of the search"
    share = 100 * statistics.median(b / a - 1 for a, b in pairs)
    return row(f"depth 10, {n} x {n}: flat search / with scoring", pairs, f"scoring {share:.1f} %, {note}")


MEMORY = """
import numpy as np
from medretrieval.datasets.base import Split
from medretrieval.evaluate.evaluate import evaluate
from tests.oracles import torchmetrics_of
from tests.bench.measure import peak_mib
from tests.bench.scoring import OPTIONS
from tests.tasks import task_of

n, depth, rng = {n}, 1000, np.random.default_rng(0)
sides = [Split(s, np.zeros((n, 1, 1), np.uint8), rng.integers(0, 50, n)) for s in ("test", "train")]
task, before = task_of(*sides), peak_mib()

def search(rows, k):
    wanted = len(range(*rows.indices(n)))
    ids = rng.integers(0, n, (wanted, k))
    return ids, np.broadcast_to(np.arange(k, dtype=np.float32), ids.shape).copy()

found = evaluate(search, task, depth, OPTIONS)
print(peak_mib() - before, found.score_s)
"""


def memory(n: int) -> list[str]:
    """Memory that scoring n queries over n items at depth 1,000 takes, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY.format(n=n)], capture_output=True, text=True, check=True
    )
    used, spent = (float(word) for word in done.stdout.split())
    whole = n * 1000 * 12 / 2**20
    return [f"scoring {n} x {n} at depth 1000 with a made-up search: memory", f"{used:.0f} MiB",
            f"{spent:.1f} s", f"ids and distances at once would take {whole:.0f} MiB"]  # fmt: skip
