"""Vectors of length 1, and what is refused of an encoder's vectors."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from medretrieval.errors import UserError


def l2_normalize(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to length 1, as a new array; a zero row stays zero (float32 [n, d])."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return unit


def unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """As `l2_normalize` in float64; the same row gives the same bits, whatever stands beside it."""
    # In C order a sum over the last axis runs through each row for itself; einsum cuts long rows (from some
    # 9,000 numbers on) where its buffer ends, and so by their place in the array.
    rows = vectors.astype(np.float64, order="C")
    lengths = np.sqrt(np.square(rows).sum(axis=-1))
    rows /= np.where(lengths > 0, lengths, 1)[:, None]
    return rows


def zero_rows(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    """Positions of the rows that are all 0 and so have no direction (int64, ascending)."""
    return np.flatnonzero(~vectors.any(axis=1))


def require_vectors(
    vectors: NDArray[np.floating],
    shape: tuple[int, int | None],
    encoder: str,
    kind: str,
    name: Callable[[int], str],
) -> NDArray[np.float32]:
    """An encoder's vectors as float32 [n, d], once they have been checked.

    Args:
        vectors: what the encoder gave.
        shape: n and d; None where any d from 1 on will do.
        encoder: its name, for the message.
        kind: what they are of: "image", "sentence" or "query".
        name: of the thing that a row is of, for the message.

    Raises:
        UserError: of another shape, or a number that is not finite (in float32).
    """
    n, d = shape
    if vectors.ndim != 2 or len(vectors) != n or vectors.shape[1] != (d or max(1, vectors.shape[1])):
        raise UserError(
            f"encoder={encoder}: gave {list(vectors.shape)} for {n} {PLURALS[kind]}, not [{n}, {d or 'd'}]"
        )
    # float64 can hold what float32 cannot.
    with np.errstate(over="ignore"):
        checked = vectors.astype("<f4")
    bad = ~np.isfinite(checked).all(axis=1)
    if bad.any():
        raise UserError(
            f"encoder={encoder}: the embedding of {kind} {name(int(bad.argmax()))} is not finite (NaN or "
            "infinite); check the weights, or try encoder.precision=fp32"
        )
    return checked


PLURALS = {"image": "images", "sentence": "sentences", "query": "queries"}
