"""The order of runs: one for every table, note and choice of a best run."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from pyarrow import parquet

from medretrieval.report.compare import Options, compare
from medretrieval.report.gather import gather
from medretrieval.runs.report import Objective, read_report
from medretrieval.runs.tables import best_first, run_table, sweep_table
from medretrieval.track.best_run import choose
from medretrieval.track.find_runs import load_run
from medretrieval.track.mlflow_notes import sweep_note

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
