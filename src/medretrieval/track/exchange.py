"""How this program speaks with MLflow: the one place that has a store's whole address, and sets MLflow up."""

import os
from typing import TYPE_CHECKING

from medretrieval.errors import UserError
from medretrieval.private import TRACKING_URI, real

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Of MLflow, read when it is imported or asked for something; what the user has set is left alone.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # that a server cannot be reached is said in seconds
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # it asks a host of its makers where to send what is done
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it has the password, and stdout is for results
}


def set_up() -> None:
    """Set MLflow up before anything of it is imported."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def client_of(uri: str) -> "MlflowClient":
    """A client of a store.

    Args:
        uri: its address, as `private.hide` gives it or whole.

    Raises:
        UserError: its password is not known here.
    """
    set_up()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=require_real(uri))


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
