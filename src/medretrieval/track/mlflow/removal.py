"""Runs marked as deleted in MLflow, as its UI does it: hidden, until `mlflow gc` removes them for good."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medretrieval.errors import UserError, first_line
from medretrieval.runs.folder import TRACKING, read_json
from medretrieval.track.exchange import client_of
from medretrieval.track.mlflow.database import sqlite_file
from medretrieval.track.mlflow_tracker import FOLDER_TAG
from medretrieval.track.tracker import SWEEP_TAG

PROGRAM = "medretrieval"  # the source of its runs there


@dataclass(frozen=True)
class LoggedRun:
    """A run of this program in an MLflow store: the store, its id and its name there."""

    uri: str
    run_id: str
    name: str


def noted_run(folder: Path) -> LoggedRun | None:
    """Where a run was logged, as its folder has it; None where it was not."""
    if not (folder / TRACKING).exists():
        return None
    note = read_json(folder, TRACKING)
    if note.get("uri") is None or note.get("run_id") is None:
        return None
    return LoggedRun(note["uri"], note["run_id"], note.get("about", {}).get("name", ""))


def run_there(uri: str, run_id: str) -> LoggedRun:
    """A run that may have no folder on this machine.

    Raises:
        UserError: there is none of this program, or MLflow cannot be reached.
    """
    run = next(iter(_active(uri, [run_id])), None)
    if run is None or run.data.tags.get("mlflow.source.name") != PROGRAM:
        raise UserError(f"{run_id}: no folder of this machine, and no run of this program in MLflow at {uri}")
    return LoggedRun(uri, run_id, run.info.run_name)


def runs_of_sweep(uri: str, sweep: Path) -> list[LoggedRun]:
    """What MLflow has of a sweep: its runs, those that failed, and the run of its table.

    Not a run that the sweep skipped, because another folder holds it.

    Args:
        uri: of the store.
        sweep: its folder.

    Raises:
        UserError: MLflow cannot be reached.
    """
    if not _exists(uri):
        return []
    try:
        client = client_of(uri)
        everywhere = [experiment.experiment_id for experiment in client.search_experiments()]
        wanted = f"tags.{SWEEP_TAG} LIKE '%{sweep.name}%'"
        found = client.search_runs(everywhere, wanted, max_results=50000)
    except Exception as error:  # whatever a server, a database or a disk may raise
        raise _away(uri, error) from error
    return [LoggedRun(uri, r.info.run_id, r.info.run_name) for r in found if _is_of(r.data.tags, sweep)]


def still_there(runs: Sequence[LoggedRun]) -> list[LoggedRun]:
    """Those of some runs that are in MLflow and not deleted there.

    Raises:
        UserError: MLflow cannot be reached.
    """
    by_uri: dict[str, list[LoggedRun]] = {}
    for run in runs:
        by_uri.setdefault(run.uri, []).append(run)
    ids = {
        (uri, run.info.run_id)
        for uri, there in by_uri.items()
        for run in _active(uri, [run.run_id for run in there])
    }
    return [run for run in dict.fromkeys(runs) if (run.uri, run.run_id) in ids]


def delete(runs: Sequence[LoggedRun]) -> None:
    """Mark runs as deleted.

    Raises:
        UserError: MLflow refuses it, or cannot be reached any more.
    """
    for run in runs:
        try:
            client_of(run.uri).delete_run(run.run_id)
        except Exception as error:  # whatever a server, a database or a disk may raise
            raise UserError(
                f"MLflow at {run.uri}: run {run.run_id} cannot be deleted ({first_line(error)}); the folders "
                "are left as they are; give the command again"
            ) from error


def _active(uri: str, run_ids: Sequence[str]) -> list[Any]:
    if not _exists(uri):
        return []
    client, found = client_of(uri), []
    from mlflow.exceptions import MlflowException

    for run_id in run_ids:
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise _away(uri, error) from error
            continue
        except Exception as error:  # whatever a server, a database or a disk may raise
            raise _away(uri, error) from error
        if run.info.lifecycle_stage == "active":
            found.append(run)
    return found


def _exists(uri: str) -> bool:
    """Whether a SQLite store has its file, which asking MLflow would make; other stores are asked."""
    database = sqlite_file(uri)
    return database is None or database.exists()


def _is_of(tags: Mapping[str, str], sweep: Path) -> bool:
    sweeps = tags.get(SWEEP_TAG, "").split()
    if FOLDER_TAG in tags:
        return Path(tags[FOLDER_TAG]).expanduser().resolve().is_relative_to(sweep.resolve())
    return sweeps == [sweep.name]


def _away(uri: str, error: Exception) -> UserError:
    return UserError(
        f"MLflow at {uri} cannot be reached ({first_line(error)}); nothing is removed; try again, or leave "
        "MLflow as it is: track=false"
    )
