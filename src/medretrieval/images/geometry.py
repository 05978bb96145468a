"""Where the pixels that a model is fed come from: a transform's resize and crop, found and undone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medretrieval.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

Step = Callable[["Image.Image"], "Image.Image"]


@dataclass(frozen=True)
class Axis:
    """One axis of the raw image as the model sees it: raw = scale * seen + offset.

    Coordinates are continuous and in pixels: pixel i covers [i, i + 1].

    Attributes:
        raw: pixels of the raw image.
        seen: pixels of the model's input.
        scale: raw pixels that one pixel of the input covers.
        offset: raw coordinate of the input's edge; negative where the transform pads.
    """

    raw: int
    seen: int
    scale: float
    offset: float

    @property
    def visible(self) -> NDArray[np.bool_]:
        """Raw pixels whose center the model sees (bool [raw])."""
        inside = self._seen_at >= 0
        return inside & (self._seen_at <= self.seen)

    @property
    def share(self) -> float:
        """How much of the axis the model sees, 0 to 1."""
        begin, end = self.offset, self.offset + self.scale * self.seen
        return max(0.0, min(end, self.raw) - max(begin, 0.0)) / self.raw

    @property
    def _seen_at(self) -> NDArray[np.float64]:
        return (np.arange(self.raw, dtype=np.float64) + 0.5 - self.offset) / np.float64(self.scale)

    def weights(self, cells: int) -> NDArray[np.float64]:
        """Linear interpolation from equal cells over the input to raw pixels (float64 [raw, cells]).

        A row sums to 1 where the pixel is visible, and is 0 elsewhere.
        """
        place = np.clip(self._seen_at * cells / self.seen - 0.5, 0, cells - 1)
        distance = np.abs(place[:, None] - np.arange(cells))
        weights: NDArray[np.float64] = np.maximum(1 - distance, 0) * self.visible[:, None]
        return weights


@dataclass(frozen=True)
class Placement:
    """Both axes of an image."""

    y: Axis
    x: Axis

    @property
    def visible(self) -> NDArray[np.bool_]:
        """Raw pixels that the model sees (bool [h, w])."""
        return self.y.visible[:, None] & self.x.visible

    @property
    def share(self) -> float:
        """How much of the image's area the model sees, 0 to 1."""
        return self.y.share * self.x.share

    def to_image(self, grid: NDArray[np.float32]) -> NDArray[np.float32]:
        """A map over the model's input at the raw image's resolution.

        Args:
            grid: float32 [rows, columns], equal cells over the model's input.

        Returns:
            float32 [h, w], linear between the cells' centers, 0 where the model does not see the image.
        """
        rows, columns = grid.shape
        return (self.y.weights(rows) @ grid @ self.x.weights(columns).T).astype(np.float32)


def placement(steps: Sequence[Step], height: int, width: int) -> Placement:
    """Where a transform's output lies in an image, found by sending coordinates through it as brightness.

    Nothing is assumed of the steps but that each axis is scaled, cropped or padded on its own.

    Args:
        steps: from Pillow image to Pillow image: resize, crop, pad.
        height: of the raw image, in pixels.
        width: likewise.

    Raises:
        UserError: steps that do something else.
    """
    rows, columns = np.arange(height) + 0.5, np.arange(width) + 0.5
    down = _through(steps, np.repeat(rows[:, None], width, axis=1))
    right = _through(steps, np.repeat(columns[None], height, axis=0))
    return Placement(_axis(height, down), _axis(width, right.T))


def _through(steps: Sequence[Step], coordinates: NDArray[np.float64]) -> NDArray[np.float64]:
    from PIL import Image

    picture = Image.fromarray(coordinates.astype(np.float32))  # mode F: brightness as float32
    for step in steps:
        picture = step(picture)
    return np.asarray(picture, np.float64)


def _axis(raw: int, field: NDArray[np.float64]) -> Axis:
    """The straight line through coordinates, which bend near edges alone and are 0 in padding.

    Args:
        raw: pixels of the raw image along the axis.
        field: coordinates that came through, float64 [seen, seen of the other axis].

    Raises:
        UserError: no straight line along the axis, or not the same one everywhere.
    """
    line = field[:, field.shape[1] // 2]  # padding may lie beside; the middle holds the image
    places, steps = np.arange(len(line)) + 0.5, np.diff(line)
    moving = steps[np.abs(steps) > 1e-6]
    if len(moving) == 0 or (about := float(np.median(moving))) <= 0:
        raise _refusal()
    # A resize looks about by up to two pixels of its coarser side; what it sees there is cut at edges.
    margin = 1 + 3 * max(1.0, about)
    inner = (line > margin) & (line < raw - margin)
    if inner.sum() < 2:
        inner = np.append(np.abs(steps - about) <= 0.1 * about, False)
    if inner.sum() < 2:
        raise _refusal()
    scale, offset = (float(value) for value in np.polyfit(places[inner], line[inner], 1))
    image = (field > margin) & (field < raw - margin)
    off = np.abs((scale * places + offset)[:, None] - field)[image]
    if scale <= 0 or (
        off.size and np.quantile(off, 0.9) > max(1.0, scale)
    ):  # not all: padding may be blended in
        raise _refusal()
    return Axis(raw, len(line), scale, offset)


def _refusal() -> UserError:
    return UserError(
        "the encoder's transform is not made of resize, crop and padding alone, so a map cannot be "
        "put back on the image; use an encoder whose transform is (all of conf/encoder are)"
    )
