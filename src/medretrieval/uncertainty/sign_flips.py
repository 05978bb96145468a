"""Is the mean difference of two columns luck? Random signs on the differences of queries, or of groups."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medretrieval.uncertainty.totals import RELATIVE_TIE, Floats, Groups, chunks, parts_of, totals_of


@dataclass(frozen=True)
class Flips:
    """Means of columns, and the same means with one set of random signs on their queries.

    The mean of a difference with flipped signs is the difference of the flipped means, so one set of
    signs serves all pairs.

    Attributes:
        means: float64 [s].
        flipped: float64 [permutations, s].
        scale: float64 [s], the largest value that a flipped mean could take.
    """

    means: Floats
    flipped: Floats
    scale: Floats

    def p(self, a: int, b: int) -> float:
        """Two-sided p of the mean of column a minus column b (see `paired_permutation`)."""
        observed = abs(self.means[a] - self.means[b]) - RELATIVE_TIE * (self.scale[a] + self.scale[b])
        beyond = np.count_nonzero(np.abs(self.flipped[:, a] - self.flipped[:, b]) >= observed)
        return float((beyond + 1) / (len(self.flipped) + 1))


def paired_permutation(
    a: Floats, b: Floats, permutations: int, seed: int, groups: Groups | None = None
) -> float:
    """Two-sided p of the mean difference: were the signs of the queries' differences a matter of luck?

    p = (beyond + 1) / (permutations + 1), with ties counted as beyond (Phipson & Smyth 2010, doi
    10.2202/1544-6115.1585), so it is never 0 and never too small.

    Args:
        a: float64 [q].
        b: float64 [q], NaN at the same queries as a.
        permutations: random sign flips.
        seed: the same seed draws the same signs.
        groups: any hashable codes [q]; the signs of whole groups are flipped where given.

    Raises:
        ValueError: shapes or NaN that do not fit, no query left, fewer than one permutation.
    """
    return sign_flips(np.stack([a, b], axis=1), permutations, seed, groups).p(0, 1)


def sign_flips(
    values: Floats,
    permutations: int,
    seed: int,
    groups: Groups | None = None,
    members: NDArray[np.bool_] | None = None,
) -> Flips:
    """Put random signs on the queries (or groups) and take the means of all columns, by matrix products.

    Args:
        values: float64 [q, s], NaN in whole rows only.
        permutations: random sign flips.
        seed: the same seed draws the same signs.
        groups: any hashable codes [q]; a group has one sign.
        members: bool [q, classes]; the mean is then the mean over classes of the class means.

    Raises:
        ValueError: shapes or NaN that do not fit, no query left, fewer than one permutation.
    """
    totals = totals_of(values, groups, members)
    units = len(totals)
    if units < 1 or permutations < 1:
        raise ValueError(f"{permutations} permutations of {units} queries or groups; give at least 1 of 1")
    shares = parts_of(totals)[:, :-1]  # the number of queries does not change with signs
    rng, words, parts = np.random.default_rng(seed), -(-units // 64), []
    for rows in chunks(permutations, units):
        random = rng.integers(0, 2**64 - 1, (rows, words), dtype=np.uint64, endpoint=True)
        bits = np.unpackbits(random.view(np.uint8), axis=1, count=units)
        parts.append((1.0 - 2.0 * bits) @ shares)
    return Flips(shares.sum(axis=0), np.concatenate(parts), np.abs(shares).sum(axis=0))
