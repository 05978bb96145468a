"""Precision and recall by depth: curves.json and its picture."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medretrieval import chance
from medretrieval.config import Config
from medretrieval.evaluate import Task
from medretrieval.figures.canvas import (
    BASELINE,
    CHANCE,
    OURS,
    axes_at,
    figure,
    heading,
    name_axes,
    png,
    scales,
)
from medretrieval.uncertainty import bootstrap, enough

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DEEPEST = 100
SCORES = ("precision", "recall")


def curves(
    settings: Config, task: Task, hits: NDArray[np.bool_], baseline: Mapping[str, float]
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
    values = {"precision": found / ks, "recall": found / np.maximum(task.relevant, 1)[:, None]}
    both = np.where(task.relevant[:, None] > 0, np.hstack([values[name] for name in SCORES]), np.nan)
    means, ends = np.nanmean(both, axis=0), _intervals(settings, task, both)
    document: dict[str, Any] = {"ks": ks}
    for i, name in enumerate(SCORES):
        mine = slice(i * len(ks), (i + 1) * len(ks))
        random = np.nanmean(chance.by_depth(name, ks, task.relevant, task.size), axis=0)
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
    settings: Config, task: Task, values: NDArray[np.float64]
) -> list[tuple[float, float]] | list[tuple[None, None]]:
    config, groups = settings.evaluation, task.queries.groups
    if not enough(values[:, 0], groups):
        return [(None, None)] * values.shape[1]
    drawn = bootstrap(values, config.resamples, settings.seed, groups)
    return [drawn.interval(i, config.confidence) for i in range(values.shape[1])]


def picture(document: Mapping[str, Any], baseline: str | None, confidence: float, run: str) -> bytes:
    """Draw curves.json as PNG, precision beside recall."""
    drawing = figure(9, 4.25)
    heading(drawing, f"Precision and recall by depth, with {100 * confidence:g} % intervals", run)
    for left, name in zip((0.7, 5.2), SCORES, strict=True):
        axes = axes_at(drawing, left, 0.95, 3.6, 2.45)
        _draw(axes, document["ks"], document[name], baseline)
        name_axes(axes, "k, results looked at", title=name)
    handles, labels = axes.get_legend_handles_labels()
    drawing.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False, fontsize=9)
    return png(drawing)


def _draw(axes: "Axes", ks: list[int], curve: Mapping[str, Any], baseline: str | None) -> None:
    if curve["low"][0] is not None:
        axes.fill_between(ks, curve["low"], curve["high"], color=OURS, alpha=0.22, linewidth=0)
    axes.plot(ks, curve["mean"], color=OURS, marker="." if len(ks) < 3 else "", label="this run")
    axes.plot(ks, curve["chance"], color=CHANCE, linestyle="--", linewidth=1.2, label="chance")
    if curve["baseline"] is not None:
        points = curve["baseline"]["ks"], curve["baseline"]["mean"]
        axes.plot(*points, color=BASELINE, marker="D", markersize=5, linestyle=":", label=baseline)
    highest = [max(curve[key]) for key in ("high", "mean", "chance") if curve[key][0] is not None]
    if curve["baseline"] is not None:
        highest += curve["baseline"]["mean"]
    axes.set_ylim(0, 1.08 * max(highest))
    axes.set_xlim(0, ks[-1] + 1)
    scales(axes, None, None)
