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
from medretrieval.encoders.card import without_cards
from medretrieval.errors import UserError, first_line
from medretrieval.private import TRACKING_URI, hide
from medretrieval.runs import folder as run_folder
from medretrieval.runs.manifest import Manifest, SideFacts, read_manifest
from medretrieval.runs.report import RunReport, read_report
from medretrieval.runs.saved.names import HEXADECIMAL, MIN_CHARACTERS, local_folder, require_one
from medretrieval.runs.saved.seal import require_as_written

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
    """Where MLflow keeps the runs unless told otherwise, its password hidden."""
    return hide(os.environ.get(TRACKING_URI, "")) or f"sqlite:///{outputs}/mlflow.db"


def find_all(words: Sequence[str], uri: str, outputs: Path, aside: Path) -> dict[Path, str]:
    """Folders of all runs that words mean, each once, and what to call them in messages; see `find`.

    Raises:
        UserError: nothing of such a name, or MLflow cannot be reached.
    """
    places: dict[Path, str] = {}
    for word in words:
        for folder, source in find(word, uri, outputs, aside):
            places.setdefault(folder, source)
    return places


def find(what: str, uri: str, outputs: Path, aside: Path) -> list[tuple[Path, str]]:
    """Folders of the runs that one word of the command means, and what to call them in messages.

    Args:
        what: what `local_folder` takes, an MLflow run id or the beginning of one, or an experiment's name.
        uri: MLflow's store.
        outputs: the folder that holds sweeps.
        aside: where files from MLflow are put.

    Raises:
        UserError: nothing of that name, several of it, or MLflow cannot be reached.
    """
    if (top := local_folder(what, outputs)) is not None:
        return _finished_in(top)
    try:
        found = _download(what, uri, aside)
    except UserError:
        raise
    except Exception as error:  # whatever a server, a database or a disk may raise
        line = f"{what}: no such folder, and MLflow at {uri} cannot be read ({first_line(error)})"
        raise UserError(f"{line}; give a run's folder, or uri=") from error
    if not found:
        raise UserError(
            f"{what}: no folder, no sweep in {outputs / 'sweeps'}, and no finished run, experiment "
            f"or sweep of MLflow at {uri}; give a run's folder, or outputs= or uri="
        )
    return found


def _finished_in(top: Path) -> list[tuple[Path, str]]:
    """The finished runs in a folder; for those that were skipped, the earlier runs with their results."""
    finished = [p.parent for p in sorted(top.rglob(run_folder.SCORES))]
    skipped = [p for p in sorted(top.rglob(run_folder.SKIPPED)) if p.parent not in finished]
    earlier = [run_folder.skipped_for(p.parent) for p in skipped]
    for folder in earlier:
        if not (folder / run_folder.SCORES).exists():
            log.warning("%s: gone; it held the results of a run that was skipped in %s", folder, top)
    finished += [folder for folder in earlier if (folder / run_folder.SCORES).exists()]
    if not finished:
        raise UserError(f"{top}: no finished run in it (a run's folder holds {run_folder.SCORES})")
    return [(folder.resolve(), str(folder)) for folder in finished]


def find_one(run_id: str, uri: str, aside: Path) -> Path:
    """The folder of one MLflow run: where it was run if that is there, else a copy of its small files.

    Raises:
        UserError: no such run, or MLflow cannot be reached.
    """
    try:
        found = _download(run_id, uri, aside, (*FILES, run_folder.RANKING))
    except Exception as error:  # whatever a server, a database or a disk may raise
        raise UserError(f"{run_id}: MLflow at {uri} cannot be read ({first_line(error)})") from error
    if not found:
        raise UserError(f"{run_id}: MLflow at {uri} has no such finished run; give uri=, or a folder")
    return found[0][0]


