"""What a reader of the scores should know and might overlook, said with every run."""

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import Config, FaissMetric
from medretrieval.evaluate import Evaluation
from medretrieval.index import POINTS_A_CENTROID, VectorIndex, hnsw_of

SAMPLE = 1000


def notes_of(
    settings: Config, index: VectorIndex, vectors: NDArray[np.float32], evaluation: Evaluation
) -> list[str]:
    """Sentences about this run, most of them empty for a plain one.

    Args:
        settings: the run's configuration.
        index: the searched index.
        vectors: the queries' embeddings, float32 [q, d].
        evaluation: the scores.
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
    return found
