"""What is read in the terminal: the table of a run, that of a sweep, and one order of runs everywhere."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pyarrow import parquet
from tests.files import reseal

from medretrieval.evaluate import scores
from medretrieval.report.compare import Options, compare
from medretrieval.report.gather import gather
from medretrieval.runs.report import Objective, read_report
from medretrieval.runs.report_parts import ScoreInterval
from medretrieval.runs.tables import best_first, run_table, sweep_rows, sweep_table
from medretrieval.track.best_run import choose
from medretrieval.track.find_runs import load_run
from medretrieval.track.mlflow.notes import sweep_note

SCORE = "precision_at_3"


@pytest.fixture(scope="module")
def reports(finished_sweep):
    """Pixels with flat and with IVF, random vectors with both: equals but for last bits."""
    places = sorted((finished_sweep / "sweeps" / "s1").glob("[0-9]"))
    ends = (1e-16, 2e-16, 0.0, 3e-16)
    return [
        replace(read_report(place), objective=Objective(SCORE, 0.7 + end))
        for place, end in zip(places, ends, strict=True)
    ]


def test_of_equals_exact_search_wins_and_then_the_simpler_encoder_whatever_the_order(reports):
    simpler = sorted(("pixels", "random"), key=lambda name: name != "pixels")
    for shuffled in itertools.permutations(reports):
        found = [shuffled[i] for i in best_first(shuffled)]
        assert [r.index.name for r in found] == ["flat", "flat", "ivf", "ivf"]
        assert [r.encoder.name for r in found] == simpler * 2


def test_of_equals_fewer_settings_win_and_then_the_title(reports):
    flat = reports[0]
    more = replace(flat, protocol=replace(flat.protocol, center="train"), title="a")
    twins = [replace(flat, title="b"), replace(flat, title="a")]
    assert best_first([more, *twins]) == [2, 1, 0]


def test_a_better_score_wins_over_simplicity(reports):
    better = replace(reports[3], objective=Objective(SCORE, 0.8))
    assert best_first([reports[0], better]) == [1, 0]
    assert best_first([reports[0], better], values=[0.8, 0.7]) == [0, 1]


def test_every_place_names_the_same_best_of_equals(finished_sweep, tmp_path):
    sweep = tmp_path / "sweeps" / "s1"
    sources = sorted((finished_sweep / "sweeps" / "s1").glob("[0-9]"), reverse=True)
    for number, source in enumerate(sources):  # the best is the last to be read
        folder = sweep / str(number)
        shutil.copytree(source, folder, symlinks=True)
        content = json.loads((folder / "scores.json").read_text())
        content["objective"] = {"name": SCORE, "value": 0.7 + number * 1e-16}
        (folder / "scores.json").write_text(json.dumps(content))
        table = parquet.read_table(folder / "per_query.parquet")
        same = parquet.read_table(sources[0] / "per_query.parquet")[SCORE]
        table = table.set_column(table.schema.get_field_index(SCORE), SCORE, same)
        parquet.write_table(table, folder / "per_query.parquet")
        reseal(folder)
    runs = [load_run(folder, folder.name) for folder in sorted(sweep.glob("[0-9]"))]
    found = [run.report for run in runs]
    comparison = compare(runs, Options(SCORE, None, "best", 200, 200, 0.95, 0))
    assert comparison.names[0] == "pixels flat"
    assert gather(runs, sweep).groups[0].runs[0].name == "pixels flat"
    assert sweep_table(found).splitlines()[2].split()[:2] == ["pixels", "flat"]
    first = next(line for line in sweep_note("s1", "1", found).splitlines() if "0.7000" in line)
    assert first.startswith("| pixels | flat |")
    aside = tmp_path / "aside"
    aside.mkdir()
    assert choose("s1", "sqlite:////nowhere.db", tmp_path, aside).folder == (sweep / "3").resolve()


def test_seconds_say_what_came_from_the_cache(reports):
    flat = reports[0]
    fresh = replace(
        flat, encoder=replace(flat.encoder, cached=False), index=replace(flat.index, cached=False)
    )
    kept = replace(flat, encoder=replace(flat.encoder, cached=True), index=replace(flat.index, cached=True))
    assert "from the cache" not in run_table(fresh, Path("any"))
    assert "(from the cache: embeddings and index)" in run_table(kept, Path("any"))
    ends = [line.split()[-1] for line in sweep_table([fresh, kept]).splitlines()[2:4]]
    assert sorted(end == "cached" for end in ends) == [False, True]


def of_view(report, view, **changes):
    identity = {"kind": "timm"} | ({} if view is None else {"view": view})
    return replace(report, encoder=replace(report.encoder, identity=identity, name="net", **changes))


def test_runs_that_differ_in_their_view_are_told_apart(reports):
    flat = reports[0]
    both = [of_view(flat, "checkpoint"), of_view(flat, "whole"), flat]
    assert sweep_table(both).splitlines()[0].split()[:2] == ["encoder", "view"]
    rows = sweep_rows(both)
    assert sorted(row[rows[0].index("view")] for row in rows[1:]) == ["", "checkpoint", "whole"]
    # One view, and an encoder that has none: its name tells it from the others.
    assert "view" not in sweep_table([of_view(flat, "whole"), flat]).splitlines()[0].split()


# The table of one run


def run_of(report, values, **changes):
    """A report with these scores, each with chance and an interval of its own."""
    chance = {name: value / 2 for name, value in values.items()}
    intervals = {name: ScoreInterval(value * 0.9, value * 1.1) for name, value in values.items()}
    return replace(report, scores=values, chance=chance, intervals=intervals, baseline=None, **changes)


def rows_of(report):
    """First words of the table's rows, up to the value, and the lines below the table."""
    lines = run_table(report, Path("any")).splitlines()[5:]
    end = lines.index("")
    rows = {line.split("  ")[0]: line for line in lines[:end] if "  " in line}
    return rows, [line for line in lines[:end] if "  " not in line]


