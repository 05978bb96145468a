"""What halves of the images (`half_samples`) say of scores and differences: standard error, interval, p."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medretrieval.uncertainty.distributions import student_quantile, student_tails

ROUNDING = 1e-12  # a standard error below it is rounding

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def spread(deviations: Floats, sides: Bools) -> tuple[float, float]:
    """Standard error of a score of all images, and the degrees of freedom of its square (Satterthwaite).

    The square is less sure where few images carry it (a rare class): their fourth moments say how much.

    Args:
        deviations: float64 [splits], half the difference of the halves' scores.
        sides: bool [splits, units].
    """
    count, units = sides.shape
    variance = float((deviations**2).mean())
    if not variance > ROUNDING**2:
        return 0.0, 1.0
    pull = (2.0 * sides - 1).T @ deviations / count  # of each image on the score
    pull -= pull.mean()
    heavy = float((pull**4).sum() - 3 * (pull**2).sum() ** 2 / units)
    uncertainty = 2 / (units - 1) + 2 / count + max(heavy, 0.0) / variance**2
    return math.sqrt(variance), max(1.0, 2 / uncertainty)


def share_interval(
    value: float, deviations: Floats, sides: Bools, confidence: float
) -> tuple[float, float] | None:
    """Interval of a score between 0 and 1, by Student's t on the scale of log-odds; None where none is valid.

    None too for a score of 0 or 1, and for one that no half differs in: nothing is known of its spread.
    """
    error, freedom = spread(deviations, sides)
    if error == 0 or not 0 < value < 1 or np.isnan(deviations).any():
        return None
    middle, wide = math.log(value / (1 - value)), error / (value * (1 - value))
    half = student_quantile(confidence, freedom) * wide
    low, high = (0.5 + 0.5 * math.tanh(end / 2) for end in (middle - half, middle + half))
    return low, high


def difference_interval(
    difference: float, deviations: Floats, sides: Bools, confidence: float
) -> tuple[float, float, float] | None:
    """A difference of two scores with its interval by Student's t: (difference, low, high).

    None where it is the same in all halves, as of a run with itself: nothing is known of its spread.
    """
    error, freedom = spread(deviations, sides)
    if error == 0:
        return None
    half = student_quantile(confidence, freedom) * error
    return difference, difference - half, difference + half


def difference_p(difference: float, deviations: Floats, sides: Bools) -> float:
    """Two-sided p of a difference of two scores; 1 where the runs do not differ in any half."""
    error, freedom = spread(deviations, sides)
    return 1.0 if error == 0 else student_tails(abs(difference) / error, freedom)


@dataclass(frozen=True)
class PairedHalves:
    """Scores of several runs over the same halves of the same images.

    Attributes:
        means: float64 [runs], over all images.
        deviations: float64 [splits, runs].
        sides: bool [splits, units].
        confidence: of the intervals.
    """

    means: Floats
    deviations: Floats
    sides: Bools
    confidence: float

    def interval(self, run: int) -> tuple[float, float] | None:
        """Of one score (see `share_interval`)."""
        return share_interval(float(self.means[run]), self.deviations[:, run], self.sides, self.confidence)

    def difference(
        self, a: int, b: int, confidence: float | None = None
    ) -> tuple[float, float, float] | None:
        """Of run a minus run b (see `difference_interval`)."""
        apart, confidence = self.deviations[:, a] - self.deviations[:, b], confidence or self.confidence
        return difference_interval(float(self.means[a] - self.means[b]), apart, self.sides, confidence)

    def error(self, a: int, b: int) -> float:
        """Standard error of run a minus run b."""
        return spread(self.deviations[:, a] - self.deviations[:, b], self.sides)[0]

    def p(self, a: int, b: int) -> float:
        """Two-sided p of run a minus run b (see `difference_p`)."""
        apart = self.deviations[:, a] - self.deviations[:, b]
        return difference_p(float(self.means[a] - self.means[b]), apart, self.sides)
