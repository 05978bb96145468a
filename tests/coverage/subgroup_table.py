"""The worlds of patients and values that are simulated, and what a line of their table says of each."""

import numpy as np
from tests.coverage.simulate import CONFIDENCE, simulate
from tests.coverage.subgroup_worlds import Cohort, of_identity, of_index, of_subgroups

# What is said of each world, what is asked of it, and the world.
LINES = (
    ("200 queries, values of 70 and 30 %", of_subgroups, Cohort(200, 500, grouped=False, values=(0.7, 0.3))),
    (
        "100 patients of 1 to 4 images, 70 and 30 %",
        of_subgroups,
        Cohort(100, 500, images=4, values=(0.7, 0.3)),
    ),
    ("70 patients of 1 to 6 images, 80 and 20 %", of_subgroups, Cohort(70, 500, images=6, values=(0.8, 0.2))),
    (
        "100 patients, 6 images where they have the one value, else 1",
        of_subgroups,
        Cohort(100, 500, images=6, values=(0.7, 0.3), more_of_first=True),
    ),
    (
        "60 patients of 1 to 6 images, each image its value",
        of_subgroups,
        Cohort(60, 500, images=6, mixed=True),
    ),
    (
        "100 patients of 1 to 4 images, values look different",
        of_subgroups,
        Cohort(100, 500, images=4, shift=3.0),
    ),
    (
        "150 queries, 3 columns of 5 values",
        of_subgroups,
        Cohort(150, 500, grouped=False, values=(0.3, 0.3, 0.2, 0.1, 0.1), columns=3),
    ),
    ("156 images, values of 50 and 50 %", of_subgroups, Cohort(156, grouped=False)),
    ("156 images, values look different", of_subgroups, Cohort(156, grouped=False, shift=3.0)),
    (
        "156 images, 3 columns, 70 and 30 %",
        of_subgroups,
        Cohort(156, grouped=False, values=(0.7, 0.3), columns=3),
    ),
    ("100 patients of 1 to 4 images, 70 and 30 %", of_subgroups, Cohort(100, images=4, values=(0.7, 0.3))),
    (
        "80 patients of 1 to 4 images, each image its value",
        of_subgroups,
        Cohort(80, images=4, mixed=True, shift=1.0),
    ),
    ("100 patients of 1 to 4 images", of_index, Cohort(100, 500, images=4, shift=2.0)),
    ("30 queries", of_index, Cohort(30, 500, grouped=False, shift=3.0)),
    ("156 images", of_index, Cohort(156, grouped=False, shift=3.0)),
    ("100 patients of 1 to 4 images", of_index, Cohort(100, images=4, shift=2.0)),
    ("60 patients of 1 to 4 images", of_identity, Cohort(60, 500, images=4, own=True)),
)
NAMES = {
    of_subgroups: "score of the last value, worst gap",
    of_index: "robustness index",
    of_identity: "first result of the same patient",
}
HEADER = ["protocol", "sample", "number", "mean", "interval", "samples without one", "false alarms"]


def line_of(number: int, samples: int, seed: int) -> list[str]:
    """The cells of one line."""
    said, procedure, world = LINES[number]
    found = simulate(procedure, world, samples, seed)
    truth = float(np.nanmean([one.value for one in found]))
    given = [one.interval for one in found if one.interval is not None]
    covered = 100 * float(np.mean([low <= truth <= high for low, high in given])) if given else np.nan
    tested = [one.p for one in found if one.p is not None]
    alarms = 100 * float(np.mean([p < 1 - CONFIDENCE + 1e-12 for p in tested])) if tested else None
    without = 100 * (1 - len(given) / len(found))
    numbers = (
        f"{truth:.3f}",
        f"{covered:.1f}",
        f"{without:.0f} %",
        "" if alarms is None else f"{alarms:.1f}",
    )
    return [world.protocol, said, NAMES[procedure], *numbers]
