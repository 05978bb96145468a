"""An MLflow store and the experiment in it: opened, made where it is new, asked for a run's files."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from medretrieval.errors import UserError
from medretrieval.private import shareable
from medretrieval.runs.folder import AUDIT_PICTURE, FIGURES, RANKING
from medretrieval.track.exchange import Patience, client_of
from medretrieval.track.mlflow.database import lock_of, sqlite_file
from medretrieval.track.tracker import unless_away

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_TAG_LENGTH = 5000  # characters that older versions of MLflow take
MAX_PARAM_LENGTH = 6000
NOTE_TAG = "mlflow.note.content"


def connect(uri: str, experiment: str, patience: Patience) -> tuple["MlflowClient", str]:
    """A client and the experiment's id, of a store that is there (`database.prepare_database`).

    Files of a new experiment in a SQLite store lie beside the database, in mlartifacts/<experiment>.

    Args:
        uri: of the store.
        experiment: its name.
        patience: how long the store is waited for.

    Raises:
        UserError: the experiment was deleted.
    """
    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.system_metrics", "mlflow.tracking"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    database = sqlite_file(uri)
    if database is None:
        client = client_of(uri, patience)
        return client, _experiment_id(client, experiment, None)
    with lock_of(database):
        client = client_of(uri)
        location = (database.parent / "mlartifacts" / experiment).absolute().as_uri()
        return client, _experiment_id(client, experiment, location)


def create_run(client: "MlflowClient", experiment_id: str, name: str, tags: Mapping[str, str]) -> str:
    """Make a run that says which program it is of; returns its id."""
    known = {key: shareable(value)[:MAX_TAG_LENGTH] for key, value in tags.items()}
    known["mlflow.source.name"] = "medretrieval"
    run_id: str = client.create_run(experiment_id, run_name=shareable(name), tags=known).info.run_id
    return run_id


def log_params(client: "MlflowClient", run_id: str, params: Mapping[str, str]) -> None:
    """Log parameters in one call, each as long as MLflow takes it."""
    from mlflow.entities import Param

    client.log_batch(
        run_id, params=[Param(k, shareable(str(v))[:MAX_PARAM_LENGTH]) for k, v in params.items()]
    )


def download_pictures(run_ids: Mapping[Path, str], uri: str) -> None:
    """Fetch what a report shows of runs that are in MLflow alone: their pictures and rankings.

    Args:
        run_ids: MLflow's id of the run of each folder, into which its files go.
        uri: of the store.
    """
    if not run_ids:
        return
    client = client_of(uri)
    for folder, run_id in run_ids.items():
        with unless_away(f"MLflow at {uri}", f"run {run_id} is shown without pictures"):
            there = {artifact.path for artifact in client.list_artifacts(run_id)}
            for name in there & {FIGURES, AUDIT_PICTURE, RANKING}:
                client.download_artifacts(run_id, name, str(folder))


def _experiment_id(client: "MlflowClient", name: str, location: str | None) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            created: str = client.create_experiment(name, artifact_location=location)
            return created
        except MlflowException:  # another process was faster
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise UserError(
            f"tracking.experiment={name}: deleted in MLflow; restore it there (mlflow experiments restore "
            f"--experiment-id {found.experiment_id}) or choose another name"
        )
    experiment_id: str = found.experiment_id
    return experiment_id
