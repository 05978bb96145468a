"""Precision and recall by depth: curves.json and its picture."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from medretrieval.evidence.by_depth import SCORES
from medretrieval.figures.style import (
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

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
