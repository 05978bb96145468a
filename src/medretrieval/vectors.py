"""Vectors scaled to length 1: what encoders, indexes and evidence all need."""

import numpy as np
from numpy.typing import NDArray


def l2_normalize(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to length 1, as a new array; a zero row stays zero (float32 [n, d])."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return unit
