"""How this program speaks with MLflow: the one place that has a store's whole address, and sets MLflow up.

A server may take as long as it likes over an answer: MLflow's own time-outs count for each piece of it. Here
an exchange has a deadline as a whole, after which its thread is left to itself and told to end.
"""

import ctypes
import functools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from medretrieval.errors import UserError
from medretrieval.private import TRACKING_URI, real

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")
DEADLINE_S = 20.0  # of an exchange, and of all that a run has with MLflow together
SLOWEST = 100_000  # bytes a second of a file that a verb sends, for which it waits longer
HELPERS = "Mlflow"  # with which MLflow begins the names of threads that fetch files
SQLITE = "sqlite:///"
# Of MLflow, read when it is imported or asked for something; what the user has set is left alone.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # that a server cannot be reached is said in seconds
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",  # a server may ask to be left alone for hours
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # it asks a host of its makers where to send what is done
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it has the password, and stdout is for results
}


def set_up() -> None:
    """Set MLflow up before anything of it is imported."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


class TooSlowError(Exception):
    """A store has not answered in time; what it said to the rest is not waited for."""


class Patience:
    """How long a store is waited for. One that has been too slow once is not asked again.

    Args:
        in_all: whether DEADLINE_S is for all exchanges together, as in a run, or for each of them.
    """

    def __init__(self, in_all: bool) -> None:
        self._in_all, self._waited, self._lost = in_all, 0.0, False

    def call(self, function: Callable[..., T], *arguments: Any, more_s: float = 0.0, **named: Any) -> T:
        """What a function returns or raises, in a thread of its own.

        Args:
            function: that speaks with the store.
            arguments: its own.
            more_s: seconds beyond the deadline of a single exchange.
            named: its own.

        Raises:
            TooSlowError: it has not ended in time.
        """
        seconds = DEADLINE_S - self._waited if self._in_all else DEADLINE_S + more_s
        if self._lost or seconds <= 0:
            raise TooSlowError(self._said)
        ended: list[tuple[T | None, Exception | None]] = []

        def work() -> None:
            try:
                ended.append((function(*arguments, **named), None))
            except SystemExit:  # of `_end`: nobody waits any more
                return
            except Exception as error:  # raised where it is waited for
                ended.append((None, error))

        before, start = set(threading.enumerate()), time.monotonic()
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(seconds)
        self._waited += time.monotonic() - start
        if not ended:
            self._lost = True
            helpers = {t for t in threading.enumerate() if t.name.startswith(HELPERS)}
            _end({thread} | (helpers - before))
            raise TooSlowError(self._said)
        value, error = ended[0]
        if error is not None:
            raise error
        return cast(T, value)

    @property
    def _said(self) -> str:
        return f"no whole answer within {DEADLINE_S:g} s"


def _end(threads: set[threading.Thread]) -> None:
    """Let threads end at their next step: an answer without an end would fill the memory."""
    for thread in threads:
        if thread.ident is not None and thread.daemon:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit)
            )


class _InTime:
    """An MlflowClient whose every method has a deadline."""

    def __init__(self, client: Any, patience: Patience) -> None:
        self._client, self._patience = client, patience

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        if name == "log_artifact":
            return functools.partial(self._send, method)
        return functools.partial(self._patience.call, method)

    def _send(self, method: Callable[..., Any], run_id: str, path: str, *place: Any) -> Any:
        size = Path(path).stat().st_size
        return self._patience.call(method, run_id, path, *place, more_s=size / SLOWEST)


def client_of(uri: str, patience: Patience | None = None) -> "MlflowClient":
    """A client of a store; of a server or a database that is not a file here, with a deadline.

    Args:
        uri: its address, as `private.hide` gives it or whole.
        patience: of a run; None for a deadline of each exchange.

    Raises:
        UserError: its password is not known here.
    """
    set_up()
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=require_real(uri))
    if uri.startswith(SQLITE):
        return client
    return cast("MlflowClient", _InTime(client, patience or Patience(in_all=False)))


def require_real(uri: str) -> str:
    """The whole address of a store.

    Raises:
        UserError: its password is not known here.
    """
    whole = real(uri)
    if whole is None:
        raise UserError(
            f"MLflow at {uri}: a run keeps no password; give the whole address in {TRACKING_URI}, or with "
            "uri= (of a run: tracking.uri=)"
        )
    return whole
