"""`make coverage`: how often the project's intervals hold the truth, and how often equal encoders differ.

Every procedure that prints an interval of a score or a p-value of a difference is tried on samples of worlds
whose truth is known. The table is printed, and written into docs/trust.md between its markers.
"""

import argparse
import functools
import multiprocessing
import os
from pathlib import Path

from tests.coverage.power import POWER_HEADER, WORLDS, power_line
from tests.coverage.table import HEADER, MANY, ONE_SET, TWO_SETS, line_of

from medretrieval.runs.tables import markdown

PAGE = Path(__file__).resolve().parents[2] / "docs" / "trust.md"
# Part -> the markers that its table stands between.
MARKERS = {
    "intervals": ("<!-- coverage: made by `make coverage` -->", "<!-- end of coverage -->"),
    "power": ("<!-- power: made by `make coverage` -->", "<!-- end of power -->"),
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
    parser.add_argument("--only", choices=tuple(MARKERS), help="one of the two tables")
    args = parser.parse_args()
    settings = {"samples": args.samples, "seed": args.seed}
    said = f"`make coverage` (seed {args.seed}, {args.samples} samples a line; the luck of the simulation is"
    if args.only != "power":
        rows = rows_of(functools.partial(line_of, **settings), [*ONE_SET, *TWO_SETS, *MANY])
        error = 100 * (0.05 * 0.95 / args.samples) ** 0.5
        table = f"{said} {error:.1f} points at 95 % and at 5 %):\n\n{markdown(HEADER, rows)}"
        PAGE.write_text(written(PAGE.read_text(), table))
    if args.only != "intervals":
        rows = rows_of(functools.partial(power_line, **settings), WORLDS)
        error = 100 * (0.8 * 0.2 / args.samples) ** 0.5
        table = f"{said} {error:.1f} points at 80 %):\n\n{markdown(POWER_HEADER, rows)}"
        PAGE.write_text(written(PAGE.read_text(), table, "power"))


if __name__ == "__main__":
    main()
