"""Pictures of explanations: maps over images, and what removing regions does to a similarity."""

from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.explain.pairs import Explained, Explanations, Picture
from medretrieval.explain.saliency import Map
from medretrieval.figures.style import CHANCE, HEADING_INCHES, OURS, heading, plain_words
from medretrieval.runs.folder import DELETION, EXPLAINED, EXPLANATIONS, as_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORMAP = "viridis"  # its brightness alone tells the values apart, so every kind of color vision can
MOST_OPACITY = 0.75  # of the largest value; an image shows through where a map says little
PANEL_INCHES = 2.1  # inches
LINE_CHARACTERS = 26  # characters of a sentence
MAX_ROWS = 12  # rows at most
SMALL_PIXELS = 128  # pixels a side below which an image is drawn in squares, not smoothed
DPI = 110


def explanations(path: Path, pairs: Sequence[Explained], title: str) -> None:
    """Draw each pair in a row: the query and its map, the result and its map (PNG).

    A map is drawn relative to its own largest value; a finding that is known has a white outline.

    Args:
        path: the PNG to write.
        pairs: at least one.
        title: one line.
    """
    if len(pairs) > MAX_ROWS:
        title = f"{title}; the first {MAX_ROWS} of {len(pairs)} pairs"
        pairs = pairs[:MAX_ROWS]
    sentences = any(isinstance(pair.query, str) for pair in pairs)
    columns = 3 if sentences else 4
    drawing = _figure((columns * PANEL_INCHES + 0.8, len(pairs) * (PANEL_INCHES + 0.26) + 0.9))
    grid = drawing.subplots(len(pairs), columns, squeeze=False)
    for pair, row in zip(pairs, grid, strict=True):
        _draw_query(pair, row)
        role = "image" if isinstance(pair.query, str) else "result"
        _draw_side(row[-2:], pair.result, role, f"cosine {pair.cosine:.3f}")
    heading(
        drawing,
        "What makes them similar: maps over each pair",
        "; ".join(filter(None, [title, _signs(pairs)])),
    )
    _bar(drawing, grid)
    plain_words(drawing)
    drawing.savefig(path, format="png", dpi=DPI)


def _signs(pairs: Sequence[Explained]) -> str:
    """What the lines in the pictures mean, those that there are."""
    sides = [s for p in pairs for s in (p.query, p.result) if not isinstance(s, str)]
    signs = {
        "solid outline: the finding": any(picture.mask is not None for picture, _ in sides),
        "dotted frame: what the encoder sees": any(not saliency.visible.all() for _, saliency in sides),
    }
    return "; ".join(sign for sign, there in signs.items() if there)


def _draw_query(pair: Explained, row: "Sequence[Axes]") -> None:
    if not isinstance(pair.query, str):
        _draw_side(row[:2], pair.query, "query", "")
        return
    row[0].axis("off")
    # Not part of the layout, which a long sentence would bend.
    row[0].text(
        0.5, 0.5, fill(pair.query, LINE_CHARACTERS), ha="center", va="center", fontsize=8, in_layout=False,
        transform=row[0].transAxes,
    )  # fmt: skip


def _draw_side(axes: "Sequence[Axes]", side: tuple[Picture, Map], role: str, more: str) -> None:
    picture, saliency = side
    _image(axes[0], picture.image)
    axes[0].set_title(f"{role} {picture.id}\n{picture.kind}", fontsize=8)
    _image(axes[1], picture.image, dim=True)
    _overlay(axes[1], saliency)
    axes[1].set_title(more, fontsize=8)
    _frame(axes[1], saliency.visible)
    if picture.mask is not None:
        for line, width in (("black", 2.0), ("white", 0.9)):
            axes[1].contour(picture.mask, levels=[0.5], colors=line, linewidths=width)


def _image(axes: "Axes", image: NDArray[np.uint8], dim: bool = False) -> None:
    smooth = "nearest" if max(image.shape[:2]) < SMALL_PIXELS else "antialiased"
    if dim and image.ndim == 3:  # colors of the image would be read as those of the map
        image = image.mean(axis=2).astype(np.uint8)
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation=smooth)
    axes.set_axis_off()


