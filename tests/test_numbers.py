"""Every table of numbers that a page marks is what its commands give."""

import re

import pytest
from tests.numbers.tables import BLOCK, NUMBER, REPOSITORY, TABLES, Runs, in_words, pages

BLOCKS = [
    (path.relative_to(REPOSITORY).as_posix(), *block)
    for path in pages()
    for block in BLOCK.findall(path.read_text())
]
# Convolutions differ in the last bits between machines, which can swap neighbors: a query or two of 624.
FAR = 4e-3
FAR_P = 0.1  # where p stands in the table: a query or two move it so far
MOST_IMAGES = 2
# Where a published value lies beside a run's interval, and how far that may move, in percentage points:
# as far as the scores of such tables, 1 %.
POSITION = re.compile(r"\binside\b|\b(above|below) by ([\d.]+)")
FAR_POSITION = 0.9
# First word of a table's name -> what its commands read beside PneumoniaMNIST, and how long they take.
NEEDED = {
    "covid": "covid_cxr",
    "dual": "covid_cxr",
    "ham": "ham10000",
    "reranking": "pneumoniamnist.npz",
    "retina": "retinamnist.npz",
    "views": "retinamnist.npz",
    "adaptation": "retinamnist.npz",
    "learning": "ham10000",
}
# The tables that CI makes again; the others take a quarter of an hour together, and are made by hand.
IN_CI = ("encoder scores",)
MOST_WITHOUT_P = 4  # numbers in a line without p, where a table has one


@pytest.fixture(scope="module")
def runs(real_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("numbers")
    return Runs([f"paths.data={real_root}", f"paths.cache={folder}/cache", f"paths.outputs={folder}/outputs"])


def test_every_table_stands_in_a_page_and_the_other_way_round():
    assert sorted(name for _, name, _ in BLOCKS) == sorted(TABLES)


def _positions_as_numbers(text):
    return POSITION.sub(lambda m: {None: "0.00", "above": m[2], "below": f"-{m[2]}"}[m[1]], text)


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize(
    ("page", "name", "table"),
    [
        pytest.param(*block, marks=() if block[1] in IN_CI else pytest.mark.large, id=block[1])
        for block in BLOCKS
    ],
)
def test_a_table_is_what_its_commands_give(runs, real_root, page, name, table):
    folder = NEEDED.get(name.split()[0])
    if folder is not None and not (real_root / folder).exists():
        pytest.skip(f"{folder} is not beside pneumoniamnist.npz")
    made = TABLES[name](runs)
    placed = {line for text in (table, made) for line in text.splitlines() if POSITION.search(line)}
    table, made = _positions_as_numbers(table), _positions_as_numbers(made)
    placed = {_positions_as_numbers(line) for line in placed}
    # The last column says on which side of 0.05 a p lies, which p itself is compared for.
    plain = [re.sub(r"\b(yes|no)\b", "#", NUMBER.sub("#", text)) for text in (table, made)]
    assert plain[0].replace("|", " | ").split() == plain[1].replace("|", " | ").split()
    ps = 2 if "p corrected" in table else int("| p |" in table)  # the last columns with numbers
    for line, again in zip(table.strip().splitlines(), made.strip().splitlines(), strict=True):
        shown, found = NUMBER.findall(line), NUMBER.findall(again)
        for i, (told, number) in enumerate(zip(shown, found, strict=True)):
            far = FAR_P if len(shown) > MOST_WITHOUT_P and i >= len(shown) - ps else FAR
            far = FAR_POSITION if line in placed else far
            # A whole number counts images; some of them are near to counting or not.
            near = {"abs": far, "rel": 0.01} if "." in told else {"abs": MOST_IMAGES, "rel": 0}
            assert float(told) == pytest.approx(float(number), **near)


@pytest.mark.slow
@pytest.mark.realdata
def test_the_words_of_the_readme_say_what_compare_gives(runs):
    text = " ".join((REPOSITORY / "README.md").read_text().split())
    begin = text.index("precision_at_5 of efficientnet_lite0 minus that of the pixels is")
    said = text[begin : text.index("Images of 28 x 28 pixels say nothing")].replace("95 % interval", "")
    found = [float(n) for n in re.findall(r"(?<![\w=])-?0\.\d+", said)]
    made = in_words(runs)
    assert found[:-2] == pytest.approx(made[:-2], abs=FAR)
    assert found[-2:] == pytest.approx(made[-2:], abs=FAR_P)  # p, and p corrected


@pytest.mark.slow
def test_make_run_prints_what_the_readme_shows(runs):
    block = (REPOSITORY / "README.md").read_text().split("prints\n\n```\n")[1].split("```")[0]
    report = runs.of()[0]
    shown = [line.split() for line in block.splitlines() if line.startswith(("precision", "map"))]
    assert len(shown) >= 3
    for cells in shown:
        name, numbers = cells[0], [float(cell) for cell in cells if NUMBER.fullmatch(cell)]
        ends = report.intervals[name]
        made = [report.scores[name], ends.low, ends.high, report.chance[name], report.lift[name]]
        assert numbers == pytest.approx([*made, report.baseline.scores[name]], abs=2e-2)
