"""One table of scores: what stands in it is true, and the documentation says what it says."""

from pathlib import Path

import numpy as np
import pytest

from medretrieval.evaluate import score_page
from medretrieval.evaluate.score_table import (
    SCORES,
    Needs,
    find,
    is_headline,
    less_is_better,
    reported_scores,
)

REPOSITORY = Path(__file__).resolve().parents[2]
KINDS = ("single", "multi", "ordinal")


@pytest.mark.parametrize("page", ["README.md", "docs/scores.md"])
def test_the_pages_have_the_tables_that_the_table_of_scores_gives(page):
    text = (REPOSITORY / page).read_text()
    assert score_page.filled_in(text) == text, f"make docs writes {page} anew"


def test_a_page_without_markers_is_refused(tmp_path):
    (tmp_path / "a.md").write_text("no table here")
    with pytest.raises(ValueError, match=r"a.md: no line '<!-- scores:begin -->'"):
        score_page.rewrite(tmp_path / "a.md")


def test_rewriting_changes_what_is_between_the_markers_and_nothing_else(tmp_path):
    page = tmp_path / "a.md"
    page.write_text("before\n<!-- scores:begin -->\nold\n<!-- scores:end -->\nafter\n")
    score_page.rewrite(page)
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert len(lines) == 4 + 2 + len(SCORES)
    assert "old" not in lines


def test_every_score_is_found_by_the_names_that_runs_report():
    for kind in KINDS:
        for name, score, _ in reported_scores([1, 5, 100], kind):
            assert find(name) is score, name
            assert is_headline(name) == score.headline
            assert less_is_better(f"macro_{name}") == score.less_is_better


def test_what_is_no_score_has_no_entry():
    assert [find(name) for name in ("precision_at_", "precision", "map_at_x", "xmap", "macro_map")] == [
        None
    ] * 5
    assert not is_headline("seconds")


def test_names_are_unique_and_every_entry_says_what_it_is():
    assert len({score.name for score in SCORES}) == len(SCORES)
    for score in SCORES:
        assert score.meaning
        assert score.formula
        assert score.is_chance == (score.of_query is None and score.of_votes is None)
        assert not (score.of_query and score.of_votes), score.name
        assert score.label_types


def test_what_needs_more_than_the_first_k_has_a_closed_form_or_no_chance():
    # Random rankings are drawn as deep as ks and votes go, no deeper.
    deep = [score for score in SCORES if score.needs not in (Needs.FIRST_K, Needs.VOTERS)]
    assert deep
    assert not [score.name for score in deep if score.is_drawn]


def test_the_direction_of_a_score_is_that_of_ideal_votes():
    from medretrieval.evaluate.knn_vote import Vote

    labels = np.arange(40) % 4
    ideal = Vote(np.eye(4)[labels], labels)
    wrong = Vote(np.eye(4)[(labels + 1) % 4], (labels + 1) % 4)
    for score in SCORES:
        if score.of_votes is not None:
            best, worst = score.of_votes(ideal, labels), score.of_votes(wrong, labels)
            assert (best < worst) == score.less_is_better, score.name
