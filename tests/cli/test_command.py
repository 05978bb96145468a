import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medretrieval.config import root
from medretrieval.runs import folder as results
from medretrieval.runs.folder import skipped_for
from medretrieval.runs.report import Objective, read_report

RUN = ("dataset=breastmnist", "encoder=pixels", "metric=l2", "evaluation.ks=[1,3]")
UNTRACKED = (*RUN, "tracking=none")


def one_line(done):
    """The single line that a mistake is answered with."""
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert line.startswith("medretrieval: ")
    assert done.stdout == ""
    return line.removeprefix("medretrieval: ")


def test_a_run_prints_scores_beside_chance_and_where_everything_is(command, write_npz, tmp_path):
    write_npz()
    done = command(*UNTRACKED)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line}
    assert rows["score"] == ["value", "95", "%", "interval", "chance", "lift"]
    low = float(rows["precision_at_3"][1])
    assert 0.6 < low < 1  # 12 queries that all find their class do not make the score certain
    assert rows["precision_at_3"] == ["1.0000", f"{low:.4f}", "..", "1.0000", "0.5000", "2.00"]
    folder = done.stdout.rsplit("results: ", 1)[1].strip()
    assert (Path(folder) / results.SCORES).exists()
    assert folder.startswith(str(tmp_path / "outputs" / "runs"))


def test_a_second_run_is_skipped_and_says_where_the_first_is(command, write_npz, tmp_path):
    write_npz()
    first = command(*UNTRACKED).stdout.rsplit("results: ", 1)[1].strip()
    again = command(*UNTRACKED)
    assert f"skipped: this configuration has finished in {first}" in again.stderr
    assert "precision_at_3" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["index.nlist=many"], "index.nlist: Value 'many' of type 'str' could not be converted to Integer"),
        (["encoder=timm"], "encoder.model: a value is needed; give it as encoder.model=<value>"),
        (["encoder=pixels", "+encoder.sides=3"], "encoder.sides: "),
        (["compair"], "compair: neither a verb nor key=value; did you mean compare? choose from: again,"),
        (["log"], "log: run= is missing; medretrieval log <folder> ... [key=value ...] (see --help)"),
        (["log", "nowhere"], "log: run=nowhere: no such folder, and no run or sweep in outputs"),
    ],
)
def test_a_mistake_is_answered_with_one_line(command, arguments, line):
    assert one_line(command(*arguments, *(["tracking=none"] if arguments[0] != "log" else []))).startswith(
        line
    )


def test_a_damaged_file_is_answered_with_one_line_and_leaves_no_results(command, write_npz, tmp_path):
    path = write_npz()
    path.write_bytes(path.read_bytes()[:500])
    assert str(path) in one_line(command(*UNTRACKED))
    assert not list(tmp_path.glob("outputs/**/scores.json"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_output_folder_is_answered_with_one_line(command, write_npz, tmp_path):
    write_npz()
    (tmp_path / "outputs").mkdir(mode=0o500)
    assert "outputs" in one_line(command(*UNTRACKED))


def test_a_file_in_place_of_the_output_folder_is_answered_with_one_line(command, write_npz, tmp_path):
    write_npz()
    (tmp_path / "outputs").write_text("")
    assert "outputs" in one_line(command(*UNTRACKED))


def test_an_interrupted_embedding_ends_at_once_and_goes_on_later(tmp_path, write_npz):
    write_npz(n=600)
    slow = (*UNTRACKED, "encoder=timm", "encoder.model=resnet18", "encoder.pretrained=null")
    command = [sys.executable, "-m", "medretrieval", *slow, "encoder.batch_size=4"]
    # A test run that was started in the background would hand down an ignored SIGINT.
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(
        tmp_path.glob("cache/embeddings/*/*.shards/*.partial-*/*.npy")
    ):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "medretrieval: interrupted; run the same command again" in said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("cache/embeddings/**/*.partial-*"))
    assert not list(tmp_path.glob("outputs/**/scores.json"))


def test_a_run_can_be_logged_later(command, write_npz, tmp_path):
    write_npz()
    done = command(*RUN, "tracking.uri=http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert "MLflow at http://127.0.0.1:9 cannot be reached" in done.stderr
    later = command("log", "outputs/runs", f"uri=sqlite:///{tmp_path / 'm.db'}")
    assert later.stdout.strip() == "1 runs logged", later.stderr


def test_conf_and_presets_are_found(tmp_path):
    assert (root() / "conf" / "config.yaml").exists()
    assert (root() / "experiments").is_dir()


def test_the_score_reaches_hydras_sweepers(command, write_npz, tmp_path):
    write_npz()
    folder = command(*UNTRACKED).stdout.rsplit("results: ", 1)[1].strip()
    assert read_report(Path(folder)).objective == Objective("precision_at_3", 1.0)


def test_a_folder_is_named_in_letters_whatever_the_encoder_is_called(command, write_npz, tmp_path):
    write_npz()
    done = command(*UNTRACKED, "encoder.name=local-dir:/some/place")
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    assert "_local-dir-some-place_" in folder.name
    assert (folder / "scores.json").exists()
    moved = tmp_path / "moved"
    again = command("-m", *UNTRACKED, "encoder.name=local-dir:/some/place", "metric=l2")
    assert again.returncode == 0, again.stderr
    (tmp_path / "outputs").rename(moved)
    (skipped,) = moved.rglob("skipped.json")
    assert skipped_for(skipped.parent) == moved / "runs" / folder.name


def test_a_reader_that_leaves_is_no_error_of_ours(tmp_path):
    code = (
        "import sys; from medretrieval import cli; from medretrieval.commands.many_runs import log\n"
        "class Gone:\n"
        "    def main(self, arguments): raise BrokenPipeError\n"
        "log.VERB = Gone(); sys.argv = ['medretrieval', 'log']; sys.exit(cli.main())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_file_that_is_no_yaml_is_named_with_its_line(command, tmp_path):
    file = tmp_path / "mine" / "prompts" / "words.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("templates:\n  - {}.\nclasses: {}\n")
    line = one_line(command("--config-dir", str(tmp_path / "mine"), "prompts=words", *UNTRACKED))
    assert "words.yaml, line 2: not valid YAML (" in line
    assert "in quotes" in line
