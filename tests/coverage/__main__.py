"""`make coverage`: how often the project's intervals hold the truth, and how often equal encoders differ.

Every procedure that prints an interval of a score or a p-value of a difference is tried on samples of worlds
whose truth is known. The table is printed, and written into docs/trust.md between its markers.
"""

import argparse
import functools
import multiprocessing
import os
from pathlib import Path

from tests.coverage import stage_table, subgroup_table
from tests.coverage.power import POWER_HEADER, WORLDS, power_line
from tests.coverage.table import HEADER, MANY, ONE_SET, TWO_SETS, line_of

from medretrieval.runs.tables import markdown

PAGE = Path(__file__).resolve().parents[2] / "docs" / "trust.md"
# Part -> the markers that its table stands between.
MARKERS = {
    "intervals": ("<!-- coverage: made by `make coverage` -->", "<!-- end of coverage -->"),
    "subgroups": ("<!-- coverage of subgroups: made by `make coverage` -->", "<!-- end of subgroups -->"),
    "stages": ("<!-- coverage of stages: made by `make coverage` -->", "<!-- end of stages -->"),
    "power": ("<!-- power: made by `make coverage` -->", "<!-- end of power -->"),
}
# Part -> what makes a line of its table, the header, the lines, and the share that it tells, in percent.
TABLES = {
    "intervals": (line_of, HEADER, [*ONE_SET, *TWO_SETS, *MANY], 95),
    "subgroups": (subgroup_table.line_of, subgroup_table.HEADER, range(len(subgroup_table.LINES)), 95),
    "stages": (stage_table.line_of, stage_table.HEADER, range(len(stage_table.LINES)), 95),
    "power": (power_line, POWER_HEADER, WORLDS, 80),
}


def written(page: str, table: str, part: str = "intervals") -> str:
    """The page with a part's table between its markers."""
    begin, end = MARKERS[part]
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n\n{table}\n\n{end}{rest.partition(end)[2]}"


def rows_of(line, tasks) -> list[list[str]]:
    """The lines of a table, a process for each core, and a thread for each process."""
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        rows = []
        for row in pool.imap(line, tasks):
            print("  ".join(row), flush=True)
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="make coverage", description=__doc__)
    parser.add_argument("--samples", type=int, default=500, help="of each world")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=tuple(TABLES), help="one of the tables; all where it is not given")
    args = parser.parse_args()
    for part in [args.only] if args.only else TABLES:
        line, header, tasks, percent = TABLES[part]
        rows = rows_of(functools.partial(line, samples=args.samples, seed=args.seed), tasks)
        error = 100 * (percent / 100 * (1 - percent / 100) / args.samples) ** 0.5
        at = f"{percent} %" if percent == 80 else "95 % and at 5 %"
        said = (
            f'`make coverage ARGS="--only {part}"` (seed {args.seed}, {args.samples} samples a line; the '
            f"luck of the simulation is {error:.1f} points at {at}):"
        )
        PAGE.write_text(written(PAGE.read_text(), f"{said}\n\n{markdown(header, rows)}", part))


if __name__ == "__main__":
    main()
