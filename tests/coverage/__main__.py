"""`make coverage`: how often the project's intervals hold the truth, and how often equal encoders differ.

Every procedure that prints an interval of a score or a p-value of a difference is tried on samples of worlds
whose truth is known. The table is printed, and written into docs/trust.md between its markers.
"""

import argparse
import functools
import multiprocessing
import os
from pathlib import Path

from tests.coverage.table import HEADER, MANY, ONE_SET, TWO_SETS, line_of

from medretrieval.runs.tables import markdown

PAGE = Path(__file__).resolve().parents[2] / "docs" / "trust.md"
BEGIN, END = "<!-- coverage: made by `make coverage` -->", "<!-- end of coverage -->"


def written(page: str, table: str) -> str:
    """The page with the table between its markers."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="make coverage", description=__doc__)
    parser.add_argument("--samples", type=int, default=500, help="of each world")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    tasks = [*ONE_SET, *TWO_SETS, *MANY]
    one = functools.partial(line_of, samples=args.samples, seed=args.seed)
    # A process for each core, and a thread for each process.
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        rows = []
        for row in pool.imap(one, tasks):
            print("  ".join(row), flush=True)
            rows.append(row)
    error = 100 * (0.05 * 0.95 / args.samples) ** 0.5
    said = (
        f"`make coverage` (seed {args.seed}, {args.samples} samples a line; the luck of the simulation is "
        f"{error:.1f} points at 95 % and at 5 %):"
    )
    PAGE.write_text(written(PAGE.read_text(), f"{said}\n\n{markdown(HEADER, rows)}"))


if __name__ == "__main__":
    main()
