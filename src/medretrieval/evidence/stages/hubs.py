"""Properties of a set of vectors: how many directions they use, and how uneven their neighborhoods are."""

import numpy as np
from numpy.typing import NDArray

HUB_K = 10  # neighbors a query
MAX_VECTORS = 20_000  # of which directions are counted


def effective_dimension(vectors: NDArray[np.float32]) -> float:
    """Participation ratio of the eigenvalues of the covariance: (sum l)^2 / sum l^2, 1 to d.

    It is d where all directions vary alike and 1 where one alone varies (Recanatesi et al. 2022,
    doi 10.1016/j.patter.2022.100555, for its use).

    Args:
        vectors: float32 [n, d]; of more than MAX_VECTORS as many at even steps.
    """
    step = -(-len(vectors) // MAX_VECTORS)
    sample = np.asarray(vectors[::step], dtype=np.float64)
    centered = sample - sample.mean(axis=0)
    small = centered @ centered.T if len(centered) < centered.shape[1] else centered.T @ centered
    squares = float(np.square(small).sum())  # the sum of the squared eigenvalues
    return float(np.trace(small) ** 2 / squares) if squares > 0 else 0.0


def hub_skewness(ids: NDArray[np.int64], gallery: int) -> float:
    """Skewness of how often each gallery item is among the first results; 0 where all are found alike.

    Radovanovic et al. 2010, "Hubs in space", JMLR 11 (S_Nk).

    Args:
        ids: int64 [q, k] positions in the gallery, -1 for none.
        gallery: items of the gallery.
    """
    return skewness(np.bincount(ids[ids >= 0], minlength=gallery))


def skewness(counts: NDArray[np.int64]) -> float:
    """Third standardized moment of counts (int64 [n]); 0 where all are the same."""
    apart = counts - counts.mean()
    spread = float((apart**2).mean())
    return float((apart**3).mean()) / spread**1.5 if spread > 0 else 0.0