def _overlay(axes: "Axes", saliency: Map) -> None:
    from matplotlib import colormaps

    share = scaled(saliency)
    colored = colormaps[COLORMAP](share)
    colored[..., 3] = MOST_OPACITY * share
    axes.imshow(colored, interpolation="bilinear")  # as RGBA, which smooths what shows through, too


def _frame(axes: "Axes", visible: NDArray[np.bool_]) -> None:
    """Where the encoder's crop ends, unless it sees everything."""
    from matplotlib.patches import Rectangle

    if visible.all():
        return
    rows, columns = (np.flatnonzero(visible.any(axis=axis)) for axis in (1, 0))
    corner = (columns[0] - 0.5, rows[0] - 0.5)
    axes.add_patch(
        Rectangle(
            corner, len(columns), len(rows), fill=False, edgecolor="white", linestyle=":", linewidth=0.9
        )
    )


def scaled(saliency: Map) -> NDArray[np.float32]:
    """What speaks for the similarity, from 0 to 1 between the map's least and largest (float32 [h, w])."""
    support = saliency.support
    low = support[saliency.visible].min()
    spread = support.max() - low
    if spread <= 0:
        return np.zeros_like(support)
    return np.where(saliency.visible, (support - low) / spread, 0).astype(np.float32)


def _bar(drawing: "Figure", grid: NDArray[Any]) -> None:
    from matplotlib.cm import ScalarMappable

    thin = 0.1 / len(grid)  # of the height, which grows with the rows
    bar = drawing.colorbar(
        ScalarMappable(cmap=COLORMAP),
        ax=grid,
        location="bottom",
        pad=thin / 2,
        fraction=thin,
        aspect=40,
        shrink=0.6,
    )
    bar.set_label("adds to the cosine, from the map's least to its most", fontsize=8)
    bar.ax.tick_params(labelsize=7)


def deletion_curves(path: Path, explained: Explanations, title: str) -> None:
    """Draw the mean cosine against the share removed, in the map's order and in random places (PNG).

    Args:
        path: the PNG to write.
        explained: the pairs, and the mean areas under their curves.
        title: one line.
    """
    pairs, means = explained.pairs, explained.numbers["deletion"]
    drawing = _figure((5.6, 4.1))
    axes = drawing.subplots()
    lines = {
        f"what the map marks (area {means['area_marked']:.3f})": (
            OURS, "o", np.stack([p.deletion.marked for p in pairs])
        ),
        f"the same shape elsewhere (area {means['area_random']:.3f})": (
            CHANCE, "s", np.stack([p.deletion.random for p in pairs])
        ),
    }  # fmt: skip
    for name, (color, shape, values) in lines.items():
        removed = np.linspace(0, 1, values.shape[1])
        axes.plot(removed, values.T, color=color, alpha=0.18, linewidth=0.8)
        axes.plot(
            removed, values.mean(axis=0), color=color, marker=shape, markersize=4, linewidth=2,
            label=name,
        )  # fmt: skip
    axes.set(xlabel="share of the image removed (blurred)", ylabel="cosine", xlim=(0, 1))
    axes.grid(color="black", alpha=0.1, linewidth=0.6)
    axes.legend(title="removed first", frameon=False, fontsize=8, title_fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    heading(drawing, "The cosine while regions of the image are removed", title)
    plain_words(drawing)
    drawing.savefig(path, format="png", dpi=DPI)


def _figure(size: tuple[float, float]) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Without pyplot: no state of the caller's is touched and no display is asked for.
    drawing = Figure(figsize=size)
    FigureCanvasAgg(drawing)
    drawing.set_layout_engine("constrained", rect=(0, 0, 1, 1 - HEADING_INCHES / size[1]))
    return drawing


def writers(explained: Explanations, title: str) -> dict[str, Callable[[Path], None]]:
    """What goes into a run's folder: name -> what writes it."""
    return {
        EXPLANATIONS: lambda path: explanations(path, explained.pairs, title),
        DELETION: lambda path: deletion_curves(path, explained, title),
        EXPLAINED: lambda path: _write(path, as_json(explained.details())),
    }


def _write(path: Path, text: str) -> None:
    path.write_text(text)
