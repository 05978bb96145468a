"""The verb `list`, and words that name runs: latest and short ids."""

import json
import shutil
import subprocess
import sys
import time

import pytest
from tests.saved_runs import ALONE, FAILED, STOPPED, SWEEP, age, saved

from medretrieval.errors import UserError
from medretrieval.runs.report import read_report
from medretrieval.runs.saved.names import local_folder


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Outputs that no test changes."""
    return saved(tmp_path_factory.mktemp("list"))


@pytest.fixture
def listed(say):
    def entries(*words):
        code, out, err = say("list", *words, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    return entries


# list


def test_runs_and_sweeps_are_listed_the_newest_first_with_what_their_files_say(listed, outputs):
    found = listed(f"outputs={outputs}")
    assert found["count"] == 4
    stopped, failed, sweep, alone = found["entries"]
    assert [e["name"] for e in found["entries"]] == [STOPPED, FAILED, SWEEP, ALONE]
    assert [e["state"] for e in found["entries"]] == ["unfinished", "failed", "finished", "finished"]
    report = read_report(outputs / "runs" / ALONE)
    assert alone["score"] == {"name": report.objective.name, "value": report.objective.value}
    assert alone["axes"] == {
        "dataset": ["chest_phantom"],
        "encoder": ["pixels"],
        "index": ["flat"],
        "metric": ["cosine"],
        "protocol": ["query_gallery"],
        "adapt": [],
        "rerank": [],
    }
    assert (alone["folder"], alone["ended"]) == (str(outputs / "runs" / ALONE), "1970-01-12T13:46:40+00:00")
    # What did not finish is known by the configuration that Hydra wrote.
    assert (failed["axes"]["metric"], stopped["axes"]["metric"]) == (["l2"], ["ip"])
    assert (failed["score"], failed["reason"]) == (None, "metric=l2: something was wrong")
    assert (sweep["kind"], sweep["runs"]) == ("sweep", {"finished": 2, "skipped": 1})
    assert (sweep["axes"]["encoder"], sweep["axes"]["index"]) == (["pixels", "random"], ["flat", "ivf"])
    values = [
        read_report(f).objective.value for f in (outputs / "sweeps" / SWEEP).iterdir() if f.name[:1] in "01"
    ]
    assert sweep["score"]["value"] == max(*values, report.objective.value)


def test_the_table_has_a_line_for_each_and_a_name_that_other_verbs_take(say, outputs):
    _, out, _ = say("list", f"outputs={outputs}")
    header, _, *rows, last = out.splitlines()
    assert header.split() == ["when", "run", "or", "sweep", "what", "score", "results"]
    assert last == f"4 of 4, the newest first, in {outputs}"
    assert ["interrupted or running" in rows[0], "failed: metric=l2" in rows[1]] == [True, True]
    assert "3 of 3 runs" in rows[2]
    for row, folder in zip(rows, (STOPPED, FAILED, SWEEP, ALONE), strict=True):
        name = row.split()[2]
        assert folder.startswith(name)
        assert local_folder(name, outputs).name == folder


def test_some_of_them_are_shown(listed, say, outputs):
    place = f"outputs={outputs}"
    assert [e["name"] for e in listed("ivf", place)["entries"]] == [SWEEP]
    assert [e["name"] for e in listed("of=FAILED", place)["entries"]] == [FAILED]
    assert [e["name"] for e in listed("20260101", place)["entries"]] == [ALONE]
    few = listed(place, "limit=1")
    assert (few["count"], [e["name"] for e in few["entries"]]) == (4, [STOPPED])
    assert say("list", place, "limit=1")[1].splitlines()[-1].endswith("limit=4 shows all")
    assert say("list", place, "of=nothing")[1] == f"no runs in {outputs} whose line contains 'nothing'\n"


def test_the_runs_of_a_sweep_one_by_one(listed, refused, outputs):
    for word in (SWEEP, "20260102", "latest", outputs / "sweeps" / SWEEP):
        found = listed(f"outputs={outputs}", f"sweep={word}")["entries"]
        assert [(e["name"], e["state"]) for e in found] == [
            ("2_pixels", "skipped"), ("1_ivf", "finished"), ("0_flat", "finished"),
        ]  # fmt: skip
    # A skipped run shows what the earlier run scored.
    assert found[0]["score"]["value"] == read_report(outputs / "runs" / ALONE).objective.value
    assert refused("list", f"outputs={outputs}", "sweep=nowhere").startswith(
        "list: sweep=nowhere: no sweep in "
    )


def test_a_sweep_that_was_stopped_says_how_many_runs_have_not_started(listed, say, outputs, tmp_path):
    shutil.copytree(outputs, tmp_path / "o", symlinks=True)
    (tmp_path / "o" / "sweeps" / SWEEP / "sweep.json").write_text('{"jobs": [["a=1"], ["a=2"], [], [], []]}')
    (sweep,) = [e for e in listed("outputs=o")["entries"] if e["kind"] == "sweep"]
    assert sweep["runs"] == {"finished": 2, "skipped": 1, "not started": 2}
    assert sweep["state"] == "unfinished"
    assert "3 of 5 runs, 2 not started" in say("list", "outputs=o")[1]


def test_there_may_be_nothing_or_files_that_cannot_be_read(say, outputs, tmp_path):
    assert say("list", "outputs=empty") == (0, "no runs in empty\n", "")
    shutil.copytree(outputs, tmp_path / "o", symlinks=True)
    (tmp_path / "o" / "runs" / ALONE / "scores.json").write_text("{")
    (tmp_path / "o" / "runs" / FAILED / ".hydra" / "config.yaml").write_text("a: [")
    code, out, err = say("list", "outputs=o")
    assert (code, err, len(out.splitlines())) == (0, "", 7)


def test_hundreds_of_runs_are_listed_in_about_a_second_without_heavy_imports(outputs, tmp_path):
    for number in range(300):
        folder = tmp_path / "outputs" / "runs" / f"20250101-{number:06}-000000_x"
        folder.mkdir(parents=True)
        for name in ("scores.json", "manifest.json"):
            shutil.copy(outputs / "runs" / ALONE / name, folder / name)
    code = (
        "import sys, time; sys.argv = ['medretrieval', 'list', 'limit=300']\n"
        "from medretrieval.cli import main; main()\n"
        "print([m for m in ('torch', 'faiss', 'mlflow', 'scipy', 'pyarrow', 'PIL') if m in sys.modules])\n"
        "print(time.process_time())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    *rows, heavy, seconds = done.stdout.splitlines()
    assert (len(rows), heavy) == (303, "[]"), done.stderr
    assert float(seconds) < 5  # half a second on a machine that does nothing else


# Words that name runs


def test_latest_is_the_run_that_finished_last_or_its_sweep(outputs, tmp_path):
    sweep = outputs / "sweeps" / SWEEP
    assert local_folder("latest", outputs, one=True) == sweep / "1_ivf"
    assert local_folder("latest", outputs) == sweep  # skipped, failed and stopped runs have no say
    shutil.copytree(outputs, tmp_path / "o", symlinks=True)
    age(tmp_path / "o" / "runs" / ALONE, int(time.time()))
    for one in (True, False):
        assert local_folder("latest", tmp_path / "o", one=one) == tmp_path / "o" / "runs" / ALONE
    with pytest.raises(UserError, match="latest: no finished run in"):
        local_folder("latest", tmp_path / "empty")


def test_a_folder_called_latest_comes_first(outputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latest").mkdir()
    assert str(local_folder("latest", outputs)) == "latest"


def test_verbs_take_latest_and_say_what_it_is(say, outputs):
    sweep = outputs / "sweeps" / SWEEP
    code, _, err = say("verify", "latest", f"outputs={outputs}")
    assert (code, err) == (0, f"latest: the run that finished last: {sweep / '1_ivf'}\n")
    code, out, err = say("compare", "latest", f"outputs={outputs}", "track=false", "resamples=100", "--json")
    assert code == 0
    assert err.splitlines()[0] == f"latest: {sweep}"
    assert len(json.loads(out)["runs"]) == 3  # the skipped one by its earlier run


def test_the_beginning_of_a_name_is_enough_where_no_other_has_it(outputs, say, refused):
    assert local_folder("20260101", outputs).name == ALONE
    assert local_folder(ALONE, outputs).name == ALONE
    assert local_folder("2026010", outputs / "nowhere") is None
    assert local_folder("202", outputs) is None  # too short to mean one
    for verb, words in (("verify", []), ("compare", ["track=false"]), ("report", ["track=false"])):
        line = refused(verb, "2026010", f"outputs={outputs}", *words)
        assert line == (
            f"2026010: the beginning of several: {ALONE}, {SWEEP}, {FAILED}, {STOPPED}; give more of it"
        )
    assert say("verify", "20260101", f"outputs={outputs}")[0] == 0


def test_an_id_of_mlflow_may_be_short_too(say, refused, outputs, tmp_path):
    shutil.copytree(outputs, tmp_path / "o", symlinks=True)
    sweep = tmp_path / "o" / "sweeps" / SWEEP
    for folder, run_id in (("0_flat", "ab12" + "0" * 28), ("1_ivf", "ab13" + "0" * 28)):
        (sweep / folder / "tracking.json").write_text(json.dumps({"run_id": run_id}))
    assert local_folder("ab12", tmp_path / "o") == sweep / "0_flat"
    assert local_folder("ab13000", tmp_path / "o") == sweep / "1_ivf"
    (sweep / "0_flat" / "tracking.json").write_text(json.dumps({"run_id": "ab13" + "f" * 28}))
    line = refused("verify", "ab13", "outputs=o")
    assert line.startswith(
        f"ab13: the beginning of several: ab13{'0' * 28} (o/sweeps/{SWEEP}/1_ivf), ab13fff"
    )


def test_an_id_that_only_mlflow_knows_may_be_short(say, refused, database, tmp_path):
    outputs = saved(tmp_path, "tracking=mlflow", f"tracking.uri={database}")
    folders = (outputs / "runs" / ALONE, outputs / "sweeps" / SWEEP / "0_flat")
    ids = [json.loads((folder / "tracking.json").read_text())["run_id"] for folder in folders]
    shutil.move(outputs, tmp_path / "away")
    short = [run_id[:12] for run_id in ids]
    code, out, err = say("compare", *short, f"uri={database}", "track=false", "resamples=100", "--json")
    assert code == 0, err
    assert {r["source"] for r in json.loads(out)["runs"]} == {f"MLflow run {run_id}" for run_id in ids}
    assert "no folder, no sweep" in refused("compare", "0" * 12, f"uri={database}")
