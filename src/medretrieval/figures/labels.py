"""Where labels stand about their points, so that they cover neither each other nor what is drawn."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# Where a label may stand about its point: the first place that covers nothing is taken.
DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
DISTANCES_POINTS = (4, 14, 26, 40, 60)  # from the edge of its marker, in points
LEAD_COST = 8.0  # how much worse a line through a label is than as much of a label over another
MAX_COVERED_SHARE = 0.05  # of its area that a label which may be left out may cover of others
LEAD_GAP_PIXELS = 3.0  # pixels between a label and the line to it
STEP_PIXELS = 5.0  # pixels between the boxes that stand for a line


@dataclass(frozen=True)
class Canvas:
    """What is drawn already, in pixels; y may run up or down.

    Attributes:
        centers: of the markers, float64 [n, 2].
        radii: of the markers, float64 [n].
        line: a path that should stay visible, float64 [m, 2].
        frame: what labels should stay inside: x0, y0, x1, y1.
        point: pixels of a typographic point.
    """

    centers: Floats
    radii: Floats
    line: Floats
    frame: tuple[float, float, float, float]
    point: float


@dataclass(frozen=True)
class Label:
    """Where a label stands.

    Attributes:
        box: x0, y0, x1, y1 in pixels, float64 [4].
        lead: ends of a line from its marker, float64 [2, 2], where it is too far to be told without one.
    """

    box: Floats
    lead: Floats | None


def place_labels(canvas: Canvas, sizes: Sequence[tuple[float, float]]) -> list[Label]:
    """Give each label the place about its point where it and its lead cover least, the nearest of equals.

    Args:
        canvas: markers, one a label, and what else is drawn.
        sizes: width and height of each label in pixels.
    """
    return [label for label in place_some(canvas, sizes, [True] * len(sizes)) if label is not None]


def place_some(
    canvas: Canvas, sizes: Sequence[tuple[float, float]], needed: Sequence[bool]
) -> list[Label | None]:
    """The same, those that are needed first; of the others None where each place would cover something.

    Args:
        canvas: markers, one a label, and what else is drawn.
        sizes: width and height of each label in pixels.
        needed: labels that must stand somewhere.
    """
    reach = canvas.radii[:, None]
    markers = np.column_stack([canvas.centers - reach, canvas.centers + reach])
    taken = np.concatenate([markers, *(_trail(a, b) for a, b in pairwise(canvas.line))])
    placed: list[Label | None] = [None] * len(sizes)
    extents = np.asarray(sizes, np.float64)
    for i in sorted(range(len(sizes)), key=lambda i: not needed[i]):
        center, size = canvas.centers[i], extents[i]
        others, radius = np.delete(taken, i, axis=0), float(canvas.radii[i])
        boxes = [
            _beside(center, radius + distance * canvas.point, size, direction)
            for distance in DISTANCES_POINTS
            for direction in DIRECTIONS
        ]
        trails = [_trail(center, np.clip(center, box[:2], box[2:])) for box in boxes]
        costs = [
            overlap(box[None], taken) + LEAD_COST * overlap(trail, others) + _outside(box, canvas.frame)
            for box, trail in zip(boxes, trails, strict=True)
        ]
        best = int(np.argmin(costs))
        if not needed[i] and costs[best] > MAX_COVERED_SHARE * size.prod():
            continue
        taken = np.concatenate([taken, boxes[best][None]])
        lead = None
        if best >= len(DIRECTIONS):
            taken = np.concatenate([taken, trails[best]])
            lead = _lead(center, boxes[best], radius)
        placed[i] = Label(boxes[best], lead)
    return placed


def overlap(boxes: Floats, others: Floats) -> float:
    """The area, in square pixels, that boxes [a, 4] share with others [b, 4]."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return float(np.maximum(high - low, 0).prod(axis=2).sum())


def _lead(center: Floats, box: Floats, radius: float) -> Floats:
    """From the edge of a marker to just before its label."""
    apart = np.clip(center, box[:2], box[2:]) - center
    length = float(np.hypot(*apart))
    return np.stack([center + apart * radius / length, center + apart * (1 - LEAD_GAP_PIXELS / length)])


def _beside(center: Floats, reach: float, size: Floats, direction: tuple[int, int]) -> Floats:
    """The box of a label in a direction from a point, touching a circle about it."""
    step = np.array(direction) * (reach if 0 in direction else reach * math.sqrt(0.5))
    corner = center + step + size * (np.array(direction) - 1) / 2
    return np.concatenate([corner, corner + size])


def _trail(start: Floats, end: Floats) -> Floats:
    """A line as small boxes, float64 [steps, 4], so that covering it costs a little."""
    steps = 2 + int(np.hypot(*(end - start)) / STEP_PIXELS)
    along = np.linspace(start, end, steps)
    return np.column_stack([along - STEP_PIXELS / 2, along + STEP_PIXELS / 2])


def _outside(box: Floats, frame: tuple[float, float, float, float]) -> float:
    """Ten times the area of a box that lies outside a frame: worse than covering something."""
    area = float((box[2:] - box[:2]).prod())
    return 10 * (area - overlap(box[None], np.array(frame)[None]))
