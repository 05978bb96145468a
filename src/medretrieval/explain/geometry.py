"""Where the pixels that a model is fed come from: a checkpoint's resize and crop, undone for a map."""

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
        """Raw pixels whose centre the model sees (bool [raw])."""
        inside = self._seen_at >= 0
        return inside & (self._seen_at <= self.seen)

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

    def to_image(self, grid: NDArray[np.float32]) -> NDArray[np.float32]:
        """A map over the model's input at the raw image's resolution.

        Args:
            grid: float32 [rows, columns], equal cells over the model's input.

        Returns:
            float32 [h, w], linear between the cells' centres, 0 where the model does not see the image.
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
    # Padding may lie beside either; the middle lines hold the image.
    return Placement(_axis(height, down[:, down.shape[1] // 2]), _axis(width, right[right.shape[0] // 2]))


def _through(steps: Sequence[Step], coordinates: NDArray[np.float64]) -> NDArray[np.float64]:
    from PIL import Image

    picture = Image.fromarray(coordinates.astype(np.float32))  # mode F: brightness as float32
    for step in steps:
        picture = step(picture)
    return np.asarray(picture, np.float64)


def _axis(raw: int, line: NDArray[np.float64]) -> Axis:
    """The straight line through coordinates that are flat or bent only near edges and in padding."""
    steps = np.diff(line)
    moving = np.abs(steps) > 1e-6
    if not moving.any():
        raise _refusal()
    scale = float(np.median(steps[moving]))
    straight = np.flatnonzero(np.abs(steps - scale) <= 1e-3 * abs(scale))
    if scale <= 0 or len(straight) == 0:
        raise _refusal()
    offset = float(np.median(line[straight] - scale * (straight + 0.5)))
    inside = (line > 1) & (line < raw - 1)
    off = np.abs(scale * (np.arange(len(line)) + 0.5) + offset - line)[inside]
    # A resize rounds to 8 bits nowhere here, so what is not a line is another geometry.
    if off.max(initial=0) > max(1.0, 2 * scale):
        raise _refusal()
    return Axis(raw, len(line), scale, offset)


def _refusal() -> UserError:
    return UserError(
        "explain: the encoder's transform is not made of resize, crop and padding alone, so a map cannot be "
        "put back on the image; use an encoder whose transform is (all of conf/encoder are)"
    )