def test_what_is_one_number_at_depth_1_stands_once(reports):
    values = {"precision_at_1": 0.7, "recall_at_1": 0.2, "hit_rate_at_1": 0.7, "ndcg_at_1": 0.7, "mrr": 0.8}
    rows, _ = rows_of(run_of(reports[0], values))
    assert list(rows) == ["precision_at_1 = hit_rate = ndcg", "recall_at_1", "mrr"]
    assert rows["precision_at_1 = hit_rate = ndcg"].split()[5:9] == ["0.7000", "0.6300", "..", "0.7700"]


@pytest.mark.parametrize(("vote_k", "once"), [(1, True), (10, False)])
def test_a_vote_of_one_neighbor_is_the_precision_at_1(vote_k, once, reports):
    values = {"precision_at_1": 0.7, "vote_accuracy": 0.7}
    report = run_of(reports[0], values, vote=replace(reports[0].vote, k=vote_k))
    rows, _ = rows_of(report)
    assert list(rows) == (["precision_at_1 = vote_accuracy"] if once else ["precision_at_1", "vote_accuracy"])


@pytest.mark.parametrize(("depth", "once"), [(100, True), (101, False)])
def test_a_ranking_of_at_most_100_has_one_map(depth, once, reports):
    counts = replace(reports[0].counts, depth=depth)
    rows, _ = rows_of(run_of(reports[0], {"map_at_100": 0.7, "map": 0.7}, counts=counts))
    assert list(rows) == (["map = map_at_100"] if once else ["map_at_100", "map"])


@given(
    hits=arrays(np.bool_, st.tuples(st.integers(1, 5), st.integers(1, 100))), more=st.integers(0, 3),
)  # fmt: skip
def test_scores_that_stand_once_are_one_number_whatever_was_ranked(hits, more):
    in_all, relevant = hits.sum(axis=1), hits.sum(axis=1) + more
    kept = relevant > 0
    first = scores.precision_at(hits, 1)[kept]
    assert np.array_equal(first, scores.hit_rate_at(hits, 1)[kept])
    assert np.array_equal(first, scores.ndcg_at(hits, relevant, 1)[kept])
    # A whole ranking of at most 100: what it does not hold is not relevant.
    deep = np.pad(hits, ((0, 0), (0, 100 - hits.shape[1])))
    found = in_all > 0
    at_100 = scores.average_precision_at(deep, in_all, 100)[found]
    assert np.allclose(at_100, scores.average_precision(hits, in_all)[found])


def test_what_four_digits_cannot_say_is_named_and_left_out(reports):
    values = {"precision_at_1": 0.0, "recall_at_1": 0.0003, "recall_at_10": 0.0034}
    report = run_of(reports[0], values)
    report = replace(report, chance=report.chance | {"precision_at_1": 0.5})
    rows, below = rows_of(report)
    assert list(rows) == ["precision_at_1", "recall_at_10"]  # a score of 0 is no small number
    assert below == ["not shown, below 0.001: recall_at_1 (in scores.json)"]
    whole, nothing = rows_of(run_of(reports[0], {"recall_at_1": 0.0012}))
    assert (list(whole), nothing) == (["recall_at_1"], [])


# The table of a sweep


def test_differences_are_from_the_best_of_the_same_task(reports):
    other = replace(reports[0], dataset="another", objective=Objective(SCORE, 0.9))
    lower = replace(reports[1], objective=Objective(SCORE, 0.6))
    lines = sweep_table([reports[0], lower, other]).splitlines()
    assert [line for line in lines if line.startswith(("another,", reports[0].dataset))] == [
        f"{reports[0].dataset}, query_gallery, {SCORE}", f"another, query_gallery, {SCORE}",
    ]  # fmt: skip
    header, *rows = sweep_rows([reports[0], lower, other])
    found = [dict(zip(header, row, strict=True)) for row in rows]
    assert [round(row["difference"], 9) for row in found] == [0.0, -0.1, 0.0]
    assert "-0.1000" in next(line for line in lines if line.startswith("ivf"))


def test_a_difference_is_never_minus_zero(reports):
    assert "-0.0000" not in sweep_table(reports)


def test_exact_search_and_what_an_approximate_one_finds_are_told_apart(reports):
    lines = sweep_table(reports).splitlines()
    assert "ANN recall@3" in lines[0]
    flat, ivf = (next(line for line in lines if name in line.split()) for name in ("flat", "ivf"))
    assert " exact " in flat
    assert f" {list(reports[1].ann_loss.recall.values())[-1]:.4f} " in ivf
    assert f" {reports[1].speed.latency_ms.p50:.2f} " in ivf
