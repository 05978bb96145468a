"""How far one way of computing vectors is from another, on the same images."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

FIDELITY_FORMAT = 2  # raised when `compare` says something else of the same vectors
MIN_SAME_COSINE = 0.9999  # cosine from which a runtime counts as the same
COMPARED_NEIGHBORS = 10


def compare(vectors: NDArray[np.float32], exact: NDArray[np.float32]) -> dict[str, Any]:
    """What changes from `exact` to `vectors` (both [n, d], row i of image i).

    Returns:
        images (n); cosine_min and cosine_mean between the two vectors of an image; neighbors (k: 10, or
        n - 1 if that is less) and neighbors_in_common: the mean share of an image's k nearest others by
        cosine that stay among them (None for one image).
    """
    ours, theirs = (v.astype(np.float64) for v in (vectors, exact))
    ours, theirs = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-300) for v in (ours, theirs))
    cosines = np.einsum("nd,nd->n", ours, theirs)
    k = min(COMPARED_NEIGHBORS, len(ours) - 1)
    kept = [
        len(np.intersect1d(a, b)) / k
        for a, b in zip(_nearest(ours, k), _nearest(theirs, k), strict=True)
        if k
    ]
    return {
        "images": len(ours),
        "cosine_min": float(cosines.min()),
        "cosine_mean": float(cosines.mean()),
        "neighbors": k,
        "neighbors_in_common": float(np.mean(kept)) if kept else None,
    }


def _nearest(unit: NDArray[np.float64], k: int) -> NDArray[np.intp]:
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    order: NDArray[np.intp] = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return order


def trial_images() -> NDArray[np.uint8]:
    """Three RGB images of random coarse blocks, always the same (uint8 [3, 64, 64, 3])."""
    blocks = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
    return blocks.repeat(8, axis=1).repeat(8, axis=2)
