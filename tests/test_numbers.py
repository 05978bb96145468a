"""Every table of numbers that a page marks is what its commands give."""

import pytest
from tests.numbers.tables import BLOCK, NUMBER, REPOSITORY, TABLES, Runs, pages

BLOCKS = [
    (path.relative_to(REPOSITORY).as_posix(), *block)
    for path in pages()
    for block in BLOCK.findall(path.read_text())
]
# Convolutions differ in the last bits between machines, which can swap neighbors: a query or two of 624.
FAR = 4e-3
FAR_P = 0.03  # where p stands in the table


@pytest.fixture(scope="module")
def runs(real_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("numbers")
    return Runs([f"paths.data={real_root}", f"paths.cache={folder}/cache", f"paths.outputs={folder}/outputs"])


def test_every_table_stands_in_a_page_and_the_other_way_round():
    assert sorted(name for _, name, _ in BLOCKS) == sorted(TABLES)


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize(("page", "name", "table"), BLOCKS, ids=[name for _, name, _ in BLOCKS])
def test_a_table_is_what_its_commands_give(runs, page, name, table):
    made = TABLES[name](runs)
    words = [" ".join(NUMBER.sub("#", text).replace("|", " | ").split()) for text in (table, made)]
    assert words[0] == words[1]
    shown, numbers = ([float(n) for n in NUMBER.findall(text)] for text in (table, made))
    far = FAR_P if "p corrected" in table else FAR
    assert shown == pytest.approx(numbers, abs=far, rel=FAR)
