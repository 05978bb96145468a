"""How this program speaks with MLflow: with nobody else, and never for longer than a run can bear."""

import os
import subprocess
import sys

from tests.saved_runs import SMALL

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
