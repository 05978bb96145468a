"""Pictures of curves: precision and recall by depth, and of the vote its reliability and abstention."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from medretrieval.config import EvaluationConfig
from medretrieval.evaluate.evaluate import Evaluation
from medretrieval.evidence.breakdown import Reliability
from medretrieval.evidence.by_depth import DepthCurve, DepthCurves
from medretrieval.evidence.evidence import Evidence
from medretrieval.figures.style import (
    BASELINE,
    CHANCE,
    INK,
    OURS,
    QUARTERS,
    axes_at,
    figure,
    heading,
    name_axes,
    png,
    scales,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VOTE = "vote_accuracy"


def depth_picture(curves: DepthCurves, baseline: str | None, confidence: float, run: str) -> bytes:
    """Draw the curves of curves.json as PNG, precision beside recall.

    Args:
        curves: what is drawn.
        baseline: name of the baseline encoder, None for none.
        confidence: of the intervals.
        run: the run in one line.
    """
    drawing = figure(9, 4.25)
    heading(drawing, f"Precision and recall by k, with {100 * confidence:g} % intervals", run)
    for left, name, curve in ((0.7, "precision", curves.precision), (5.2, "recall", curves.recall)):
        axes = axes_at(drawing, left, 0.95, 3.6, 2.45)
        _draw(axes, curves.ks, curve, baseline)
        name_axes(axes, "k, number of results", title=f"{name} at k")
    handles, labels = axes.get_legend_handles_labels()
    drawing.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False, fontsize=9)
    return png(drawing)


def _draw(axes: "Axes", ks: list[int], curve: DepthCurve, baseline: str | None) -> None:
    band = [(k, a, b) for k, a, b in zip(ks, curve.low, curve.high, strict=True) if a is not None]
    if band:
        places, low, high = zip(*band, strict=True)
        axes.fill_between(places, low, high, color=OURS, alpha=0.22, linewidth=0)
    axes.plot(ks, curve.mean, color=OURS, marker="." if len(ks) < 3 else "", label="this run")
    axes.plot(ks, curve.chance, color=CHANCE, linestyle="--", linewidth=1.2, label="chance")
    line = curve.baseline
    if line is not None:
        axes.plot(line.ks, line.mean, color=BASELINE, marker="D", markersize=5, linestyle=":", label=baseline)
    highest = [*curve.mean, *curve.chance, *(v for v in curve.high if v is not None)]
    axes.set_ylim(0, 1.08 * max(highest + (line.mean if line else [])))
    axes.set_xlim(0, ks[-1] + 1)
    scales(axes, None, None)


def vote_picture(
    reliability: Reliability, evaluation: Evaluation, trust: Evidence, config: EvaluationConfig, run: str
) -> bytes:
    """Draw the reliability diagram (Guo et al. 2017) beside the abstention curve, PNG.

    Args:
        reliability: of the vote.
        evaluation: for the calibration error and the abstention curve.
        trust: for the interval of the accuracy of all votes, and for what chance and the baseline reach.
        config: neighbors that vote, and the confidence of the interval.
        run: the run in one line.
    """
    drawing = figure(9, 4.6)
    heading(drawing, f"The vote of the {config.vote_k} nearest neighbors", run)
    top, below = axes_at(drawing, 0.7, 1.65, 3.5, 2.1), axes_at(drawing, 0.7, 0.8, 3.5, 0.6)
    _draw_reliability(top, below, reliability)
    error = evaluation.scores["vote_calibration_error"]
    name_axes(top, "", "share right", f"reliability (calibration error {error:.3f})")
    top.set(xlim=(0, 1), ylim=(0, 1.02))
    scales(top, dict.fromkeys(QUARTERS, ""), {0: "0", 0.5: "0.5", 1: "1"})
    name_axes(below, "confidence: the winning class's share of the vote", "queries")
    most = int(reliability.queries.max())
    below.set(xlim=(0, 1), ylim=(0, 1.05 * most))
    scales(below, QUARTERS, {0: "0", most: f"{most:,}"})
    axes = axes_at(drawing, 5.2, 0.8, 3.6, 2.95)
    _draw_abstention(axes, evaluation.abstention, trust, config.confidence)
    handles, labels = axes.get_legend_handles_labels()
    drawing.legend(handles, labels, loc="lower right", ncols=len(labels), frameon=False, fontsize=9)
    return png(drawing)


def _draw_reliability(top: "Axes", below: "Axes", reliability: Reliability) -> None:
    bins = len(reliability.queries)
    middles, filled = (np.arange(bins) + 0.5) / bins, reliability.queries > 0
    means, width = reliability.confidence[filled], 0.92 / bins
    top.bar(
        middles[filled], reliability.accuracy[filled], width=width, color=OURS, alpha=0.75,
        label="share right",
    )  # fmt: skip
    top.scatter(means, means, marker="_", s=70, color=INK, zorder=3, label="mean confidence")
    top.plot([0, 1], [0, 1], color=CHANCE, linestyle="--", linewidth=1)
    top.legend(loc="upper left", frameon=False, fontsize=8)
    below.bar(middles, reliability.queries, width=width, color=CHANCE)


def _draw_abstention(
    axes: "Axes", curve: Mapping[str, list[float]], trust: Evidence, confidence: float
) -> None:
    """Accuracy by the share answered; at 1, all votes, with the interval, chance and the baseline."""
    values = list(curve["accuracy"])
    axes.plot(
        curve["answered"], values, color=OURS, marker="o", markersize=4, label="this run", clip_on=False,
        zorder=3,
    )  # fmt: skip
    if (ends := trust.intervals.get(VOTE)) is not None:
        axes.vlines(
            1, *ends, color=INK, linewidth=1.4, label=f"{100 * confidence:g} % interval of all", zorder=4
        )
        values += ends
    if (chance := trust.chance.get(VOTE)) is not None:
        axes.plot([0, 1], [chance] * 2, color=CHANCE, linestyle="--", linewidth=1.2, label="chance")
        values.append(chance)
    if (score := trust.baseline_scores.get(VOTE)) is not None:
        axes.scatter(
            [1], [score], marker="D", s=34, color=BASELINE, edgecolors="white", label=trust.baseline,
            zorder=5, clip_on=False,
        )  # fmt: skip
        values.append(score)
    name_axes(
        axes,
        "share of queries answered, the most confident first",
        "accuracy",
        "accuracy of the most confident votes",
    )
    axes.set(xlim=(0, 1.03), ylim=(max(0.0, min(values) - 0.06), 1.01))
    scales(axes, QUARTERS, None)
