"""Pictures of any shape as images of a dataset: a square of its size, with its channels."""

from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image


class Fit(StrEnum):
    """How a picture that is no square becomes one."""

    crop = "crop"
    pad = "pad"
    stretch = "stretch"


def as_in_dataset(pixels: NDArray[np.uint8], size: int, channels: int, fit: Fit) -> NDArray[np.uint8]:
    """A picture as an image of a dataset: a square of its size, with its channels.

    As MedMNIST made its images (Yang et al. 2023): most of its sources that are no squares were cropped
    in the center to their short edge, and all resized by cubic interpolation. Pillow's bicubic filter
    averages when it makes smaller, so nothing aliases. A picture that has the size already stays as it is.

    Args:
        pixels: uint8 [height, width] or [height, width, 3].
        size: pixels a side.
        channels: 1 (gray, by ITU-R 601 where it was RGB) or 3.
        fit: crop the center, pad with black to the long edge, or stretch.

    Returns:
        uint8 [size, size] or [size, size, 3].
    """
    from PIL import Image

    picture, mode = Image.fromarray(pixels), "L" if channels == 1 else "RGB"
    if picture.mode != mode:  # else it would be copied
        picture = picture.convert(mode)
    if fit is Fit.crop:
        picture = _cropped(picture)
    elif fit is Fit.pad:
        picture = _padded(picture, size)
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    return np.array(picture)


def thumbnail(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The whole picture, made smaller where it is larger than side x side pixels."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side), Image.Resampling.BICUBIC)
    return np.array(picture)


def _cropped(picture: "Image") -> "Image":
    """The square in the center."""
    width, height = picture.size
    side = min(picture.size)
    left, top = (width - side) // 2, (height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def _padded(picture: "Image", size: int) -> "Image":
    """All of it on a black square, made smaller first: a long strip squared would fill the memory."""
    from PIL import Image

    width, height = picture.size
    if width == height:
        return picture
    longest = max(picture.size)
    wide, high = (max(1, round(side * size / longest)) for side in picture.size)
    square = Image.new(picture.mode, (size, size))
    fitted = picture.resize((wide, high), Image.Resampling.BICUBIC)
    square.paste(fitted, ((size - wide) // 2, (size - high) // 2))
    return square
