"""Student's t and the exact interval of a share, in plain Python: a run loads no scipy for them."""

import math
from collections.abc import Iterator
from statistics import NormalDist


def student_tails(t: float, freedom: float) -> float:
    """Probability that Student's t lies beyond -t and t.

    >>> round(student_tails(2.0, 10.0), 6)
    0.073388
    """
    return _incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5)


def student_quantile(confidence: float, freedom: float) -> float:
    """The t between minus which and which Student's t lies with a given probability.

    >>> round(student_quantile(0.95, 10.0), 4)
    2.2281
    """
    tails = 1 - confidence
    t = NormalDist().inv_cdf(1 - tails / 2)
    for _ in range(100):  # Newton from below: the tails fall ever slower, so no step goes too far
        step = (student_tails(t, freedom) - tails) / (2 * _student_density(t, freedom))
        t += step
        if step <= 1e-12 * t:
            break
    return t


def _student_density(t: float, freedom: float) -> float:
    log = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    return math.exp(log - (freedom + 1) / 2 * math.log1p(t * t / freedom)) / math.sqrt(freedom * math.pi)


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """Regularized incomplete beta function by its continued fraction (Lentz; DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    total = d
    for term in _fraction(x, a, b):
        d, c = 1 / (1 + term * d), 1 + term / c
        total *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * total / a


def _fraction(x: float, a: float, b: float) -> Iterator[float]:
    for m in range(1, 1000):
        yield m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        yield -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))


def exact_interval(share: float, count: float, confidence: float) -> tuple[float, float]:
    """Interval of a share by Clopper & Pearson (1934, doi 10.1093/biomet/26.4.404); it is never empty.

    A mean of values between 0 and 1 varies no more than a share with the same mean does, so it holds for such
    means too.

    Args:
        share: between 0 and 1.
        count: trials; may be a fraction, as an effective number is.
        confidence: between 0 and 1.

    >>> [round(end, 4) for end in exact_interval(1.0, 50, 0.95)]
    [0.9289, 1.0]
    """
    hits, tail = share * count, (1 - confidence) / 2
    low = 0.0 if hits <= 0 else _beta_quantile(tail, hits, count - hits + 1)
    high = 1.0 if hits >= count else _beta_quantile(1 - tail, hits + 1, count - hits)
    return low, high


def _beta_quantile(p: float, a: float, b: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _incomplete_beta(middle, a, b) < p else (low, middle)
    return (low + high) / 2
