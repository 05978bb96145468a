"""The line of a run, and the time that is left."""

import os
import time
from dataclasses import replace

import pytest

from medretrieval.sweep.plan import Plan, interrupted
from medretrieval.sweep.progress import run_line, seconds_left

JOBS = [
    ["seed=1", f"encoder={encoder}", f"index={index}"] for encoder in ("a", "long") for index in ("x", "y")
]


@pytest.fixture
def sweep(tmp_path):
    """A function that puts a job into the sweep's folder: its number, how it ended, and when (s ago)."""

    def job(number, *files, ago=0.0):
        folder = tmp_path / "s" / f"{number}_job"
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra" / "overrides.yaml").write_text("")
        for name in files:
            (folder / name).write_text("{}")
            os.utime(folder / name, (time.time() - ago,) * 2)

    Plan("key", JOBS, time.time() - 100, ended=False).write(_made(tmp_path / "s"))
    return job


def _made(folder):
    folder.mkdir(parents=True)
    return folder


def plan(seconds_ago=100):
    return Plan("key", JOBS, time.time() - seconds_ago, ended=False)


def test_a_line_says_which_run_what_tells_it_apart_and_what_it_has_come_to(sweep, tmp_path):
    sweep(0, "scores.json")
    line = run_line(tmp_path / "s", 0, ["anything"], "precision_at_5 0.5000")
    assert line == "run 1/4  encoder=a index=x     precision_at_5 0.5000  about 5 min left"
    assert run_line(tmp_path / "s", 3, [], "failed").startswith("run 4/4  encoder=long index=y  failed")


def test_without_a_plan_the_line_says_all_words(tmp_path):
    assert run_line(tmp_path, 4, ["seed=1", "index=x"], "failed") == "run 5  seed=1 index=x  failed"


def test_a_sweep_of_one_has_nothing_to_tell_apart(tmp_path):
    replace(plan(), jobs=JOBS[:1]).write(_made(tmp_path / "one"))
    assert run_line(tmp_path / "one", 0, JOBS[0], "map 0.5000") == (
        "run 1/1  seed=1 encoder=a index=x  map 0.5000"
    )


def test_time_left_is_that_of_the_runs_since_the_start(sweep, tmp_path):
    sweep(0, "scores.json", ago=5000)  # of an earlier start
    sweep(1, "scores.json")
    sweep(2, "failed.txt")
    assert seconds_left(tmp_path / "s", plan(60)) == pytest.approx(30, abs=1)


def test_runs_that_were_skipped_take_no_time(sweep, tmp_path):
    sweep(0, "skipped.json")
    assert seconds_left(tmp_path / "s", plan()) is None
    sweep(1, "scores.json")
    assert seconds_left(tmp_path / "s", plan(60)) == pytest.approx(120, abs=1)


def test_a_run_that_works_is_one_that_is_left(sweep, tmp_path):
    sweep(0, "scores.json")
    sweep(1)
    assert seconds_left(tmp_path / "s", plan(60)) == pytest.approx(180, abs=1)


def test_after_the_last_run_no_time_is_left(sweep, tmp_path):
    for number in range(4):
        sweep(number, "scores.json")
    assert seconds_left(tmp_path / "s", plan()) is None


def test_only_a_sweep_of_the_same_plan_that_has_not_ended_is_taken_up(tmp_path):
    for name, made in {
        "a": plan(), "b": plan(), "c": plan().as_ended(), "d": replace(plan(), key="other")
    }.items():  # fmt: skip
        made.write(_made(tmp_path / name))
    _made(tmp_path / "e")
    (_made(tmp_path / "f") / "sweep.json").write_text("{")
    assert interrupted(tmp_path, "key") == [tmp_path / "b", tmp_path / "a"]
