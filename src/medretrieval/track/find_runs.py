"""Where the runs of a comparison are: folders, sweeps, MLflow runs and experiments."""

import json
import logging
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medretrieval.config import leaves
from medretrieval.errors import UserError, choices, first_line
from medretrieval.runs import folder as run_folder
from medretrieval.runs.manifest import Manifest, SideFacts, read_manifest
from medretrieval.runs.report import RunReport, read_report

FILES = (run_folder.SCORES, run_folder.MANIFEST, run_folder.CONFIG, run_folder.PER_QUERY)
log = logging.getLogger(__name__)
RUN_ID = re.compile(r"[0-9a-f]{32}")  # of MLflow


@dataclass(frozen=True)
class Run:
    """A finished run: what its files say, and where they were found."""

    folder: Path
    source: str
    report: RunReport
    manifest: Manifest
    scores: list[str]


def default_uri(outputs: Path) -> str:
    """Where MLflow keeps the runs unless told otherwise."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{outputs}/mlflow.db"


def runs_and_options(
    verb: str, arguments: Sequence[str], keys: Sequence[str]
) -> tuple[list[str], dict[str, str]]:
    """Words that name runs, and those of the form key=value, of a verb that takes several runs.

    Args:
        verb: what to call it in messages.
        arguments: its words; a folder may have a = in its name.
        keys: that it knows.

    Raises:
        UserError: a key that is unknown, given twice or empty.
    """
    given: dict[str, str] = {}
    runs = [a for a in arguments if "=" not in a or Path(a).is_dir()]
    for key, value in (a.split("=", 1) for a in arguments if a not in runs):
        if key not in keys:
            raise UserError(f"{verb}: {key}=: no such key; {choices(keys)}")
        if key in given or not value:
            raise UserError(f"{verb}: {key}=: give one value, once")
        given[key] = value
    return runs, given


def find(
    what: str, uri: str, outputs: Path, aside: Path, keys: tuple[str, str] = ("outputs=", "uri=")
) -> list[tuple[Path, str]]:
    """Folders of the runs that one word of the command means, and what to call them in messages.

    Args:
        what: a folder, a sweep's id, an MLflow run id or an experiment's name.
        uri: MLflow's store.
        outputs: the folder that holds sweeps.
        aside: where files from MLflow are put.
        keys: what the command calls outputs and uri, for messages.

    Raises:
        UserError: nothing of that name, or MLflow is away.
    """
    for top in (Path(what), outputs / "sweeps" / what):
        if top.is_dir():
            finished = [p.parent for p in sorted(top.rglob(run_folder.SCORES))]
            skipped = [p for p in sorted(top.rglob(run_folder.SKIPPED)) if p.parent not in finished]
            earlier = [run_folder.skipped_for(p.parent) for p in skipped]
            for folder in earlier:
                if not (folder / run_folder.SCORES).exists():
                    log.warning("%s: gone; it had the results of a run that was skipped in %s", folder, top)
            finished += [folder for folder in earlier if (folder / run_folder.SCORES).exists()]
            if not finished:
                raise UserError(f"{top}: no finished run in it (a run's folder holds {run_folder.SCORES})")
            return [(folder.resolve(), str(folder)) for folder in finished]
    try:
        found = _download(what, uri, aside)
    except Exception as error:  # whatever a server, a database or a disk may raise
        line = f"{what}: no such folder, and MLflow at {uri} cannot be read ({first_line(error)})"
        raise UserError(f"{line}; give a run's folder, or {keys[1]}") from error
    if not found:
        raise UserError(
            f"{what}: no folder, no sweep in {outputs / 'sweeps'}, and no finished run, experiment "
            f"or sweep of MLflow at {uri}; give a run's folder, or {keys[0]} or {keys[1]}"
        )
    return found


def find_one(run_id: str, uri: str, aside: Path) -> Path:
    """The folder of one MLflow run: where it was run if that is there, else a copy of its small files.

    Raises:
        UserError: no such run, or MLflow is away.
    """
    try:
        found = _download(run_id, uri, aside, (*FILES, run_folder.RANKING))
    except Exception as error:  # whatever a server, a database or a disk may raise
        raise UserError(f"{run_id}: MLflow at {uri} cannot be read ({first_line(error)})") from error
    if not found:
        raise UserError(
            f"{run_id}: MLflow at {uri} has no such finished run; give tracking.uri=, or a folder"
        )
    return found[0][0]


def _download(what: str, uri: str, aside: Path, files: Sequence[str] = FILES) -> list[tuple[Path, str]]:
    from medretrieval.track.mlflow_store import sqlite_file
    from medretrieval.track.mlflow_tracker import FOLDER_TAG
    from medretrieval.track.tracker import SWEEP_TAG

    database = sqlite_file(uri)
    if database is not None and not database.exists():  # asking MLflow would make it
        return []
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client, runs = MlflowClient(tracking_uri=uri), []
    if RUN_ID.fullmatch(what):
        with suppress(MlflowException):
            runs = [run for run in [client.get_run(what)] if run.info.status == "FINISHED"]
    elif (experiment := client.get_experiment_by_name(what)) is not None:
        runs = client.search_runs([experiment.experiment_id], "status = 'FINISHED'", max_results=50000)
    elif re.fullmatch(r"[\w.-]+", what):
        everywhere = [e.experiment_id for e in client.search_experiments()]
        wanted = f"status = 'FINISHED' AND tags.{SWEEP_TAG} LIKE '%{what}%'"
        runs = client.search_runs(everywhere, wanted, max_results=50000)
        runs = [run for run in runs if what in run.data.tags[SWEEP_TAG].split()]
    places = []
    for run in runs:
        if "encoder" in run.data.tags:  # comparisons are kept there too
            folder = Path(run.data.tags.get(FOLDER_TAG, ""))
            if not _is_of(folder, run.info.run_id) or not all((folder / f).is_file() for f in files):
                folder = aside / run.info.run_id
                folder.mkdir(exist_ok=True)
                for name in files:
                    client.download_artifacts(run.info.run_id, name, str(folder))
            places.append((folder, f"{run_folder.MLFLOW_SOURCE}{run.info.run_id}"))
    return places


def _is_of(folder: Path, run_id: str) -> bool:
    """Whether a folder holds this MLflow run; on another machine there may be something else."""
    from medretrieval.track.tracking_file import TRACKING

    try:
        return bool(json.loads((folder / TRACKING).read_text())["run_id"] == run_id)
    except (OSError, ValueError, KeyError):
        return False


def load_run(folder: Path, source: str) -> Run:
    """Read a finished run's files.

    Raises:
        UserError: files that are missing, damaged or of another results format.
    """
    from pyarrow import parquet

    report, manifest = read_report(folder, source), read_manifest(folder, source)
    try:
        columns = parquet.read_schema(folder / run_folder.PER_QUERY).names
    except (OSError, ValueError) as error:
        line = f"{source}: no finished run ({first_line(error)}); run it again with force=true"
        raise UserError(line) from error
    scores = [column for column in columns if column not in run_folder.QUERY_COLUMNS]
    return Run(folder, source, report, manifest, scores)


def config_of(run: Run) -> dict[str, Any]:
    """A run's configuration as flat keys."""
    from omegaconf import OmegaConf

    return leaves(OmegaConf.to_container(OmegaConf.load(run.folder / run_folder.CONFIG)))


