"""examples.json: the queries, results and hubs that the pictures show, with their images."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.datasets.base import Dataset
from medretrieval.evaluate.evaluate import Evaluation
from medretrieval.evidence import failures
from medretrieval.evidence.failures import Confident, Hubs, Outcome
from medretrieval.figures import text_tiles as sentences
from medretrieval.protocol.queries import Queries
from medretrieval.protocol.ranking import NONE, class_name
from medretrieval.protocol.task import RetrievalTask

THUMBNAIL = 64  # pixels a side, at most
SPOILED = 5  # queries named with a hub, at most


@dataclass(frozen=True)
class Examples:
    """What is shown of a run.

    Attributes:
        document: the content of examples.json, but for the thumbnails.
        images: id -> uint8 [h, w] or [h, w, 3], every image that the document names; of a prompt its words.
        thumbnails: id -> the same as a PNG data URI, images at most THUMBNAIL pixels a side.
        labels: id -> its class in words.
        confident: the confidently wrong queries.
        hubs: counts of all gallery items.
    """

    document: dict[str, Any]
    images: dict[str, NDArray[np.uint8]]
    thumbnails: dict[str, str]
    labels: dict[str, str]
    confident: Confident
    hubs: Hubs


def examples(
    dataset: Dataset,
    task: RetrievalTask,
    evaluation: Evaluation,
    outcome: Outcome,
    shown: tuple[int, int],
    seed: int,
) -> Examples:
    """Choose what to show of a run.

    Args:
        dataset: for the names of its classes.
        task: who queries whom.
        evaluation: the run's ranking.
        outcome: the ranking judged at the depth of the lists.
        shown: queries of each kind, and results of each query.
        seed: of the sample of queries.
    """
    ranking, (queries, results) = evaluation.ranking, shown
    rows = _Rows(dataset, task, evaluation, outcome, results)
    sample = failures.balanced_sample(ranking.query_labels, outcome.counted, queries, seed)
    confident = failures.confidently_wrong(outcome, ranking.distances, queries)
    hubs = failures.hubs(ranking.ids, outcome, task.exclusions.dropped)
    document = {
        "k": outcome.k,
        "classes": list(dataset.classes),
        "size": list(task.gallery.images.shape[1:3]),
        "retrieval": rows.of(sample),
        "worst": rows.of(failures.worst_queries(outcome, queries)),
        "confident": rows.of(confident.queries),
        "hubs": [rows.hub(int(item), hubs) for item in hubs.most_wrong(queries)],
        "hubness": {"k": hubs.k, "skewness": hubs.skewness, "never_retrieved": hubs.never_retrieved},
        "confusion": _confusion(dataset, evaluation, outcome.k),
    }
    return Examples(document, rows.images, rows.thumbnails, rows.labels, confident, hubs)


class _Rows:
    """Rows of the document, and the images they name."""

    def __init__(
        self, dataset: Dataset, task: RetrievalTask, evaluation: Evaluation, outcome: Outcome, results: int
    ) -> None:
        self.classes, self.task, self.outcome, self.results = dataset.classes, task, outcome, results
        self.ranking = evaluation.ranking
        asking = sentences.pictures(task.queries)
        self.pictures = {"gallery": sentences.pictures(task.gallery), "query": asking}
        self.names = {"gallery": self.ranking.gallery_ids, "query": self.ranking.query_ids}
        self.images: dict[str, NDArray[np.uint8]] = {}
        self.thumbnails: dict[str, str] = {}
        self.labels: dict[str, str] = {}

    def of(self, queries: NDArray[np.int64]) -> list[dict[str, Any]]:
        return [self._row(int(query)) for query in queries]

    def hub(self, item: int, hubs: Hubs) -> dict[str, Any]:
        spoiled = failures.spoiled(item, self.ranking.ids, self.outcome, SPOILED)
        return {
            **self._named("gallery", item),
            "lists": int(hubs.lists[item]),
            "wrong_lists": int(hubs.wrong[item]),
            "queries": [self._named("query", int(query))["id"] for query in spoiled],
        }

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
            most = THUMBNAIL if side.split is not None else sentences.SIDE
            self.thumbnails[name] = thumbnail(self.images[name], most)
            self.labels[name] = class_name(side.labels, position, self.classes)
        return {"id": name, "class": self.labels[name]}


def _confusion(dataset: Dataset, evaluation: Evaluation, k: int) -> dict[str, Any]:
    """Shares between the classes that occur; null where a class has no query."""
    ranking, names = evaluation.ranking, list(dataset.classes)
    labels = ranking.query_labels, ranking.gallery_labels
    share = failures.confusion(ranking.ids[:, :k], *labels, len(names))
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
