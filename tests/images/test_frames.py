"""Frames of several: which are taken, and how a montage lays them out."""

import numpy as np
import pytest

from medretrieval.images.frames import MOST_IN_MONTAGE, cell_side, in_montage, montage


@pytest.mark.parametrize("frames", [1, 2, 5, 64, 65, 200, 1000])
@pytest.mark.parametrize("size", [1, 2, 28, 224])
def test_a_montage_shows_frames_in_order_and_ends_with_the_last(frames, size):
    shown = in_montage(frames, size)
    assert shown == sorted(set(shown))
    assert len(shown) == min(frames, MOST_IN_MONTAGE, size**2)
    assert shown[0] == 0
    assert shown[-1] == (frames - 1 if len(shown) > 1 else 0)
    steps = set(np.diff(shown))
    assert not steps or max(steps) - min(steps) <= 1
    assert cell_side(len(shown), size) >= 1


@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 12])
def test_every_cell_stands_whole_at_its_place(count, color):
    size = 31
    side = cell_side(count, size)
    shape = (side, side, 3) if color else (side, side)
    cells = [np.full(shape, 10 + place, np.uint8) for place in range(count)]
    square = montage(cells, size)
    assert square.shape[:2] == (size, size)
    values, counts = np.unique(square[..., 0] if color else square, return_counts=True)
    found = dict(zip(values.tolist(), counts.tolist(), strict=True))
    assert {value: found[value] for value in found if value} == {10 + p: side**2 for p in range(count)}
    firsts = [np.argwhere((square[..., 0] if color else square) == 10 + p)[0].tolist() for p in range(count)]
    assert firsts == sorted(firsts)  # as text is read
