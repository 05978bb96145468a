"""`make coverage`: how often the project's intervals hold the truth, and how often equal encoders differ.

Every procedure that prints an interval of a score or a p-value of a difference is tried on samples of worlds
whose truth is known. The table is printed, and written into docs/trust.md between its markers.
"""

import argparse
import functools
import multiprocessing
import os
from pathlib import Path

from tests.coverage import subgroup_table
from tests.coverage.table import HEADER, MANY, ONE_SET, TWO_SETS, line_of

from medretrieval.runs.tables import markdown

PAGE = Path(__file__).resolve().parents[2] / "docs" / "trust.md"
BEGIN, END = "<!-- coverage: made by `make coverage` -->", "<!-- end of coverage -->"
BEGIN_SUBGROUPS = "<!-- coverage of subgroups: made by `make coverage` -->"


def written(page: str, table: str, begin: str = BEGIN) -> str:
    """The page with the table between its markers."""
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n\n{table}\n\n{END}{rest.partition(END)[2]}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="make coverage", description=__doc__)
    parser.add_argument("--samples", type=int, default=500, help="of each world")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=TABLES, help="one of the tables; both where it is not given")
    args = parser.parse_args()
    # A process for each core, and a thread for each process.
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    for name in [args.only] if args.only else TABLES:
        _write(name, args.samples, args.seed)


TABLES = {
    "runs": (BEGIN, line_of, HEADER, [*ONE_SET, *TWO_SETS, *MANY]),
    "subgroups": (
        BEGIN_SUBGROUPS,
        subgroup_table.line_of,
        subgroup_table.HEADER,
        range(len(subgroup_table.LINES)),
    ),
}


def _write(name: str, samples: int, seed: int) -> None:
    begin, one, header, tasks = TABLES[name]
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        rows = []
        for row in pool.imap(functools.partial(one, samples=samples, seed=seed), tasks):
            print("  ".join(row), flush=True)
            rows.append(row)
    error = 100 * (0.05 * 0.95 / samples) ** 0.5
    command = "make coverage" if name == "runs" else f'make coverage ARGS="--only {name}"'
    said = (
        f"`{command}` (seed {seed}, {samples} samples a line; the luck of the simulation is "
        f"{error:.1f} points at 95 % and at 5 %):"
    )
    PAGE.write_text(written(PAGE.read_text(), f"{said}\n\n{markdown(header, rows)}", begin))


if __name__ == "__main__":
    main()
