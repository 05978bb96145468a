"""What sentences as queries tell beside the rankings: zero-shot classification, and the gap of the two sides.

Zero-shot: an image is given the class whose ensemble of prompts is nearest by cosine (Radford et al. 2021,
arXiv:2103.00020). Modality gap: Liang et al. 2022, arXiv:2203.02053.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import Config
from medretrieval.embed.sides import Sides
from medretrieval.embed.text import mean_direction
from medretrieval.evaluate.knn_vote import auroc, balanced_accuracy
from medretrieval.index.autotune import sample_gallery
from medretrieval.index.distance import pair_distances
from medretrieval.index.exact_search import exact_search
from medretrieval.index.faiss_index import VectorIndex
from medretrieval.index.recall import neighbor_recall
from medretrieval.index.transforms import as_compared
from medretrieval.protocol.captions import Captions
from medretrieval.protocol.exclusions import Exclusions
from medretrieval.protocol.ranking import Labels
from medretrieval.protocol.task import RetrievalTask
from medretrieval.vectors import l2_normalize

Vectors = NDArray[np.float32]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TextEvidence:
    """What a run tells whose queries are sentences.

    Attributes:
        zero_shot: as `zero_shot`; None where captions ask, which name no class.
        gap: as `modality_gap`.
    """

    zero_shot: Mapping[str, Any] | None
    gap: Mapping[str, Any]


def text_evidence(
    settings: Config,
    task: RetrievalTask,
    index: VectorIndex,
    sides: Sides,
    recall: Mapping[int, float] | None,
) -> TextEvidence | None:
    """Zero-shot scores and modality gap of a run; None where the queries are images.

    Args:
        settings: the run's configuration.
        task: who queries whom.
        index: the run's index.
        sides: vectors of sentences and images.
        recall: k -> share of the exact neighbors that the index found for the sentences; None for exact
            search.
    """
    prompts = task.queries.prompts
    if prompts is None:
        return None
    query, gallery = sides.query.vectors, sides.gallery.vectors
    gap = modality_gap(query, gallery)
    if recall is not None:
        k = max(settings.evaluation.ks)
        images = image_recall(index, gallery, len(prompts), k, settings.seed)
        gap["recall"] = {"k": k, "sentences": recall[k], "images": images, "queries": len(prompts)}
    if isinstance(prompts, Captions):
        return TextEvidence(None, gap)
    cosine = cosines(gallery, prompts.class_vectors(query))
    return TextEvidence(zero_shot(cosine, task.gallery.labels, prompts.classes), gap)


def cosines(images: Vectors, classes: Vectors) -> Floats:
    """Cosine of each image and each class (float64 [n, classes])."""
    return np.asarray(l2_normalize(images) @ l2_normalize(classes).T, dtype=np.float64)


def zero_shot(cosine: Floats, labels: Labels, classes: tuple[str, ...]) -> dict[str, Any]:
    """How well the nearest class names an image.

    Single-label: `accuracy`, `balanced_accuracy` (mean recall over the classes that occur), `macro_auroc`
    (one against the rest, by the cosine to the class minus the largest to another, so that with two classes
    it is that of the difference), `majority` (accuracy of always naming the most frequent class) and
    `confusion`, counts [class, named class]. Multi-label: `macro_auroc` and `auroc` by the cosine itself.
    Classes that no image or every image has count for no area.

    Args:
        cosine: float64 [n, classes].
        labels: int64 [n] or bool [n, classes].
        classes: names.
    """
    one_hot = np.eye(len(classes), dtype=np.bool_)
    truth = labels.astype(np.bool_) if labels.ndim == 2 else one_hot[labels.astype(np.int64)]
    values = cosine if labels.ndim == 2 or len(classes) == 1 else _margins(cosine)
    known = [c for c in range(len(classes)) if 0 < truth[:, c].sum() < len(truth)]
    areas = {classes[c]: auroc(values[:, c], truth[:, c]) for c in known}
    found: dict[str, Any] = {"images": len(truth)}
    if areas:
        found |= {"macro_auroc": float(np.mean(list(areas.values()))), "auroc": areas}
    if labels.ndim == 2:
        return found
    named = cosine.argmax(axis=1)
    counts = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts, (labels.astype(np.int64), named), 1)
    return {
        "accuracy": float((named == labels).mean()),
        "balanced_accuracy": balanced_accuracy(named, labels.astype(np.int64)),
        "majority": float(counts.sum(axis=1).max() / len(labels)),
        **found,
        "classes": list(classes),
        "confusion": counts.tolist(),
    }


def _margins(cosine: Floats) -> Floats:
    """Cosine to each class minus the largest to any other (float64 [n, classes])."""
    second, first = np.sort(cosine, axis=1)[:, -2:].T[..., None]
    return np.asarray(cosine - np.where(cosine == first, second, first))


def modality_gap(query: Vectors, gallery: Vectors) -> dict[str, Any]:
    """How far sentences and images stand apart, of vectors scaled to length 1.

    `distance`: Euclidean, of the two means. `cosine_text_image`, `cosine_image_image` and
    `cosine_text_text`: means over pairs, of two different images or sentences; None where there is one only.

    Args:
        query: float32 [q, d].
        gallery: float32 [n, d].
    """
    text, image = mean_direction(query), mean_direction(gallery)
    return {
        "distance": float(np.linalg.norm(text - image)),
        "cosine_text_image": float(text @ image),
        "cosine_image_image": _of_pairs(image, len(gallery)),
        "cosine_text_text": _of_pairs(text, len(query)),
    }


def _of_pairs(mean: Floats, n: int) -> float | None:
    """Mean cosine of two different ones of n unit vectors with this mean."""
    return float((n * mean @ mean - 1) / (n - 1)) if n > 1 else None


def image_recall(index: VectorIndex, gallery: Vectors, count: int, k: int, seed: int) -> float:
    """Share of the exact k nearest that an index finds for images of the gallery, themselves left out.

    Args:
        index: the run's index.
        gallery: float32 [n, d].
        count: images that are drawn; of no more than the gallery has.
        k: depth.
        seed: of the drawing.
    """
    sample = sample_gallery(gallery, count, seed)
    everywhere, dropped = np.arange(len(gallery)), np.zeros(len(gallery), np.bool_)
    vectors, out = sample.vectors, Exclusions(((sample.positions, everywhere),), dropped)
    depth = min(k, len(gallery) - 1)
    ids = out.remove(*index.search(vectors, depth + out.overfetch))[0]
    queries, metric = as_compared(vectors, index.index, index.metric)
    compared, _ = as_compared(gallery, index.index, index.metric)
    nearest = out.remove(*exact_search(queries, compared, metric, depth + out.overfetch))[0]
    ours, exact = (pair_distances(queries, compared, side, metric) for side in (ids, nearest))
    return neighbor_recall(ours, exact, depth)
