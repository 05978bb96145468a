"""Curves over severities in the report: which runs are joined by a line, and what is said of them."""

import re

import pytest
from tests.report_runs import BASE

from medretrieval import compose, run
from medretrieval.report import charts
from medretrieval.report.gather import gather
from medretrieval.report.page import render
from medretrieval.report.robustness.lines import robustness
from medretrieval.track.find_runs import load_run

FACTS = {"title": "Report", "made": "today", "version": "0", "command": "medretrieval report s"}
CHOICES = {
    "clean": ("encoder=pixels",),
    "noise1": ("encoder=pixels", "dataset.corrupt=noise@1"),
    "noise4": ("encoder=pixels", "dataset.corrupt=noise@4"),
    "other seed": ("encoder=pixels", "dataset.corrupt=noise@3", "dataset.seed=1"),
    "random clean": ("encoder=random",),
    "random noise2": ("encoder=random", "dataset.corrupt=noise@2"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    top = tmp_path_factory.mktemp("sweep")
    places = (f"paths.outputs={top}", f"paths.cache={top / 'cache'}", "figures.enabled=false")
    quick = (*BASE, *places, "evaluation.resamples=100", "evaluation.objective=map_at_3")
    folders = {name: run(compose(*quick, *words), top / name).folder for name, words in CHOICES.items()}
    return {name: load_run(folder, name) for name, folder in folders.items()}


def test_runs_of_other_settings_or_data_are_in_no_line_together(runs):
    found = robustness(list(runs.values()))
    lines = [line for one in found for line in one.lines]
    assert [(len(one.lines), one.scores) for one in found] == [
        (2, ["map_at_3", "precision_at_3"]),
        (1, ["map_at_3", "precision_at_3"]),
    ]
    assert [sorted(line.runs) for line in lines] == [[0, 1, 4], [0, 2], [3]]
    assert [line.name for line in found[0].lines] == ["pixels", "random"]
    assert {line.corruption for line in lines} == {"noise"}


def test_a_line_has_the_runs_own_scores_and_what_is_kept_of_the_clean_one(runs):
    line = robustness(list(runs.values()))[0].lines[0]
    clean, *worse = (runs[name].report.scores["map_at_3"] for name in ("clean", "noise1", "noise4"))
    assert line.values("map_at_3") == dict(zip((0, 1, 4), (clean, *worse), strict=True))
    assert line.mean("map_at_3") == pytest.approx(sum(worse) / 2)
    assert line.kept("map_at_3") == pytest.approx(sum(worse) / 2 / clean)
    assert line.severities == [1, 4]
    alone = robustness([runs["noise1"]])[0]
    assert (alone.lines[0].clean("map_at_3"), alone.lines[0].kept("map_at_3")) == (None, None)
    assert alone.charts == []


def test_a_report_without_corrupted_queries_has_no_such_section(runs, tmp_path):
    content = gather([runs["clean"], runs["random clean"]], tmp_path)
    assert content.robustness == []
    assert "Worse query images" not in render(content, FACTS, [])


def test_the_page_shows_the_curves_with_their_intervals_and_says_them_in_words(runs, tmp_path):
    content = gather(list(runs.values()), tmp_path)
    page = render(content, FACTS, [])
    assert page.count('<h2 id="b') == 2
    for score in ("map_at_3", "precision_at_3"):
        assert f"{score} under noise</title>" in page
    charted = content.robustness[0].charts[0]
    clean = runs["clean"].report
    assert f"pixels: 0: {clean.scores['map_at_3']:.4f}, 1: " in charted
    assert "severity of noise (0: clean)" in charted
    assert 'role="img"' in charted
    assert charted.count('class="around"') == 2
    # The band of the pixels: three points up and three back.
    band = re.search(r'class="around" points="([^"]*)"', charted)[1].split()
    assert len(band) == 6
    assert [point.partition(",")[0] for point in band[:3]] == [p.partition(",")[0] for p in band[:2:-1]]
    assert "Share of the clean score" in page
    assert "clean queries" in page  # headings tell the groups apart
    assert "queries with noise@4" in page


def test_a_chart_holds_every_point_and_chance_within_its_frame():
    lines = [
        charts.Band(0, "a", [(0, 0.9, 0.8, 0.95), (5, 0.2, 0.1, 0.3)], 0.15),
        charts.Band(1, "b", [(0, 0.7, None, None), (3, 0.6, None, None)], 0.15),
    ]
    chart = charts.bands(lines, ("severity", "precision"), "precision under noise", "k1")
    points = [tuple(map(float, p.split(","))) for p in re.findall(r"[\d.]+,[\d.]+", chart)]
    assert all(0 <= x <= charts.WIDTH and 0 <= y <= charts.HEIGHT for x, y in points)
    assert chart.count("<polyline points") == 2
    ticks = re.findall(r'text-anchor="middle">(\d)</text>', chart)
    assert ticks == ["0", "1", "2", "3", "4", "5"]
    assert chart.count('<polyline class="chance"') == 1
    assert 'aria-labelledby="k1-t k1-d"' in chart
    assert "A random ranking scores 0.1500." in chart
