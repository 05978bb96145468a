"""Values of any range in 8 bits."""

import numpy as np
from numpy.typing import NDArray


def to_8_bits(values: NDArray[np.generic], low: float, high: float) -> NDArray[np.uint8]:
    """Values from low to high as 0 to 255, rounded; what lies outside is held at the ends."""
    # In place: a picture of 80 megapixels has 640 MB in float64.
    scaled = values.astype(np.float64)
    scaled -= low
    scaled *= 255 / (high - low) if high > low else 0
    return np.rint(np.clip(scaled, 0, 255, out=scaled), out=scaled).astype(np.uint8)
