"""Which runs no other run beats in everything, and a picture of them: quality against latency and memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.errors import UserError
from medretrieval.evidence.pareto import pareto_front
from medretrieval.figures.labels import Canvas, place_some
from medretrieval.figures.style import (
    CHANCE,
    HEADING_INCHES,
    PALETTE,
    figure_of,
    heading,
    log_ticks,
    plain_words,
    ticks,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

SIZE_INCHES = (9.0, 6.0)
LABEL_ROOM_PIXELS = 3.0  # pixels around a label that others leave free
SHAPES = "osD^vP*X"  # a second sign beside color, and the only one in print without it
MARKER_AREAS_POINTS = (40.0, 500.0)  # square points of the smallest and the largest marker
KEYS = ("label", "encoder", "score", "latency_ms", "bytes_per_vector")


def figure(path: Path, rows: Sequence[Mapping[str, Any]], objective: str = "score") -> None:
    """Draw score against latency, one marker a run, and join those that no other run beats in both.

    The area of a marker grows with its bytes per vector, its color and shape say its encoder. Runs that
    another one beats have a label where there is room.

    Args:
        path: the PNG to write, 150 dpi.
        rows: a mapping a run: "label" and "encoder" (str), "score", "latency_ms" and "bytes_per_vector"
            (numbers above 0, but for the score).
        objective: the score, and after it in parentheses on which task it is.

    Raises:
        UserError: no rows, a row without one of these, or a number that cannot be drawn.
    """
    _check(rows)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Without pyplot: no state of the caller's is touched and no display is asked for.
    drawing = Figure(figsize=SIZE_INCHES, dpi=150)
    FigureCanvasAgg(drawing)
    drawing.set_layout_engine("constrained", rect=(0, 0, 1, 1 - HEADING_INCHES / SIZE_INCHES[1]))
    count = f"{len(rows)} run{'s' if len(rows) > 1 else ''}"
    heading(drawing, "Score against the latency of a query", f"{objective} · {count}")
    axes = drawing.add_subplot()
    points = np.array([[row["score"], row["latency_ms"]] for row in rows], np.float64)
    front = pareto_front(points, [True, False])
    _draw_front(axes, points[front])
    areas = _areas(np.array([row["bytes_per_vector"] for row in rows], np.float64))
    _draw_markers(axes, rows, points, areas)
    axes.set(xscale="log", xlabel="latency of a query, ms (log scale)", ylabel=objective.partition(" (")[0])
    axes.margins(x=0.2, y=0.12)
    # Written out, for matplotlib's own labels of a logarithmic axis are formulas, and no text here is.
    for set_ticks, places in (
        (axes.set_xticks, log_ticks(*axes.get_xlim())), (axes.set_yticks, ticks(*axes.get_ylim()))
    ):  # fmt: skip
        set_ticks(list(places), labels=list(places.values()))
    axes.minorticks_off()
    axes.grid(color="black", alpha=0.1, linewidth=0.6)
    axes.tick_params(labelsize=9, length=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    _draw_legends(drawing, rows)
    labels = [
        axes.annotate(
            str(row["label"]),
            (x, y),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=8,
            fontweight="bold" if first else "normal",
        )
        for row, (y, x), first in zip(rows, points, front, strict=True)
    ]
    plain_words(drawing)
    drawing.draw_without_rendering()  # settles the layout, on which the places in pixels depend
    _place(axes, labels, points[:, ::-1], areas, front)
    drawing.savefig(path, format="png", dpi=150)


def _check(rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        raise UserError("pareto: no runs to draw; give at least one")
    for i, row in enumerate(rows):
        if missing := [key for key in KEYS if key not in row]:
            raise UserError(f"pareto: run {i + 1} has no {', '.join(missing)}; each needs {', '.join(KEYS)}")
        for key in KEYS[2:]:
            value = float(row[key])
            if not np.isfinite(value) or (key != "score" and value <= 0):
                wanted = "a finite number" if key == "score" else "a finite number above 0"
                raise UserError(
                    f"pareto: {key}={value} of {row['label']!r}: must be {wanted}; leave the run out"
                )


def _areas(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Areas proportional to bytes, held between the smallest and the largest that can be told apart."""
    areas: NDArray[np.float64] = np.maximum(
        MARKER_AREAS_POINTS[0], MARKER_AREAS_POINTS[1] * sizes / sizes.max()
    )
    return areas


