"""Charts as inline SVG: what they say is also said by the tables beside them.

Colors are CSS classes (`c0` to `c6`), so that a dark page and print have their own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from medretrieval.evidence.pareto import pareto_front
from medretrieval.figures.labels import Canvas, Label, place_labels
from medretrieval.figures.style import PALETTE, log_ticks, ticks

WIDTH, HEIGHT = 480, 330
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 30, 46  # margins; the title stands in the upper one
RADIUS = 5
DIGIT, NUMERAL = 7.0, 10.0  # width and height of a numeral
POINT = 0.7  # pixels of a point: numerals stand nearer to their markers than names in a large picture
SERIES = len(PALETTE)


@dataclass(frozen=True)
class Point:
    """A run in a scatter: its key, its number in the table, its series, and where it stands."""

    key: str
    number: int
    series: int
    label: str
    x: float
    y: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Scale:
    """From data to pixels, on a line or its logarithm."""

    first: float
    last: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        a, b, v = (math.log10(x) if self.log else x for x in (self.first, self.last, value))
        return round(self.start + (v - a) / (b - a) * (self.end - self.start), 1)

    def ticks(self) -> dict[float, str]:
        """Round values within the scale, and what to write there."""
        return (log_ticks if self.log else ticks)(self.first, self.last)


class WholeScale(Scale):
    """A line of whole numbers, each with a tick."""

    def ticks(self) -> dict[float, str]:
        """Every whole number within the scale."""
        return {float(n): str(n) for n in range(math.ceil(self.first), math.floor(self.last) + 1)}


def scatter(points: Sequence[Point], x_name: str, y_name: str, title: str, key: str) -> Markup:
    """Score against a cost on a logarithmic axis, with the line of what no run beats in both.

    Args:
        points: one a run; x above 0.
        x_name: the cost, with its unit.
        y_name: the score.
        title: what a screen reader says first.
        key: a name for ids, unique in the page.
    """
    ends = [p.x for p in points]
    spread = max(max(ends) / min(ends), 1.5) ** 0.1
    x = Scale(min(ends) / spread**1.2, max(ends) * spread**1.2, LEFT, WIDTH - RIGHT, log=True)
    y = _y_scale([v for p in points for v in (p.y, p.low, p.high) if v is not None])
    front = pareto_front(np.array([[p.y, p.x] for p in points]), [True, False])
    best = sorted((p for p, first in zip(points, front, strict=True) if first), key=lambda p: (p.x, p.y))
    named = "; ".join(f"{p.number} {p.label} ({_short(p.x)}, {p.y:.4f})" for p in best)
    described = f"{y_name} against {x_name}, {len(points)} runs. No run is better in both than: {named}."
    parts = [_axes(x, y, x_name, y_name)]
    line = " ".join(f"{x(p.x)},{y(p.y)}" for p in best)
    parts.append(Markup('<polyline class="front" points="{}"/>').format(line))
    canvas = Canvas(
        centers=np.array([[x(p.x), y(p.y)] for p in points]),
        radii=np.full(len(points), float(RADIUS)),
        line=np.array([[x(p.x), y(p.y)] for p in best]),
        frame=(LEFT, TOP - 10, WIDTH - 2, HEIGHT - BOTTOM),
        point=POINT,
    )
    labels = place_labels(canvas, [(DIGIT * len(str(p.number)), NUMERAL) for p in points])
    parts += [
        _mark(p, (x(p.x), y(p.y)), y, label, bool(first))
        for p, label, first in zip(points, labels, front, strict=True)
    ]
    return _svg(parts, title, described, key)


def _mark(p: Point, center: tuple[float, float], y: Scale, label: Label, first: bool) -> Markup:
    cx, cy = center
    whisker = Markup("")
    if p.low is not None and p.high is not None:
        whisker = Markup('<line class="whisker" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
            cx, y(p.low), y(p.high)
        )
    if label.lead is not None:
        whisker += Markup('<line class="lead" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(
            *label.lead.ravel()
        )
    return Markup(
        '<g data-run="{key}" class="mark c{series}"><title>{number} {label}: {y:.4f}, {x}</title>{whisker}'
        '{shape}<text class="{weight}" x="{tx:.1f}" y="{ty:.1f}">{number}</text></g>'
    ).format(
        key=p.key, series=p.series % SERIES, number=p.number, label=p.label, y=p.y, x=_short(p.x),
        whisker=whisker, shape=_shape(p.series, cx, cy), weight="first" if first else "",
        tx=label.box[0], ty=label.box[3] - 1,
    )  # fmt: skip


def _shape(series: int, x: float, y: float) -> Markup:
    """A second sign beside color: circle, square, diamond, triangle."""
    r = RADIUS
    if series % 4 == 2:
        return Markup('<polygon points="{}"/>').format(_diamond(x, y, 1.4 * r))
    shapes: dict[int, list[tuple[float, float]]] = {
        1: [(-r, -r), (r, -r), (r, r), (-r, r)],
        3: [(0, -1.3 * r), (1.3 * r, r), (-1.3 * r, r)],
    }
    corners = shapes.get(series % 4)
    if corners is None:
        return Markup('<circle cx="{}" cy="{}" r="{}"/>').format(x, y, r)
    return Markup('<polygon points="{}"/>').format(" ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in corners))


def _diamond(x: float, y: float, reach: float) -> str:
    corners = [(0, -reach), (reach, 0), (0, reach), (-reach, 0)]
    return " ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in corners)


def legend_shape(series: int) -> Markup:
    """The marker of a series, for a legend."""
    return Markup('<svg class="key c{}" viewBox="0 0 16 16" aria-hidden="true">{}</svg>').format(
        series % SERIES, _shape(series, 8, 8)
    )


def curve(ks: Sequence[int], drawn: dict[str, Any], names: tuple[str, str, str | None], key: str) -> Markup:
    """A score by depth with its interval, chance, and the baseline where there is one.

    Args:
        ks: depths.
        drawn: a CURVE of curves.json.
        names: the score, the share of the interval ("95 %"), the baseline encoder.
        key: a name for ids, unique in the page.
    """
    score, percent, baseline = names
    line = drawn["baseline"]
    values = [v for part in ("low", "high", "mean", "chance") for v in drawn[part] if v is not None]
    values += line["mean"] if line else []
    x = Scale(min(ks), max(max(ks), min(ks) + 1), LEFT, WIDTH - RIGHT)
    y = _y_scale(values)
    band = [(k, v) for k, v in zip(ks, drawn["high"], strict=True) if v is not None]
    band += reversed([(k, v) for k, v in zip(ks, drawn["low"], strict=True) if v is not None])
    parts = [_axes(x, y, "k, number of results", score, whole=True)]
    parts.append(Markup('<polygon class="band" points="{}"/>').format(_path(band, x, y)))
    parts += _lines("chance", ks, drawn["chance"], x, y)
    if line:
        inside = [(k, v) for k, v in zip(line["ks"], line["mean"], strict=True) if ks[0] <= k <= ks[-1]]
        parts += _lines("baseline", [k for k, _ in inside], [v for _, v in inside], x, y)
        parts += [
            Markup('<polygon class="baseline-mark" points="{}"/>').format(_diamond(x(k), y(v), RADIUS))
            for k, v in inside
        ]
    parts += _lines("mean", ks, drawn["mean"], x, y)
    said = [f"{score} by k, with its {percent} interval and a random ranking's."]
    marks = sorted({0, len(ks) // 2, len(ks) - 1})
    said += [
        f"k={ks[i]}: {drawn['mean'][i]:.4f} ({drawn['low'][i]:.4f} to {drawn['high'][i]:.4f}), "
        f"chance {drawn['chance'][i]:.4f}."
        for i in marks
        if None not in (drawn["mean"][i], drawn["low"][i], drawn["high"][i], drawn["chance"][i])
    ]
    said += [f"Baseline: {baseline}." if line and baseline else ""]
    return _svg(parts, score, " ".join(said).strip(), key)


@dataclass(frozen=True)
class Band:
    """A line of `bands`.

    Attributes:
        series: its color and marker.
        label: what it is.
        points: x, value, and the ends of its interval (None where there is none), x ascending.
        chance: of a random ranking; None where it is not known.
    """

    series: int
    label: str
    points: Sequence[tuple[int, float, float | None, float | None]]
    chance: float | None


def bands(lines: Sequence[Band], names: tuple[str, str], title: str, key: str) -> Markup:
    """Scores over whole numbers, with their intervals as bands and a random ranking's score.

    Args:
        lines: each with a point at least.
        names: of x and of y.
        title: what stands above it.
        key: a name for ids, unique in the page.
    """
    values = [v for line in lines for point in line.points for v in point[1:] if v is not None]
    chances = sorted({line.chance for line in lines if line.chance is not None})
    ends = [point[0] for line in lines for point in line.points]
    x = WholeScale(min(ends) - 0.2, max(ends) + 0.2, LEFT, WIDTH - RIGHT)
    y = _y_scale([*values, *chances])
    parts = [_axes(x, y, *names, whole=True)]
    parts += [m for chance in chances for m in _lines("chance", [min(ends), max(ends)], [chance] * 2, x, y)]
    said = [f"{names[1]} by {names[0]}, with intervals."]
    for line in lines:
        parts.append(_banded(line, x, y))
        steps = ", ".join(f"{at}: {value:.4f}" for at, value, _, _ in line.points)
        said.append(f"{line.label}: {steps}.")
    said += [f"A random ranking scores {chance:.4f}." for chance in chances]
    return _svg(parts, title, " ".join(said), key)


def _banded(line: Band, x: Scale, y: Scale) -> Markup:
    high = [(at, top) for at, _, _, top in line.points if top is not None]
    low = [(at, bottom) for at, _, bottom, _ in line.points if bottom is not None]
    marks = Markup("").join(
        Markup("<g><title>{}, {}: {:.4f}</title>{}</g>").format(
            line.label, at, value, _shape(line.series, x(at), y(value))
        )
        for at, value, _, _ in line.points
    )
    return Markup(
        '<g class="over c{}"><polygon class="around" points="{}"/><polyline points="{}"/>{}</g>'
    ).format(
        line.series % SERIES,
        _path([*high, *reversed(low)], x, y),
        _path([(at, value) for at, value, _, _ in line.points], x, y),
        marks,
    )


def _lines(kind: str, ks: Sequence[int], values: Sequence[float | None], x: Scale, y: Scale) -> list[Markup]:
    """Line pieces, broken where a value is missing."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for k, value in zip(ks, values, strict=True):
        if value is None:
            pieces.append([])
        else:
            pieces[-1].append((k, value))
    return [Markup('<polyline class="{}" points="{}"/>').format(kind, _path(p, x, y)) for p in pieces if p]


