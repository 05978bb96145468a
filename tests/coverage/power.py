"""The power that `medretrieval plan` says, and how often the tests of `compare` show the difference.

In each world the last of two encoders sees nothing of some of the images, of so many that the true difference
is the smallest one that the plan names for 80 % power. Then new samples are tested.
"""

from dataclasses import dataclass, replace

import numpy as np
from tests.coverage.simulate import CONFIDENCE, RESAMPLES, World, _column, _searched, _task, simulate

from medretrieval.uncertainty.half_intervals import difference_p, spread
from medretrieval.uncertainty.power import Spread, of_pair
from medretrieval.uncertainty.sign_flips import sign_flips

POWER = 0.8
TUNING_SAMPLES = 60  # by which the true difference is set
STEPS = 5  # of regula falsi, on the share of images that one encoder does not see
POWER_HEADER = [
    "protocol", "sample", "score", "smallest difference", "true difference", "power said", "called different",
]  # fmt: skip
WORLDS = (
    ("30 queries", World(30, 400, apart=2.5)),
    ("60 queries", World(60, 400, apart=2.5)),
    ("200 queries", World(200, 400)),
    ("200 queries", World(200, 400, score="precision_at_1")),
    ("240 queries, groups of 4", World(240, 400, group=4)),
    ("100 images", World(100, apart=2.5)),
)


@dataclass(frozen=True)
class Sampled:
    """A sample of two encoders: the difference seen, what the plan takes for its spread, and the test's p."""

    difference: float
    spread: Spread
    p: float


def sampled(world: World, rng, seed: int = 0) -> Sampled:
    """Score both encoders on a sample and test their difference as `compare` does."""
    task, queries, gallery = _task(world, rng, seed)
    found = [_searched(world, task, *sides) for sides in zip(queries, gallery, strict=True)]
    values = np.stack([side[0] for side in found], axis=1)
    halves, groups = [side[1] for side in found], task.queries.groups
    difference = float(np.nanmean(values[:, 0]) - np.nanmean(values[:, 1]))
    if halves[0] is None:
        p = sign_flips(values, RESAMPLES - 1, 0, groups).p(0, 1)
        return Sampled(difference, of_pair(values, groups), p)
    apart, sides = _column(world, halves[0]) - _column(world, halves[1]), halves[0].sides
    error, freedom = spread(apart, sides)
    return Sampled(difference, Spread(error, freedom, sides.shape[1]), difference_p(difference, apart, sides))


def smallest(samples: list[Sampled]) -> float:
    """The mean of what the plan names from each sample."""
    return float(np.mean([s.spread.smallest(1 - CONFIDENCE, POWER) for s in samples]))


def tuned(world: World, seed: int) -> World:
    """The world in which the true difference is the smallest one that the plan names."""

    def missing(blind: float) -> float:
        samples = simulate(sampled, replace(world, blind=blind), TUNING_SAMPLES, seed)
        return smallest(samples) - float(np.mean([s.difference for s in samples]))

    low, high = (0.0, missing(0.0)), (1.0, missing(1.0))
    for _ in range(STEPS):
        blind = low[0] + (high[0] - low[0]) * low[1] / (low[1] - high[1])
        middle = (blind, missing(blind))
        low, high = (middle, high) if middle[1] > 0 else (low, middle)
    return replace(world, blind=blind)


def power_line(task: tuple[str, World], samples: int, seed: int) -> list[str]:
    """The cells of one world."""
    said, world = task
    found = simulate(sampled, tuned(world, seed + 1), samples, seed)
    truth = float(np.mean([s.difference for s in found]))
    power = float(np.mean([s.spread.power(truth, 1 - CONFIDENCE) for s in found]))
    shown = float(np.mean([s.p < 1 - CONFIDENCE + 1e-12 for s in found]))
    protocol = "query_gallery" if world.gallery else "leave_one_out"
    numbers = (f"{smallest(found):.4f}", f"{truth:.4f}", f"{100 * power:.1f}", f"{100 * shown:.1f}")
    return [protocol, said, world.score, *numbers]
