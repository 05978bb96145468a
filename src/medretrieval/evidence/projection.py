"""Embeddings in a plane: which rows of both sides are shown, and where they lie."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import Projection
from medretrieval.vectors import l2_normalize

NAMES = {Projection.pca: "PCA", Projection.tsne: "t-SNE", Projection.umap: "UMAP"}
FIRST_COMPONENTS = 50  # principal components that t-SNE and UMAP start from


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
    components = (left * spread)[:, :FIRST_COMPONENTS]
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
