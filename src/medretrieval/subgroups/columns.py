"""Columns of metadata as sets of queries: the values of a column, or bins of its numbers."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import EvaluationConfig
from medretrieval.errors import UserError, choices, suggestion
from medretrieval.protocol.task import RetrievalTask

UNKNOWN = ""  # the value of an image of which it is not known
MAX_VALUES = 50  # of a column: all pairs of them are compared
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})?", re.ASCII)

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Metadata = Mapping[str, NDArray[np.str_]]


@dataclass(frozen=True)
class Column:
    """A column of metadata over some images.

    Attributes:
        name: of the column.
        values: what it holds, in order: values, or what bins of numbers are called.
        codes: int64 [n], which value each image has; -1 where it is not known.
    """

    name: str
    values: tuple[str, ...]
    codes: Ints

    @property
    def named(self) -> tuple[str, ...]:
        """The values, and last UNKNOWN where some image has none."""
        return self.values + ((UNKNOWN,) if (self.codes < 0).any() else ())

    @property
    def members(self) -> Bools:
        """Which image has which of `named`: bool [n, values]."""
        known = self.codes[:, None] == np.arange(len(self.values))
        return np.hstack([known, self.codes[:, None] < 0])[:, : len(self.named)]


def columns_of(config: EvaluationConfig, task: RetrievalTask) -> list[Column]:
    """The columns that evaluation.subgroups names, over the queries of a task.

    Args:
        config: names of columns, and how numbers are binned.
        task: who queries whom.

    Raises:
        UserError: a column that the dataset does not have, one of too many values, or edges for a column
            whose values are no numbers.
    """
    if not config.subgroups:
        return []
    split = task.queries.split
    found = None if split is None else split.metadata
    where = f"evaluation.subgroups={list(config.subgroups)}"
    return [_column(config, name, known_column(found, name, where)) for name in config.subgroups]


def known_column(metadata: Metadata | None, name: str, where: str) -> NDArray[np.str_]:
    """A column of metadata by its name (str [n]).

    Args:
        metadata: column -> str [n]; None where the dataset has none.
        name: of the column.
        where: what asks for it, for the refusal.

    Raises:
        UserError: there is no such column; those there are are named.
    """
    if not metadata:
        raise UserError(f"{where}: the dataset has no metadata beside its labels; use one that has columns")
    if name not in metadata:
        raise UserError(
            f"{where}: the dataset has no column {name!r}; {suggestion(name, list(metadata))}"
            f"{choices(list(metadata))}"
        )
    return metadata[name]


def members_of(columns: Sequence[Column]) -> Bools | None:
    """Which query has which value of which column: bool [q, `named` of all columns]; None for no column."""
    return np.hstack([column.members for column in columns]) if columns else None


def plain_column(name: str, values: NDArray[np.str_]) -> Column:
    """A column by its values as they stand, numbers in their order.

    Args:
        name: of the column.
        values: str [n], UNKNOWN where it is not known.
    """
    there = sorted({str(value) for value in values} - {UNKNOWN}, key=_place)
    numbers = {value: i for i, value in enumerate(there)}
    return Column(name, tuple(there), np.array([numbers.get(str(v), -1) for v in values], dtype=np.int64))


def _column(config: EvaluationConfig, name: str, values: NDArray[np.str_]) -> Column:
    plain = plain_column(name, values)
    numeric = all(map(is_number, plain.values))
    edges: list[float] | None = (config.subgroup_edges or {}).get(name)
    if edges is not None:
        if not numeric:
            text = next(value for value in plain.values if not is_number(value))
            raise UserError(
                f"evaluation.subgroup_edges: {name}={edges}: {text[:40]!r} of column {name!r} is no "
                "number; "
                "leave its edges out"
            )
        return _binned(name, values, [float(edge) for edge in edges])
    if numeric and len(plain.values) > config.subgroup_bins:
        known = values[values != UNKNOWN].astype(np.float64)
        return _binned(name, values, quantile_edges(known, config.subgroup_bins))
    if len(plain.values) > MAX_VALUES:
        raise UserError(
            f"evaluation.subgroups={list(config.subgroups)}: column {name!r} has {len(plain.values)} values, "
            f"too many to compare; name a column of at most {MAX_VALUES}, or of numbers"
        )
    return plain


def is_number(text: str) -> bool:
    """Whether a text is a number, such as 63 or 6.3e1; "nan" and "1_0" are none."""
    return NUMBER.fullmatch(text) is not None


def _place(value: str) -> tuple[bool, float, str]:
    """Numbers in their order, then texts in theirs."""
    return (not is_number(value), float(value) if is_number(value) else 0.0, value)


def quantile_edges(known: NDArray[np.float64], bins: int) -> list[float]:
    """Where the second and later of so many bins of like size begin; fewer where many numbers are equal.

    >>> quantile_edges(np.arange(8.0), 4)
    [2.0, 4.0, 6.0]
    >>> quantile_edges(np.array([0.0, 0, 0, 0, 0, 1]), 2)
    []
    """
    shares = np.arange(1, bins) / bins
    edges = np.unique(np.sort(known)[np.ceil(shares * len(known)).astype(np.int64).clip(max=len(known) - 1)])
    return [float(edge) for edge in edges if edge > known.min()]


def _binned(name: str, values: NDArray[np.str_], edges: list[float]) -> Column:
    """Bins that begin at the edges: below the first, from each one to below the next, from the last on."""
    known = values != UNKNOWN
    numbers = np.where(known, values, "0").astype(np.float64)
    codes = np.where(known, np.searchsorted(edges, numbers, side="right"), -1)
    return Column(name, bin_names(edges), codes.astype(np.int64))


def bin_names(edges: Sequence[float]) -> tuple[str, ...]:
    """What bins are called.

    >>> bin_names([18, 40])
    ('under 18', '18 to under 40', '40 or more')
    """
    if not edges:
        return ("all numbers",)
    said = [f"{edge:.10g}" for edge in edges]
    middle = (f"{a} to under {b}" for a, b in itertools.pairwise(said))
    return (f"under {said[0]}", *middle, f"{said[-1]} or more")
