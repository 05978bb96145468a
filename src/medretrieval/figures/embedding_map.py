"""embedding_map.html: the embeddings in a plane, an image under every point. One page, no network.

It depends on the embeddings, the labels and the method alone, so it is kept in the cache and shared by a
sweep's runs.
"""

import base64
import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.cache.store import Cache
from medretrieval.config import Config, FiguresConfig, Projection
from medretrieval.embed.images import Embeddings
from medretrieval.errors import UserError
from medretrieval.evidence.projection import NAMES, project, sample
from medretrieval.figures import text_tiles as sentences
from medretrieval.figures.style import INK, MANY, QUIET, RULE
from medretrieval.protocol.inputs import Inputs
from medretrieval.protocol.queries import Queries
from medretrieval.protocol.ranking import NONE, class_name

FILE = "embedding_map.html"
MAP_FORMAT = 2  # raised when the same embeddings would get another page
MAX_POINTS = 2000  # of both splits, at most
MAX_THUMBNAIL_PIXELS = 48  # pixels of a thumbnail, at most
SHOWN_PIXELS = 112  # pixels of it on the screen
SEVERAL = "several findings"
# What is no class of its own is gray.
GRAYS = {NONE: RULE, SEVERAL: QUIET}
SYMBOLS = ("circle", "diamond-open")  # of the gallery's and of the queries' points


# What a projection needs besides this package's own dependencies: module and package.
LIBRARIES = {Projection.tsne: ("sklearn", "scikit-learn"), Projection.umap: ("umap", "umap-learn")}


def require_method(config: FiguresConfig) -> None:
    """Refuse a map whose library is not installed.

    Raises:
        UserError: naming the extra to install.
    """
    library = LIBRARIES.get(config.projection)
    if config.enabled and library is not None and importlib.util.find_spec(library[0]) is None:
        name = config.projection.value
        raise UserError(
            f"figures.projection={name}: {library[1]} is not installed; pip install 'medretrieval[{name}]', "
            "or choose figures.projection=pca"
        )


def kept_map(settings: Config, inputs: Inputs, query: Embeddings, gallery: Embeddings, cache: Cache) -> Path:
    """The page for these embeddings, from the cache or made now.

    Args:
        settings: how the plane is found, and the seed of the sample of points, of t-SNE and of UMAP.
        inputs: dataset and task.
        query: embeddings of the queries.
        gallery: of the gallery.
        cache: where it is kept.
    """
    task, classes = inputs.task, inputs.dataset.classes
    method, seed = settings.figures.projection, settings.seed
    same = task.is_one_set
    sides: dict[str, tuple[Queries, Embeddings]] = {
        "query and gallery" if same else "gallery": (task.gallery, gallery)
    }
    if not same:
        sides["query"] = (task.queries, query)
    parts = {
        "map_format": MAP_FORMAT,
        "embeddings": {role: embeddings.key for role, (_, embeddings) in sides.items()},
        "labels": {role: split.labels_sha256 for role, (split, _) in sides.items()},
        "classes": list(classes),
        "method": str(method),
        "seed": seed,
    }

    def make(folder: Path) -> Mapping[str, Any]:
        (folder / FILE).write_text(_page(sides, tuple(classes), method, seed), encoding="utf-8")
        return {"bytes": (folder / FILE).stat().st_size}

    return cache.get_or_make("maps", parts, make).folder / FILE


def _page(
    sides: Mapping[str, tuple[Queries, Embeddings]], classes: tuple[str, ...], method: Projection, seed: int
) -> str:
    from plotly import graph_objects
    from plotly.io import to_html

    sizes = {role: len(split) for role, (split, _) in sides.items()}
    chosen = sample(sizes, MAX_POINTS, seed)
    vectors = np.concatenate([sides[role][1].vectors[rows] for role, rows in chosen.items()])
    plane, axes = project(vectors, method, seed)
    pictures = {role: sentences.pictures(side) for role, (side, _) in sides.items()}
    images = [pictures[role][i] for role, rows in chosen.items() for i in rows]
    sheet = _sprites(images)
    chart = graph_objects.Figure(_traces(sides, chosen, plane, classes))
    kinds = {role: side.kind for role, (side, _) in sides.items()}
    drawn = " and ".join(
        f"{len(rows)} of {sizes[role]} {role} {kinds[role]}" for role, rows in chosen.items()
    )
    chart.update_layout(
        title={"text": f"{NAMES[method]} of the embeddings: {drawn}", "font": {"size": 15}},
        template="plotly_white",
        xaxis={"title": axes[0], "zeroline": False},
        yaxis={"title": axes[1], "zeroline": False},
        legend={"itemsizing": "constant", "groupclick": "togglegroup"},
        margin={"l": 60, "r": 20, "t": 50, "b": 50},
    )
    plot = to_html(
        chart,
        full_html=False,
        include_plotlyjs=True,
        default_height="100vh",
        config={"displaylogo": False, "responsive": True},
        post_script=SCRIPT,
    )
    return PAGE.format(plot=plot, **sheet)


