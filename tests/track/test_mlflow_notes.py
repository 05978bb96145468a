from dataclasses import replace
from pathlib import Path

import pytest
from tests.mlflow_store import only_run

from medretrieval.runs.report import BaselineReport, Objective, read_report
from medretrieval.runs.report_parts import Difference, ScoreInterval
from medretrieval.track.mlflow.notes import run_note, sweep_note
from medretrieval.track.mlflow.views import address, sweep_view
from medretrieval.track.tracker import Sweep, mlflow_at


@pytest.fixture(scope="module")
def reports(finished_sweep):
    places = [*sorted((finished_sweep / "sweeps" / "s1").glob("[0-9]")), finished_sweep / "other"]
    return [read_report(place) for place in places]


@pytest.fixture
def random(reports):
    """Of the encoder that draws its vectors."""
    return reports[2]


def changed(report, **parts):
    """With other values of the objective's score in chance, lift and intervals, or another part."""
    for name in {"chance", "lift", "intervals"} & parts.keys():
        parts[name] = getattr(report, name) | {"precision_at_3": parts[name]}
    return replace(report, **parts)


def test_a_run_stands_beside_chance_and_beside_pixels_with_its_interval(random):
    report = changed(
        random,
        objective=Objective("precision_at_3", 0.3),
        intervals=ScoreInterval(0.25, 0.35),
        chance=0.2,
        lift=1.5,
        baseline=BaselineReport("pixels", {"precision_at_3": 0.35}, Difference(-0.05, -0.1, -0.01)),
        notes=["Take care."],
    )
    assert run_note(report).split("\n") == [
        f"**precision_at_3 0.3000** (95 % interval 0.2500 to 0.3500): {random.title}",
        "",
        "- A random ranking scores 0.2000, lift 1.50.",
        "- Raw pixels score 0.3500.",  # the rest is among the notes
        "- Take care.",
    ]


@pytest.mark.parametrize(
    ("difference", "above"),
    [((0.1, 0.05, 0.2), True), ((0.1, -0.05, 0.2), False), ((0.1, 0.0, 0.2), False), (None, False)],
)
def test_what_is_said_of_pixels_is_what_the_interval_allows(random, difference, above):
    said = difference and Difference(*difference)
    note = run_note(replace(random, baseline=replace(random.baseline, difference=said)))
    assert "Raw pixels score" in note
    assert ("this run is above them" in note) is above


def test_a_note_that_is_cut_counts_what_is_left_of_all_tables(reports):
    other = [replace(report, dataset="other") for report in reports[:4]]
    note = sweep_note("s1", "7", reports[:4] * 50 + other * 50)
    shown = len([line for line in note.splitlines() if line.startswith("|")]) - 2
    assert note.endswith(f"{400 - shown} more runs are in sweep.txt.")


def test_chance_within_the_interval_is_said(random):
    ends = ScoreInterval(0.1, 0.3)
    assert "it lies within the interval" in run_note(changed(random, intervals=ends, chance=0.3))
    assert "it lies within the interval" not in run_note(changed(random, intervals=ends, chance=0.31))


def test_a_sweeps_note_has_a_table_for_each_protocol_best_first(reports):
    note = sweep_note("s1", "7", reports)
    for charts in (False, True):
        assert f"({address('7', 's1', charts)})" in note
    first, second = note.split("**chest_phantom, ")[1:]
    assert first.startswith("query_gallery, precision_at_3**")
    assert second.startswith("leave_one_out, precision_at_3**")
    rows = [line.strip("| ").split(" | ") for line in first.splitlines() if line.startswith("|")]
    values = [row[rows[0].index("precision_at_3")] for row in rows[2:]]
    assert values == sorted((f"{r.objective.value:.4f}" for r in reports[:4]), reverse=True)
    assert {len(row) for row in rows} == {len(rows[0])}
    assert any(cell.startswith("ivf nprobe=") for row in rows[2:] for cell in row)


def test_a_long_note_is_cut_between_rows_and_says_so(reports):
    note = sweep_note("s1", "7", reports[:4] * 50)
    assert 3000 < len(note) <= 5000
    table = [line for line in note.splitlines() if line.startswith("|")]
    assert note.endswith(f"{200 + 2 - len(table)} more runs are in sweep.txt.")
    assert all(line.endswith(" |") for line in table)


def test_a_sweep_is_logged_with_its_note_and_its_view(reports, database):
    mlflow_at(database).log_sweep(Sweep(Path("s1"), reports))
    client, found = only_run(database)
    experiment = client.get_experiment(found.info.experiment_id)
    assert found.data.tags["mlflow.note.content"] == sweep_note("s1", experiment.experiment_id, reports)
    assert (
        experiment.tags["mlflow.sharedViewState.s1"] == sweep_view("s1", reports)["mlflow.sharedViewState.s1"]
    )
    assert found.data.tags["kind"] == "sweep"
    assert [f.path for f in client.list_artifacts(found.info.run_id)] == ["sweep.txt"]
