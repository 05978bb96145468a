"""Classes: which are retrieved for which, and the precision of each; the score of each subgroup."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from medretrieval.evidence.by_class import ClassScores
from medretrieval.figures.style import (
    BASELINE,
    CHANCE,
    INK,
    OURS,
    QUARTERS,
    SHARES,
    axes_at,
    figure,
    heading,
    name_axes,
    png,
    room,
    scales,
    short,
)
from medretrieval.subgroups.by_value import Subgroups

if TYPE_CHECKING:
    from matplotlib.colors import LinearSegmentedColormap

MAX_NUMBERED_CLASSES = 20  # classes up to which a cell's number can be read
WHITE_ABOVE = 0.85  # share from which white letters stand out more than black ones


def per_class_picture(scores: ClassScores, baseline: str | None, confidence: float, run: str) -> bytes:
    """Draw the classes' precision as bars, PNG."""
    names = [f"{n} ({q})" for n, q in zip(short(scores.names), scores.queries, strict=True)]
    left, tall = 0.35 + room(names), 0.32 * max(len(names), 2) + 0.1
    drawing = figure(left + 5.2, tall + 1.5)
    given = [ends is not None for ends in scores.ends]
    said = f", {100 * confidence:g} % intervals" if any(given) else ", too few for intervals"
    said += " where there are enough" if any(given) and not all(given) else ""
    heading(drawing, f"Precision at {scores.k} by class (queries){said}", run)
    axes = axes_at(drawing, left, 0.85, 4.9, tall)
    places = np.arange(len(names))
    axes.barh(places, scores.mean, height=0.62, color=OURS, alpha=0.75, label="this run")
    drawn = [(p, *ends) for p, ends in zip(places, scores.ends, strict=True) if ends is not None]
    if drawn:
        at, low, high = zip(*drawn, strict=True)
        axes.hlines(at, low, high, color=INK, linewidth=1.4)
    axes.scatter(
        scores.chance,
        places,
        marker="|",
        s=190,
        color=CHANCE,
        linewidth=2,
        label="chance",
        zorder=3,
        clip_on=False,
    )
    if scores.baseline is not None:
        axes.scatter(
            scores.baseline,
            places,
            marker="D",
            s=34,
            color=BASELINE,
            edgecolors="white",
            label=baseline,
            zorder=4,
            clip_on=False,
        )
    axes.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5))
    scales(axes, None, dict(enumerate(names)))
    name_axes(axes, f"precision at {scores.k}")
    handles, labels = axes.get_legend_handles_labels()
    own = labels.index("this run")
    order = [own, *(i for i in range(len(labels)) if i != own)]
    drawing.legend(
        [handles[i] for i in order], [labels[i] for i in order],
        loc="lower right", ncols=len(labels), frameon=False, fontsize=9,
    )  # fmt: skip
    return png(drawing)


def subgroup_picture(found: Subgroups, confidence: float, run: str) -> bytes:
    """Draw the score of each subgroup as a dot with its interval, and its chance, PNG."""
    rows = [row for row in found.values if not row.too_small]
    said = short([f"{row.column}: {row.value or 'unknown'}" for row in rows])
    names = [f"{name} ({row.queries})" for name, row in zip(said, rows, strict=True)]
    left, tall = 0.35 + room(names), 0.3 * max(len(names), 2) + 0.1
    drawing = figure(left + 5.2, tall + 1.5)
    given = any(found.score in row.intervals for row in rows)
    level = f", {100 * confidence:g} % intervals where there are enough" if given else ", no intervals"
    heading(drawing, f"{found.score} by subgroup (queries){level}", run)
    axes, places = axes_at(drawing, left, 0.85, 4.9, tall), np.arange(len(names))
    for place, row in enumerate(rows):
        if (ends := row.intervals.get(found.score)) is not None:
            axes.hlines(place, *ends, color=INK, linewidth=1.4)
    known = [place for place, row in enumerate(rows) if found.score in row.chance]
    axes.scatter(
        [rows[place].chance[found.score] for place in known], known, marker="|", s=150, color=CHANCE,
        linewidth=2, label="chance", zorder=3, clip_on=False,
    )  # fmt: skip
    axes.scatter(
        [row.scores[found.score] for row in rows], places, s=42, color=OURS, label="this run", zorder=4,
        clip_on=False,
    )  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5))
    scales(axes, None, dict(enumerate(names)))
    name_axes(axes, found.score)
    handles, labels = axes.get_legend_handles_labels()
    drawing.legend(handles[::-1], labels[::-1], loc="lower right", ncols=2, frameon=False, fontsize=9)
    return png(drawing)


def confusion_picture(confusion: Mapping[str, Any], run: str) -> bytes:
    """Draw the shares of examples.json's confusion as a table of colors and numbers, PNG."""
    names, k = short(confusion["classes"]), confusion["k"]
    share = np.array(confusion["share"], np.float64)
    cell = 0.9 if len(names) <= 4 else 0.52 if len(names) <= 9 else 0.4
    side, left, below = cell * len(names), 0.55 + room(names), 0.55 + 0.72 * room(names)
    width = max(left + side + 1.1, 5.6)
    tall = below + side + 0.75
    drawing = figure(width, tall)
    several = bool((np.nansum(share, axis=1) > 1.001).any())
    note = "; images of several findings count for each" if several else ""
    heading(drawing, f"Classes of the first {k} results, by the query's class", run + note)
    axes = axes_at(drawing, left, below, side, side)
    image = axes.imshow(share, cmap=_shares(), vmin=0, vmax=1, zorder=1)
    for side_of_frame in ("top", "right"):  # pale cells need all four
        axes.spines[side_of_frame].set_visible(True)
    scales(axes, dict(enumerate(names)), dict(enumerate(names)), slanted=True)
    drawing.text((left + side / 2) / width, 0.1 / tall, "class of the results", fontsize=9, ha="center")
    drawing.text(
        0.1 / width, (below + side / 2) / tall, "class of the query", fontsize=9, va="center", rotation=90
    )
    if len(names) <= MAX_NUMBERED_CLASSES:
        size = 10 if cell > 0.6 else 8 if cell > 0.45 else 7
        digits = slice(0, None) if cell > 0.6 else slice(1, None)  # .57 where 0.57 is too long
        for row, column in zip(*np.nonzero(~np.isnan(share)), strict=True):
            value = share[row, column]
            axes.text(
                column, row, f"{value:.2f}" if value > 0.995 else f"{value:.2f}"[digits],
                ha="center", va="center", fontsize=size, color="white" if value > WHITE_ABOVE else INK,
                fontweight="bold" if row == column else "normal",
            )  # fmt: skip
    bar = axes_at(drawing, left + side + 0.2, below, 0.16, side)
    drawing.colorbar(image, cax=bar)
    bar.set(xticks=[], yticks=[])
    for value, text in QUARTERS.items():
        bar.text(1.4, value, text, transform=bar.transAxes, va="center", fontsize=8)
    drawing.text(
        (left + side + 0.85) / width, (below + side / 2) / tall, f"mean share of the {k}", fontsize=8,
        ha="center", va="center", rotation=90,
    )  # fmt: skip
    return png(drawing)


def _shares() -> "LinearSegmentedColormap":
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("shares", SHARES)
