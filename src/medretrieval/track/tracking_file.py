"""tracking.json in a run's folder: what its tracker was told, so that another can be told later."""

import json
from pathlib import Path
from typing import Any

from medretrieval.runs.folder import write_json
from medretrieval.track.tracker import RunDescription, Tracker, class_name

TRACKING = "tracking.json"


def write_tracking(folder: Path, about: RunDescription, tracker: Tracker, **facts: Any) -> None:
    """Write down a run's description, its tracker's class, and what the tracker adds: where the run is there.

    Args:
        folder: of the run.
        about: its description.
        tracker: that was told.
        facts: of that tracker; MLflow's are uri, experiment, log_index, run_id and logged.
    """
    note = {"tracker": class_name(type(tracker)), **facts, "about": about.__dict__}
    write_json(folder / TRACKING, note)


def read_tracking(folder: Path) -> dict[str, Any]:
    """The content of a run's tracking.json."""
    content: dict[str, Any] = json.loads((folder / TRACKING).read_text())
    return content
