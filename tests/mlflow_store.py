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


# refuses: at once. busy and limited: asks to come again in an hour. silent: says nothing. trickles: a byte at
# a time, of what it says is a large body. headers: the same before the body. endless: a body without an end.
MANNERS = ("refuses", "busy", "limited", "silent", "trickles", "headers", "endless")


class Server:
    """A server on this machine that is not well, as MLflow's may be; it keeps who asked it.

    Args:
        manner: how it answers, one of MANNERS.
    """

    def __init__(self, manner):
        self.passwords, self.paths, self.closing = set(), [], threading.Event()
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

            def _refuses(self, status=400, **headers):
                self.send_response(status)
                for name, value in {"Content-Length": "0", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()

            def _busy(self):
                self._refuses(503, **{"Retry-After": "3600"})

            def _limited(self):
                self._refuses(429, **{"Retry-After": "3600"})

            def _silent(self):
                asked.closing.wait()

            def _trickles(self):
                self._refuses(200, **{"Content-Length": "1000000", "Content-Type": "application/json"})
                self._drip(b" ")

            def _headers(self):
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                self._drip(b"x")

            def _endless(self):
                self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n")
                while not asked.closing.is_set():
                    self.wfile.write(b" " * 65536)

            def _drip(self, byte):
                while not asked.closing.wait(0.05):
                    self.wfile.write(byte)
                    self.wfile.flush()

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
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
