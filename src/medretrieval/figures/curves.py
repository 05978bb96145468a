"""Precision and recall by depth."""

from typing import TYPE_CHECKING

from medretrieval.evidence.by_depth import DepthCurve, DepthCurves
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


def picture(curves: DepthCurves, baseline: str | None, confidence: float, run: str) -> bytes:
    """Draw the curves of curves.json as PNG, precision beside recall.

    Args:
        curves: what is drawn.
        baseline: name of the baseline encoder, None for none.
        confidence: of the intervals.
        run: the run in one line.
    """
    drawing = figure(9, 4.25)
    heading(drawing, f"Precision and recall by depth, with {100 * confidence:g} % intervals", run)
    for left, name, curve in ((0.7, "precision", curves.precision), (5.2, "recall", curves.recall)):
        axes = axes_at(drawing, left, 0.95, 3.6, 2.45)
        _draw(axes, curves.ks, curve, baseline)
        name_axes(axes, "k, results looked at", title=name)
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
