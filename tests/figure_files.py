"""Files as a run with figures.enabled=true leaves them in figures/: examples.json and curves.json."""

import base64
import io
import json

import numpy as np
from PIL import Image

from medretrieval.protocol.ranking import Ranking


def thumbnail(pixels):
    """A PNG as a data URI (uint8 [h, w] or [h, w, 3])."""
    kept = io.BytesIO()
    Image.fromarray(pixels).save(kept, format="PNG")
    return "data:image/png;base64," + base64.b64encode(kept.getvalue()).decode()


def write_figures(folder, pixels, rows=4, k=3):
    """Write both files for a finished run with one class an image.

    Args:
        folder: of the run.
        pixels: id ("test/3") -> uint8 image of at most 64 a side.
        rows: of each gallery.
        k: results in a row.
    """
    report = json.loads((folder / "scores.json").read_text())
    classes = json.loads((folder / "manifest.json").read_text())["config"]["dataset"].get("classes")
    ranking = Ranking.load(folder / "ranking.npz")
    names = list(classes or map(str, range(1 + ranking.gallery_labels.max())))
    k = min(k, ranking.depth)
    hits = ranking.gallery_labels[ranking.ids[:, :k]] == ranking.query_labels[:, None]
    precision = hits.mean(axis=1)

    def row(q):
        results = [
            {
                "id": str(ranking.gallery_ids[g]),
                "class": names[ranking.gallery_labels[g]],
                "distance": float(ranking.distances[q, j]),
                "relevant": bool(hits[q, j]),
            }
            for j, g in enumerate(ranking.ids[q, :k])
        ]
        return {
            "id": str(ranking.query_ids[q]),
            "class": names[ranking.query_labels[q]],
            "score": float(precision[q]),
            "results": results,
        }

    order = np.argsort(precision, kind="stable")
    galleries = {
        "retrieval": [row(q) for q in range(rows)],
        "worst": [row(q) for q in order[:rows]],
        "confident": [row(q) for q in order[:rows]],
    }
    counts = np.bincount(ranking.ids[:, :k].ravel(), minlength=len(ranking.gallery_ids))
    hub = int(counts.argmax())
    lists = np.flatnonzero((ranking.ids[:, :k] == hub).any(axis=1))
    wrong = lists[ranking.query_labels[lists] != ranking.gallery_labels[hub]]
    hubs = [
        {
            "id": str(ranking.gallery_ids[hub]),
            "class": names[ranking.gallery_labels[hub]],
            "lists": len(lists),
            "wrong_lists": len(wrong),
            "queries": [str(ranking.query_ids[q]) for q in wrong[:3]],
        }
    ]
    found = ranking.gallery_labels[ranking.ids[:, :k]]
    share = [
        [float((found[ranking.query_labels == a] == b).mean()) for b in range(len(names))]
        for a in range(len(names))
    ]
    shown = {image["id"] for rows in galleries.values() for r in rows for image in (r, *r["results"])}
    shown |= {hubs[0]["id"], *hubs[0]["queries"]}
    examples = {
        "k": k,
        "classes": names,
        "size": list(next(iter(pixels.values())).shape[:2]),
        "thumbnails": {name: thumbnail(pixels[name]) for name in sorted(shown)},
        **galleries,
        "hubs": hubs,
        "hubness": {"k": k, "skewness": 1.5, "never_retrieved": float((counts == 0).mean())},
        "confusion": {"k": k, "classes": names, "share": share},
    }
    depth = min(20, ranking.depth)
    every = ranking.gallery_labels[ranking.ids[:, :depth]] == ranking.query_labels[:, None]
    means = every.mean(axis=0).cumsum() / np.arange(1, depth + 1)
    half = 1.96 * every.std() / np.sqrt(len(every))
    curve = {
        "mean": means.tolist(),
        "low": (means - half).tolist(),
        "high": (means + half).tolist(),
        "chance": [report["scores"]["chance_precision"]] * depth,
        "baseline": {"ks": [1, 3, 5], "mean": [0.5, 0.5, 0.5]},
    }
    rising = {part: np.cumsum(curve[part]).tolist() for part in ("mean", "low", "high", "chance")}
    curves = {"ks": list(range(1, depth + 1)), "precision": curve, "recall": rising | {"baseline": None}}
    (folder / "figures").mkdir(exist_ok=True)
    (folder / "figures" / "examples.json").write_text(json.dumps(examples))
    (folder / "figures" / "curves.json").write_text(json.dumps(curves))