def _traces(
    sides: Mapping[str, tuple[Queries, Embeddings]],
    chosen: Mapping[str, NDArray[np.int64]],
    plane: NDArray[np.float64],
    classes: tuple[str, ...],
) -> list[Any]:
    """One trace for each class and side; the legend names a class once, and once what the shapes mean."""
    from plotly import graph_objects

    names = [*classes, SEVERAL, NONE]
    colors = {name: MANY[i % len(MANY)] for i, name in enumerate(classes)} | GRAYS
    traces, first, named = [], 0, set()
    for symbol, (role, rows) in zip(SYMBOLS, chosen.items(), strict=False):
        split, ids = sides[role][0], sides[role][0].ids
        words = [class_name(split.labels, int(i), classes) for i in rows]
        kinds = np.array([_kind(split, int(i), classes) for i in rows])
        for name in names:
            mine = np.flatnonzero(kinds == name)
            if len(mine) == 0:
                continue
            traces.append(
                graph_objects.Scatter(
                    x=plane[first + mine, 0],
                    y=plane[first + mine, 1],
                    mode="markers",
                    name=name,
                    legendgroup=name,
                    showlegend=name not in named,
                    hoverinfo="none",
                    customdata=[[int(first + i), str(ids[rows[i]]), words[i], role] for i in mine],
                    marker={"symbol": symbol, "color": colors[name], "size": 7, "opacity": 0.75},
                )
            )
            named.add(name)
        first += len(rows)
    for symbol, role in zip(SYMBOLS, chosen, strict=False):
        marker = {"symbol": symbol, "color": INK, "size": 7}
        label = f"{sides[role][0].name} ({role})"
        traces.append(
            graph_objects.Scatter(
                x=[None], y=[None], mode="markers", name=label, marker=marker, legendgroup=f"shape {role}"
            )
        )
    return traces


def _kind(split: Queries, position: int, classes: tuple[str, ...]) -> str:
    """What an image is colored by: its class, or that it has several findings, or none."""
    label = split.labels[position]
    if split.labels.ndim == 2 and label.sum() > 1:
        return SEVERAL
    return class_name(split.labels, position, classes)


def _sprites(images: Sequence[NDArray[np.uint8]]) -> dict[str, Any]:
    """All thumbnails on one sheet, as a data URI, and how it is cut."""
    from PIL import Image

    small = [Image.fromarray(image) for image in images]
    lossless = all(max(picture.size) <= MAX_THUMBNAIL_PIXELS for picture in small)
    for picture in small:
        picture.thumbnail((MAX_THUMBNAIL_PIXELS, MAX_THUMBNAIL_PIXELS), Image.Resampling.BOX)
    width, height = (max(sides) for sides in zip(*(picture.size for picture in small), strict=True))
    mode = "L" if all(picture.mode == "L" for picture in small) else "RGB"
    across = int(np.ceil(np.sqrt(len(small))))
    sheet = Image.new(mode, (across * width, -(-len(small) // across) * height))
    for i, picture in enumerate(small):
        sheet.paste(picture, (i % across * width, i // across * height))
    buffer = io.BytesIO()
    kind = "PNG" if lossless else "JPEG"
    sheet.save(buffer, format=kind, **({} if lossless else {"quality": 85}))
    uri = f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    times = SHOWN_PIXELS / max(width, height)
    return {
        "uri": uri,
        "across": across,
        "tile_width": round(width * times),
        "tile_height": round(height * times),
        "sheet_width": round(width * times) * across,
    }


SCRIPT = """
var plot = document.getElementById("{plot_id}"), card = document.getElementById("card");
var image = document.getElementById("image"), words = document.getElementById("words");
var across = +image.dataset.across, width = image.offsetWidth, height = image.offsetHeight;
card.style.display = "none";
plot.on("plotly_hover", function (event) {
  var point = event.points[0], about = point.customdata;
  if (!about) return;
  image.style.backgroundPosition = -(about[0] % across) * width + "px " +
    -Math.floor(about[0] / across) * height + "px";
  words.textContent = about[2] + "\\n" + about[3] + " " + about[1];
  card.style.display = "block";
  var x = event.event.clientX + 16, y = event.event.clientY + 16;
  card.style.left = Math.min(x, window.innerWidth - card.offsetWidth - 8) + "px";
  card.style.top = Math.min(y, window.innerHeight - card.offsetHeight - 8) + "px";
});
plot.on("plotly_unhover", function () { card.style.display = "none"; });
"""
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>embedding map</title>
<style>
body {{ margin: 0; font-family: sans-serif; }}
#card {{ position: fixed; left: 0; top: 0; z-index: 9; background: white; border: 1px solid #888;
  padding: 6px; pointer-events: none; max-width: 240px; font-size: 12px; }}
#words {{ white-space: pre-line; margin-top: 4px; }}
#image {{ width: {tile_width}px; height: {tile_height}px; image-rendering: pixelated;
  background-image: url({uri}); background-size: {sheet_width}px auto; }}
</style></head><body>
<div id="card"><div id="image" data-across="{across}"></div><div id="words"></div></div>
{plot}
</body></html>
"""
