"""What a reader of the scores should know and might overlook, said with every run."""

import numpy as np
from numpy.typing import NDArray

from medretrieval.audit import Audit
from medretrieval.config import Config, FaissMetric
from medretrieval.evaluate import Evaluation
from medretrieval.evidence import Evidence
from medretrieval.index import POINTS_A_CENTROID, VectorIndex, hnsw_of
from medretrieval.results import AUDIT_PAIRS, AUDIT_PICTURE

SAMPLE = 1000
FEW = 30  # queries of a class


def notes_of(
    settings: Config,
    index: VectorIndex,
    vectors: NDArray[np.float32],
    evaluation: Evaluation,
    trust: Evidence,
    leaks: Audit | None,
) -> list[str]:
    """Sentences about this run, most of them empty for a plain one.

    Args:
        settings: the run's configuration.
        index: the searched index.
        vectors: the queries' embeddings, float32 [q, d].
        evaluation: the scores.
        trust: their intervals and the baseline's scores.
        leaks: look-alikes between queries and gallery.
    """
    counts, found = evaluation.counts, []
    unit = np.allclose(np.linalg.norm(vectors[:SAMPLE], axis=1), 1, atol=1e-3)
    if not index.exhaustive and counts["depth"] < counts["gallery"] - 1:
        found.append(
            f"The index gives {counts['depth']} of {counts['gallery']} results: scores that need the whole "
            "ranking (map and its kin) are left out."
        )
    if counts["missing_results"]:
        found.append(
            f"{counts['missing_results']} results within the score depths are missing (FAISS id -1) and "
            "count as misses; raise index.nprobe."
        )
    if counts["queries_without_relevant"]:
        found.append(
            f"{counts['queries_without_relevant']} queries have nothing relevant to find and are left out."
        )
    if unit and settings.metric.name != "cosine":
        found.append("The vectors have length 1: cosine, l2 and ip rank them alike.")
    graph = hnsw_of(index.index)
    products = settings.metric.faiss == FaissMetric.inner_product and not settings.metric.normalize
    if graph is not None and products and not unit:
        found.append(
            "HNSW over inner products of vectors of different lengths finds poorly; use cosine or l2."
        )
    if graph is not None and graph.hnsw.efSearch < max(settings.evaluation.ks):
        found.append(
            f"index.ef_search={graph.hnsw.efSearch} is below k={max(settings.evaluation.ks)}; "
            "results beyond it are found poorly."
        )
    nlist = index.spec.parameters.get("nlist", 1)
    if nlist > 1 and counts["gallery"] < POINTS_A_CENTROID * nlist:
        found.append(
            f"index.nlist={nlist} leaves fewer than {POINTS_A_CENTROID} vectors a cell "
            f"({counts['gallery']} in all); k-means wants more."
        )
    return found + _about_baseline(trust) + _about_classes(evaluation) + _about_leaks(leaks)


def _about_leaks(leaks: Audit | None) -> list[str]:
    if leaks is None or not leaks.counts["identical_between"]:
        return []
    counts = leaks.counts
    conflicts = (
        f", {counts['label_conflicts']} of them with another label" if counts["label_conflicts"] else ""
    )
    return [
        f"{counts['identical_between']} query images have a byte-identical other image in the gallery"
        f"{conflicts}: see {AUDIT_PICTURE} and {AUDIT_PAIRS}."
    ]


def _about_baseline(trust: Evidence) -> list[str]:
    if trust.difference is None or trust.difference[1] > 0:
        return []
    difference, low, high = trust.difference
    finding = "scores lower than" if high < 0 else "is not shown to beat"
    return [
        f"This encoder {finding} {trust.baseline}: difference {difference:+.4f} ({low:+.4f} to {high:+.4f})."
    ]


def _about_classes(evaluation: Evaluation) -> list[str]:
    labels = evaluation.ranking.query_labels
    sizes = labels.sum(axis=0) if labels.ndim == 2 else np.unique(labels, return_counts=True)[1]
    few = sizes[(sizes > 0) & (sizes < FEW)]
    if not len(few):
        return []
    return [
        f"{len(few)} classes have fewer than {FEW} queries (the smallest {few.min()}): "
        "macro scores are shaky."
    ]
