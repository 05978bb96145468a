"""Differences of several runs at once: intervals and p of each, and both corrected for the others.

The correction is the step-down maximum of test statistics (Westfall & Young 1993, Resampling-Based Multiple
Testing, algorithm 2.8): the statistics of all pairs are drawn together under no difference, so runs that
differ little from each other, such as the index variants of one encoder, cost little.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from medretrieval.uncertainty.bootstrap import Resamples
from medretrieval.uncertainty.half_intervals import PairedHalves
from medretrieval.uncertainty.sign_flips import Flips
from medretrieval.uncertainty.totals import RELATIVE_TIE

Floats = NDArray[np.float64]
Ends = tuple[float, float] | None
SMALLEST_P = 1e-15  # that still has a finite normal quantile


class Contrasts(ABC):
    """How the differences of several runs' scores are tested.

    Attributes:
        scores: means, intervals and differences of the runs.
    """

    scores: Resamples | PairedHalves

    @abstractmethod
    def p(self, a: int, b: int) -> float:
        """Two-sided p of run a minus run b."""

    @abstractmethod
    def statistic(self, a: int, b: int) -> tuple[float, Floats]:
        """The difference in standard errors, and the same drawn under no difference, float64 [draws]."""

    @abstractmethod
    def within(self, a: int, b: int, errors: float) -> Ends:
        """The difference give or take so many standard errors."""


@dataclass(frozen=True)
class OfQueries(Contrasts):
    """With the gallery held fixed: bootstrap and sign flips of the queries."""

    scores: Resamples
    flips: Flips

    def p(self, a: int, b: int) -> float:
        """Two-sided p of run a minus run b."""
        return self.flips.p(a, b)

    def statistic(self, a: int, b: int) -> tuple[float, Floats]:
        """The difference in standard errors, and the same under no difference."""
        drawn = np.abs(self.flips.flipped[:, a] - self.flips.flipped[:, b])
        spread = float(np.sqrt((drawn**2).mean()))
        tie = RELATIVE_TIE * float(self.flips.scale[a] + self.flips.scale[b])
        if spread <= tie:
            return 0.0, np.zeros_like(drawn)
        return (abs(float(self.scores.means[a] - self.scores.means[b])) - tie) / spread, drawn / spread

    def within(self, a: int, b: int, errors: float) -> Ends:
        """The difference give or take so many standard errors."""
        if self.scores.few_differ(a, b):
            ends = self.scores.difference(a, b, 1 - two_tails(errors))
            return None if ends is None else ends[1:]
        apart, wide = float(self.scores.means[a] - self.scores.means[b]), errors * self.scores.error(a, b)
        return (apart - wide, apart + wide) if wide > 0 else None


@dataclass(frozen=True)
class OfImages(Contrasts):
    """With images that vary on both sides: halves of them, and Student's t.

    Attributes:
        scores: of the runs, in the halves.
        draws: of differences under no difference, for the correction.
        seed: of the draws.
    """

    scores: PairedHalves
    draws: int
    seed: int

    def p(self, a: int, b: int) -> float:
        """Two-sided p of run a minus run b."""
        return self.scores.p(a, b)

    @cached_property
    def _drawn(self) -> Floats:
        """Normal scores of the runs with the covariance that the halves have, float64 [draws, runs]."""
        deviations = self.scores.deviations
        random = np.random.default_rng(self.seed).standard_normal((self.draws, len(deviations)))
        drawn: Floats = random @ deviations / np.sqrt(len(deviations))
        return drawn

    def statistic(self, a: int, b: int) -> tuple[float, Floats]:
        """The difference in standard errors, and the same under no difference."""
        drawn = np.abs(self._drawn[:, a] - self._drawn[:, b])
        error = self.scores.error(a, b)
        if error == 0:
            return 0.0, np.zeros_like(drawn)
        # p has Student's t; drawn are normal ones, so the quantile that p has there.
        return NormalDist().inv_cdf(1 - max(self.p(a, b), SMALLEST_P) / 2), drawn / error

    def within(self, a: int, b: int, errors: float) -> Ends:
        """The difference give or take so many standard errors."""
        ends = self.scores.difference(a, b, 1 - two_tails(errors))
        return None if ends is None else ends[1:]


@dataclass(frozen=True)
class Corrected:
    """Of every pair of a family: p, and the ends of the difference, corrected for all pairs."""

    p: list[float]
    ends: list[Ends]


def corrected(contrasts: Contrasts, pairs: Sequence[tuple[int, int]], confidence: float) -> Corrected:
    """Correct for a family of pairs.

    p: the share of draws in which the largest statistic of the pairs that are left is as large (step-down);
    never below the uncorrected one. Intervals: so wide that all hold at once with the given confidence (of
    one step, so that an interval may hold 0 where the corrected p is a little below 1 - confidence).

    Args:
        contrasts: the runs.
        pairs: run a minus run b, by number.
        confidence: of all intervals at once.
    """
    observed = np.array([contrasts.statistic(a, b)[0] for a, b in pairs])
    largest = np.zeros(1)
    shares = np.ones(len(pairs))
    for i in np.argsort(observed, kind="stable"):  # the smallest first, so that the maximum grows
        largest = np.maximum(largest, contrasts.statistic(*pairs[i])[1])  # again, so that none is kept
        shares[i] = (np.count_nonzero(largest >= observed[i]) + 1) / (len(largest) + 1)
    adjusted, least = [1.0] * len(pairs), 0.0
    for i in np.argsort(-observed, kind="stable"):
        least = max(least, float(shares[i]), contrasts.p(*pairs[i]))
        adjusted[i] = 1.0 if observed[i] <= 0 else min(least, 1.0)
    if len(pairs) == 1:
        alone = contrasts.scores.difference(*pairs[0])
        return Corrected(adjusted, [None if alone is None else alone[1:]])
    wide = float(np.quantile(largest, confidence))
    return Corrected(adjusted, [contrasts.within(a, b, wide) for a, b in pairs])


def two_tails(errors: float) -> float:
    """Probability that a normal number lies more standard errors away from its mean."""
    return 2 * NormalDist().cdf(-errors)
