import json
import shutil
import threading
import time

import pytest
from mlflow import MlflowClient
from tests.files import edit_json
from tests.mlflow_store import all_runs, closed_port, only_run

from medretrieval import compose, run
from medretrieval.commands.one_run.again import VERB as AGAIN
from medretrieval.commands.one_run.verify import VERB as VERIFY
from medretrieval.encoders.baselines import PixelEncoder
from medretrieval.errors import UserError
from medretrieval.track.find_runs import find_one
from medretrieval.track.mlflow.later import log_later
from medretrieval.track.run_metrics import run_metrics

PIXELS = (
    "dataset=breastmnist",
    "encoder=pixels",
    "metric=l2",
    "evaluation.ks=[1,3]",
    "figures.enabled=false",
)


@pytest.fixture
def tracked(tmp_path, write_npz):
    write_npz(n=12)

    def config(uri, *overrides):
        places = [f"paths.outputs={tmp_path / 'outputs'}", *([f"tracking.uri={uri}"] if uri else [])]
        return compose(*PIXELS, *places, *overrides)

    return config


def test_a_run_is_in_mlflow_with_scores_params_tags_inputs_and_artifacts(tracked, database):
    result = run(tracked(database, "index=ivf"), sweep="s1")
    client, found = only_run(database)
    assert found.info.status == "FINISHED"
    metrics = found.data.metrics
    for name, value in run_metrics(result.report).items():
        assert metrics[name] == pytest.approx(value)
    assert metrics["chance_precision"] == 0.5
    assert metrics["queries_without_relevant"] == 0
    assert metrics["ann/recall_at_3"] == 1.0  # one cell
    assert metrics["audit/identical_between"] == 0
    assert metrics["objective_low"] <= metrics["precision_at_3"] == metrics["objective"]
    assert {"time/embed_s", "time/total_s", "queries", "gallery"} <= metrics.keys()
    tags = {
        k: found.data.tags[k] for k in ("dataset", "encoder", "index", "metric", "protocol", "sweep", "kind")
    }
    assert tags == {
        "kind": "run",
        "dataset": "breastmnist", "encoder": "pixels", "index": "ivf", "metric": "l2",
        "protocol": "query_gallery", "sweep": "s1",
    }  # fmt: skip
    assert "git_commit" in found.data.tags
    assert found.info.run_name == "pixels ivf l2"
    assert {k: found.data.params[k] for k in ("dataset", "encoder", "index", "metric", "protocol")} == {
        k: v for k, v in tags.items() if k not in ("sweep", "kind")
    }
    assert found.data.params["evaluation.ks"] == "[1, 3]"
    assert found.data.params["index.nlist"] == "1"  # as fitted
    assert not any("path" in key or "uri" in key for key in found.data.params)
    assert {i.tags[0].value: i.dataset.name for i in found.inputs.dataset_inputs} == {
        "query": "breastmnist/test", "gallery": "breastmnist/train"
    }  # fmt: skip
    files = {f.path for f in client.list_artifacts(found.info.run_id)}
    assert files == {
        "scores.json", "per_query.parquet", "ranking.npz", "config.yaml", "manifest.json",
        "audit.parquet", "audit.png",
    }  # fmt: skip


def test_what_was_fitted_is_in_mlflow_with_the_splits_it_was_fitted_on(tracked, database, tmp_path):
    words = ("encoder=fusion", "encoder.parts=[pixels,random]", "adapt=whiten", "adapt.refits=0")
    folder = run(tracked(database, *words)).folder
    client, found = only_run(database)
    assert {i.tags[0].value: i.dataset.name for i in found.inputs.dataset_inputs} == {
        "query": "breastmnist/test", "gallery, fitted_on": "breastmnist/train",
        "chosen_on": "breastmnist/val",
    }  # fmt: skip
    for name in ("adaptation.safetensors", "joined.safetensors"):
        copy = client.download_artifacts(found.info.run_id, name, str(tmp_path))
        with open(copy, "rb") as logged:
            assert logged.read() == (folder / name).read_bytes()


def test_index_and_embeddings_are_logged_where_asked(tracked, database):
    run(tracked(database, "tracking.log_index=true"))
    client, found = only_run(database)
    files = {f.path: f.file_size for f in client.list_artifacts(found.info.run_id)}
    assert files["index.faiss"] > 12 * 784 * 4
    assert files["embeddings_query.npy"] > 12 * 784 * 4


