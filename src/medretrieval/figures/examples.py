"""examples.json: the queries, results and hubs that the pictures show, with their images."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.evaluate.evaluate import Evaluation
from medretrieval.evidence.breakdown import Breakdown
from medretrieval.evidence.failures import Failures, Outcome
from medretrieval.figures import text_tiles as sentences
from medretrieval.protocol.inputs import Inputs
from medretrieval.protocol.queries import Queries
from medretrieval.protocol.ranking import NONE, Ranking, class_name

MAX_THUMBNAIL_PIXELS = 64  # pixels a side, at most


@dataclass(frozen=True)
class Examples:
    """What is shown of a run.

    Attributes:
        document: the content of examples.json, but for the thumbnails.
        images: id -> uint8 [h, w] or [h, w, 3], every image that the document names; of a prompt its words.
        thumbnails: id -> the same as a PNG data URI, images at most MAX_THUMBNAIL_PIXELS pixels a side.
        labels: id -> its class in words.
        failures: what was chosen to be shown, and counts of all gallery items.
    """

    document: dict[str, Any]
    images: dict[str, NDArray[np.uint8]]
    thumbnails: dict[str, str]
    labels: dict[str, str]
    failures: Failures


def examples(inputs: Inputs, evaluation: Evaluation, parts: Breakdown, results: int) -> Examples:
    """What to show of a run, in words and images.

    Args:
        inputs: dataset and task.
        evaluation: the run's ranking.
        parts: which queries and gallery items are shown, and the ranking judged at the depth of the lists.
        results: of each query, at most.
    """
    outcome, failures = parts.outcome, parts.failures
    rows = _Rows(inputs, evaluation.ranking, outcome, results)
    hubs = failures.hubs
    document = {
        "k": outcome.k,
        "classes": list(inputs.dataset.classes),
        "size": list(inputs.task.gallery.images.shape[1:3]),
        "retrieval": rows.of(failures.sample),
        "worst": rows.of(failures.worst),
        "failing": int(outcome.failed.sum()),
        "counted": int(outcome.counted.sum()),
        "confident": rows.of(failures.confident.queries),
        "hubs": rows.hubs(failures),
        "hubness": {"k": hubs.k, "skewness": hubs.skewness, "never_retrieved": hubs.never_retrieved},
        "confusion": _confusion(inputs, evaluation.ranking, failures.confusion, outcome.k),
    }
    return Examples(document, rows.images, rows.thumbnails, rows.labels, failures)


class _Rows:
    """Rows of the document, and the images they name."""

    def __init__(self, inputs: Inputs, ranking: Ranking, outcome: Outcome, results: int) -> None:
        task = inputs.task
        self.classes, self.task, self.outcome, self.results = inputs.dataset.classes, task, outcome, results
        self.ranking = ranking
        asking = sentences.pictures(task.queries)
        self.pictures = {"gallery": sentences.pictures(task.gallery), "query": asking}
        self.names = {"gallery": self.ranking.gallery_ids, "query": self.ranking.query_ids}
        self.images: dict[str, NDArray[np.uint8]] = {}
        self.thumbnails: dict[str, str] = {}
        self.labels: dict[str, str] = {}

    def of(self, queries: NDArray[np.int64]) -> list[dict[str, Any]]:
        return [self._row(int(query)) for query in queries]

    def hubs(self, failures: Failures) -> list[dict[str, Any]]:
        counts = failures.hubs
        return [
            {
                **self._named("gallery", int(item)),
                "lists": int(counts.lists[item]),
                "wrong_lists": int(counts.wrong[item]),
                "queries": [self._named("query", int(query))["id"] for query in misled],
            }
            for item, misled in zip(failures.crowding, failures.misled, strict=True)
        ]

    def _row(self, query: int) -> dict[str, Any]:
        ranking, hits = self.ranking, self.outcome.hits[query]
        return {
            **self._named("query", query),
            "score": float(self.outcome.precision[query]),
            "results": [
                {
                    **self._named("gallery", int(item)),
                    "distance": float(ranking.distances[query, place]),
                    "relevant": bool(hits[place]),
                }
                for place, item in enumerate(ranking.ids[query, : self.results])
                if item >= 0
            ],
        }

    def _named(self, role: str, position: int) -> dict[str, Any]:
        name = str(self.names[role][position])
        if name not in self.images:
            side: Queries = self.task.queries if role == "query" else self.task.gallery
            self.images[name] = self.pictures[role][position]
            most = MAX_THUMBNAIL_PIXELS if side.split is not None else sentences.SIDE_PIXELS
            self.thumbnails[name] = thumbnail(self.images[name], most)
            self.labels[name] = class_name(side.labels, position, self.classes)
        return {"id": name, "class": self.labels[name]}


def _confusion(inputs: Inputs, ranking: Ranking, share: NDArray[np.float64], k: int) -> dict[str, Any]:
    """Shares between the classes that occur; null where a class has no query."""
    names = list(inputs.dataset.classes)
    labels = ranking.query_labels, ranking.gallery_labels
    if labels[0].ndim == 2:
        names.append(NONE)
    there = _present(labels, len(names))
    table = [[None if np.isnan(x) else float(x) for x in row] for row in share[np.ix_(there, there)]]
    return {"k": k, "classes": [names[i] for i in there], "share": table}


def _present(labels: Sequence[NDArray[Any]], count: int) -> NDArray[np.int64]:
    """Classes that any query or gallery item has (positions, int64)."""
    if labels[0].ndim == 1:
        return np.unique(np.concatenate(labels)).astype(np.int64)
    found = np.zeros(count, np.bool_)
    for side in labels:
        found[:-1] |= side.any(axis=0)
        found[-1] |= bool((~side.any(axis=1)).any())
    return np.flatnonzero(found)


def thumbnail(image: NDArray[np.uint8], most: int) -> str:
    """An image as a PNG data URI: pixel by pixel, or shrunk to at most `most` a side."""
    from PIL import Image

    picture, buffer = Image.fromarray(image), io.BytesIO()
    picture.thumbnail((most, most), Image.Resampling.BOX, reducing_gap=None)
    picture.save(buffer, format="PNG", compress_level=6)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
