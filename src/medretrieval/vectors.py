"""Vectors scaled to length 1: what encoders, indexes and evidence all need."""

import numpy as np
from numpy.typing import NDArray


def l2_normalize(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to length 1, as a new array; a zero row stays zero (float32 [n, d])."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return unit


def unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """As `l2_normalize` in float64; the same row gives the same bits, whatever stands beside it."""
    rows = vectors.astype(np.float64)
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    rows /= np.where(lengths > 0, lengths, 1)[:, None]
    return rows