def _download(what: str, uri: str, aside: Path, files: Sequence[str] = FILES) -> list[tuple[Path, str]]:
    from medretrieval.track.exchange import client_of
    from medretrieval.track.mlflow.database import sqlite_file
    from medretrieval.track.mlflow_tracker import FOLDER_TAG
    from medretrieval.track.tracker import SWEEP_TAG

    database = sqlite_file(uri)
    if database is not None and not database.exists():  # asking MLflow would make it
        return []
    client, runs = client_of(uri), []
    from mlflow.exceptions import MlflowException

    if RUN_ID.fullmatch(what):
        with suppress(MlflowException):
            run = client.get_run(what)
            is_there = run.info.status == "FINISHED" and run.info.lifecycle_stage == "active"
            runs = [run] if is_there else []
    elif (experiment := client.get_experiment_by_name(what)) is not None:
        runs = client.search_runs([experiment.experiment_id], "status = 'FINISHED'", max_results=50000)
    elif re.fullmatch(r"[\w.-]+", what):
        everywhere = [e.experiment_id for e in client.search_experiments()]
        wanted = f"status = 'FINISHED' AND tags.{SWEEP_TAG} LIKE '%{what}%'"
        runs = client.search_runs(everywhere, wanted, max_results=50000)
        runs = [run for run in runs if what in run.data.tags[SWEEP_TAG].split()]
        runs = runs or _by_short_id(client, what, everywhere)
    places = []
    for run in runs:
        if "encoder" in run.data.tags:  # comparisons are kept there too
            folder = Path(run.data.tags.get(FOLDER_TAG, "")).expanduser()
            if not _is_of(folder, run.info.run_id) or not all((folder / f).is_file() for f in files):
                folder = aside / run.info.run_id
                folder.mkdir(exist_ok=True)
                there = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
                for name in (*files, *({run_folder.HALVES} & there)):
                    client.download_artifacts(run.info.run_id, name, str(folder))
            places.append((folder, f"{run_folder.MLFLOW_SOURCE}{run.info.run_id}"))
    return places


def _by_short_id(client: Any, what: str, everywhere: list[str]) -> list[Any]:
    """The finished run whose id begins with a word; none where there is none.

    Raises:
        UserError: several do.
    """
    if not HEXADECIMAL.fullmatch(what) or len(what) < MIN_CHARACTERS:
        return []
    wanted = f"status = 'FINISHED' AND attributes.run_id LIKE '{what}%'"
    runs = [r for r in client.search_runs(everywhere, wanted, max_results=50000) if "encoder" in r.data.tags]
    require_one(what, [f"{run.info.run_id} ({run.info.run_name})" for run in runs])
    return runs


def _is_of(folder: Path, run_id: str) -> bool:
    """Whether a folder holds this MLflow run; on another machine there may be something else."""
    from medretrieval.track.run_description import TRACKING

    try:
        return bool(json.loads((folder / TRACKING).read_text())["run_id"] == run_id)
    except (OSError, ValueError, KeyError):
        return False


def load_run(folder: Path, source: str) -> Run:
    """Read a finished run's files.

    Raises:
        UserError: files that are missing, damaged, of another results format, or not those the run wrote.
    """
    from pyarrow import parquet

    report, manifest = read_report(folder, source), read_manifest(folder, source)
    require_as_written(folder, source)
    try:
        columns = parquet.read_schema(folder / run_folder.PER_QUERY).names
    except (OSError, ValueError) as error:
        line = f"{source}: no finished run ({first_line(error)}); run it again with force=true"
        raise UserError(line) from error
    scores = [column for column in columns if column not in run_folder.QUERY_COLUMNS]
    return Run(folder, source, report, manifest, scores)


def config_of(run: Run) -> dict[str, Any]:
    """A run's configuration as flat keys, without the encoder's card, which changes no number."""
    from omegaconf import OmegaConf

    config: Any = OmegaConf.to_container(OmegaConf.load(run.folder / run_folder.CONFIG))
    return leaves({key: without_cards(node) if key == "encoder" else node for key, node in config.items()})


def place(run: Run, score: str | None = None) -> str:
    """What runs must have in common to be ranked: what `compare` asks for, the score and its confidence.

    Args:
        run: a finished one.
        score: by which runs are ranked; None for the objective of each.
    """
    report = run.report
    sides = [(side.content_sha256, side.labels_sha256, side.groups_sha256) for side in sides_of(run)]
    # Centering changes the vectors, not who queries whom.
    protocol = replace(report.protocol, center=None)
    how = run.manifest.evaluation
    ranked_by = score or report.objective.name
    return repr((report.dataset, protocol, sides, how.min_jaccard, how.confidence, ranked_by))


def sides_of(run: Run) -> tuple[SideFacts, SideFacts]:
    """What the queries and the gallery of a run were."""
    return run.manifest.data["query"], run.manifest.data["gallery"]
