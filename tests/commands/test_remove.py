"""The verb `remove`: what it shows, what goes, what never does."""

import json
import shutil

import pytest
from tests.saved_runs import ALONE, FAILED, STOPPED, SWEEP, saved

from medretrieval.runs.report import read_report
from medretrieval.runs.saved import removal
from medretrieval.track.tracker import Sweep, mlflow_at


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("remove"))


@pytest.fixture
def outputs(made, tmp_path):
    """Outputs that a test may change, in the folder that `say` works in."""
    shutil.copytree(made, tmp_path / "outputs", symlinks=True)
    return tmp_path / "outputs"


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def bytes_in(folder):
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_symlink() or path.is_file())


def test_without_yes_nothing_is_removed_and_everything_is_said(say, outputs):
    before, size = everything(outputs), bytes_in(outputs / "runs" / ALONE)
    code, out, err = say("remove", ALONE, SWEEP)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "would be removed:"
    assert f"  run outputs/runs/{ALONE}: finished, {size / 1000:.1f} kB" in lines
    assert any(line.startswith(f"  sweep outputs/sweeps/{SWEEP}: 3 runs, ") for line in lines)
    assert "    with it multirun.yaml" in lines
    assert lines[-1] == "nothing is removed yet; the same command with --yes does it"
    assert everything(outputs) == before
    found = json.loads(say("remove", ALONE, "--json")[1])
    assert found["removed"] is False
    assert found["folders"] == [{"kind": "run", "folder": f"outputs/runs/{ALONE}", "runs": 1, "bytes": size}]


def test_with_yes_the_folder_and_the_note_that_it_has_finished_go_and_nothing_else(say, outputs):
    run, sweep = outputs / "runs" / ALONE, outputs / "sweeps" / SWEEP
    note = outputs / "finished" / f"{read_report(run).fingerprint}.json"
    kept = [name for name in everything(outputs) if ALONE not in name and name != f"finished/{note.name}"]
    assert note.exists()
    code, out, _ = say("remove", "20260101", "--yes")
    assert (code, out.splitlines()[0]) == (0, "removed:")
    # The skipped run of the sweep had its results there.
    assert f"skipped runs that lost their results with it: outputs/sweeps/{SWEEP}/2_pixels" in out
    assert everything(outputs) == kept
    assert sweep.exists()
    assert "skipped, and its results are gone" in say("list", f"sweep={SWEEP}")[1]


def test_a_failed_run_a_skipped_run_and_a_sweep_are_removed(say, outputs):
    assert say("remove", FAILED, f"outputs/sweeps/{SWEEP}/2_pixels", "--yes")[0] == 0
    assert names(outputs / "runs") == [ALONE, STOPPED]
    assert names(outputs / "sweeps" / SWEEP) == ["0_flat", "1_ivf", "multirun.yaml"]
    code, _, err = say("remove", "latest", "--yes")
    assert (code, err) == (0, f"latest: outputs/sweeps/{SWEEP}\n")
    assert names(outputs / "sweeps") == []
    assert names(outputs) == ["finished", "runs", "sweeps"]
    assert len(names(outputs / "finished")) == 1


def test_a_run_of_a_sweep_that_is_removed_is_named_once(say, outputs):
    found = json.loads(say("remove", f"outputs/sweeps/{SWEEP}/0_flat", SWEEP, SWEEP, "--json")[1])
    assert [entry["kind"] for entry in found["folders"]] == ["sweep"]


def test_a_run_that_may_be_running_stays_unless_it_is_said(say, refused, outputs):
    assert "has not finished, and may be running still" in refused("remove", STOPPED, "--yes")
    assert (outputs / "runs" / STOPPED).exists()
    assert say("remove", STOPPED, "unfinished=true", "--yes")[0] == 0
    assert not (outputs / "runs" / STOPPED).exists()


@pytest.mark.parametrize(
    "what", ["theirs", "empty", "runs", "", "scores alone", "other hydra", "mixed", "sweeps"]
)
def test_what_is_no_run_of_this_program_is_refused(refused, outputs, what):
    folder = outputs / what
    folder.mkdir(exist_ok=True)
    if what == "theirs":
        (folder / "notes.txt").write_text("x")
    if what == "scores alone":
        (folder / "scores.json").write_text('{"scores": {}}')
    if what == "other hydra":
        (folder / ".hydra").mkdir()
        (folder / ".hydra" / "config.yaml").write_text("lr: 0.1\n")
        (folder / "failed.txt").write_text("x")
    if what == "mixed":  # a sweep of ours with a folder of theirs in it
        shutil.copytree(outputs / "sweeps" / SWEEP, folder / "in", symlinks=True)
        shutil.move(folder / "in", outputs / "sweeps" / "mixed")
        folder = outputs / "sweeps" / "mixed"
        (folder / "theirs").mkdir()
    before = everything(outputs)
    line = refused("remove", folder, "unfinished=true", "--yes")
    assert "no run and no sweep of this program" in line
    assert line.endswith("nothing is removed")
    assert everything(outputs) == before


def test_one_that_is_refused_keeps_the_others_too(refused, outputs):
    assert "nowhere: no run or sweep in outputs" in refused("remove", ALONE, "nowhere", "--yes")
    assert "no run and no sweep" in refused("remove", ALONE, "outputs/runs", "--yes")
    assert (outputs / "runs" / ALONE).exists()
    assert "remove: 0000" in refused("remove", "0" * 32, "track=false")


