"""How this program speaks with MLflow: with nobody else, and never for longer than a run can bear."""

import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from tests.mlflow_store import MANNERS, Server
from tests.saved_runs import SMALL, composed

from medretrieval import run
from medretrieval.errors import UserError
from medretrieval.track import exchange
from medretrieval.track.best_run import choose
from medretrieval.track.exchange import Patience, TooSlowError
from medretrieval.track.mlflow import open_ui
from medretrieval.track.mlflow.later import log_later
from medretrieval.track.mlflow.removal import LoggedRun, delete, run_there, runs_of_sweep, still_there
from medretrieval.track.mlflow_tracker import MLflowTracker
from medretrieval.track.run_description import read_tracking
from medretrieval.track.tracker import Entry, RunDescription

NEVER = "0123456789abcdef0123456789abcdef"

# Of the audit events of Python: whoever connects, sends or asks for an address raises one.
WATCHED = """
import socket, sys

ASKING = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo")

def watch(event, arguments):
    away = event in ("socket.connect", "socket.sendto") and arguments[0].family != socket.AF_UNIX
    if away or event in ASKING:
        with open("asked.txt", "a") as file:
            print(event, arguments[1:] if away else arguments, file=file)

sys.addaudithook(watch)
from medretrieval.cli import main
code = main()
import threading, time
time.sleep(0.5)  # threads that ask on their own
sys.exit(code)
"""
# With one of these MLflow and the hub of models ask nobody anyway.
OF_TESTS = (
    "PYTEST_CURRENT_TEST", "CI", "GITHUB_ACTIONS", "HF_HUB_OFFLINE", "MLFLOW_DISABLE_TELEMETRY",
    "DO_NOT_TRACK",
)  # fmt: skip


def test_a_default_run_connects_to_nothing_and_asks_for_no_name(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in OF_TESTS}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *(w for w in SMALL if "figures" not in w)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outputs" / "mlflow.db").exists()
    asked = tmp_path / "asked.txt"
    assert not asked.exists(), asked.read_text()


# How long


@pytest.fixture
def quick(monkeypatch):
    """A deadline that tests can wait for."""
    monkeypatch.setattr(exchange, "DEADLINE_S", 0.4)
    for name, value in exchange.SETTINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(composed(tmp_path_factory.mktemp("slow"), "encoder=pixels")).folder


@pytest.mark.parametrize("manner", ["busy", "trickles"])
def test_a_run_waits_for_a_server_once_and_says_how_to_log_it_later(quick, tmp_path, caplog, manner):
    with Server(manner) as server:
        start = time.monotonic()
        tracking = ("tracking=mlflow", f"tracking.uri={server.uri()}")
        folder = run(composed(tmp_path, "encoder=pixels", *tracking)).folder
        whole = time.monotonic() - start
    assert (folder / "scores.json").exists()
    lines = [record.getMessage() for record in caplog.records if "log it later" in record.getMessage()]
    assert lines == [f"not in MLflow; log it later with: medretrieval log {folder} uri={server.uri()}"]
    assert f"MLflow at {server.uri()} cannot be reached (" in caplog.text
    assert whole < 30  # of which the run itself is most


@pytest.mark.parametrize("manner", MANNERS)
def test_a_tracker_takes_no_longer_than_the_deadline_in_all(quick, finished, tmp_path, caplog, manner):
    about = RunDescription(**read_tracking(finished)["about"])
    with Server(manner) as server:
        tracker = MLflowTracker(server.uri(), "e", log_index=False, system_metrics=False)
        start = time.monotonic()
        tracker.start(about)
        tracker.fail(about, "why", "FAILED")
        tracker.skip(about, finished)
        assert tracker.log_entry(Entry("report", "r", {}, {"a.html": "x"})) is None
        assert time.monotonic() - start < 3 * exchange.DEADLINE_S + 1


