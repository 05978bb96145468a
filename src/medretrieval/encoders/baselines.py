"""The two baselines: the image's own pixels, and random vectors."""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.encoders.base import Encoder
from medretrieval.errors import UserError
from medretrieval.vectors import l2_normalize


class PixelEncoder(Encoder):
    """The pixels of the image as its vector, in [0, 1].

    Args:
        name: short name.
        side: larger images are averaged down to side x side pixels (Pillow's box filter);
            smaller ones stay as they are.
        normalize: scale every vector to length 1.
        batch_size: images at a time.
    """

    def __init__(self, name: str, side: int, normalize: bool, batch_size: int) -> None:
        super().__init__(name, batch_size)
        if side < 1:
            raise UserError(f"encoder.side={side}: must be 1 or more")
        self.side = side
        self.normalize = normalize

    def signature(self) -> dict[str, Any]:
        """Kind, side and normalization: there are no weights."""
        return {"kind": "pixels", "side": self.side, "filter": "box", "normalize": self.normalize}

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Flatten a batch (float32 [n, side * side * channels])."""
        images = shrunk(images, self.side)
        vectors = images.reshape(len(images), -1).astype(np.float32) / np.float32(255)
        return l2_normalize(vectors) if self.normalize else vectors


class RandomEncoder(Encoder):
    """A standard normal vector for each image, drawn from the image's bytes and a seed: chance.

    Identical images get identical vectors, as from every encoder.

    Args:
        name: short name.
        dim: dimension of the vectors.
        normalize: scale every vector to length 1.
        batch_size: images at a time.
        seed: another seed gives other vectors.
    """

    def __init__(self, name: str, dim: int, normalize: bool, batch_size: int, seed: int) -> None:
        super().__init__(name, batch_size)
        if dim < 1:
            raise UserError(f"encoder.dim={dim}: must be 1 or more")
        self.dim = dim
        self.normalize = normalize
        self.seed = seed

    def signature(self) -> dict[str, Any]:
        """Kind, dimension, seed and normalization: there are no weights."""
        return {"kind": "random", "dim": self.dim, "seed": self.seed, "normalize": self.normalize}

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Draw the vectors of a batch (float32 [n, dim])."""
        vectors = np.stack([self._draw(image) for image in images])
        return l2_normalize(vectors) if self.normalize else vectors

    def _draw(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        digest = hashlib.sha256(np.ascontiguousarray(image).data).digest()
        words = np.frombuffer(digest, dtype="<u4")
        return np.random.default_rng([self.seed, *words]).standard_normal(self.dim, dtype=np.float32)


def shrunk(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Images averaged down to side x side pixels (Pillow's box filter); smaller ones as they are.

    Args:
        images: uint8 [n, height, width] or [n, height, width, 3].
        side: the most pixels a side.
    """
    if max(images.shape[1:3]) <= side:
        return images
    from PIL import Image

    size = (side, side)
    return np.stack([np.asarray(Image.fromarray(i).resize(size, Image.Resampling.BOX)) for i in images])
