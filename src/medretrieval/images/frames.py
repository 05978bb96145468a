"""Which frames of a file that holds several become its image."""

import math
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

MOST_IN_MONTAGE = 64


class Frames(StrEnum):
    """Which frames of a file: of DICOM, TIFF, GIF and WebP, and the slices of a volume."""

    first = "first"
    middle = "middle"
    all = "all"
    montage = "montage"


def in_montage(frames: int, size: int) -> list[int]:
    """The frames that a montage of size x size pixels shows: all, or at most 64 at even steps.

    >>> in_montage(3, 28), in_montage(200, 28)[:4], in_montage(200, 28)[-1]
    ([0, 1, 2], [0, 3, 6, 9], 199)
    """
    count = min(frames, MOST_IN_MONTAGE, size**2)
    return [round(place) for place in np.linspace(0, frames - 1, count)]


def cell_side(count: int, size: int) -> int:
    """Pixels a side of each of so many equal cells in a square of size x size pixels.

    >>> cell_side(1, 28), cell_side(4, 28), cell_side(5, 28)
    (28, 14, 9)
    """
    return size // math.ceil(math.sqrt(count))


def montage(cells: list[NDArray[np.uint8]], size: int) -> NDArray[np.uint8]:
    """Lay cells out in rows, as text is read, in the middle of a black square.

    Args:
        cells: uint8 [side, side] or [side, side, 3], side of `cell_side`.
        size: pixels a side of the result.

    Returns:
        uint8 [size, size] or [size, size, 3].
    """
    columns = math.ceil(math.sqrt(len(cells)))
    side = cells[0].shape[0]
    rows = math.ceil(len(cells) / columns)
    square = np.zeros((size, size, *cells[0].shape[2:]), np.uint8)
    left, top = (size - columns * side) // 2, (size - rows * side) // 2
    for place, cell in enumerate(cells):
        row, column = divmod(place, columns)
        y, x = top + row * side, left + column * side
        square[y : y + side, x : x + side] = cell
    return square
