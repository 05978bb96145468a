"""Which runs no other run beats in everything, and a picture of them: quality against latency and memory."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.errors import UserError
from medretrieval.evidence.pareto import pareto_front
from medretrieval.figures.style import COLORS, plain_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

SHAPES = "osD^vP*X"  # a second sign beside color, and the only one in print without it
AREA = (40.0, 500.0)  # square points of the smallest and the largest marker
KEYS = ("label", "encoder", "score", "latency_ms", "bytes_per_vector")
# Where a label may stand about its point, in points: the first that covers nothing is taken.
PLACES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
DISTANCES = (4, 14, 26, 40, 60)
STEP = 5.0  # pixels between the boxes that stand for a line


def figure(path: Path, rows: Sequence[Mapping[str, Any]], objective: str = "score") -> None:
    """Draw score against latency, one marker a run, and join those that no other run beats in both.

    The area of a marker grows with its bytes per vector, its color and shape say its encoder.

    Args:
        path: the PNG to write, 150 dpi.
        rows: a mapping a run: "label" and "encoder" (str), "score", "latency_ms" and "bytes_per_vector"
            (numbers above 0, but for the score).
        objective: what the score is called on its axis.

    Raises:
        UserError: no rows, a row without one of these, or a number that cannot be drawn.
    """
    _check(rows)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Without pyplot: no state of the caller's is touched and no display is asked for.
    drawing = Figure(figsize=(9, 6), dpi=150, layout="constrained")
    FigureCanvasAgg(drawing)
    axes = drawing.add_subplot()
    points = np.array([[row["score"], row["latency_ms"]] for row in rows], np.float64)
    front = pareto_front(points, [True, False])
    _draw_front(axes, points[front])
    areas = _areas(np.array([row["bytes_per_vector"] for row in rows], np.float64))
    _draw_markers(axes, rows, points, areas)
    axes.set(xscale="log", xlabel="latency of a query, ms (log scale)", ylabel=objective)
    axes.margins(x=0.2, y=0.12)
    axes.grid(alpha=0.25, which="both", linewidth=0.5)
    _draw_legends(axes, rows)
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
    _place(axes, labels, points[:, ::-1], np.sqrt(areas / np.pi))
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
                    f"pareto: {key}={value} of {row['label']!r}: {wanted} is wanted; leave it out"
                )


def _areas(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Areas proportional to bytes, held between the smallest and the largest that can be told apart."""
    areas: NDArray[np.float64] = np.maximum(AREA[0], AREA[1] * sizes / sizes.max())
    return areas


def _draw_front(axes: "Axes", points: NDArray[np.float64]) -> None:
    order = np.argsort(points[:, 1])
    axes.plot(points[order, 1], points[order, 0], color="0.45", linewidth=1.2, linestyle="--", zorder=1)


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
    return {name: (COLORS[i % len(COLORS)], SHAPES[i % len(SHAPES)]) for i, name in enumerate(names)}


def _draw_legends(axes: "Axes", rows: Sequence[Mapping[str, Any]]) -> None:
    """Encoders, the front, and what the smallest and the largest marker stand for; beside the picture."""
    from matplotlib.lines import Line2D

    def mark(shape: str, color: str, size: float, text: str) -> Line2D:
        return Line2D(
            [], [], linestyle="", marker=shape, color=color, markersize=size,
            markeredgecolor="white", label=text,
        )  # fmt: skip

    encoders = [mark(shape, color, 9, name) for name, (color, shape) in _styles(rows).items()]
    encoders.append(Line2D([], [], color="0.45", linestyle="--", label="no run is better in both (bold)"))
    sizes = np.array([row["bytes_per_vector"] for row in rows], np.float64)
    ends = sorted({float(sizes.min()), float(sizes.max())})
    scale = [
        mark("o", "0.6", float(np.sqrt(_areas(np.array([s, sizes.max()]))[0])), f"{s:,.0f}") for s in ends
    ]
    first = axes.legend(
        handles=encoders, title="encoder", loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False
    )
    axes.add_artist(first)
    axes.legend(
        handles=scale, title="bytes per vector", loc="lower left", bbox_to_anchor=(1.01, 0),
        frameon=False, labelspacing=1.5, borderpad=1,
    )  # fmt: skip