def place(run: Run) -> str:
    """What runs must have in common to be ranked: what `compare` asks for, the score and its confidence."""
    report = run.report
    sides = [(side.content_sha256, side.labels_sha256, side.groups_sha256) for side in sides_of(run)]
    # Centering changes the vectors, not who queries whom.
    protocol = replace(report.protocol, center=None)
    how = run.manifest.evaluation
    return repr((report.dataset, protocol, sides, how.min_jaccard, how.confidence, report.objective.name))


def sides_of(run: Run) -> tuple[SideFacts, SideFacts]:
    """What the queries and the gallery of a run were."""
    return run.manifest.data["query"], run.manifest.data["gallery"]


def run_and_overrides(verb: str, arguments: list[str], aside: Path) -> tuple[Path, tuple[str, ...]]:
    """The run's folder, fetched from MLflow where an id is given, and the overrides.

    Args:
        verb: what to call the command in messages.
        arguments: one run (a folder, its manifest or an MLflow id) among words of the form key=value.
        aside: a folder for files from MLflow.

    Raises:
        UserError: no run or several, or none of that name.
    """
    runs = [a for a in arguments if "=" not in a or Path(a).exists()]
    overrides = tuple(a for a in arguments if a not in runs)
    if len(runs) != 1:
        raise UserError(
            f"medretrieval {verb} wants one run: medretrieval {verb} <folder or MLflow id> [key=value ...]"
        )
    folder = Path(runs[0])
    if folder.name == run_folder.MANIFEST:
        folder = folder.parent
    if folder.is_dir():
        return folder, overrides
    if not RUN_ID.fullmatch(runs[0]):
        raise UserError(f"{folder}: there is no such folder, and no MLflow run has such an id")
    given = dict(o.split("=", 1) for o in overrides)
    outputs = Path(given.get("paths.outputs", "outputs"))
    uri = given.get("tracking.uri") or default_uri(outputs)
    return find_one(runs[0], uri, aside), overrides
