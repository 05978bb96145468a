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
from medretrieval.config import FiguresConfig, Projection
from medretrieval.embed.images import Embeddings
from medretrieval.errors import UserError
from medretrieval.figures import text_tiles as sentences
from medretrieval.protocol.queries import Queries
from medretrieval.protocol.ranking import NONE, class_name
from medretrieval.protocol.task import RetrievalTask
from medretrieval.vectors import l2_normalize

FILE = "embedding_map.html"
LAYOUT = 1  # of the page: a change makes the kept ones anew
POINTS = 2000  # of both splits, at most
SIDE = 48  # pixels of a thumbnail, at most
SHOWN = 112  # pixels of it on the screen
NAMES = {Projection.pca: "PCA", Projection.tsne: "t-SNE", Projection.umap: "UMAP"}
SEVERAL = "several findings"
NEIGHBORS_FIRST = 50  # principal components that t-SNE and UMAP start from
# Okabe and Ito's, then Tol's "muted" and "light" for sets of many classes; "none" and "several" are grays.
COLORS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000",
    "#332288", "#882255", "#999933", "#44BB99", "#AA4499", "#77AADD", "#BBCC33", "#661100", "#EE8866",
)  # fmt: skip
GRAYS = {NONE: "#BBBBBB", SEVERAL: "#777777"}
SYMBOLS = ("circle", "diamond-open")  # of the gallery's and of the queries' points


def require_method(config: FiguresConfig) -> None:
    """Refuse a map whose library is not installed.

    Raises:
        UserError: naming the extra to install.
    """
    wanted = config.enabled and config.projection == Projection.umap
    if wanted and importlib.util.find_spec("umap") is None:
        raise UserError(
            "figures.projection=umap: umap-learn is not installed; pip install 'medretrieval[umap]', or "
            "choose figures.projection=pca"
        )


def kept_map(
    task: RetrievalTask,
    query: Embeddings,
    gallery: Embeddings,
    classes: Sequence[str],
    method: Projection,
    seed: int,
    cache: Cache,
) -> Path:
    """The page for these embeddings, from the cache or made now.

    Args:
        task: who queries whom.
        query: embeddings of the queries.
        gallery: of the gallery.
        classes: names, label i being classes[i].
        method: how the plane is found.
        seed: of the sample of points, and of t-SNE and UMAP.
        cache: where it is kept.
    """
    same = task.queries_are_gallery
    sides: dict[str, tuple[Queries, Embeddings]] = {
        "query and gallery" if same else "gallery": (task.gallery, gallery)
    }
    if not same:
        sides["query"] = (task.queries, query)
    parts = {
        "layout": LAYOUT,
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
    chosen = sample(sizes, POINTS, seed)
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


def sample(sizes: Mapping[str, int], most: int, seed: int) -> dict[str, NDArray[np.int64]]:
    """Rows of each side: all where they are few, else `most` in all, at least a third of it for each side.

    Args:
        sizes: rows that each side has.
        most: rows in all.
        seed: the same seed chooses the same rows.

    Returns:
        Sorted positions, int64.
    """
    rng, left = np.random.default_rng(seed), most
    chosen: dict[str, NDArray[np.int64]] = {}
    for place, role in enumerate(sorted(sizes, key=lambda role: sizes[role])):
        share = left // (len(sizes) - place)
        count = min(sizes[role], share)
        chosen[role] = np.sort(rng.choice(sizes[role], count, replace=False))
        left -= count
    return {role: chosen[role] for role in sizes}


def project(
    vectors: NDArray[np.float32], method: Projection, seed: int
) -> tuple[NDArray[np.float64], tuple[str, str]]:
    """Vectors in a plane: of their directions, so that their lengths have no part in it.

    Args:
        vectors: float32 [n, d].
        method: pca; tsne (scikit-learn) or umap (umap-learn), both from the first 50 principal components.
        seed: of t-SNE and UMAP.

    Returns:
        float64 [n, 2], and the names of the two axes.
    """
    unit = l2_normalize(np.asarray(vectors)).astype(np.float64)
    unit -= unit.mean(axis=0)
    left, spread, _ = np.linalg.svd(unit, full_matrices=False)
    components = (left * spread)[:, :NEIGHBORS_FIRST]
    if method == Projection.pca:
        shares = spread**2 / max(float((spread**2).sum()), 1e-12)
        plane = np.zeros((len(unit), 2))
        plane[:, : components.shape[1]] = components[:, :2]
        parts = [f"{100 * share:.1f} %" for share in [*shares[:2], 0.0][:2]]
        return plane, (f"component 1 ({parts[0]} of the variance)", f"component 2 ({parts[1]})")
    return np.asarray(_neighbor_map(components, method, seed), np.float64), (
        f"{NAMES[method]} 1",
        f"{NAMES[method]} 2",
    )


def _neighbor_map(components: NDArray[np.float64], method: Projection, seed: int) -> Any:
    if method == Projection.tsne:
        from sklearn.manifold import TSNE

        perplexity = min(30.0, max(1.0, (len(components) - 1) / 3))
        return TSNE(perplexity=perplexity, init="random", random_state=seed).fit_transform(components)
    import umap

    neighbors = max(2, min(15, len(components) - 1))
    start = "spectral" if len(components) > 2 * neighbors else "random"
    mapper = umap.UMAP(n_neighbors=neighbors, init=start, random_state=seed, n_jobs=1)
    return mapper.fit_transform(components)


def _traces(
    sides: Mapping[str, tuple[Queries, Embeddings]],
    chosen: Mapping[str, NDArray[np.int64]],
    plane: NDArray[np.float64],
    classes: tuple[str, ...],
) -> list[Any]:
    """One trace for each class and side; the legend names a class once, and once what the shapes mean."""
    from plotly import graph_objects

    names = [*classes, SEVERAL, NONE]
    colors = {name: COLORS[i % len(COLORS)] for i, name in enumerate(classes)} | GRAYS
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
        marker = {"symbol": symbol, "color": "#333333", "size": 7}
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
    lossless = all(max(picture.size) <= SIDE for picture in small)
    for picture in small:
        picture.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
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
    times = SHOWN / max(width, height)
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