def _place(
    axes: "Axes", labels: "list[Annotation]", points: NDArray[np.float64], radii: NDArray[np.float64]
) -> None:
    """Move each label to the place about its point where it and its lead cover least, the nearest of equals.

    Args:
        axes: with limits and layout settled; its first line is the front.
        labels: one a point.
        points: float64 [n, 2], x and y in data.
        radii: of the markers, float64 [n], in points.
    """
    drawing = axes.get_figure(root=True)
    assert drawing is not None
    pixel = drawing.dpi / 72
    centers, reach = axes.transData.transform(points), radii * pixel
    inside = axes.get_window_extent()
    front = axes.transData.transform(np.column_stack(axes.lines[0].get_data()))
    markers = np.column_stack([centers - reach[:, None], centers + reach[:, None]])
    taken = np.concatenate([markers, *(_trail(a, b) for a, b in pairwise(front))])
    for i, (label, center) in enumerate(zip(labels, centers, strict=True)):
        extent = label.get_window_extent()
        size, others = np.array([extent.width, extent.height]), np.delete(taken, i, axis=0)
        boxes = [_beside(center, reach[i] + d * pixel, size, place) for d in DISTANCES for place in PLACES]
        leads = [_trail(center, np.clip(center, box[:2], box[2:])) for box in boxes]
        costs = [
            _overlap(box[None], taken) + _overlap(lead, others) + _outside(box, inside.extents)
            for box, lead in zip(boxes, leads, strict=True)
        ]
        best = int(np.argmin(costs))
        label.set_position(tuple((boxes[best][:2] - center) / pixel))
        taken = np.concatenate([taken, boxes[best][None]])
        if best >= len(PLACES):  # too far from its point to be told without a line
            taken = np.concatenate([taken, leads[best]])
            _lead(axes, center, boxes[best], reach[i])


def _lead(axes: "Axes", center: NDArray[np.float64], box: NDArray[np.float64], radius: float) -> None:
    """A thin line from the edge of a marker to its label."""
    end = np.clip(center, box[:2], box[2:])
    start = center + (end - center) * radius / np.hypot(*(end - center))
    ends = axes.transData.inverted().transform([start, end])
    axes.plot(*ends.T, color="0.5", linewidth=0.6, zorder=1, scalex=False, scaley=False)


def _beside(
    center: NDArray[np.float64], reach: float, size: NDArray[np.float64], place: tuple[int, int]
) -> NDArray[np.float64]:
    """The box (x0, y0, x1, y1) of a label in a direction from a point, touching a circle about it."""
    step = np.array(place) * (reach if 0 in place else reach * math.sqrt(0.5))
    corner = center + step + size * (np.array(place) - 1) / 2
    return np.concatenate([corner, corner + size])


def _trail(start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """A line as small boxes, float64 [steps, 4], so that covering it costs a little."""
    steps = 2 + int(np.hypot(*(end - start)) / STEP)
    along = np.linspace(start, end, steps)
    return np.column_stack([along - STEP / 2, along + STEP / 2])


def _overlap(boxes: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """The area, in square pixels, that boxes [a, 4] share with others [b, 4]."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return float(np.maximum(high - low, 0).prod(axis=2).sum())


def _outside(box: NDArray[np.float64], frame: tuple[float, float, float, float]) -> float:
    """Ten times the area of a box that lies outside a frame: worse than covering something."""
    area = float((box[2:] - box[:2]).prod())
    return 10 * (area - _overlap(box[None], np.array(frame)[None]))
