from pathlib import Path

import pytest

from medretrieval.errors import UserError
from medretrieval.evaluate.score_docs import full_table, main, short_table, with_tables
from medretrieval.evaluate.score_table import SCORES

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")])
PAGE = """before
<!-- scores-short:begin -->
old
<!-- scores-short:end -->
between
<!-- scores:begin --><!-- scores:end -->
after
"""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_of_scores_are_up_to_date(page):
    text = page.read_text(encoding="utf-8")
    assert with_tables(text) == text, f"python -m medretrieval.evaluate.score_docs {page.name}"


def test_the_page_of_scores_names_each_of_them():
    text = (REPOSITORY / "docs" / "scores.md").read_text(encoding="utf-8")
    assert [s.name for s in SCORES if f"| `{s.name.replace('{k}', 'K')}` |" not in text] == []


@pytest.mark.parametrize("table", [full_table, short_table])
def test_every_row_has_as_many_cells_as_the_header(table):
    lines = table().splitlines()
    headline = [score for score in SCORES if score.headline]
    assert len(lines) == 2 + len(SCORES if table is full_table else headline)
    assert len({line.replace(r"\|", "").count("|") for line in lines}) == 1


def test_only_what_stands_between_the_markers_changes(tmp_path, capsys):
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    main([str(path)])
    text = path.read_text()
    assert "old" not in text
    assert text.index(short_table()) < text.index("between") < text.index(full_table()) < text.index("after")
    assert capsys.readouterr().out == f"{path}: tables of scores written\n"
    main([str(path)])
    assert path.read_text() == text
    assert capsys.readouterr().out == ""


def test_a_page_without_markers_stays_as_it_is():
    assert with_tables("| no | table |\n") == "| no | table |\n"


@pytest.mark.parametrize(
    "text", ["<!-- scores:begin -->", "<!-- scores:end -->", "<!-- scores:end --><!-- scores:begin -->"]
)
def test_a_marker_alone_is_refused(text, tmp_path):
    with pytest.raises(UserError, match="one of them is missing"):
        with_tables(text)
    path = tmp_path / "page.md"
    path.write_text(text)
    with pytest.raises(SystemExit, match=r"page\.md: .*one of them is missing"):
        main([str(path)])