def test_a_server_that_becomes_slow_in_the_end_costs_no_results(
    quick, finished, tmp_path, database, caplog, monkeypatch
):
    about = RunDescription(**read_tracking(finished)["about"])
    folder = shutil.copytree(finished, tmp_path / "run")
    tracker = MLflowTracker(database, "e", log_index=False, system_metrics=False)
    tracker.start(about)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", lambda *_, **__: time.sleep(1))
        tracker._client = exchange._InTime(tracker._client, tracker.patience)
        tracker.finish(about, folder)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "(no whole answer within 0.4 s); its results are kept; log them later with: medretrieval" in line
    assert read_tracking(folder)["logged"] is False
    assert log_later([folder], database) == 1


@pytest.mark.parametrize("manner", ["limited", "silent", "trickles", "endless"])
@pytest.mark.parametrize(
    "ask",
    [
        lambda uri, folder, aside: log_later([folder], uri),
        lambda uri, folder, aside: choose(NEVER, uri, aside, aside),
        lambda uri, folder, aside: choose("a-sweep", uri, aside, aside),
        lambda uri, folder, aside: run_there(uri, NEVER),
        lambda uri, folder, aside: still_there([LoggedRun(uri, NEVER, "a"), LoggedRun(uri, NEVER, "b")]),
        lambda uri, folder, aside: runs_of_sweep(uri, folder),
        lambda uri, folder, aside: delete([LoggedRun(uri, NEVER, "a")]),
    ],
    ids=["log", "find one", "find", "remove one", "still there", "remove sweep", "delete"],
)
def test_verbs_answer_in_one_line_within_the_deadline(quick, finished, tmp_path, ask, manner):
    with Server(manner) as server:
        start = time.monotonic()
        with pytest.raises(UserError) as refused:
            ask(server.uri(), finished, tmp_path)
        assert time.monotonic() - start < 4
    (line,) = str(refused.value).splitlines()
    assert server.uri() in line or NEVER in line


@pytest.mark.parametrize("manner", MANNERS)
def test_the_page_of_the_ui_is_not_waited_for(quick, capsys, manner):
    with Server(manner) as server:
        assert open_ui.main(["--backend-store-uri", server.uri()]) == 0
        assert capsys.readouterr().out.startswith(f"{server.uri()}: cannot be read (")


@pytest.mark.parametrize("manner", ["trickles", "endless", "headers"])
def test_what_was_not_waited_for_ends(quick, manner):
    with Server(manner) as server:
        before = set(threading.enumerate())
        with pytest.raises(TooSlowError, match=r"no whole answer within 0\.4 s"):
            exchange.client_of(server.uri()).get_run(NEVER)
        for thread in set(threading.enumerate()) - before:
            if "process_request" not in thread.name:  # of the server
                thread.join(5)
                assert not thread.is_alive()


@settings(max_examples=20)
@given(st.lists(st.floats(0, 0.03), max_size=6))
def test_seconds_add_up_in_a_run_and_not_in_a_verb(naps):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "DEADLINE_S", 0.05)
        run_wide, each = Patience(in_all=True), Patience(in_all=False)
        start = time.monotonic()
        with suppress(TooSlowError):
            for nap in naps:
                run_wide.call(time.sleep, nap)
        assert time.monotonic() - start < 0.05 + 0.2
        assert [each.call(lambda nap=nap: nap) for nap in naps] == naps


def test_what_a_store_raises_is_raised_and_one_that_was_too_slow_is_not_asked_again(monkeypatch):
    patience = Patience(in_all=False)
    with pytest.raises(KeyError):
        patience.call({}.__getitem__, 1)
    assert patience.call(max, 1, 2) == 2
    monkeypatch.setattr(exchange, "DEADLINE_S", 0.05)
    with pytest.raises(TooSlowError):
        patience.call(time.sleep, 0.5)
    with pytest.raises(TooSlowError):
        patience.call(pytest.fail)
    assert Patience(in_all=False).call(time.sleep, 0.1, more_s=1.0) is None