def _path(points: Sequence[tuple[float, float]], x: Scale, y: Scale) -> str:
    return " ".join(f"{x(a)},{y(b)}" for a, b in points)


def _y_scale(values: Sequence[float]) -> Scale:
    low, high = min(values), max(values)
    room = max(high - low, 0.02 * abs(high), 1e-6) * 0.06
    return Scale(low - room, high + room, HEIGHT - BOTTOM, TOP)


def _axes(x: Scale, y: Scale, x_name: str, y_name: str, whole: bool = False) -> Markup:
    bottom = HEIGHT - BOTTOM
    grid = Markup(
        '<line class="grid" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>'
        '<text class="tick" x="{3}" y="{4}" text-anchor="end">{5}</text>'
    )
    parts = [
        grid.format(LEFT, WIDTH - RIGHT, y(value), LEFT - 6, y(value) + 4, text)
        for value, text in y.ticks().items()
    ]
    for value, text in x.ticks().items():
        if whole and value != int(value):
            continue
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                x(value), bottom + 16, text
            )
        )
        if not whole:
            parts.append(
                Markup('<line class="grid" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
                    x(value), TOP, bottom
                )
            )
    parts.append(
        Markup(
            '<line class="axis" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>'
            '<text class="name" x="{3}" y="{4}" text-anchor="middle">{5}</text>'
            '<text class="name" transform="translate(12 {6}) rotate(-90)" text-anchor="middle">{7}</text>'
        ).format(
            LEFT,
            WIDTH - RIGHT,
            bottom,
            (LEFT + WIDTH - RIGHT) / 2,
            HEIGHT - 8,
            x_name,
            (TOP + bottom) / 2,
            y_name,
        )
    )
    return Markup("").join(parts)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}"


