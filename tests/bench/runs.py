"""Whole runs: cold and warm, and a sweep against a process of its own for every configuration."""

import os
import subprocess
import sys
from pathlib import Path

from tests.bench.measure import Row, row, seconds

from medretrieval import compose, run

AXES = {"index": ("flat", "ivf", "hnsw"), "metric": ("cosine", "l2")}


def warm(root: Path, turns: int) -> Row:
    pairs = []
    for turn in range(turns):
        places = (f"paths.outputs={root}/outputs", f"paths.cache={root}/{turn}")
        cfg = compose("tracking=none", "force=true", *places)
        cold = seconds(lambda cfg=cfg: run(cfg))
        pairs.append((cold, min(seconds(lambda cfg=cfg: run(cfg)) for _ in range(2))))
    return row("default run in one process: cold / embeddings cached", pairs)


def command(root: Path, *words: str) -> None:
    call = [sys.executable, "-m", "medretrieval", *words, "dataset.n_train=200", "dataset.n_test=100"]
    environment = os.environ | {"MEDRETRIEVAL_CACHE": str(root / "cache")}
    subprocess.run(call, cwd=root, env=environment, check=True, capture_output=True)


def sweep(root: Path) -> Row:
    """Six configurations as a sweep and as six processes that know nothing of each other."""

    def alone() -> None:
        for i, index in enumerate(AXES["index"]):
            for j, metric in enumerate(AXES["metric"]):
                folder = root / f"alone{i}{j}"
                folder.mkdir()
                command(folder, f"index={index}", f"metric={metric}")

    def together() -> None:
        folder = root / "together"
        folder.mkdir()
        command(folder, "-m", *(f"{name}={','.join(values)}" for name, values in AXES.items()))

    pair = seconds(alone), seconds(together)
    return row(
        "6 configurations, 300 images, cold, MLflow's database too: one process each / a sweep", [pair]
    )
