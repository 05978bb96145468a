"""How large a difference of two runs must be so that the test of `compare` shows it, and how surely.

A difference is called significant beyond q(1 - alpha / 2) standard errors under no difference, q being the
quantile of the normal distribution for sign flips and of Student's t for halves of the images. So a true
difference of q(1 - alpha / 2) + q(power) standard errors is called significant with about that power (Cohen
1988, Statistical Power Analysis for the Behavioral Sciences). Sign flips do not know the true difference, so
their standard error holds its square too, which counts where queries are few. All is by whole patients where
groups are known. tests/coverage measures the power that the real tests have there.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medretrieval.uncertainty.distributions import student_quantile, student_tails
from medretrieval.uncertainty.totals import Floats, Groups, parts_of, totals_of

MANY = 1e6  # degrees of freedom from which on Student's t is the normal distribution
HIT_CORRELATION = 0.5  # of the results of one query, assumed: where one is relevant others are
PATIENT_CORRELATION = 0.5  # of the scores of two images of one patient, assumed
STUDIES = 100  # that are simulated


@dataclass(frozen=True)
class Spread:
    """How sure a difference is.

    Attributes:
        error: its standard error.
        freedom: degrees of freedom of the quantiles; MANY for the normal distribution.
        units: queries, groups or images that vary.
        flipped: sum of the squared weights of the units where their signs are flipped; 0 for halves.
    """

    error: float
    freedom: float
    units: int
    flipped: float = 0.0

    def smallest(self, alpha: float, power: float) -> float:
        """The true difference that the test shows with a power; infinite where units are too few for any.

        Args:
            alpha: of the two-sided test.
            power: from 0.5 to below 1.

        >>> round(Spread(0.01, MANY, 100).smallest(0.05, 0.8), 5)
        0.02802
        """
        quantile, reach = self._quantile(alpha), self._quantile(2 * (1 - power)) * self.error
        # Solves difference = reach + quantile * _error_at(difference).
        left = 1 - quantile**2 * self.flipped
        if left <= 0:
            return math.inf
        return (reach + math.sqrt(reach**2 - left * (reach**2 - (quantile * self.error) ** 2))) / left

    def power(self, difference: float, alpha: float) -> float:
        """How often the test shows a true difference.

        >>> spread = Spread(0.01, MANY, 100, 0.01)
        >>> round(spread.power(spread.smallest(0.05, 0.8), 0.05), 3)
        0.8
        """
        if self.error == 0:
            return float(self.smallest(alpha, 0.5) < math.inf)
        beyond = (abs(difference) - self._quantile(alpha) * self._error_at(difference)) / self.error
        tail = student_tails(abs(beyond), self.freedom) / 2
        return 1 - tail if beyond > 0 else tail

    def units_for(self, difference: float, alpha: float, power: float) -> int:
        """Units that are needed to show a true difference, were there more of the same kind.

        The standard error falls with the square root of their number.
        """
        needed = self._quantile(alpha) * self._error_at(difference)
        needed += self._quantile(2 * (1 - power)) * self.error
        return max(1, math.ceil(self.units * (needed / difference) ** 2 - 1e-9))

    def _error_at(self, difference: float) -> float:
        """The standard error that the test takes, given a true difference."""
        return math.sqrt(self.error**2 + self.flipped * difference**2)

    def _quantile(self, tails: float) -> float:
        """The t beyond which, on both sides, these tails lie; 0 for tails of 1."""
        return 0.0 if tails >= 1 else student_quantile(1 - tails, self.freedom)


def of_pair(values: Floats, groups: Groups | None = None, members: NDArray[np.bool_] | None = None) -> Spread:
    """The spread of the mean of column 0 minus that of column 1, the gallery held fixed.

    Args:
        values: float64 [q, 2], NaN in whole rows only.
        groups: any hashable codes [q]; whole groups vary where given.
        members: bool [q, classes]; the means are then means over classes of the class means.
    """
    parts = parts_of(totals_of(values, groups, members))
    return _spread(parts[:, 0] - parts[:, 1], parts[:, -1])


def of_one(values: Floats, groups: Groups | None = None, members: NDArray[np.bool_] | None = None) -> Spread:
    """The spread of the mean of one run's scores, float64 [q]; as `of_pair`."""
    parts = parts_of(totals_of(values[:, None], groups, members))
    return _spread(parts[:, 0], parts[:, -1])


def correlated(one: Spread, correlation: float) -> Spread:
    """The spread of the difference of two runs that are each as sure as one, and correlate."""
    return replace(one, error=one.error * math.sqrt(2 * (1 - correlation)))


def _spread(parts: Floats, weights: Floats) -> Spread:
    """Standard error of a sum of what each unit gives to a mean (linearized, as of a ratio)."""
    units = len(parts)
    rest = parts - weights * parts.sum()
    error = math.sqrt(float((rest**2).sum()) * units / max(units - 1, 1))
    return Spread(error, MANY, units, float((weights**2).sum()))


@dataclass(frozen=True)
class Model:
    """How scores of queries come about where no run has been made.

    Hits of a query are beta-binomial around its precision, so that those of one query correlate
    (HIT_CORRELATION). Of a patient's images some have one score (PATIENT_CORRELATION). Two encoders give the
    same scores to a share of the queries (of the patients, where groups are known), and independent ones to
    the rest: that share is the correlation of their scores.

    Attributes:
        precision: expected precision of each query, float64 [q], between 0 and 1.
        k: results a query.
        groups: any hashable codes [q]; None where every query stands for itself.
    """

    precision: Floats
    k: int
    groups: Groups | None

    def spread(self, correlation: float, seed: int) -> Spread:
        """The spread of the difference of two encoders, from simulated studies.

        Args:
            correlation: of their scores.
            seed: of everything that is drawn.
        """
        rng = np.random.default_rng(seed)
        groups = np.arange(len(self.precision)) if self.groups is None else self.groups
        codes = np.unique(groups, return_inverse=True)[1].ravel()
        found = []
        for _ in range(STUDIES):
            one, other = self._scores(codes, rng), self._scores(codes, rng)
            alike = (rng.random(codes.max() + 1) < correlation)[codes]
            pair = np.stack([one, np.where(alike, one, other)], axis=1)
            found.append(of_pair(pair, None if self.groups is None else codes))
        return replace(found[0], error=math.sqrt(float(np.mean([s.error**2 for s in found]))))

    def _scores(self, codes: NDArray[np.intp], rng: np.random.Generator) -> Floats:
        scores = self._drawn(self.precision, rng)
        if self.groups is None:
            return scores
        # The first image of a patient says the precision of what its images share.
        shared = self._drawn(self.precision[np.unique(codes, return_index=True)[1]], rng)[codes]
        return np.where(rng.random(len(codes)) < math.sqrt(PATIENT_CORRELATION), shared, scores)

    def _drawn(self, precision: Floats, rng: np.random.Generator) -> Floats:
        together = 1 / HIT_CORRELATION - 1
        inner = np.clip(precision, 1e-6, 1 - 1e-6)
        return rng.binomial(self.k, rng.beta(inner * together, (1 - inner) * together)) / self.k
