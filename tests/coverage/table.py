"""The worlds that are simulated, and what a line of the table says of each."""

import numpy as np
from tests.coverage.simulate import RAREST, World, answers, any_alarm, rates, simulate

from medretrieval.config import Resample

FOUR = (0.6, 0.3, 0.07, 0.03)
RARE = (0.45, 0.3, 0.15, 0.1)
# What is said of each world, and the world.
ONE_SET = (
    ("30 images", World(30)),
    ("50 images", World(50, score="precision_at_1")),
    ("50 images", World(50, dimension=2)),
    ("50 images, 10 % in one class", World(50, classes=(0.1, 0.9))),
    ("156 images", World(156, score="precision_at_1")),
    ("156 images", World(156)),
    ("156 images, 10 % in one class", World(156, classes=(0.1, 0.9))),
    ("156 images", World(156, score="precision_at_50")),
    ("156 images", World(156, score="recall_at_5")),
    ("156 images", World(156, score="hit_rate_at_5")),
    ("156 images", World(156, score="ndcg_at_5")),
    ("156 images", World(156, score="mrr")),
    ("156 images", World(156, score="map")),
    ("156 images, score near 1", World(156, score="precision_at_1", apart=5.0)),
    ("624 images, classes of 45, 30, 15, 10 %", World(624, score="macro_precision_at_5", classes=RARE)),
    ("156 images, corrupted as queries", World(156, corrupted=1.0)),
    ("240 images, groups of 4", World(240, group=4)),
    ("156 images, 20 % in one class", World(156, score=f"{RAREST}precision_at_5", classes=(0.8, 0.2))),
    ("624 images", World(624)),
    ("624 images", World(624, dimension=2, score="precision_at_50")),
)
TWO_SETS = (
    ("12 queries, gallery of 2,000", World(12, 2000)),
    ("50 queries", World(50, 2000, score="precision_at_1")),
    ("50 queries, score near 1", World(50, 2000, score="precision_at_1", apart=3.5)),
    ("200 queries", World(200, 2000)),
    ("200 queries", World(200, 2000, score="recall_at_5")),
    ("200 queries, score near 1", World(200, 2000, score="precision_at_1", apart=4.5)),
    ("60 queries, groups of 4", World(60, 2000, group=4)),
    ("240 queries, groups of 4", World(240, 2000, group=4)),
    (
        "200 queries, classes of 60, 30, 7, 3 %",
        World(200, 2000, score="macro_precision_at_5", classes=FOUR),
    ),
    ("200 queries, 10 % in one class", World(200, 2000, score=f"{RAREST}precision_at_5", classes=(0.9, 0.1))),
    ("200 queries, gallery of 200", World(200, 200)),
    ("the same, against new galleries", World(200, 200, new_gallery=True)),
    ("the same, resample=both", World(200, 200, new_gallery=True, resample=Resample.both)),
    ("100 queries, gallery of 400, resample=both", World(100, 400, new_gallery=True, resample=Resample.both)),
)
MANY = (
    ("200 queries, 12 encoders", World(200, 2000, encoders=12)),
    ("156 images, 6 encoders", World(156, encoders=6)),
)
HEADER = [
    "protocol",
    "sample",
    "d",
    "score",
    "mean",
    "interval",
    "difference",
    "false alarms",
    "queries alone",
]


def line_of(task: tuple[str, World], samples: int, seed: int) -> list[str]:
    """The cells of one world; the last is what a bootstrap of the queries alone would do."""
    said, world = task
    protocol = "query_gallery" if world.gallery else "leave_one_out"
    begin = [protocol, said, str(world.dimension), world.score]
    if world.encoders > 2:
        alarms = 100 * float(np.mean(simulate(any_alarm, world, samples, seed)))
        return [*begin, "", "", "", f"{alarms:.1f} (any pair)", ""]
    pairs = simulate(answers, world, samples, seed)
    ours, alone = (rates([pair[i] for pair in pairs]) for i in (0, 1))
    numbers = (ours.covered, ours.difference_covered, ours.false_alarms)
    other = not world.gallery or world.resample is Resample.both
    return [
        *begin,
        f"{ours.truth:.3f}",
        *(f"{number:.1f}" for number in numbers),
        f"{alone.covered:.1f}, {alone.false_alarms:.1f}" if other else "",
    ]
