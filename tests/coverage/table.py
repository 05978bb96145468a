"""The worlds that are simulated, and what a line of the table says of each."""

from tests.coverage.simulate import World, one_set, rates, simulate, two_sets

FOUR = (0.6, 0.3, 0.07, 0.03)
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
    ("156 images, classes of 60, 30, 7, 3 %", World(156, score="macro_precision_at_5", classes=FOUR)),
    ("240 images, groups of 4", World(240, group=4)),
    ("624 images", World(624)),
    ("624 images", World(624, dimension=2, score="precision_at_50")),
)
TWO_SETS = (
    ("200 queries, gallery of 2,000", World(200, 2000)),
    ("200 queries, score near 1", World(200, 2000, score="precision_at_1", apart=5.0)),
    ("240 queries, groups of 4", World(240, 2000, group=4)),
    (
        "200 queries, 4 classes of 60, 30, 7, 3 %",
        World(200, 2000, score="macro_precision_at_5", classes=FOUR),
    ),
    ("200 queries, gallery of 200", World(200, 200)),
    ("the same, against new galleries", World(200, 200, new_gallery=True)),
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


def of_one_set(said: str, world: World, samples: int, seed: int) -> list[str]:
    """A line of the table; the last column is what a bootstrap of the queries alone would do."""
    answers = simulate(one_set, world, samples, seed)
    ours, alone = (rates([pair[i] for pair in answers]) for i in (0, 1))
    return [*_cells("leave_one_out", said, world, ours), f"{alone.covered:.1f}, {alone.false_alarms:.1f}"]


def of_two_sets(said: str, world: World, samples: int, seed: int) -> list[str]:
    """A line of the table."""
    found = rates(simulate(two_sets, world, samples, seed))
    return [*_cells("query_gallery", said, world, found), ""]


def _cells(protocol, said, world, found):
    numbers = (found.covered, found.difference_covered, found.false_alarms)
    shown = [f"{found.truth:.3f}", *(f"{number:.1f}" for number in numbers)]
    return [protocol, said, str(world.dimension), world.score, *shown]


def line_of(task, samples, seed):
    """The cells of one world."""
    line, said, world = task
    return line(said, world, samples, seed)
