"""Sums over queries or whole groups of them, from which means are taken again and again."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Cells of one chunk of weights or signs: some 25 MB at the peak.
CHUNK_CELLS = 1_000_000
# Sums of the same numbers in another order differ in their last bits; below this they count as equal.
RELATIVE_TIE = 1e-12

Floats = NDArray[np.float64]
Groups = NDArray[Any]


def totals_of(values: Floats, groups: Groups | None, members: NDArray[np.bool_] | None) -> Floats:
    """Sums of every column and, last, numbers of queries: float64 [g, classes, s + 1]."""
    missing = np.isnan(values)
    kept = ~missing.any(axis=1)
    if (missing.any(axis=1) != missing.all(axis=1)).any():
        raise ValueError("scores must be missing (NaN) at the same queries")
    members = np.ones((len(values), 1), dtype=np.bool_) if members is None else members
    if len(members) != len(values) or (groups is not None and len(groups) != len(values)):
        raise ValueError(f"as many groups and labels as queries are wanted: {len(values)}")
    kept &= members.any(axis=1)
    counted = np.concatenate([values[kept], np.ones((kept.sum(), 1))], axis=1)
    totals: Floats = members[kept][:, :, None] * counted[:, None, :]
    if groups is None or len(totals) == 0:
        return totals
    numbers: dict[Any, int] = {}
    group = np.array([numbers.setdefault(code, len(numbers)) for code in groups[kept].tolist()])
    order = np.argsort(group, kind="stable")
    firsts = np.flatnonzero(np.diff(group[order], prepend=-1))
    summed: Floats = np.add.reduceat(totals[order], firsts, axis=0)
    return summed


def parts_of(totals: Floats) -> Floats:
    """What each unit gives to the means, and last its share of the weight: float64 [g, s + 1]."""
    sizes = totals[..., -1].sum(axis=0)
    filled = sizes > 0
    parts: Floats = (totals[:, filled] / sizes[filled, None]).mean(axis=1)
    return parts


def means_of(totals: Floats) -> Floats:
    """Mean over the classes that have queries of their means: [..., classes, s + 1] -> [..., s]."""
    sizes = totals[..., -1:]
    filled = sizes > 0
    means = np.divide(totals[..., :-1], sizes, out=np.zeros_like(totals[..., :-1]), where=filled)
    result: Floats = means.sum(axis=-2) / filled.sum(axis=-2)
    return result


def chunks(rows: int, columns: int) -> Iterator[int]:
    """How many rows to take at a time."""
    step = max(1, CHUNK_CELLS // columns)
    yield from (min(step, rows - begin) for begin in range(0, rows, step))
