"""Perceptual hashes: close for pictures that look alike, whatever their size, brightness or file format."""

import numpy as np
from numpy.typing import NDArray

HASH_SIDE_PIXELS, HASH_FREQUENCIES = 32, 8
HASH_BATCH_IMAGES = 4096


def image_hashes(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The pHash of each image, 64 bits: the fewer bits differ, the more two images look alike.

    Discrete cosine transform of a 32 x 32 average, signs of its 8 x 8 low frequencies against their median
    (Zauner 2010).

    Args:
        images: uint8 [n, h, w] or [n, h, w, 3].

    Returns:
        uint64 [n].
    """
    step = HASH_BATCH_IMAGES
    return np.concatenate([_hashes(images[begin : begin + step]) for begin in range(0, len(images), step)])


def _hashes(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    from PIL import Image

    side = HASH_SIDE_PIXELS

    def shrunk(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        gray = Image.fromarray(image).convert("L")
        return np.asarray(gray.resize((side, side), Image.Resampling.BILINEAR), np.float32)

    small = np.stack([shrunk(image) for image in images])
    # The low rows of the cosine transform (type II) as a product: importing scipy would cost more.
    waves = np.cos(np.pi / side * np.outer(np.arange(HASH_FREQUENCIES), np.arange(side) + 0.5))
    low = (waves @ small @ waves.T).reshape(len(small), -1)
    # The first coefficient is the mean brightness, which says nothing of the picture.
    bits = low > np.median(low[:, 1:], axis=1, keepdims=True)
    words: NDArray[np.uint64] = np.packbits(bits, axis=1).view(np.uint64).ravel()
    return words
