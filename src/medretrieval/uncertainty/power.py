"""How large a difference of two runs must be so that the test of `compare` shows it, and how surely.

A difference is called significant beyond t(1 - alpha / 2) standard errors, t being the quantile of Student's
t with as many degrees of freedom as the standard error has: for sign flips, which decide nearly as the t-test
of the queries does, one less than there are queries or groups. So a true difference of t(1 - alpha / 2) +
t(power) standard errors is called significant with about that power (Cohen 1988, Statistical Power Analysis
for the Behavioral Sciences). The standard error is of the paired difference, by whole patients where groups
are known. tests/coverage measures the power that the real tests have there.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medretrieval.uncertainty.distributions import student_quantile, student_tails
from medretrieval.uncertainty.totals import Floats, Groups, parts_of, totals_of

ROUNDS = 30  # by which a number of units and its degrees of freedom agree
HIT_CORRELATION = 0.5  # of the results of one query, assumed: where one is relevant others are
PATIENT_CORRELATION = 0.5  # of the scores of two images of one patient, assumed
STUDIES = 100  # that are simulated


@dataclass(frozen=True)
class Spread:
    """How sure a difference is.

    Attributes:
        error: its standard error.
        freedom: degrees of freedom of the error.
        units: queries, groups or images that vary.
    """

    error: float
    freedom: float
    units: int

    def smallest(self, alpha: float, power: float) -> float:
        """The true difference that the test shows with a power.

        Args:
            alpha: of the two-sided test.
            power: from 0.5 to below 1.

        >>> round(Spread(0.01, 1e6, 10**6).smallest(0.05, 0.8), 5)
        0.02802
        """
        return _errors(alpha, power, self.freedom) * self.error

    def power(self, difference: float, alpha: float) -> float:
        """How often the test shows a true difference.

        >>> spread = Spread(0.01, 99.0, 100)
        >>> round(spread.power(spread.smallest(0.05, 0.8), 0.05), 3)
        0.8
        """
        if self.error == 0:
            return 1.0
        beyond = abs(difference) / self.error - student_quantile(1 - alpha, self.freedom)
        tail = student_tails(abs(beyond), self.freedom) / 2
        return 1 - tail if beyond > 0 else tail

    def units_for(self, difference: float, alpha: float, power: float) -> int:
        """Units that are needed to show a true difference, were there more or fewer of the same kind.

        The standard error falls with the square root of their number, and its freedom grows with it.
        """
        times = (self.smallest(alpha, power) / difference) ** 2
        for _ in range(ROUNDS):
            freedom = max(1.0, self.freedom * times)
            times = (_errors(alpha, power, freedom) * self.error / difference) ** 2
        return max(1, math.ceil(self.units * times - 1e-3))


def _errors(alpha: float, power: float, freedom: float) -> float:
    """Standard errors between no difference and one that is shown with a power."""
    reach = 0.0 if power <= 0.5 else student_quantile(2 * power - 1, freedom)
    return student_quantile(1 - alpha, freedom) + reach


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
    return Spread(error, max(1.0, 1 / float((weights**2).sum()) - 1), units)


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
