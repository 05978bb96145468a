"""`make numbers`: write the tables of numbers into the pages (see `tests.numbers.tables`).

`python -m tests.numbers "learning curve by image"` writes those that are named.
"""

import re
import sys
import tempfile
from functools import partial

from tests.numbers.tables import BLOCK, REPOSITORY, TABLES, Runs, pages


def _made(match: re.Match[str], runs: Runs, wanted: list[str]) -> str:
    name = match[1]
    if wanted and name not in wanted:
        return match[0]
    return f"<!-- numbers: {name} -->\n\n{TABLES[name](runs)}\n\n<!-- end of numbers -->"


def main(wanted: list[str]) -> None:
    if unknown := set(wanted) - set(TABLES):
        sys.exit(f"no such table: {', '.join(sorted(unknown))}; choose from: {', '.join(sorted(TABLES))}")
    with tempfile.TemporaryDirectory() as outputs:
        runs = Runs([f"paths.outputs={outputs}"])
        for path in pages():
            path.write_text(BLOCK.sub(partial(_made, runs=runs, wanted=wanted), path.read_text()))
            print(f"written: {path.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main(sys.argv[1:])
