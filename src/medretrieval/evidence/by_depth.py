"""Mean precision and recall by depth, with intervals, chance and the pixel baseline."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import Config
from medretrieval.evaluate import chance
from medretrieval.evidence.bootstrap import bootstrap, enough
from medretrieval.protocol.task import RetrievalTask

DEEPEST = 100
SCORES = ("precision", "recall")


def curves(
    settings: Config, task: RetrievalTask, hits: NDArray[np.bool_], baseline: Mapping[str, float]
) -> dict[str, Any]:
    """Mean precision and recall at every depth up to 100, with intervals, chance and the baseline.

    The bootstrap draws as that of scores.json does, so at its depths the numbers are the same.

    Args:
        settings: the run's configuration.
        task: who queries whom.
        hits: bool [q, depth], of the saved ranking.
        baseline: headline scores of the baseline encoder, by name; empty for none.

    Returns:
        The content of curves.json: `ks`, and for each score `mean`, `low`, `high` (null where a single
        query leaves nothing to draw), `chance` and `baseline` (null for none).
    """
    ks = list(range(1, min(hits.shape[1], DEEPEST) + 1))
    found = np.cumsum(hits[:, : ks[-1]], axis=1, dtype=np.float64)
    values = {"precision": found / ks, "recall": found / np.maximum(task.n_relevant, 1)[:, None]}
    both = np.where(task.n_relevant[:, None] > 0, np.hstack([values[name] for name in SCORES]), np.nan)
    means, ends = np.nanmean(both, axis=0), _intervals(settings, task, both)
    document: dict[str, Any] = {"ks": ks}
    for i, name in enumerate(SCORES):
        mine = slice(i * len(ks), (i + 1) * len(ks))
        random = np.nanmean(chance.by_depth(name, ks, task.n_relevant, task.n_candidates), axis=0)
        there = [k for k in settings.evaluation.ks if f"{name}_at_{k}" in baseline]
        line = {"ks": there, "mean": [baseline[f"{name}_at_{k}"] for k in there]}
        document[name] = {
            "mean": means[mine].tolist(),
            "low": [low for low, _ in ends[mine]],
            "high": [high for _, high in ends[mine]],
            "chance": random.tolist(),
            "baseline": line if there else None,
        }
    return document


def _intervals(
    settings: Config, task: RetrievalTask, values: NDArray[np.float64]
) -> list[tuple[float, float]] | list[tuple[None, None]]:
    config, groups = settings.evaluation, task.queries.groups
    if not enough(values[:, 0], groups):
        return [(None, None)] * values.shape[1]
    drawn = bootstrap(values, config.resamples, settings.seed, groups)
    return [drawn.interval(i, config.confidence) for i in range(values.shape[1])]