def test_system_metrics_are_logged_where_asked(tracked, database, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING", "1")
    slow_enough_to_be_sampled(monkeypatch)
    run(tracked(database, "tracking.system_metrics=true"))
    _, found = only_run(database)
    assert "system/cpu_utilization_percentage" in found.data.metrics


def test_a_failure_before_the_start_leaves_no_sampling_behind(tracked, database):
    with pytest.raises(UserError):
        run(tracked(database, "tracking.system_metrics=true", "index=ivf", "index.nlist=99"))
    assert only_run(database)[1].info.status == "FAILED"
    assert not [t.name for t in threading.enumerate() if "SystemMetricsMonitor" in t.name]


def slow_enough_to_be_sampled(monkeypatch):
    encode = PixelEncoder.encode
    monkeypatch.setattr(PixelEncoder, "encode", lambda self, images: time.sleep(1) or encode(self, images))


def test_random_weights_are_marked_in_mlflow(tracked, database):
    run(tracked(database, "encoder=timm", "encoder.model=test_resnet", "encoder.pretrained=null"))
    _, found = only_run(database)
    assert "RANDOM WEIGHTS" in found.info.run_name
    assert "RANDOM WEIGHTS" in found.data.tags["mlflow.note.content"]


def test_a_failed_run_is_marked_with_its_reason(tracked, database):
    with pytest.raises(UserError):
        run(tracked(database, "index=ivf", "index.nlist=99"))
    _, found = only_run(database)
    assert found.info.status == "FAILED"
    assert found.data.tags["failure"].startswith("index.nlist=99: more cells")


def test_an_interrupted_run_is_marked_killed(tracked, database, monkeypatch):
    def interrupted(self, images):
        raise KeyboardInterrupt

    monkeypatch.setattr("medretrieval.encoders.baselines.PixelEncoder.encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tracked(database))
    assert only_run(database)[1].info.status == "KILLED"


def test_without_the_server_results_are_kept_and_can_be_logged_later(tracked, database, tmp_path, caplog):
    away = closed_port()
    result = run(tracked(away))
    assert (result.folder / "scores.json").exists()
    assert f"MLflow at {away} cannot be reached" in caplog.text
    assert f"medretrieval log {result.folder}" in caplog.text
    with pytest.raises(UserError, match="cannot be reached"):
        log_later([result.folder], None, everything=True)
    assert log_later([tmp_path / "outputs"], database) == 1
    _, found = only_run(database)
    assert found.info.status == "FINISHED"
    assert found.data.metrics["precision_at_3"] == 1.0
    assert found.data.params["evaluation.ks"] == "[1, 3]"
    assert log_later([result.folder], database) == 0
    assert json.loads((result.folder / "tracking.json").read_text())["logged"] is True


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="no finished run in it"):
        log_later([tmp_path], None)


def test_a_deleted_experiment_is_refused_with_the_way_back(tracked, database):
    client = MlflowClient(tracking_uri=database)
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(UserError, match=r"tracking.experiment=gone: deleted in MLflow"):
        run(tracked(database, "tracking.experiment=gone"))


def test_a_skipped_run_is_found_with_the_sweep_that_skipped_it(tracked, database):
    run(tracked(database), sweep="first")
    assert run(tracked(database), sweep="second").skipped
    client, found = only_run(database)
    experiment = [found.info.experiment_id]
    for sweep in ("first", "second"):
        assert len(client.search_runs(experiment, f"tags.sweep LIKE '%{sweep}%'")) == 1


def test_untracked_runs_touch_no_database(tracked, tmp_path):
    run(tracked(None, "tracking=none"))
    assert not list(tmp_path.glob("**/*.db"))


def test_a_run_is_verified_and_done_again_by_its_id(tracked, database, tmp_path, monkeypatch, capsys):
    result = run(tracked(database))
    _, found = only_run(database)
    monkeypatch.chdir(tmp_path)
    keys = [f"tracking.uri={database}", f"paths.outputs={tmp_path / 'outputs'}"]
    assert VERIFY.main([found.info.run_id, *keys]) == 0
    assert AGAIN.main([found.info.run_id, *keys]) == 0
    assert "the same ranking and scores" in capsys.readouterr().out
    # Where the run's folder is gone, what MLflow keeps suffices to do it again.
    shutil.rmtree(result.folder)
    assert AGAIN.main([found.info.run_id, *keys]) == 0
    with pytest.raises(UserError, match=r"gone \(was the cache cleaned, or the run's folder\?\)"):
        VERIFY.main([found.info.run_id, *keys])


def test_an_id_that_mlflow_does_not_know_is_said_to_be_so(database):
    with pytest.raises(UserError, match="has no such finished run"):
        VERIFY.main(["0" * 32, f"tracking.uri={database}"])


def test_a_run_of_an_older_format_is_not_logged_and_the_format_is_named(tracked, database):
    result = run(tracked(closed_port()))
    edit_json(result.folder / "scores.json", lambda c: c.pop("format"))
    with pytest.raises(
        UserError,
        match=r"a run of results format 3 or before, and this version reads 10; repeat the run with",
    ):
        log_later([result.folder], database)


def test_the_operating_curve_of_autotune_is_logged_step_by_step(tracked, database, write_npz):
    write_npz(n=80)
    result = run(tracked(database, "index=ivf", "index.autotune=0.9"))
    client, found = only_run(database)
    history = client.get_metric_history(found.info.run_id, "autotune/recall")
    curve = [point.recall for point in result.report.autotune.curve]
    assert [m.value for m in sorted(history, key=lambda m: m.step)] == curve


def test_lift_chance_speed_and_approximation_reach_mlflow(tracked, database):
    report = run(tracked(database, "index=ivf")).report
    metrics = only_run(database)[1].data.metrics
    assert metrics["objective_lift"] == report.lift["precision_at_3"]
    assert metrics["objective_chance"] == report.chance["precision_at_3"]
    assert metrics["search/latency_ms_p99"] == report.speed.latency_ms.p99
    assert metrics["ann/objective_change"] == report.ann_loss.changes["precision_at_3"].value
    assert metrics["missing_results"] == report.counts.missing_results


def test_another_run_in_a_runs_folder_is_not_taken_for_it(tracked, database, tmp_path, monkeypatch):
    first, second = (run(tracked(database, f"index={index}")) for index in ("flat", "ivf"))
    client, runs = all_runs(database)
    (flat,) = [r for r in runs if r.data.tags["index"] == "flat"]
    shutil.rmtree(first.folder)
    shutil.copytree(second.folder, first.folder, symlinks=True)
    found = find_one(flat.info.run_id, database, tmp_path)
    assert json.loads((found / "scores.json").read_text())["index"]["name"] == "flat"
    # Nor is the working directory, where a run of another program carries no tag.
    client.delete_tag(flat.info.run_id, "folder")
    monkeypatch.chdir(second.folder)
    found = find_one(flat.info.run_id, database, tmp_path)
    assert json.loads((found / "scores.json").read_text())["index"]["name"] == "flat"


def test_pictures_reach_mlflow_and_a_pruned_map_does_not_stop_them(tracked, database, tmp_path):
    result = run(tracked(database, "figures.enabled=true", "evaluation.resamples=100"))
    client, found = only_run(database)
    drawn = {path.name for path in (result.folder / "figures").iterdir()}
    assert {"gallery.png", "curves.json", "embedding_map.html"} < drawn

    def logged(run_id):
        return {a.path.removeprefix("figures/") for a in client.list_artifacts(run_id, "figures")}

    assert logged(found.info.run_id) == drawn
    shutil.rmtree(tmp_path / "cache" / "maps")
    edit_json(result.folder / "tracking.json", lambda c: c.update(logged=False, run_id=None))
    log_later([result.folder], database)
    _, runs = all_runs(database)
    (later,) = [r.info.run_id for r in runs if r.info.run_id != found.info.run_id]
    assert logged(later) == drawn - {"embedding_map.html"}


def test_a_map_is_kept_once_for_each_set_of_embeddings(tracked, database):
    drawn = ("figures.enabled=true", "evaluation.resamples=100")
    first = run(tracked(database, *drawn, "index=flat"))
    run(tracked(database, *drawn, "index=ivf"))
    run(tracked(database, *drawn, "index=flat", "protocol.query=val"))  # other embeddings
    client, runs = all_runs(database)
    holders = [run.info.run_id for run in runs if has_map(client, run.info.run_id)]
    assert len(holders) == 2
    of_flat = json.loads((first.folder / "tracking.json").read_text())["run_id"]
    (of_ivf,) = [run for run in runs if run.data.tags["index"] == "ivf"]
    assert of_ivf.data.tags["embedding_map_run"] == of_flat
    link = (
        f"[Map of the embeddings](#/experiments/{of_ivf.info.experiment_id}/runs/{of_flat}/artifacts/figures"
    )
    assert link in of_ivf.data.tags["mlflow.note.content"]
    # Where the run that has it is deleted, the next one to be logged has it.
    client.delete_run(of_flat)
    run(tracked(database, *drawn, "index=hnsw"))
    hnsw = all_runs(database)[1][0]
    assert has_map(client, hnsw.info.run_id)
    assert hnsw.data.tags["embedding_map_run"] == hnsw.info.run_id


def has_map(client, run_id):
    return "figures/embedding_map.html" in {a.path for a in client.list_artifacts(run_id, "figures")}


def test_a_run_that_mlflow_missed_is_logged_when_it_is_asked_for_again(tracked, database):
    """Once: asked a second time it only gets the sweep's tag."""
    missed = run(tracked(closed_port()))
    for sweep in ("first", "second"):
        assert run(tracked(database), sweep=sweep).folder == missed.folder
    _, found = only_run(database)
    assert found.data.tags["sweep"] == "first second"
    assert found.data.metrics["precision_at_3"] == 1.0
    assert json.loads((missed.folder / "tracking.json").read_text())["run_id"] == found.info.run_id


def test_files_of_a_new_experiment_lie_beside_the_database(tracked, database, tmp_path):
    run(tracked(database, "tracking.experiment=new"))
    _, found = only_run(database, "new")
    assert found.info.artifact_uri.startswith((tmp_path / "mlartifacts" / "new").as_uri())
    assert (tmp_path / "mlartifacts" / "new" / found.info.run_id / "artifacts" / "scores.json").exists()
