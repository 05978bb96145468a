"""The neighbors' vote: whether its confidence can be believed, and what abstaining gains."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from medretrieval.evaluate.evaluate import Evaluation
from medretrieval.evidence.breakdown import Reliability
from medretrieval.figures.style import CHANCE, OURS, axes_at, figure, heading, name_axes, png, scales

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUARTERS = {0: "0", 0.25: "0.25", 0.5: "0.5", 0.75: "0.75", 1: "1"}


def picture(reliability: Reliability, evaluation: Evaluation, vote_k: int, run: str) -> bytes:
    """Draw the reliability diagram (Guo et al. 2017) beside the abstention curve, PNG.

    Args:
        reliability: of the vote.
        evaluation: for the calibration error and the abstention curve.
        vote_k: neighbors that vote.
        run: the run in one line.
    """
    drawing = figure(9, 4.3)
    heading(drawing, f"The vote of the {vote_k} nearest", run)
    top, below = axes_at(drawing, 0.7, 1.35, 3.5, 2.1), axes_at(drawing, 0.7, 0.5, 3.5, 0.6)
    _draw_reliability(top, below, reliability)
    error = evaluation.scores["vote_calibration_error"]
    name_axes(top, "", "share right", f"reliability, calibration error {error:.3f}")
    top.set(xlim=(0, 1), ylim=(0, 1.02))
    scales(top, dict.fromkeys(QUARTERS, ""), {0: "0", 0.5: "0.5", 1: "1"})
    name_axes(below, "confidence: the winning class's share of the vote", "queries")
    most = int(reliability.queries.max())
    below.set(xlim=(0, 1), ylim=(0, 1.05 * most))
    scales(below, QUARTERS, {0: "0", most: str(most)})
    _draw_abstention(axes_at(drawing, 5.2, 0.5, 3.6, 2.95), evaluation.abstention)
    return png(drawing)


def _draw_reliability(top: "Axes", below: "Axes", reliability: Reliability) -> None:
    bins = len(reliability.queries)
    middles, filled = (np.arange(bins) + 0.5) / bins, reliability.queries > 0
    means, width = reliability.confidence[filled], 0.92 / bins
    top.bar(
        middles[filled], reliability.accuracy[filled], width=width, color=OURS, alpha=0.75,
        label="share right",
    )  # fmt: skip
    top.scatter(means, means, marker="_", s=70, color="#111111", zorder=3, label="mean confidence")
    top.plot([0, 1], [0, 1], color=CHANCE, linestyle="--", linewidth=1)
    top.legend(loc="upper left", frameon=False, fontsize=8)
    below.bar(middles, reliability.queries, width=width, color=CHANCE)


def _draw_abstention(axes: "Axes", curve: Mapping[str, list[float]]) -> None:
    axes.plot(curve["answered"], curve["accuracy"], color=OURS, marker="o", markersize=4)
    name_axes(
        axes,
        "share of queries answered, the most confident first",
        "accuracy",
        "accuracy of the most confident votes",
    )
    low = min(curve["accuracy"])
    axes.set(xlim=(0, 1.03), ylim=(max(0.0, low - 0.15), 1.01))
    scales(axes, QUARTERS, None)
