import json

import pytest
from mlflow import MlflowClient
from tests.conftest import write_breastmnist
from tests.mlflow_store import all_runs, closed_port
from tests.track.test_mlflow_tracker import PIXELS

from medretrieval import compose, run
from medretrieval.runs.report import read_report
from medretrieval.track.mlflow import open_ui
from medretrieval.track.mlflow.views import HEADING, address, keep_views, sweep_view
from medretrieval.track.run_metrics import run_metrics
from medretrieval.track.tracker import Entry, mlflow_at

PHANTOM = (
    "dataset=chest_phantom", "dataset.size=32", "dataset.n_train=30", "dataset.n_val=5", "dataset.n_test=20",
)  # fmt: skip


@pytest.fixture(scope="module")
def reports(finished_sweep):
    places = [*sorted((finished_sweep / "sweeps" / "s1").glob("[0-9]")), finished_sweep / "other"]
    return [read_report(place) for place in places]


@pytest.fixture(scope="module")
def filled(tmp_path_factory, empty_database):
    """The URI of a store with runs of three tasks and a comparison, made once."""
    place = tmp_path_factory.mktemp("views")
    (place / "mlflow.db").write_bytes(empty_database)
    uri = f"sqlite:///{place / 'mlflow.db'}"
    write_breastmnist(place / "data", n=12)
    own = (f"dataset.root={place / 'data'}",)
    places = (f"paths.outputs={place / 'outputs'}", f"paths.cache={place / 'cache'}", f"tracking.uri={uri}")
    for task in [own, (*own, "index=ivf"), (*own, "protocol=leave_one_out"), PHANTOM]:
        run(compose(*PIXELS, *task, *places))
    mlflow_at(uri).log_entry(Entry("compare", "two runs", {"compared": "a b"}, {}))
    return uri


@pytest.fixture
def experiment(filled):
    """Its client and its experiment."""
    client, runs = all_runs(filled)
    return client, client.get_experiment(runs[0].info.experiment_id)


def view(tags, key):
    return json.loads(tags[f"mlflow.sharedViewState.{key}"])


def shown(found, key):
    """Names of the runs that MLflow's own search finds for a view, in its order."""
    client, experiment = found
    state = view(experiment.tags, key)
    order = f"{state['orderByKey']} {'ASC' if state['orderByAsc'] else 'DESC'}"
    runs = client.search_runs([experiment.experiment_id], state["searchFilter"], order_by=[order])
    return [(run.data.tags["dataset"], run.data.tags["protocol"], run.info.run_name) for run in runs]


def test_the_view_of_all_runs_hides_what_is_none(experiment):
    client, found = experiment
    everything = client.search_runs([found.experiment_id])
    assert {run.data.tags["kind"] for run in everything} == {"run", "compare"}
    assert len(shown(experiment, "runs")) == 4 == len(everything) - 1
    assert view(found.tags, "runs")["selectedColumns"][:5] == [
        f"params.`{name}`" for name in ("dataset", "protocol", "encoder", "index", "metric")
    ]


def test_there_is_a_view_for_each_dataset_and_protocol(experiment):
    assert sorted(shown(experiment, "breastmnist-query_gallery")) == [
        ("breastmnist", "query_gallery", "pixels flat l2"), ("breastmnist", "query_gallery", "pixels ivf l2"),
    ]  # fmt: skip
    assert shown(experiment, "breastmnist-leave_one_out") == [
        ("breastmnist", "leave_one_out", "pixels flat l2")
    ]
    assert len(shown(experiment, "chest_phantom-query_gallery")) == 1


def test_the_description_links_the_views(experiment):
    _, found = experiment
    note = found.tags["mlflow.note.content"]
    for key in ("runs", "breastmnist-query_gallery", "breastmnist-leave_one_out"):
        assert f"[table]({address(found.experiment_id, key)})" in note
        assert f"[charts]({address(found.experiment_id, key, charts=True)})" in note


def test_columns_are_encoder_index_metric_then_metrics_that_the_runs_have(reports):
    ((_, text),) = sweep_view("s1", reports[2:4]).items()
    state = json.loads(text)
    columns = [column.split("`")[1] for column in state["selectedColumns"]]
    assert columns[:5] == ["encoder", "index", "metric", "objective", "objective_low"]
    logged = set().union(*(run_metrics(report) for report in reports[2:4]))
    assert set(columns[3:]) <= logged
    assert {"precision_at_3", "map_at_100", "search/latency_ms_p50"} <= set(columns)
    assert state["columnOrder"] == state["selectedColumns"]
    assert len(text) < 5000  # what older versions of MLflow take


def test_a_sweep_over_protocols_has_them_as_a_column(reports):
    ((_, text),) = sweep_view("s1", reports).items()
    assert json.loads(text)["selectedColumns"][0] == "params.`protocol`"


def test_charts_are_of_headline_scores_that_the_runs_have(reports):
    ((_, text),) = sweep_view("s1", reports[:2]).items()
    state = json.loads(text)
    logged = set().union(*(run_metrics(report) for report in reports[:2]))
    bars = [chart["metricKey"] for chart in state["compareRunCharts"] if chart["type"] == "BAR"]
    assert bars[:2] == ["precision_at_3", "map_at_100"]
    assert set(bars) <= logged
    (scatter,) = [chart for chart in state["compareRunCharts"] if chart["type"] == "SCATTER"]
    assert {scatter["xaxis"]["key"], scatter["yaxis"]["key"]} <= logged
    sections = state["compareRunSections"]
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == {sections[0]["uuid"]}
    assert [section["display"] for section in sections] == [True] + [False] * (len(sections) - 1)


def test_what_a_user_wrote_is_left_alone(database):
    client = MlflowClient(tracking_uri=database)
    tags = {"mlflow.note.content": "Our study."}
    experiment = client.create_experiment("study", tags=tags)
    keep_views(client, experiment, {"mlflow.sharedViewState.runs": "{}"})
    kept = client.get_experiment(experiment).tags
    assert tags.items() <= kept.items()
    assert kept["mlflow.sharedViewState.runs"] == "{}"
    other = client.create_experiment("new")
    keep_views(client, other, {"mlflow.sharedViewState.runs": "{}"})
    assert client.get_experiment(other).tags["mlflow.note.content"].startswith(HEADING)


def test_make_ui_prints_where_the_runs_are(experiment, filled, capsys):
    client, found = experiment
    client.create_experiment("of another program")
    assert open_ui.main(["--backend-store-uri", filled, "--port", "5123", "--workers", "1"]) == 0
    table, charts = capsys.readouterr().out.splitlines()
    place = "http://127.0.0.1:5123/"
    assert table == f"medretrieval: {place}{address(found.experiment_id, 'runs')}"
    assert charts == f"  as charts: {place}{address(found.experiment_id, 'runs', charts=True)}"
    assert "&compareRunsMode=CHART" in charts


def test_make_ui_takes_the_store_of_the_environment(experiment, filled, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", filled)
    open_ui.main([])
    assert "http://127.0.0.1:5000/#/experiments/" in capsys.readouterr().out


def test_where_nothing_has_been_run_no_database_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert open_ui.main([]) == 0
    assert "no runs there yet" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.db"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert open_ui.main(["--backend-store-uri", closed_port()]) == 0
    assert "cannot be read" in capsys.readouterr().out
