"""Descriptors that nothing was trained for: oriented gradients, local binary patterns, histograms.

The first two by scikit-image (https://scikit-image.org): `pip install 'medretrieval[classic]'`.
"""

import importlib.util
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.encoders.base import Encoder
from medretrieval.encoders.baselines import shrunk
from medretrieval.errors import UserError, choices
from medretrieval.vectors import l2_normalize

BLOCK_NORMS = ("L1", "L1-sqrt", "L2", "L2-Hys")
PATTERNS = ("uniform", "nri_uniform")
COLORS = ("intensity", "channels", "joint")
LEVELS = 256


class HogEncoder(Encoder):
    """Histograms of oriented gradients (Dalal and Triggs 2005), by skimage.feature.hog.

    Of an RGB image each pixel has the gradient of the channel where it is largest.

    Args:
        name: short name.
        side: larger images are averaged down to side x side pixels; smaller ones stay as they are.
        cell: pixels a side of the cells, each of which has one histogram; what is left of the image at its
            right and lower edge is not seen.
        block: cells a side of the overlapping blocks in which histograms are normalized.
        orientations: bins of the gradients' direction over 180 degrees.
        block_norm: "L1", "L1-sqrt", "L2" or "L2-Hys" (L2, clipped at 0.2, and L2 again).
        normalize: scale every vector to length 1.
        batch_size: images at a time.

    Raises:
        UserError: a number below 1, or another block_norm.
    """

    def __init__(
        self,
        name: str,
        side: int,
        cell: int,
        block: int,
        orientations: int,
        block_norm: str,
        normalize: bool,
        batch_size: int,
    ) -> None:
        super().__init__(name, batch_size)
        _require_positive(side=side, cell=cell, block=block, orientations=orientations)
        _require_choice("block_norm", block_norm, BLOCK_NORMS)
        self.side = side
        self.cell = cell
        self.block = block
        self.orientations = orientations
        self.block_norm = block_norm
        self.normalize = normalize

    def signature(self) -> dict[str, Any]:
        """All options and the version of scikit-image: there are no weights.

        Raises:
            UserError: scikit-image is not installed.
        """
        return {
            "kind": "hog",
            "side": self.side,
            "filter": "box",
            "cell": self.cell,
            "block": self.block,
            "orientations": self.orientations,
            "block_norm": self.block_norm,
            "normalize": self.normalize,
            "versions": _versions("hog"),
        }

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The blocks' histograms, row by row (float32 [n, blocks * block * block * orientations]).

        Raises:
            UserError: images that hold no block, or scikit-image is not installed.
        """
        _versions("hog")
        from skimage.feature import hog

        images = shrunk(images, self.side)
        height, width = images.shape[1:3]
        if min(height, width) < self.cell * self.block:
            raise UserError(
                f"encoder={self.name}: images of {height} x {width} pixels hold no block of {self.block} x "
                f"{self.block} cells of {self.cell} x {self.cell} pixels; make encoder.cell or encoder.block "
                "smaller"
            )
        found = [
            hog(
                image,
                orientations=self.orientations,
                pixels_per_cell=(self.cell, self.cell),
                cells_per_block=(self.block, self.block),
                block_norm=self.block_norm,
                channel_axis=None if images.ndim == 3 else -1,
            )
            for image in images
        ]
        vectors = np.stack(found).astype(np.float32)
        return l2_normalize(vectors) if self.normalize else vectors

    def unseen(self, height: int, width: int) -> float | None:
        """As Encoder.unseen: what is left beside whole cells."""
        if max(height, width) > self.side:
            height = width = self.side
        seen = (height // self.cell) * (width // self.cell) * self.cell**2
        return 1 - seen / (height * width)


class LbpEncoder(Encoder):
    """Histograms of local binary patterns (Ojala et al. 2002), by skimage.feature.local_binary_pattern.

    A pixel's pattern says which points on a circle around it are as bright as it or brighter. Patterns are
    counted in each of grid x grid cells of the image (as Ahonen et al. 2006), and each histogram sums to 1.
    Of an RGB image the luma (ITU-R 601) is taken.

    Args:
        name: short name.
        points: on the circle.
        radius: of the circle, in pixels.
        method: "uniform" (points + 2 patterns, the same when turned) or "nri_uniform" (points * (points - 1)
            + 3 patterns).
        grid: cells a side.
        normalize: scale every vector to length 1.
        batch_size: images at a time.

    Raises:
        UserError: a number that is too small, or another method.
    """

    def __init__(
        self,
        name: str,
        points: int,
        radius: float,
        method: str,
        grid: int,
        normalize: bool,
        batch_size: int,
    ) -> None:
        super().__init__(name, batch_size)
        _require_positive(points=points, grid=grid)
        if not radius > 0:
            raise UserError(f"encoder.radius={radius}: must be above 0")
        _require_choice("method", method, PATTERNS)
        self.points = points
        self.radius = radius
        self.method = method
        self.grid = grid
        self.normalize = normalize

    @property
    def patterns(self) -> int:
        """How many patterns there are."""
        return self.points + 2 if self.method == "uniform" else self.points * (self.points - 1) + 3

    def signature(self) -> dict[str, Any]:
        """All options and the version of scikit-image: there are no weights.

        Raises:
            UserError: scikit-image is not installed.
        """
        return {
            "kind": "lbp",
            "points": self.points,
            "radius": float(self.radius),
            "method": self.method,
            "grid": self.grid,
            "normalize": self.normalize,
            "versions": _versions("lbp"),
        }

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The cells' histograms, row by row (float32 [n, grid * grid * patterns]).

        Raises:
            UserError: images with fewer pixels a side than cells, or scikit-image is not installed.
        """
        _versions("lbp")
        from skimage.feature import local_binary_pattern

        height, width = images.shape[1:3]
        if min(height, width) < self.grid:
            raise UserError(
                f"encoder={self.name}: images of {height} x {width} pixels cannot be cut into {self.grid} x "
                f"{self.grid} cells; make encoder.grid smaller"
            )
        rows, columns = np.arange(height) * self.grid // height, np.arange(width) * self.grid // width
        cells = rows[:, None] * self.grid + columns
        sizes = np.bincount(cells.ravel()).repeat(self.patterns)
        found = []
        for image in luma(images):
            codes = local_binary_pattern(image, self.points, self.radius, self.method).astype(np.int64)
            places = (cells * self.patterns + codes).ravel()
            found.append(np.bincount(places, minlength=len(sizes)) / sizes)
        vectors = np.stack(found).astype(np.float32)
        return l2_normalize(vectors) if self.normalize else vectors


