"""What the charts have in common: a figure without pyplot, its colors, and its PNG bytes.

Margins are set in inches from the lengths of the names: matplotlib's own layouts cost more than a chart.
"""

import functools
import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import ImageFont

DPI = 105
# Okabe and Ito 2008, "Color universal design"; its yellow is left out, too pale on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
# For sets of many classes, Tol's "muted" and "light" after them (Tol 2021, "Colour schemes").
MANY = (
    *PALETTE,
    "#332288", "#882255", "#999933", "#44BB99", "#AA4499", "#77AADD", "#BBCC33", "#661100", "#EE8866",
)  # fmt: skip
# What a color means, in every picture and in the report (report.css is held equal by a test).
BLUE, VERMILION = PALETTE[:2]
OURS, BASELINE, CHANCE = BLUE, VERMILION, "#666666"
RIGHT, WRONG, OUT_OF_DISTRIBUTION = BLUE, VERMILION, VERMILION
SHARES = ("#FFFFFF", BLUE)  # a share from 0 to 1, in a table of them
INK, QUIET, RULE = "#111111", "#555555", "#BBBBBB"  # letters and whiskers; what is said beside; thin lines
QUARTERS = {0: "0", 0.25: "0.25", 0.5: "0.5", 0.75: "0.75", 1: "1"}  # ticks of a share
LINEAR_BELOW_RATIO = 5.0  # ends of a logarithmic axis in this ratio: its ticks are those of a linear one
HEADING_INCHES = 0.55  # of a title and the line below it
LETTER_INCHES = 0.076  # inches of a letter at 9 points, about
MAX_NAME_LETTERS = 30  # letters of a name


def figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches that draws by itself."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(made)
    return made


def plain_words(drawing: "Figure") -> None:
    """Let no text be read as a formula: names of classes and files may have a $ in them."""
    from matplotlib.text import Text

    for text in drawing.findobj(Text):
        text.set_parse_math(False)


def axes_at(drawing: "Figure", left: float, bottom: float, width: float, height: float) -> "Axes":
    """Axes without ticks at a place in inches from the lower left corner."""
    whole = drawing.get_size_inches()
    found = drawing.add_axes((left / whole[0], bottom / whole[1], width / whole[0], height / whole[1]))
    for side in ("top", "right"):
        found.spines[side].set_visible(False)
    found.set(xticks=[], yticks=[])
    return found


def scales(
    axes: "Axes", x: Mapping[float, str] | None, y: Mapping[float, str] | None, slanted: bool = False
) -> None:
    """Write numbers or names beside axes whose limits are set, with a thin line through the chart at each.

    By hand at the places of matplotlib's tickers: it makes five artists of a tick and measures them twice,
    and a chart of two axes then takes 57 ms of processor time in place of 36.

    Args:
        axes: as made by `axes_at`.
        x: position -> what to write there; None for round numbers.
        y: the same.
        slanted: whether names along x are long.
    """
    x = ticks(*axes.get_xlim()) if x is None else x
    y = ticks(*axes.get_ylim()) if y is None else y
    width, height = _inches(axes)
    axes.vlines(list(x), *axes.get_ylim(), color="black", alpha=0.1, linewidth=0.6, zorder=0)
    axes.hlines(list(y), *axes.get_xlim(), color="black", alpha=0.1, linewidth=0.6, zorder=0)
    turn: dict[str, Any] = (
        {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if slanted else {"ha": "center"}
    )
    for at, text in x.items():
        axes.text(
            at, -0.06 / height, text, transform=axes.get_xaxis_transform(), va="top", fontsize=9, **turn
        )
    for at, text in y.items():
        axes.text(
            -0.07 / width, at, text, transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=9
        )


def ticks(low: float, high: float) -> dict[float, str]:
    """Some five round values between two, and what to write there, all with the same decimals."""
    from matplotlib.ticker import MaxNLocator

    values = _inside(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high), low, high)
    decimals = max(map(_decimals, values), default=0)
    return {value: f"{value:,.{decimals}f}" for value in values}


def log_ticks(low: float, high: float) -> dict[float, str]:
    """Three to eight round values between two above 0 for a logarithmic axis, and what to write there."""
    from matplotlib.ticker import LogLocator

    if high / low < LINEAR_BELOW_RATIO:
        return ticks(low, high)
    for within_decade in ((1,), (1, 2, 5), range(1, 10)):
        locator = LogLocator(subs=tuple(map(float, within_decade)), numticks=1000)
        values = _inside(locator.tick_values(low, high), low, high)
        if len(values) >= 3:
            break
    return {value: f"{value:,.{_decimals(value)}f}" for value in values[:: 1 + len(values) // 8]}


def _inside(values: Sequence[float], low: float, high: float) -> list[float]:
    slack = 1e-9 * (high - low)
    return [float(value) for value in values if low - slack <= value <= high + slack]


def _decimals(value: float) -> int:
    text = np.format_float_positional(value, precision=10, fractional=False, trim="-")
    return len(text.partition(".")[2])


def figure_of(axes: "Axes") -> "Figure":
    """The figure that axes stand in."""
    from matplotlib.figure import Figure

    drawing = axes.get_figure()  # root=True is not there before matplotlib 3.10
    assert isinstance(drawing, Figure)
    return drawing


def _inches(axes: "Axes") -> tuple[float, float]:
    box, whole = axes.get_position(), figure_of(axes).get_size_inches()
    return float(box.width * whole[0]), float(box.height * whole[1])


def name_axes(axes: "Axes", x: str, y: str = "", title: str = "") -> None:
    """Names below and beside axes, and a title above them."""
    width, height = _inches(axes)
    place = axes.transAxes
    axes.text(0, 1 + 0.1 / height, title, fontsize=10, va="bottom", transform=place)
    axes.text(0.5, -0.28 / height, x, fontsize=9, ha="center", va="top", transform=place)
    axes.text(-0.48 / width, 0.5, y, fontsize=9, rotation=90, ha="center", va="center", transform=place)


def heading(drawing: "Figure", title: str, run: str) -> None:
    """A title and the run below it, at the top left; they take HEADING_INCHES."""
    width, height = drawing.get_size_inches()
    drawing.text(0.12 / width, 1 - 0.1 / height, title, fontsize=11, va="top")
    longest = int(width / LETTER_INCHES * 9 / 7.5)
    run = run if len(run) <= longest else f"{run[: longest - 1]}…"
    drawing.text(0.12 / width, 1 - 0.32 / height, run, fontsize=7.5, color=CHANCE, va="top")


def short(names: Sequence[str]) -> list[str]:
    """Names cut to a length that leaves room for the chart."""
    return [name if len(name) <= MAX_NAME_LETTERS else f"{name[: MAX_NAME_LETTERS - 1]}…" for name in names]


def room(names: Sequence[str]) -> float:
    """Inches that the longest of some names takes."""
    return LETTER_INCHES * max((len(name) for name in names), default=0)


def png(drawing: "Figure") -> bytes:
    """The figure as PNG."""
    from PIL import Image

    # Straight from the canvas: savefig takes a third longer.
    plain_words(drawing)
    canvas: Any = drawing.canvas
    buffer = io.BytesIO()
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


@functools.lru_cache(maxsize=8)
def font(size: int) -> "ImageFont.FreeTypeFont":
    """DejaVu Sans, which comes with matplotlib and has the signs for right and wrong."""
    from PIL import ImageFont

    # Found without importing it: a run without figures still draws its audit.
    spec = importlib.util.find_spec("matplotlib")
    assert spec is not None
    assert spec.origin is not None
    return ImageFont.truetype(
        Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf", size
    )
