"""Every number of the README's table is made again by its command; its commands are composed by test_docs."""

from pathlib import Path

import pytest
from tests.pages import overrides

from medretrieval import run

README = (Path(__file__).parent.parent / "README.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in README.splitlines()
    if line.startswith("|") and "`medretrieval" in line
]
LINES = 150


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(row[:2]))
def test_every_number_is_what_its_command_gives(row, config, real_root, tmp_path_factory):
    cache = tmp_path_factory.getbasetemp() / "cache of the readme"
    command = row[-1].strip("`")
    places = (f"paths.data={real_root}", f"paths.cache={cache}")
    scores = run(config(*overrides(command), *places)).report.scores
    said = [float(cell) for cell in row[2:5]]
    # Convolutions differ in the last bits between machines, which can swap neighbors.
    assert [scores[n] for n in ("precision_at_5", "map", "chance_precision")] == pytest.approx(said, abs=2e-3)


def test_the_table_of_numbers_is_there():
    assert len(ROWS) >= 4


def test_it_is_read_in_one_go():
    assert len(README.splitlines()) <= LINES