class HistogramEncoder(Encoder):
    """How often each brightness or color occurs, wherever it is (Swain and Ballard 1991); sums to 1.

    Args:
        name: short name.
        bins: of equal width over 0 to 255, for each channel.
        colors: of RGB images: "intensity" (bins of the luma), "channels" (bins of each channel, one after
            the other), "joint" (bins of all three at once, bins ** 3); of gray images the first two are one.
        normalize: scale every vector to length 1.
        batch_size: images at a time.

    Raises:
        UserError: bins that are not 1 to 256, or other colors.
    """

    def __init__(self, name: str, bins: int, colors: str, normalize: bool, batch_size: int) -> None:
        super().__init__(name, batch_size)
        if not 1 <= bins <= LEVELS:
            raise UserError(f"encoder.bins={bins}: must be 1 to {LEVELS}")
        _require_choice("colors", colors, COLORS)
        self.bins = bins
        self.colors = colors
        self.normalize = normalize

    def signature(self) -> dict[str, Any]:
        """All options: there are no weights."""
        return {"kind": "histogram", "bins": self.bins, "colors": self.colors, "normalize": self.normalize}

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Count the pixels of each bin (float32 [n, bins], [n, 3 * bins] or [n, bins ** 3]).

        Raises:
            UserError: colors of gray images, taken jointly.
        """
        if images.ndim == 3 and self.colors == "joint":
            raise UserError(
                f"encoder={self.name}: encoder.colors=joint counts colors, and the images are gray; set it "
                "to intensity"
            )
        if self.colors == "intensity":
            images = luma(images)
        levels = images.reshape(len(images), -1, 1 if images.ndim == 3 else 3).astype(np.int64)
        places = levels * self.bins // LEVELS
        if self.colors == "joint":
            places, size = places @ (self.bins ** np.arange(2, -1, -1)), self.bins**3
        else:
            places, size = places + self.bins * np.arange(places.shape[2]), self.bins * places.shape[2]
        counts = np.stack([np.bincount(place.ravel(), minlength=size) for place in places])
        vectors = (counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)
        return l2_normalize(vectors) if self.normalize else vectors


def luma(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The brightness of RGB images as Pillow has it (ITU-R 601); gray images as they are.

    Args:
        images: uint8 [n, height, width] or [n, height, width, 3].

    Returns:
        uint8 [n, height, width].
    """
    if images.ndim == 3:
        return images
    from PIL import Image

    return np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])


def _versions(encoder: str) -> dict[str, str]:
    """Of what computes the vectors.

    Raises:
        UserError: it is not installed.
    """
    if importlib.util.find_spec("skimage") is None:
        raise UserError(
            f"encoder={encoder} needs the package scikit-image; pip install 'medretrieval[classic]'"
        )
    return {"scikit-image": version("scikit-image")}


def _require_positive(**numbers: int) -> None:
    for key, value in numbers.items():
        if value < 1:
            raise UserError(f"encoder.{key}={value}: must be 1 or more")


def _require_choice(key: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UserError(f"encoder.{key}={value}: {choices(known)}")
