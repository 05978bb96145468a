import json
import subprocess
import sys

import pytest

from medretrieval import compose, run
from medretrieval.commands.many_runs.log import VERB as LOG
from medretrieval.errors import UserError
from medretrieval.track.jsonl_tracker import JsonLinesTracker, append_line
from medretrieval.track.mlflow.later import log_later
from medretrieval.track.tracker import Entry, RunDescription

APPENDING = """
import sys
from medretrieval.track.jsonl_tracker import JsonLinesTracker
from medretrieval.track.tracker import RunDescription
tracker = JsonLinesTracker(sys.argv[1])
for i in range(40):
    tracker.fail(RunDescription(f"{sys.argv[2]} {i}", {}), "x" * 20_000, "FAILED")
"""
FULL = """
import resource, sys
from pathlib import Path
from medretrieval.track.jsonl_tracker import append_line
path = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10,) * 2)
try:
    append_line(path, "y" * 100)
except OSError as error:
    print(error.strerror)
"""


def test_lines_of_four_processes_are_all_there_and_whole(tmp_path):
    path = tmp_path / "runs.jsonl"
    processes = [subprocess.Popen([sys.executable, "-c", APPENDING, str(path), str(n)]) for n in range(4)]
    assert [process.wait(timeout=120) for process in processes] == [0] * 4
    names = [json.loads(line)["name"] for line in path.read_text().splitlines()]
    assert sorted(names) == sorted(f"{n} {i}" for n in range(4) for i in range(40))
    for n in range(4):  # each in its own order
        assert [name for name in names if name.startswith(f"{n} ")] == [f"{n} {i}" for i in range(40)]


def test_what_was_left_half_written_stays_a_line_of_its_own(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_bytes(b'{"name": "whole"}\n{"name": "hal')
    JsonLinesTracker(str(path)).fail(RunDescription("next", {}), "why", "KILLED")
    whole, half, following = path.read_bytes().splitlines()
    assert (whole, half) == (b'{"name": "whole"}', b'{"name": "hal')
    assert json.loads(following)["name"] == "next"


def test_a_full_disk_leaves_no_half_line(tmp_path):
    path = tmp_path / "runs.jsonl"
    append_line(path, "before")
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "File too large\n", done.stderr
    assert path.read_text() == "before\n"
    append_line(path, "after")
    assert path.read_text() == "before\nafter\n"


def test_a_number_that_is_none_is_null_and_every_line_has_every_key(tmp_path):
    path = tmp_path / "runs.jsonl"
    tracker = JsonLinesTracker(str(path))
    metrics = {"a": float("nan"), "b": float("inf"), "c": 1.0}
    tracker.log_entry(Entry("compare", "x", {}, {}, metrics=metrics))
    tracker.fail(RunDescription("line\nbreak \u2028", {}), "two\nlines", "FAILED")
    entry, failed = (json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines())
    assert entry["metrics"] == {"a": None, "b": None, "c": 1.0}
    assert failed.keys() <= entry.keys()
    assert (failed["name"], failed["reason"]) == ("line\nbreak \u2028", "two\nlines")
    assert failed["folder"] is None


@pytest.fixture
def finished(tmp_path, write_npz):
    write_npz(n=12)
    small = ("dataset=breastmnist", "encoder=pixels", "figures.enabled=false", "evaluation.resamples=100")
    return run(compose(*small, "tracking=jsonl", f"paths.outputs={tmp_path / 'outputs'}")).folder


def test_the_verb_log_says_what_to_do_and_does_it(finished, database, capsys):
    with pytest.raises(UserError) as refused:
        log_later([finished], None)
    line = str(refused.value)
    assert line.startswith(
        f"{finished}: not meant for MLflow, its tracker is medretrieval.track.jsonl_tracker."
    )
    command, uri = line.rsplit("medretrieval log ", 1)[1].split(" uri=")
    assert (command, uri) == (str(finished), "sqlite:///outputs/mlflow.db")
    assert LOG.main([str(finished), f"uri={database}"]) == 0
    assert capsys.readouterr().out == "1 runs logged\n"
    assert log_later([finished], None) == 0  # now it knows where
