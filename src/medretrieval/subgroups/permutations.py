"""Do subgroups of queries score differently? The values of whole patients put into another order by chance.

The queries of two subgroups are different ones, so there is nothing to pair: under no difference, any patient
could have had any other's value. The statistic is the difference in standard errors of its own (studentized:
Janssen 1997, doi 10.1016/S0167-7152(97)00043-6; Chung & Romano 2013, doi 10.1214/13-AOS1090), so that
subgroups of other sizes and spreads do not count as different; its largest value over all pairs of all
columns corrects for their number (single-step max-T, Westfall & Young 1993).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from medretrieval.uncertainty.totals import RELATIVE_TIE, chunks

MAX_CELLS = 50_000_000  # queries times draws: some seconds a column
MIN_DRAWS = 999

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Pair = tuple[int, int]


@dataclass(frozen=True)
class Labeled:
    """Scores of queries, each with a value of one column.

    Attributes:
        scores: float64 [q].
        patients: int64 [q], numbers from 0 on; of single queries where nobody knows patients.
        values: int64 [q], numbers of values from 0 on.
        pairs: of values that are compared.
    """

    scores: Floats
    patients: Ints
    values: Ints
    pairs: Sequence[Pair]

    @cached_property
    def count(self) -> int:
        """Of patients."""
        return int(self.patients.max()) + 1

    @cached_property
    def firsts(self) -> Ints:
        """Each patient's first query (int64 [patients])."""
        return np.unique(self.patients, return_index=True)[1]

    @cached_property
    def mixed(self) -> bool:
        """Whether some patient has queries of several values."""
        return bool((self.values[self.firsts][self.patients] != self.values).any())

    def statistics(self, values: Ints) -> Floats:
        """Differences of the pairs in standard errors, if the queries had these values.

        Standard errors are those of ratios of sums over patients (linearized), with what a patient of several
        values gives to both sides.

        Args:
            values: int64 [draws, q].

        Returns:
            float64 [draws, pairs]; 0 or infinite where nothing varies.
        """
        draws, most = len(values), int(max(self.values.max(), values.max())) + 1
        shape = (draws, self.count, most)
        cells = ((np.arange(draws)[:, None] * self.count + self.patients) * most + values).ravel()
        sums = np.bincount(cells, np.tile(self.scores, draws), draws * self.count * most).reshape(shape)
        sizes = np.bincount(cells, minlength=draws * self.count * most).reshape(shape).astype(np.float64)
        totals = np.maximum(sizes.sum(axis=1, keepdims=True), 1)
        means = sums.sum(axis=1, keepdims=True) / totals
        apart = (sums - means * sizes) / totals
        there = np.maximum((sizes > 0).sum(axis=1, keepdims=True), 2)
        apart *= np.sqrt(there / (there - 1))
        a, b = np.array(self.pairs).T
        errors = np.sqrt(((apart[:, :, a] - apart[:, :, b]) ** 2).sum(axis=1))
        differences = np.abs(means[:, 0, a] - means[:, 0, b])
        tie = RELATIVE_TIE * max(1.0, float(np.abs(self.scores).max()))
        sure = np.where(differences > tie, np.inf, 0.0)
        return np.where(errors > tie, differences / np.maximum(errors, tie), sure)


def shuffled(column: Labeled, rng: np.random.Generator, draws: int) -> Ints:
    """Values in other orders, each order being as likely where the column says nothing (int64 [draws, q]).

    Where each patient has one value, whole patients change values. Where some have several, such as two
    views,
    the values of all images of a patient go together to a patient with as many images, and there to any of
    them.

    Args:
        column: the queries.
        rng: the source of chance.
        draws: how many orders.
    """
    patients, keys = column.patients, rng.random((draws, column.count))
    if not column.mixed:
        mine = column.values[column.firsts]
        return np.asarray(mine[np.argsort(keys, axis=1)][:, patients])
    sizes = np.bincount(patients)[patients]
    places = np.lexsort((patients, sizes))  # queries of patients of one size side by side
    within = rng.random((draws, len(patients)))
    giving = np.lexsort((within, keys[:, patients], np.broadcast_to(sizes, within.shape)), axis=-1)
    found = np.empty(within.shape, dtype=np.int64)
    found[:, places] = column.values[giving]
    return found


def corrected_p(columns: Sequence[Labeled], draws: int, seed: int) -> list[Floats]:
    """P of each pair, corrected for all pairs of all columns: the share of draws with a statistic as large.

    p = (as large + 1) / (draws + 1) (Phipson & Smyth 2010). A column draws its own orders, so what two
    columns have in common makes the correction a little larger than it must be.

    Args:
        columns: with one pair or more each.
        draws: orders; fewer where queries are many, but MIN_DRAWS.
        seed: the same seed draws the same orders.

    Returns:
        float64 [pairs] for each column.
    """
    queries = max((len(column.scores) for column in columns), default=1)
    draws = min(draws, max(MAX_CELLS // queries, MIN_DRAWS))
    largest = np.zeros(draws)
    for number, column in enumerate(columns):
        rng = np.random.default_rng([seed, number])
        width = max(len(column.scores), column.count * (int(column.values.max()) + 1))
        drawn = [column.statistics(shuffled(column, rng, rows)).max(axis=1) for rows in chunks(draws, width)]
        largest = np.maximum(largest, np.concatenate(drawn))
    found = []
    for column in columns:
        observed = column.statistics(column.values[None])[0]
        bar = np.where(np.isfinite(observed), observed * (1 - RELATIVE_TIE), observed)
        found.append(((largest[:, None] >= bar).sum(axis=0) + 1.0) / (draws + 1))
    return found
