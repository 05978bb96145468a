"""`make numbers`: write the tables of numbers into the pages (see `tests.numbers.tables`)."""

import re
import tempfile
from functools import partial

from tests.numbers.tables import BLOCK, REPOSITORY, TABLES, Runs, pages


def _made(match: re.Match[str], runs: Runs) -> str:
    name = match[1]
    return f"<!-- numbers: {name} -->\n\n{TABLES[name](runs)}\n\n<!-- end of numbers -->"


def main() -> None:
    with tempfile.TemporaryDirectory() as outputs:
        runs = Runs([f"paths.outputs={outputs}"])
        for path in pages():
            path.write_text(BLOCK.sub(partial(_made, runs=runs), path.read_text()))
            print(f"written: {path.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
