"""What an MLflow store holds, and an address where there is none."""

import socket

from mlflow import MlflowClient


def all_runs(uri, experiment="medretrieval"):
    """A client of the store at `uri`, and the runs of an experiment there, the newest first."""
    client = MlflowClient(tracking_uri=uri)
    return client, client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def only_run(uri, experiment="medretrieval"):
    """A client of the store at `uri`, and the one run that an experiment has there."""
    client, (run,) = all_runs(uri, experiment)
    return client, run


def closed_port():
    """The address of a server that is away."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"