def test_of_a_link_the_link_alone_goes(say, outputs, tmp_path):
    away = tmp_path / "away"
    shutil.move(outputs / "runs" / ALONE, away)
    (outputs / "runs" / ALONE).symlink_to(away)
    before = everything(away)
    assert f"  link outputs/runs/{ALONE}: the link alone; what it leads to stays" in say("remove", ALONE)[1]
    assert say("remove", ALONE, "--yes")[0] == 0
    assert not (outputs / "runs" / ALONE).is_symlink()
    assert everything(away) == before


def test_links_in_a_folder_are_not_followed(say, outputs, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "a.txt").write_text("x")
    (outputs / "runs" / ALONE / "link").symlink_to(tmp_path / "precious")
    target = (outputs / "runs" / ALONE / "index.faiss").resolve()
    assert say("remove", ALONE, "--yes")[0] == 0
    assert names(tmp_path / "precious") == ["a.txt"]
    assert target.exists()  # in the cache


def test_an_interrupted_removal_leaves_no_half_a_run_and_the_next_one_ends_it(say, outputs, monkeypatch):
    rmtree = shutil.rmtree

    def interrupted(path, **options):
        next(path.glob("*.json")).unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(removal.shutil, "rmtree", interrupted)
    assert say("remove", ALONE, "--yes")[0] == 130
    assert not (outputs / "runs" / ALONE).exists()
    assert len(names(outputs / ".removed")) == 1
    assert ALONE not in say("list", "--json")[1]
    monkeypatch.setattr(removal.shutil, "rmtree", rmtree)
    assert say("remove", FAILED, "--yes")[0] == 0
    assert not (outputs / ".removed").exists()


# MLflow


@pytest.fixture
def tracked(database, tmp_path):
    """Outputs whose runs are in MLflow, the sweep's own run among them, and the client."""
    from mlflow import MlflowClient

    outputs = saved(tmp_path, "tracking=mlflow", f"tracking.uri={database}")
    sweep = outputs / "sweeps" / SWEEP
    mlflow_at(database).log_sweep(Sweep(sweep, [read_report(sweep / "0_flat")]))
    return outputs, MlflowClient(tracking_uri=database)


def in_mlflow(client):
    everywhere = [experiment.experiment_id for experiment in client.search_experiments()]
    return {run.info.run_id: run for run in client.search_runs(everywhere)}


def run_id_of(folder):
    return json.loads((folder / "tracking.json").read_text())["run_id"]


def test_runs_are_marked_as_deleted_in_mlflow_and_can_be_restored(say, tracked, database):
    outputs, client = tracked
    run_id, before = run_id_of(outputs / "runs" / ALONE), in_mlflow(client)
    assert len(before) == 4
    _, out, _ = say("remove", ALONE)
    assert f"in MLflow at {database}: 1 run, marked as deleted (mlflow gc removes them for good)" in out
    assert run_id in out
    assert in_mlflow(client).keys() == before.keys()
    assert say("remove", ALONE, "--yes")[0] == 0
    assert in_mlflow(client).keys() == before.keys() - {run_id}
    assert client.get_run(run_id).info.lifecycle_stage == "deleted"


def test_of_a_sweep_its_own_run_and_failed_ones_go_too_but_not_the_run_it_skipped(say, tracked, database):
    outputs, client = tracked
    kept = run_id_of(outputs / "runs" / ALONE)
    client.set_tag(kept, "sweep", SWEEP)  # as a skipped run is marked
    experiment = client.get_run(kept).info.experiment_id
    client.create_run(experiment, tags={"sweep": SWEEP, "encoder": "x"})  # failed: it has no folder
    other = client.create_run(experiment, tags={"sweep": f"{SWEEP}9"}).info.run_id
    found = json.loads(say("remove", SWEEP, "--yes", "--json")[1])
    assert len(found["mlflow"]) == 4
    assert in_mlflow(client).keys() == {kept, other}


def test_mlflow_is_left_alone_where_that_is_said_or_where_it_is_away(say, refused, tracked, tmp_path):
    outputs, client = tracked
    before = in_mlflow(client)
    (tracking := outputs / "runs" / ALONE / "tracking.json").write_text(
        tracking.read_text().replace("sqlite:///", "http://127.0.0.1:9/?")
    )
    line = refused("remove", ALONE, "--yes")
    assert "cannot be reached" in line
    assert line.endswith("nothing is removed; try again, or leave MLflow as it is: track=false")
    assert (outputs / "runs" / ALONE).exists()
    assert say("remove", ALONE, SWEEP, "track=false", "--yes")[0] == 0
    assert names(outputs / "sweeps") == []
    assert in_mlflow(client).keys() == before.keys()


def test_a_run_whose_folder_is_gone_is_removed_by_its_id(say, refused, tracked, database):
    outputs, client = tracked
    run_id = run_id_of(outputs / "runs" / ALONE)
    found = json.loads(say("remove", run_id, "--json")[1])
    assert [entry["folder"] for entry in found["folders"]] == [f"outputs/runs/{ALONE}"]
    shutil.rmtree(outputs / "runs" / ALONE)
    found = json.loads(say("remove", run_id, f"uri={database}", "--yes", "--json")[1])
    assert (found["folders"], [run["run_id"] for run in found["mlflow"]]) == ([], [run_id])
    assert run_id not in in_mlflow(client)
    stranger = client.create_run(client.get_run(run_id).info.experiment_id).info.run_id
    assert "no run of this program" in refused("remove", stranger, f"uri={database}", "--yes")
    assert stranger in in_mlflow(client)
