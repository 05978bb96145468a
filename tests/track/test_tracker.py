"""What every tracker must do, over MLflow, JSON lines and none; and what the pipeline tells a tracker."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from omegaconf import OmegaConf
from tests.mlflow_store import all_runs, closed_port

from medretrieval import compose, run
from medretrieval.commands.many_runs.compare import VERB as COMPARE
from medretrieval.config import root
from medretrieval.errors import UserError
from medretrieval.runs.report import read_report
from medretrieval.track.run_metrics import run_metrics
from medretrieval.track.tracker import Entry, Sweep, Tracker, tracker_from_config, unless_away

KINDS = sorted(path.stem for path in (root() / "conf" / "tracking").glob("*.yaml"))
PIXELS = (
    "dataset=breastmnist", "encoder=pixels", "metric=l2", "evaluation.ks=[1,3]", "evaluation.resamples=100",
    "figures.enabled=false",
)  # fmt: skip
OURS = '''
from medretrieval.track.tracker import Tracker


class Diary(Tracker):
    """Writes down that a run has finished."""

    def __init__(self, file):
        self.file = file

    def finish(self, about, folder):
        with open(self.file, "a") as diary:
            diary.write(f"{about.name}: {(folder / 'scores.json').exists()}\\n")
'''


@dataclass
class Kept:
    """A tracker's configuration, and what it keeps, read without it."""

    kind: str
    outputs: Path

    @property
    def overrides(self):
        return (f"tracking={self.kind}", f"paths.outputs={self.outputs}")

    def tracker(self):
        return tracker_from_config(compose(*self.overrides).tracking)

    def records(self):
        if self.kind == "mlflow":
            return list(_mlflow_records(f"sqlite:///{self.outputs / 'mlflow.db'}"))
        lines = self.outputs / "runs.jsonl"
        return [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []

    def only(self):
        """The one record of what happened; None of a tracker that keeps nothing."""
        if self.kind == "none":
            assert not list(self.outputs.glob("*.*"))
            return None
        (record,) = self.records()
        return record


def _mlflow_records(uri):
    _, runs = all_runs(uri)
    for found in runs:
        tags = found.data.tags
        yield {
            "status": found.info.status, "name": found.info.run_name, "tags": tags,
            "params": found.data.params, "metrics": found.data.metrics,
            "folder": tags.get("folder"), "reason": tags.get("failure"),
        }  # fmt: skip


@pytest.fixture(params=KINDS)
def kept(request, tmp_path, empty_database, write_npz):
    write_npz(n=12)
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    if request.param == "mlflow":
        (outputs / "mlflow.db").write_bytes(empty_database)
    return Kept(request.param, outputs)


def settings(kept, *overrides):
    return compose(*PIXELS, *kept.overrides, *overrides)


def test_a_finished_run_is_kept_with_name_tags_params_metrics_and_folder(kept):
    result = run(settings(kept, "index=ivf"), sweep="s1")
    if (record := kept.only()) is None:
        return
    assert (record["status"], record["reason"]) == ("FINISHED", None)
    assert record["name"] == "pixels ivf l2"
    said = {key: record["tags"][key] for key in ("dataset", "encoder", "index", "metric", "sweep")}
    assert list(said.values()) == ["breastmnist", "pixels", "ivf", "l2", "s1"]
    assert (record["params"]["evaluation.ks"], record["params"]["index.nlist"]) == (
        "[1, 3]",
        "1",
    )  # as fitted
    assert not [key for key in record["params"] if key.startswith(("tracking", "paths"))]
    for name, value in run_metrics(result.report).items():
        assert record["metrics"][name] == pytest.approx(value)
    assert record["metrics"]["ann/recall_at_3"] == 1.0
    assert Path(record["folder"]) == result.folder


def test_a_run_that_fails_before_it_starts_is_kept_with_its_reason(kept):
    with pytest.raises(UserError, match=r"index.nlist=99"):
        run(settings(kept, "index=ivf", "index.nlist=99"))
    if (record := kept.only()) is not None:
        assert record["status"] == "FAILED"
        assert record["reason"].startswith("index.nlist=99: more cells")
        assert record["tags"]["index"] == "ivf"
        assert record["metrics"] == {} or record["metrics"] is None


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [(KeyboardInterrupt(), "KILLED", "interrupted"), (ValueError("a bug"), "FAILED", "ValueError: a bug")],
)
def test_a_run_that_ends_in_its_work_is_kept_and_the_error_goes_on(kept, monkeypatch, error, status, reason):
    def broken(self, images):
        raise error

    monkeypatch.setattr("medretrieval.encoders.baselines.PixelEncoder.encode", broken)
    with pytest.raises(type(error)):
        run(settings(kept))
    if (record := kept.only()) is not None:
        assert (record["status"], record["reason"]) == (status, reason)


