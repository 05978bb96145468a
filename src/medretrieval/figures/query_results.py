"""The picture of answers: each query and its neighbors in a row, small images large and unsmoothed."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.datasets.base import Split
from medretrieval.errors import UserError
from medretrieval.figures.style import OUT_OF_DISTRIBUTION, heading, plain_words
from medretrieval.files import put_in_place
from medretrieval.query.search import Answer, Neighbor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FAR = "out of distribution: above the 99th percentile of nearest-neighbor distances"
MARK = "medretrieval query"  # in the file, so that another one's picture is never written over
ROWS, RESULTS = 12, 10  # queries and results of each that are drawn
CELL, CAPTION, HEAD, LEFT = 1.35, 0.55, 0.85, 0.15  # inches
DPI = 150
PALE, FAINT = "0.8", "0.5"  # grays of frames


def require_ours(path: Path) -> None:
    """Refuse to write over what this verb has not drawn.

    Raises:
        UserError: something else has this name.
    """
    if (path.exists() or path.is_symlink()) and not _is_ours(path):
        raise UserError(
            f"out={path}: exists already and was not written by medretrieval query; give another name"
        )


def free_name(path: Path) -> Path:
    """The path, or with a number where something has this name that this verb has not drawn."""
    found, number = path, 1
    while (found.exists() or found.is_symlink()) and not _is_ours(found):
        number += 1
        found = path.with_name(f"{path.stem}_{number}{path.suffix}")
    return found


def _is_ours(path: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return bool(picture.info.get("Software") == MARK)
    except Exception:  # what is no picture makes Pillow raise anything
        return False


def draw(path: Path, answers: Sequence[Answer], gallery: Split, title: str) -> None:
    """Draw the first ROWS answers with the first RESULTS neighbors of each (PNG, in one step).

    Args:
        path: where it goes.
        answers: at least one.
        gallery: the images of the neighbors.
        title: what was asked.

    Raises:
        OSError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    answers = answers[:ROWS]
    results = max(min(len(answer.neighbors), RESULTS) for answer in answers)
    lead = 1 + any(_was_changed(answer) or answer.query.image is None for answer in answers)
    columns = max(lead + results, 3)
    width, height = LEFT + CELL * columns, HEAD + (CELL + CAPTION) * len(answers)
    drawing = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(drawing)
    far = any(a.novelty is not None and a.novelty.is_out_of_distribution for a in answers)
    heading(drawing, "The nearest images of the gallery", title)
    if far:
        drawing.text(0.12 / width, 1 - 0.46 / height, FAR, fontsize=7.5, color=OUT_OF_DISTRIBUTION, va="top")

    def cell(row: int, column: int, span: int = 1) -> "Axes":
        bottom = height - HEAD - row * (CELL + CAPTION) - CELL
        place = (LEFT + column * CELL, bottom, span * CELL - 0.12, CELL - 0.12)
        axes = drawing.add_axes((place[0] / width, place[1] / height, place[2] / width, place[3] / height))
        axes.set_xticks([])
        axes.set_yticks([])
        return axes

    for row, answer in enumerate(answers):
        _draw_query(answer, row, lead, cell)
        for column, neighbor in enumerate(answer.neighbors[:RESULTS]):
            axes = cell(row, lead + column)
            _show(axes, gallery.images[neighbor.position])
            _caption(axes, _said(column + 1, neighbor))
    plain_words(drawing)
    with put_in_place(path) as aside:
        drawing.savefig(aside, format="png", dpi=DPI, metadata={"Software": MARK})


def _was_changed(answer: Answer) -> bool:
    """Whether the picture as its file has it differs from what the encoder got."""
    query = answer.query
    if query.image is None or query.shown is None:
        return False
    return query.shown.shape != query.image.shape or not np.array_equal(query.shown, query.image)


def _draw_query(answer: Answer, row: int, lead: int, cell: Any) -> None:
    query = answer.query
    if query.image is None or query.shown is None:
        axes = cell(row, 0, lead)
        axes.text(0.03, 0.95, textwrap.fill(query.name, 30), ha="left", va="top", fontsize=8,
                  transform=axes.transAxes)  # fmt: skip
        axes.set_title("query", fontsize=7.5, loc="left", pad=2)
        _frame(axes, FAINT)
        return
    far = answer.novelty is not None and answer.novelty.is_out_of_distribution
    pictures = [query.shown, query.image] if _was_changed(answer) else [query.image]
    captions = [[_fitted(Path(query.name).name, CELL, keep_end=True)], *([[]] if len(pictures) > 1 else [])]
    captions[-1] += ["out of distribution"] if far else []
    side = query.image.shape[0]
    titles = ["query", f"as asked, {side} x {side}"]
    for i, (pixels, caption) in enumerate(zip(pictures, captions, strict=True)):
        axes = cell(row, lead - len(pictures) + i)
        _show(axes, pixels)
        _frame(axes, OUT_OF_DISTRIBUTION if far else "black")
        axes.set_title(titles[i], fontsize=7.5, loc="left", pad=2)
        _caption(axes, "\n".join(caption), OUT_OF_DISTRIBUTION if far else "black")


def _show(axes: "Axes", pixels: NDArray[np.uint8]) -> None:
    large = max(pixels.shape[:2]) > 128
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="antialiased" if large else "nearest")
    axes.set_anchor("NW")
    _frame(axes, PALE)


def _frame(axes: "Axes", color: str) -> None:
    for spine in axes.spines.values():
        spine.set_color(color)
        spine.set_linewidth(0.6 if color in (PALE, FAINT) else 1.4)


def _caption(axes: "Axes", text: str, color: str = "black") -> None:
    axes.annotate(
        text, (0, 0), (0, -3), xycoords="axes fraction", textcoords="offset points", fontsize=7.5, va="top",
        linespacing=1.1, color=color,
    )  # fmt: skip


def _said(rank: int, neighbor: Neighbor) -> str:
    lines = f"{rank}  {neighbor.label}", neighbor.id, f"{round(neighbor.distance, 4) + 0.0:.4f}"
    return "\n".join(_fitted(line, CELL) for line in lines)


def _fitted(text: str, inches: float, keep_end: bool = False) -> str:
    """A line as long as fits into so many inches, in letters of 7.5 to 8.5 points."""
    most = int(inches * 15)
    if len(text) <= most:
        return text
    return f"…{text[1 - most :]}" if keep_end else f"{text[: most - 1]}…"