def _draw_front(axes: "Axes", points: NDArray[np.float64]) -> None:
    order = np.argsort(points[:, 1])
    axes.plot(points[order, 1], points[order, 0], color=CHANCE, linewidth=1.2, linestyle="--", zorder=1)


def _draw_markers(
    axes: "Axes", rows: Sequence[Mapping[str, Any]], points: NDArray[np.float64], areas: NDArray[np.float64]
) -> None:
    for name, (color, shape) in _styles(rows).items():
        mine = [i for i, row in enumerate(rows) if row["encoder"] == name]
        axes.scatter(
            points[mine, 1], points[mine, 0], s=areas[mine], c=color, marker=shape,
            alpha=0.75, edgecolors="white", linewidths=0.8, zorder=2,
        )  # fmt: skip


def _styles(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """A color and a shape for each encoder, in the order of the rows."""
    names = dict.fromkeys(str(row["encoder"]) for row in rows)
    return {name: (PALETTE[i % len(PALETTE)], SHAPES[i % len(SHAPES)]) for i, name in enumerate(names)}


def _draw_legends(drawing: "Figure", rows: Sequence[Mapping[str, Any]]) -> None:
    """Encoders, the front, and what the smallest and the largest marker stand for; beside the picture."""
    from matplotlib.lines import Line2D

    def mark(shape: str, color: str, size: float, text: str) -> Line2D:
        return Line2D(
            [], [], linestyle="", marker=shape, color=color, markersize=size,
            markeredgecolor="white", label=text,
        )  # fmt: skip

    encoders = [mark(shape, color, 9, name) for name, (color, shape) in _styles(rows).items()]
    encoders.append(Line2D([], [], color=CHANCE, linestyle="--", label="no run is better in both (bold)"))
    sizes = np.array([row["bytes_per_vector"] for row in rows], np.float64)
    ends = sorted({float(sizes.min()), float(sizes.max())})
    scale = [
        mark("o", CHANCE, float(np.sqrt(_areas(np.array([s, sizes.max()]))[0])), f"{s:,.0f}") for s in ends
    ]
    # Of the figure, not of the axes: the layout makes room for both, whatever is written in them.
    drawing.legend(
        handles=encoders, title="encoder", loc="outside right upper", frameon=False, alignment="left"
    )
    drawing.legend(
        handles=scale, title="bytes per vector", loc="outside right lower", frameon=False,
        labelspacing=1.5, borderpad=1, alignment="left",
    )  # fmt: skip


def _place(
    axes: "Axes",
    labels: "Sequence[Annotation]",
    points: NDArray[np.float64],
    areas: NDArray[np.float64],
    front: NDArray[np.bool_],
) -> None:
    """Move each label to where it covers least; off the front it is left out where it has no room.

    Args:
        axes: with limits and layout settled; its first line is the front.
        labels: one a point.
        points: float64 [n, 2], x and y in data.
        areas: of the markers, float64 [n], in square points.
        front: bool [n], runs whose labels must stand somewhere.
    """
    point = figure_of(axes).dpi / 72
    extents = [label.get_window_extent() for label in labels]
    canvas = Canvas(
        centers=axes.transData.transform(points),
        radii=np.sqrt(areas / np.pi) * point,
        line=axes.transData.transform(np.column_stack(axes.lines[0].get_data())),
        frame=axes.get_window_extent().extents,
        point=point,
    )
    room = 2 * LABEL_ROOM_PIXELS
    sizes = [(extent.width + room, extent.height + room) for extent in extents]
    for label, center, place in zip(
        labels, canvas.centers, place_some(canvas, sizes, front.tolist()), strict=True
    ):
        if place is None:
            label.remove()
            continue
        label.set_position(tuple((place.box[:2] + LABEL_ROOM_PIXELS - center) / point))
        if place.lead is not None:
            ends = axes.transData.inverted().transform(place.lead)
            axes.plot(*ends.T, color=CHANCE, linewidth=0.6, zorder=1, scalex=False, scaley=False)