def test_a_skipped_run_is_found_with_both_sweeps_and_its_scores(kept):
    run(settings(kept), sweep="first")
    assert run(settings(kept), sweep="second").skipped
    if kept.kind == "none":
        return
    sweeps = {sweep: r for r in kept.records() for sweep in r["tags"]["sweep"].split()}
    assert sweeps.keys() == {"first", "second"}
    assert {record["metrics"]["precision_at_3"] for record in sweeps.values()} == {1.0}


def test_a_sweep_is_kept_as_something_that_is_no_run(kept, finished_sweep):
    folder = finished_sweep / "sweeps" / "s1"
    reports = [read_report(path.parent) for path in sorted(folder.glob("[0-9]/scores.json"))]
    tracker = kept.tracker()
    tracker.prepare()
    tracker.log_sweep(Sweep(folder, reports))
    found = tracker.how_to_find("s1")
    if (record := kept.only()) is None:
        assert found is None
        return
    assert "s1" in found
    assert (record["status"], record["name"], record["tags"]["sweep"]) == ("FINISHED", "sweep s1", "s1")
    assert "encoder" not in record["tags"]
    assert not record["metrics"]


def test_an_entry_is_kept_and_where_is_said(kept):
    entry = Entry("compare", "two runs", {"compared": "a b"}, {"t.txt": "1"}, metrics={"p/a-b": 0.5})
    place = kept.tracker().log_entry(entry)
    if (record := kept.only()) is None:
        assert place is None
        return
    assert str(kept.outputs) in place
    assert (record["name"], record["tags"]["compared"]) == ("two runs", "a b")
    assert record["metrics"] == {"p/a-b": 0.5}


def test_a_tracker_that_is_away_costs_a_line_and_no_run(kept, tmp_path, caplog):
    away = unreachable(kept.kind, tmp_path)
    result = run(settings(kept, *away))
    assert (result.folder / "scores.json").exists()
    lines = [line for line in caplog.messages if " cannot be reached (" in line]
    assert len(lines) == (0 if kept.kind == "none" else 1)
    with pytest.raises(UserError, match=r"index.nlist=99"):
        run(settings(kept, "index=ivf", "index.nlist=99", *away))


def unreachable(kind, tmp_path):
    """Overrides with which a tracker cannot reach what it writes to."""
    below_a_file = tmp_path / "data" / "breastmnist.npz" / "runs"
    places = {"mlflow": f"tracking.uri={closed_port()}", "jsonl": f"tracking.path={below_a_file}"}
    return [places[kind]] if kind in places else []


def test_another_tracker_makes_no_other_run_and_learns_of_the_skipped_one(kept):
    """Done untracked first: the tracker that is asked later has the run's scores all the same."""
    first = run(compose(*PIXELS, "tracking=none", f"paths.outputs={kept.outputs}"))
    again = run(settings(kept))
    assert (again.skipped, again.folder) == (True, first.folder)
    if (record := kept.only()) is not None:
        assert record["metrics"]["precision_at_3"] == 1.0
        assert record["params"]["evaluation.ks"] == "[1, 3]"
        assert Path(record["folder"]) == first.folder


class Spy(Tracker):
    """Notes what it is told, in order."""

    told: ClassVar = []

    def start(self, about):
        self.told.append(("start", list(about.inputs)))

    def finish(self, about, folder):
        self.told.append(("finish", (folder / "tracking.json").exists() and "index.nlist" in about.params))

    def fail(self, about, reason, status):
        self.told.append(("fail", reason[:14]))
        raise UserError("a tracker's own trouble")

    def skip(self, about, finished):
        self.told.append(("skip", finished.name))


def test_what_a_tracker_is_told_and_when(kept, monkeypatch, tmp_path):
    monkeypatch.setattr(Spy, "told", [])
    cfg = settings(kept, "index=ivf")
    cfg.tracking = {"_target_": f"{__name__}.Spy"}
    run(cfg, tmp_path / "r")
    run(cfg)
    cfg.index.nlist = 99
    with pytest.raises(UserError, match=r"index.nlist=99"):  # and not what the tracker said
        run(cfg)
    assert Spy.told == [
        ("start", ["query", "gallery"]), ("finish", True), ("skip", "r"), ("fail", "index.nlist=99"),
    ]  # fmt: skip


