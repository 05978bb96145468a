"""What `make ui` prints: the address of the runs in MLflow's UI, which itself opens on another page.

`python -m medretrieval.track.mlflow.open_ui [the words that mlflow ui gets]` prints it, and starts nothing.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from medretrieval.errors import first_line
from medretrieval.private import HIDDEN, hide
from medretrieval.track.exchange import client_of
from medretrieval.track.find_runs import default_uri
from medretrieval.track.mlflow.database import sqlite_file
from medretrieval.track.mlflow.views import ALL_RUNS, VIEW_TAG, address

if TYPE_CHECKING:
    from collections.abc import Sequence

NOTHING = "no runs there yet; make one with: medretrieval"


def addresses(uri: str, server: str) -> list[str]:
    """A line for each experiment that has runs of this program: its table and its charts, the newest first.

    Args:
        uri: of the store.
        server: where the UI is, such as http://127.0.0.1:5000.

    Raises:
        OSError, MlflowException, ...: whatever a store raises that cannot be read.
    """
    database = sqlite_file(uri)
    if database is not None and not database.exists():  # asking MLflow would make it
        return [NOTHING]
    client, lines = client_of(uri), []
    for experiment in client.search_experiments(order_by=["last_update_time DESC"]):
        if f"{VIEW_TAG}{ALL_RUNS}" in experiment.tags:
            table, charts = (address(experiment.experiment_id, ALL_RUNS, on) for on in (False, True))
            lines += [f"{experiment.name}: {server}/{table}", f"  as charts: {server}/{charts}"]
    return lines or [NOTHING]


def main(words: "Sequence[str]") -> int:
    """Print the addresses; that there are none for now is no reason not to start the UI."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--backend-store-uri", default=default_uri(Path("outputs")))
    parser.add_argument("--host", "-h", default=os.environ.get("MLFLOW_HOST", "127.0.0.1"))
    parser.add_argument("--port", "-p", default=os.environ.get("MLFLOW_PORT", "5000"))
    given, _ = parser.parse_known_args(words)
    uri = hide(given.backend_store_uri)
    try:
        here = f"http://{given.host}:{given.port}"
        own = uri.replace(f"{HIDDEN}@", "").rstrip("/")  # a server has its own UI, and asks for a password
        lines = addresses(uri, own if uri.startswith("http") else here)
    except Exception as error:  # whatever a server, a database or a disk may raise
        lines = [f"{uri}: cannot be read ({first_line(error)})"]
    print(*lines, sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
