"""Finished runs logged to MLflow afterwards: it could not be reached, or they were not meant for it."""

import logging
from pathlib import Path
from typing import Any, cast

from medretrieval.errors import UserError
from medretrieval.runs.folder import SCORES
from medretrieval.runs.report import read_report
from medretrieval.track.exchange import Patience
from medretrieval.track.find_runs import default_uri
from medretrieval.track.mlflow.database import same_store
from medretrieval.track.mlflow_tracker import MLflowTracker, logged_run
from medretrieval.track.run_description import TRACKING, read_tracking
from medretrieval.track.tracker import mlflow_at, unless_away

log = logging.getLogger(__name__)
SHOWN = 3  # folders that are named in a line; more are counted


def log_later(
    folders: list[Path], uri: str | None, outputs: Path = Path("outputs"), everything: bool = False
) -> int:
    """Log finished runs that MLflow does not have yet.

    Without `uri` and `everything` a run is left out, and a line says so and why, where it was not made for
    the store that is configured here, or is neither below the outputs folder nor named itself: where a folder
    comes from somebody else, its files do not decide where results are sent.

    Args:
        folders: runs' folders, or folders of runs.
        uri: where to; None for where each run was meant to go.
        outputs: the folder that holds runs and sweeps.
        everything: leave out no run; those that were meant for no store go to the one configured here.

    Returns:
        The number of runs logged.

    Raises:
        UserError: no finished run in a folder, only runs that are left out, or MLflow cannot be reached.
    """
    here, found, left = default_uri(outputs), 0, {}
    count = 0
    for top in folders:
        finished = sorted(path.parent for path in top.rglob(TRACKING) if (path.parent / SCORES).exists())
        if not finished:
            raise UserError(f"{top}: no finished run in it (a run's folder holds {SCORES} and {TRACKING})")
        found += len(finished)
        for folder in finished:
            read_report(folder)  # refused before MLflow is asked
            note = read_tracking(folder)
            why = None if uri or everything else _why_not(folder, note, here)
            if why is None and not (uri or everything or folder == top or _is_below(folder, outputs)):
                why = f"not below {outputs}, and not named itself"
            if why is None:
                count += _log_one(folder, note, uri or note.get("uri") or here)
            else:
                left[folder] = why
    if left and len(left) == found:
        raise UserError(_said(left, here))
    if left:
        log.warning("%s", _said(left, here))
    return count


def _why_not(folder: Path, note: dict[str, Any], here: str) -> str | None:
    """Why a run is not for the store that is configured here; None where it is, or is in its own already."""
    if "uri" not in note:
        return f"not meant for MLflow, its tracker is {note['tracker']}"
    if same_store(note["uri"], here) or logged_run(folder, note["uri"]) is not None:
        return None
    return f"meant for MLflow at {note['uri']}, and here it is {here}"


def _is_below(folder: Path, outputs: Path) -> bool:
    return folder.resolve().is_relative_to(outputs.resolve())


def _said(left: dict[Path, str], here: str) -> str:
    """The line that says which runs are left out, and how to log them all the same."""
    why: dict[str, list[str]] = {}
    for folder, reason in left.items():
        why.setdefault(reason, []).append(str(folder))
    said = "; ".join(f"{_some(folders)}: {reason}" for reason, folders in why.items())
    first = next(iter(left))
    return (
        f"{said}; left out: --all logs each where it was meant to go, or name MLflow's store: medretrieval "
        f"log {first} uri={here}"
    )


def _some(folders: list[str]) -> str:
    more = f" (and {len(folders) - SHOWN} more)" if len(folders) > SHOWN else ""
    return ", ".join(folders[:SHOWN]) + more


def _log_one(folder: Path, note: dict[str, Any], uri: str) -> int:
    tracker = _tracker(note, uri)
    tracker.patience = Patience(in_all=False)  # nothing else waits for it
    if (run_id := logged_run(folder, tracker.uri)) is not None:
        log.info("%s: in MLflow already, run %s", folder, run_id)
        return 0
    with unless_away(tracker.where, "nothing is lost, try again", refuse=True):
        run_id = tracker.log_finished(folder)
    log.info("%s: logged as run %s at %s", folder, run_id, tracker.uri)
    return 1


def _tracker(note: dict[str, Any], uri: str) -> MLflowTracker:
    """MLflow at a store, as the run's own configuration has it where that names one."""
    if "uri" not in note:
        return cast(MLflowTracker, mlflow_at(uri))
    return MLflowTracker(uri, note["experiment"], note["log_index"], system_metrics=False)