def test_a_tracker_of_ones_own_is_a_class_and_a_file(command, write_npz, tmp_path):
    write_npz()
    (tmp_path / "ours.py").write_text(OURS)
    (tmp_path / "mine" / "tracking").mkdir(parents=True)
    (tmp_path / "mine" / "tracking" / "diary.yaml").write_text("_target_: ours.Diary\nfile: diary.txt\n")
    done = command("--config-dir", "mine", "-m", "tracking=diary", *PIXELS, "index=flat,ivf")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "diary.txt").read_text().splitlines() == [
        f"pixels {index} l2: True" for index in ("flat", "ivf")
    ]
    assert not list(tmp_path.glob("**/*.db"))
    assert "MLflow" not in done.stdout + done.stderr
    mistaken = command("--config-dir", "mine", "tracking=diary", "tracking.fiel=x", *PIXELS)
    assert "tracking.fiel: no such key; did you mean tracking.file? choose from: file" in mistaken.stderr


def test_a_sweep_of_the_command_line_is_told_to_its_tracker(command, write_npz, tmp_path):
    write_npz()
    done = command("-m", "tracking=jsonl", *PIXELS, "index=flat,ivf")
    assert done.returncode == 0, done.stderr
    path = tmp_path / "outputs" / "runs.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["kind"], line["status"]) for line in lines] == [
        ("run", "FINISHED"), ("run", "FINISHED"), ("sweep", "FINISHED"),
    ]  # fmt: skip
    (sweep,) = {line["tags"]["sweep"] for line in lines}
    assert f'in {path} its runs are the lines with "sweep": "{sweep}"' in done.stdout
    assert not list(tmp_path.glob("**/*.db"))


def test_a_comparison_is_kept_with_its_runs(kept, monkeypatch, tmp_path, capsys):
    folders = [str(run(settings(kept, f"index={i}")).folder) for i in ("flat", "ivf")]
    before = len(kept.records())
    store = tmp_path / "outputs" / "mlflow.db"
    words = ("resamples=100", "permutations=100", "track=true", f"uri=sqlite:///{store}")
    assert COMPARE.main([*folders, *(w for w in words if w != "track=true")]) == 0
    assert (len(kept.records()), "MLflow" in capsys.readouterr().err) == (before, False)  # only when asked
    assert COMPARE.main([*folders, *words]) == 0
    # Of runs that nothing keeps, a comparison goes to MLflow.
    in_mlflow = kept.kind in ("mlflow", "none")
    assert f"in {'MLflow at' if in_mlflow else kept.outputs}" in capsys.readouterr().err
    assert store.exists() == in_mlflow
    if kept.kind != "none":
        (added,) = [r for r in kept.records() if "comparison" in r["tags"]]
        assert len(kept.records()) == before + 1
        assert any(name.startswith("difference/") for name in added["metrics"])


@pytest.mark.parametrize(
    ("node", "line"),
    [
        ({}, "tracking: its configuration has no _target_"),
        ("none", "tracking=none: give its keys"),
        ({"_target_": "pathlib.Path"}, "not a subclass of medretrieval.track.tracker.Tracker"),
        ({"_target_": "medretrieval.track.tracker.Tracker", "uri": "x"}, "tracking.uri: .* no such argument"),
        ({"_target_": "medretrieval.track.jsonl_tracker.JsonLinesTracker"}, "tracking.path: .* needs it"),
        (
            {"_target_": "medretrieval.track.jsonl_tracker.JsonLinesTracker", "path": None},
            "tracking.path=None: must be text",
        ),
    ],
)
def test_what_is_no_tracker_is_refused(node, line):
    with pytest.raises(UserError, match=line):
        tracker_from_config(node)


@pytest.mark.parametrize("change", [{"log_index": "maybe"}, {"system_metrics": 1}, {"uri": None}])
def test_mlflow_refuses_values_that_cannot_be_meant(change):
    node = OmegaConf.to_container(compose("tracking=mlflow").tracking, resolve=True)
    with pytest.raises(UserError, match=f"tracking.{next(iter(change))}="):
        tracker_from_config(node | change)


def test_only_what_is_away_is_forgiven(caplog):
    with pytest.raises(UserError, match="of the user"), unless_away("it", "so what"):
        raise UserError("of the user")
    with pytest.raises(KeyboardInterrupt), unless_away("it", "so what"):
        raise KeyboardInterrupt
    assert caplog.messages == []
    with unless_away("it", "so what") as attempt:
        raise OSError("first line\nsecond line")
    assert attempt.failed
    assert caplog.messages == ["it cannot be reached (first line); so what"]
    with (
        pytest.raises(UserError, match=r"it cannot be reached \(x\); so what"),
        unless_away("it", "so what", True),
    ):
        raise OSError("x")


def test_the_key_of_earlier_versions_is_refused_with_what_it_is_now(command):
    done = command("tracking.enabled=false")
    assert done.returncode == 1
    assert (
        "tracking.enabled: a name of an earlier version; tracking.enabled is now tracking=none" in done.stderr
    )
