"""Finished runs logged to MLflow afterwards: it could not be reached, or they were not meant for it."""

import logging
from pathlib import Path
from typing import Any, cast

from medretrieval.errors import UserError
from medretrieval.runs.folder import SCORES
from medretrieval.runs.report import read_report
from medretrieval.track.exchange import Patience
from medretrieval.track.mlflow_tracker import MLflowTracker, logged_run
from medretrieval.track.run_description import TRACKING, read_tracking
from medretrieval.track.tracker import mlflow_at, unless_away

log = logging.getLogger(__name__)


def log_later(folders: list[Path], uri: str | None) -> int:
    """Log finished runs that MLflow does not have yet.

    Args:
        folders: runs' folders, or folders of runs.
        uri: where to; None for where each run was meant to go.

    Returns:
        The number of runs logged.

    Raises:
        UserError: no finished run in a folder, runs of another tracker without `uri`, or MLflow cannot be
            reached.
    """
    count, homeless = 0, []
    for top in folders:
        finished = sorted(path.parent for path in top.rglob(TRACKING) if (path.parent / SCORES).exists())
        if not finished:
            raise UserError(f"{top}: no finished run in it (a run's folder holds {SCORES} and {TRACKING})")
        for folder in finished:
            read_report(folder)  # refused before MLflow is asked
            note = read_tracking(folder)
            if uri is None and "uri" not in note:
                homeless.append((folder, note["tracker"]))
            else:
                count += _log_one(folder, note, uri)
    if homeless:
        folder, tracker = homeless[0]
        others = f" (and {len(homeless) - 1} more)" if len(homeless) > 1 else ""
        raise UserError(
            f"{folder}{others}: not meant for MLflow, its tracker is {tracker}; to log it there, name "
            f"MLflow's store: medretrieval log {folder} uri=sqlite:///outputs/mlflow.db"
        )
    return count


def _log_one(folder: Path, note: dict[str, Any], uri: str | None) -> int:
    tracker = _tracker(note, uri)
    tracker.patience = Patience(in_all=False)  # nothing else waits for it
    if (run_id := logged_run(folder, tracker.uri)) is not None:
        log.info("%s: in MLflow already, run %s", folder, run_id)
        return 0
    with unless_away(tracker.where, "nothing is lost, try again", refuse=True):
        run_id = tracker.log_finished(folder)
    log.info("%s: logged as run %s at %s", folder, run_id, tracker.uri)
    return 1


def _tracker(note: dict[str, Any], uri: str | None) -> MLflowTracker:
    """MLflow as the run's own configuration has it, or at another store."""
    if "uri" not in note:
        return cast(MLflowTracker, mlflow_at(str(uri)))
    return MLflowTracker(uri or note["uri"], note["experiment"], note["log_index"], system_metrics=False)
