"""What an MLflow store holds, and an address where there is none."""

import base64
import socket
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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


class Server:
    """A server on this machine that is not well, as MLflow's may be; it keeps who asked it.

    Args:
        manner: how it answers: "refuses" (status 400).
    """

    def __init__(self, manner):
        self.passwords, self.paths = set(), []
        asked = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def _answer(self):
                said = self.headers.get("Authorization", "").removeprefix("Basic ")
                asked.passwords.add(base64.b64decode(said).decode())
                asked.paths.append(self.path)
                with suppress(OSError):  # who asked has left
                    getattr(self, f"_{manner}")()

            def _refuses(self):
                self.send_response(400)
                self.send_header("Content-Length", "0")
                self.end_headers()

        for verb in ("GET", "POST", "PUT", "PATCH"):
            setattr(Handler, f"do_{verb}", Handler._answer)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    def uri(self, user=""):
        """Its address, with a user and a password before an @ where these are given."""
        return f"http://{f'{user}@' if user else ''}127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
