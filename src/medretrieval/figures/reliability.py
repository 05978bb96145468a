"""The neighbors' vote: whether its confidence can be believed, and what abstaining gains."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medretrieval.evaluate.evaluate import Evaluation
from medretrieval.evaluate.knn_vote import BINS, Vote, vote
from medretrieval.figures.style import CHANCE, OURS, axes_at, figure, heading, name_axes, png, scales
from medretrieval.protocol.task import RetrievalTask

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUARTERS = {0: "0", 0.25: "0.25", 0.5: "0.5", 0.75: "0.75", 1: "1"}


def cast_again(evaluation: Evaluation, task: RetrievalTask) -> tuple[Vote, NDArray[np.bool_]] | None:
    """The vote of every query that has something to find, and whether it was right (bool [q']).

    None where fewer results are saved than vote.
    """
    distances, ids = evaluation.vote_distances, evaluation.ranking.ids
    if ids.shape[1] < distances.shape[1]:
        return None
    kept, ids = task.n_relevant > 0, ids[:, : distances.shape[1]]
    labels, gallery = task.queries.labels.astype(np.int64), task.gallery.labels.astype(np.int64)
    results = np.where(ids < 0, -1, gallery[ids])
    cast = vote(results[kept], distances[kept], int(max(labels.max(), gallery.max())) + 1)
    return cast, cast.predicted == labels[kept]


def picture(
    evaluation: Evaluation, task: RetrievalTask, scores: Mapping[str, float], vote_k: int, run: str
) -> bytes:
    """Draw the reliability diagram (Guo et al. 2017) beside the abstention curve, PNG."""
    drawing = figure(9, 4.3)
    heading(drawing, f"The vote of the {vote_k} nearest", run)
    found = cast_again(evaluation, task)
    top, below = axes_at(drawing, 0.7, 1.35, 3.5, 2.1), axes_at(drawing, 0.7, 0.5, 3.5, 0.6)
    if found is None:
        top.text(0.05, 0.5, f"needs evaluation.save_depth of {vote_k} or more", fontsize=9)
    else:
        _draw_reliability(top, below, found[0].confidence, found[1])
    error = scores["vote_calibration_error"]
    name_axes(top, "", "share right", f"reliability, calibration error {error:.3f}")
    top.set(xlim=(0, 1), ylim=(0, 1.02))
    scales(top, dict.fromkeys(QUARTERS, ""), {0: "0", 0.5: "0.5", 1: "1"})
    name_axes(below, "confidence: the winning class's share of the vote", "queries")
    below.set(xlim=(0, 1))
    most = int(below.get_ylim()[1] / 1.05) if found is not None else 1
    scales(below, QUARTERS, {0: "0", most: str(most)})
    _draw_abstention(axes_at(drawing, 5.2, 0.5, 3.6, 2.95), evaluation.abstention)
    return png(drawing)


def _draw_reliability(
    top: "Axes", below: "Axes", confidence: NDArray[np.float64], right: NDArray[np.bool_]
) -> None:
    places = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(places, minlength=BINS)
    filled = np.flatnonzero(counts)
    shares = np.bincount(places, right, minlength=BINS)[filled] / counts[filled]
    means = np.bincount(places, confidence, minlength=BINS)[filled] / counts[filled]
    middles = (np.arange(BINS) + 0.5) / BINS
    top.bar(middles[filled], shares, width=0.92 / BINS, color=OURS, alpha=0.75, label="share right")
    top.scatter(means, means, marker="_", s=70, color="#111111", zorder=3, label="mean confidence")
    top.plot([0, 1], [0, 1], color=CHANCE, linestyle="--", linewidth=1)
    top.legend(loc="upper left", frameon=False, fontsize=8)
    below.bar(middles, counts, width=0.92 / BINS, color=CHANCE)
    below.set_ylim(0, 1.05 * counts.max())


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
