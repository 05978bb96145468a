"""What the charts have in common: a figure without pyplot, its colours, and its PNG bytes.

Margins are set in inches from the lengths of the names: matplotlib's own layouts cost more than a chart.
"""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 105
# Okabe and Ito 2008, "Color universal design".
OURS, BASELINE, CHANCE = "#0072B2", "#D55E00", "#666666"
LETTER = 0.076  # inches of a letter at 9 points, about
LONGEST = 30  # letters of a name


def figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches that draws by itself."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(made)
    return made


def axes_at(drawing: "Figure", left: float, bottom: float, width: float, height: float) -> "Axes":
    """Axes at a place in inches from the lower left corner."""
    whole = drawing.get_size_inches()
    found = drawing.add_axes((left / whole[0], bottom / whole[1], width / whole[0], height / whole[1]))
    for side in ("top", "right"):
        found.spines[side].set_visible(False)
    found.tick_params(labelsize=9)
    return found


def name_axes(axes: "Axes", x: str, y: str = "", title: str = "", below: float = 0.38) -> None:
    """Name axes at fixed places; left to itself, matplotlib measures every tick for them, and twice."""
    box, whole = axes.get_position(), axes.get_figure(root=True).get_size_inches()  # type: ignore[union-attr]
    width, height = box.width * whole[0], box.height * whole[1]
    if title:
        axes.text(0, 1 + 0.1 / height, title, fontsize=10, va="bottom", transform=axes.transAxes)
    if x:
        axes.set_xlabel(x, fontsize=9)
        axes.xaxis.set_label_coords(0.5, -below / height + 0.06 / height)
    if y:
        axes.set_ylabel(y, fontsize=9)
        axes.yaxis.set_label_coords(-0.42 / width, 0.5)


def heading(drawing: "Figure", title: str, run: str) -> None:
    """A title and the run below it, at the top left; they take half an inch."""
    width, height = drawing.get_size_inches()
    drawing.text(0.12 / width, 1 - 0.1 / height, title, fontsize=11, va="top")
    longest = int(width / LETTER * 9 / 7.5)
    run = run if len(run) <= longest else f"{run[: longest - 1]}…"
    drawing.text(0.12 / width, 1 - 0.32 / height, run, fontsize=7.5, color=CHANCE, va="top")


def short(names: Sequence[str]) -> list[str]:
    """Names cut to a length that leaves room for the chart."""
    return [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in names]


def room(names: Sequence[str]) -> float:
    """Inches that the longest of some names takes."""
    return LETTER * max((len(name) for name in names), default=0)


def png(drawing: "Figure") -> bytes:
    """The figure as PNG."""
    import numpy as np
    from PIL import Image

    # Straight from the canvas: savefig takes a third longer.
    canvas: Any = drawing.canvas
    buffer = io.BytesIO()
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()