def _svg(parts: Sequence[Markup], title: str, described: str, key: str) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {w} {h}" role="img" aria-labelledby="{key}-t {key}-d">'
        '<title id="{key}-t">{title}</title><desc id="{key}-d">{described}</desc>'
        '<text class="heading" x="2" y="15">{short}</text>{parts}</svg>'
    ).format(
        w=WIDTH, h=HEIGHT, key=key, title=title, short=title.partition(" (")[0], described=described,
        parts=Markup("").join(parts),
    )  # fmt: skip


def range_bar(
    low: float, value: float, high: float, marks: Sequence[tuple[str, float]], ends: tuple[float, float]
) -> Markup:
    """An interval as a small bar in a cell; decoration, the numbers stand beside it.

    Args:
        low: where the interval begins.
        value: what it is of.
        high: where it ends.
        marks: CSS class and place of further ticks; those outside the scale are not drawn.
        ends: of the scale that all bars of a table share.
    """
    scale = Scale(ends[0], max(ends[1], ends[0] + 1e-9), 3, 117)
    ticks = Markup("").join(
        Markup('<line class="{0}" x1="{1}" x2="{1}" y1="2" y2="14"/>').format(kind, scale(place))
        for kind, place in marks
        if ends[0] <= place <= ends[1]
    )
    return Markup(
        '<svg class="bar" viewBox="0 0 120 16" aria-hidden="true">{}<line class="span" '
        'x1="{}" x2="{}" y1="8" y2="8"/><circle cx="{}" cy="8" r="3"/></svg>'
    ).format(ticks, scale(low), scale(high), scale(value))
