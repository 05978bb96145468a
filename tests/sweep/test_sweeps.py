"""Sweeps as a user sees them: lines, the table at the end, what is kept of them, and how they go on."""

import csv
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from tests.mlflow_store import all_runs

from medretrieval.sweep.plan import read_plan

RUN = (
    "dataset=breastmnist", "encoder=pixels", "metric=l2", "evaluation.ks=[1,3]", "evaluation.vote_k=3",
    "evaluation.resamples=100", "audit.enabled=false",
)  # fmt: skip
PLAIN = (*RUN, "tracking=none", "figures.enabled=false")


def run_lines(done):
    return [line for line in done.stdout.splitlines() if line.startswith("run ")]


def sweep_folder(tmp_path):
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    return folder


def test_a_sweep_ends_with_one_table_and_goes_on_after_a_failure(command, write_npz):
    write_npz()
    done = command("-m", *PLAIN, "index=flat,ivf", "index.nlist=2,99")
    assert done.returncode == 1
    assert "1 of 4 runs have results" in done.stdout
    assert done.stdout.count("failed: ") == 3
    assert "index.nlist=99: more cells than the gallery has vectors (12)" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_four_parallel_jobs_on_a_new_database_all_finish(command, write_npz, tmp_path):
    write_npz()
    done = command(
        "-m", *RUN, "hydra/launcher=joblib", "hydra.launcher.n_jobs=4", "index=flat,ivf", "metric=l2,ip",
        OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    _, runs = all_runs(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    assert [r.info.status for r in runs] == ["FINISHED"] * 5
    assert sum("encoder" in r.data.tags for r in runs) == 4  # and one of the sweep itself
    assert len({r.data.tags["sweep"] for r in runs}) == 1
    assert len(list(tmp_path.glob("cache/embeddings/*/*/embeddings.npy"))) == 2
    assert "4 of 4 runs have results" in done.stdout


def test_a_sweep_shows_quality_against_cost_and_logs_it(command, write_npz, tmp_path):
    write_npz(n=60)
    done = command("-m", *RUN, "index=flat,ivf", "metric=l2,cosine")
    assert done.returncode == 0, done.stderr
    picture = Path(done.stdout.rsplit("picture: ", 1)[1].splitlines()[0])
    assert Image.open(tmp_path / picture).size[0] > 1000
    client, runs = all_runs(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    (sweep,) = [r for r in runs if r.info.run_name.startswith("sweep ")]
    assert len(runs) == 5
    assert {r.data.tags["sweep"] for r in runs} == {sweep.data.tags["sweep"]}
    assert {a.path for a in client.list_artifacts(sweep.info.run_id)} == {"pareto.png", "sweep.txt"}
    compared = command("compare", sweep.data.tags["sweep"], "track=false")
    assert compared.returncode == 0, compared.stderr
    # By its id in MLflow as well, where the run of the sweep itself is none to compare.
    (tmp_path / "elsewhere").mkdir()
    uri = f"uri=sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}"
    assert (
        command("compare", sweep.data.tags["sweep"], "track=false", "outputs=elsewhere", uri).returncode == 0
    )


def test_two_protocols_of_a_sweep_are_not_drawn_into_one_picture(command, write_npz):
    write_npz(n=60)
    done = command("-m", *PLAIN, "index=flat,ivf", "protocol=leave_one_out,query_gallery")
    pictures = [line for line in done.stdout.splitlines() if line.startswith("picture: ")]
    assert [Path(line).name for line in pictures] == [
        "pareto_breastmnist_leave_one_out_precision_at_3.png",
        "pareto_breastmnist_query_gallery_precision_at_3.png",
    ]


def test_a_preset_sweeps_by_itself(command, write_npz, tmp_path):
    write_npz()
    (tmp_path / "mine" / "experiments").mkdir(parents=True)
    (tmp_path / "mine" / "experiments" / "two.yaml").write_text(
        "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      index: flat,hnsw\n"
    )
    done = command("--config-dir", "mine", "experiments=two", *PLAIN)
    assert "2 of 2 runs have results" in done.stdout


def test_a_sweep_prints_a_line_a_run_and_no_more(command, write_npz):
    write_npz()
    done = command("-m", *PLAIN, "index=flat,hnsw", "metric=l2,cosine")
    lines = run_lines(done)
    assert [line.split("  ")[0] for line in lines] == [f"run {n}/4" for n in (1, 2, 3, 4)]
    assert [re.sub(" +", " ", line).split(" ", 2)[2].split(" precision")[0] for line in lines] == [
        f"metric={metric} index={index}" for metric in ("l2", "cosine") for index in ("flat", "hnsw")
    ]
    assert all(re.search(r"  precision_at_3 [01]\.\d{4}", line) for line in lines)
    assert all(re.search(r"  about \d+ (s|min) left$", line) for line in lines[:3])
    assert lines[3][-6:].replace(".", "").isdecimal()
    before = done.stdout.partition("\nsweep ")[0]
    assert before.splitlines() == [*lines, ""] or before.splitlines() == lines
    assert done.stderr == ""


def test_the_whole_table_of_each_run_is_printed_where_it_is_asked_for(command, write_npz):
    write_npz()
    done = command("-m", *PLAIN, "index=flat,hnsw", "verbose=true")
    assert done.stdout.count("\nresults: ") == 2
    assert len(run_lines(done)) == 2
    again = command("-m", *PLAIN, "index=flat,hnsw")  # what is printed makes no other run of it
    assert again.stdout.count("(had finished before)") == 2
    assert "results: " not in again.stdout


def test_a_failed_run_leaves_the_others_their_table_and_the_sweep_its_run(command, write_npz, tmp_path):
    write_npz(n=60)
    done = command("-m", *RUN, "index=flat,ivf", "index.nlist=null,99")
    assert done.returncode == 1
    lines = run_lines(done)
    assert [line.split("/")[0] for line in lines] == [f"run {n}" for n in range(1, 5)]
    failed = [line for line in lines if "  failed" in line]
    assert len(failed) == 2
    assert "2 of 4 runs have results" in done.stdout
    folder = sweep_folder(tmp_path)
    assert (folder / "table.md").exists()
    assert (folder / "pareto.png").exists()
    _, runs = all_runs(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    assert [r.info.status for r in runs if r.info.run_name == f"sweep {folder.name}"] == ["FINISHED"]
    assert read_plan(folder).ended


def test_the_table_is_kept_in_the_folder_of_the_sweep(command, write_npz, tmp_path):
    write_npz(n=60)
    words = ("encoder=random,pixels", "index=flat,ivf", "protocol=query_gallery,leave_one_out")
    done = command("-m", *PLAIN, *words)
    folder = sweep_folder(tmp_path)
    assert f"table: {folder / 'table.md'} and table.csv" in done.stdout
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    for protocol in ("query_gallery", "leave_one_out"):
        task = [row for row in rows if row["protocol"] == protocol]
        best = max(float(row["value"]) for row in task)
        assert [float(row["difference"]) for row in task] == [float(row["value"]) - best for row in task]
        assert task[0]["difference"] == "0.0"
    assert {row["ann_recall"] for row in rows if row["index"] == "flat"} == {"1.0"}
    assert all(float(row["latency_ms_p50"]) > 0 for row in rows)
    text = (folder / "table.md").read_text()
    assert text.count("**breastmnist, ") == 2
    for word in ("interval", "difference", "p50 ms", "ANN recall@3"):
        assert text.count(f" {word} |") == 2
        assert done.stdout.count(f" {word} ") >= 2
    assert sum(line.startswith("| pixels |") for line in text.splitlines()) == 4


def interrupted(arguments, cwd, at):
    """stdout, stderr and code of a sweep that is interrupted once it prints a line that starts with `at`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "medretrieval", "-m", *arguments],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith(at):
            process.send_signal(signal.SIGINT)
    errors = process.stderr.read()
    return "".join(said), errors, process.wait(timeout=60)


def test_an_interrupted_sweep_says_what_is_done_and_goes_on_under_its_id(command, write_npz, tmp_path):
    write_npz(n=60)
    words = (*PLAIN, "index=flat,ivf,hnsw", "metric=l2,cosine")
    said, errors, code = interrupted(words, tmp_path, "run 1/6")
    assert code == 130
    assert "Traceback" not in errors
    folder = sweep_folder(tmp_path)
    plan = read_plan(folder)
    assert (len(plan.jobs), plan.ended) == (6, False)
    done = len(list(folder.glob("*/scores.json")))
    assert f"sweep {folder.name}: {done} of 6 runs done; start the same command again to go on" in said
    assert 1 <= done < 6
    went_on = command("-m", *words)
    assert went_on.returncode == 0, went_on.stderr
    assert sweep_folder(tmp_path) == folder  # and no other one
    assert f"sweep {folder.name}: 6 of 6 runs have results" in went_on.stdout
    assert went_on.stdout.count("(had finished before)") == done
    assert list(folder.glob("*/skipped.json")) == []  # its own results are no other run's
    assert len(list(folder.glob("*/scores.json"))) == 6
    assert not (folder / "sweep.json.lock").exists()
    another = command("-m", *words)  # this one had ended
    assert "6 of 6 runs have results" in another.stdout
    assert len(list(folder.parent.iterdir())) == 2


@pytest.mark.parametrize("change", ["seed=1", "force=true"])
def test_another_command_starts_a_sweep_of_its_own(change, command, write_npz, tmp_path):
    write_npz(n=60)
    words = [*PLAIN, "index=flat", "metric=l2,cosine"]
    interrupted(words, tmp_path, "run 1/2")
    command("-m", *words, change)
    assert len(list((tmp_path / "outputs" / "sweeps").iterdir())) == 2


def test_a_sweep_that_another_process_works_on_is_left_to_it(command, write_npz, tmp_path):
    write_npz(n=60)
    words = (*PLAIN, "index=flat", "metric=l2,cosine")
    first = subprocess.Popen(
        [sys.executable, "-m", "medretrieval", "-m", *words], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "outputs").rglob("sweep.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    second = command("-m", *words)
    out, _ = first.communicate(timeout=120)
    ids = [re.search(r"^sweep (\S+): 2 of 2", text, re.MULTILINE)[1] for text in (out, second.stdout)]
    assert ids[0] != ids[1]
