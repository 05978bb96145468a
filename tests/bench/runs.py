"""Whole runs: with and without what an earlier one has kept."""

from pathlib import Path

from tests.bench.measure import Row, row, seconds

from medretrieval import compose, run


def warm(root: Path, turns: int) -> Row:
    pairs = []
    for turn in range(turns):
        places = (
            "tracking=none",
            "force=true",
            f"paths.outputs={root}/outputs",
            f"paths.cache={root}/{turn}",
        )
        cfg = compose("tracking=none", "force=true", *places)
        cold = seconds(lambda cfg=cfg: run(cfg))
        pairs.append((cold, min(seconds(lambda cfg=cfg: run(cfg)) for _ in range(2))))
    return row("default run in one process: cold / embeddings cached", pairs)
