"""What a tracker is told of a run besides its scores: name, tags, parameters, data; kept in tracking.json."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from medretrieval.config import Config, leaves
from medretrieval.datasets.base import Dataset
from medretrieval.protocol.exclusions import active
from medretrieval.protocol.queries import Queries
from medretrieval.protocol.task import RetrievalTask
from medretrieval.runs.folder import TRACKING as TRACKING
from medretrieval.runs.folder import write_json
from medretrieval.runs.manifest import git_state
from medretrieval.track.tracker import SWEEP_TAG, RunDescription, Tracker, class_name

# Configuration that says nothing about a run that its other parameters do not say.
NO_PARAMETERS = {
    "dataset.channels",
    "dataset.classes",
    "dataset.root",
    "dataset.label_type",
    "encoder.batch_size",
    "encoder.device",
    "index.build",
    "index.search",
}


def describe_run(settings: Config, sweep: str | None) -> RunDescription:
    """Name, tags and parameters of a run, from its configuration."""
    encoder = str(settings.encoder["name"])
    tags = {
        "dataset": str(settings.dataset["name"]),
        "encoder": encoder,
        "index": settings.index.name,
        "metric": settings.metric.name,
        "protocol": settings.protocol.name,
        "git_commit": str(git_state().commit),
    }
    if sweep is not None:
        tags[SWEEP_TAG] = sweep
    config = dataclasses.asdict(settings)
    # Where files lie does not tell two runs apart; templates and unfitted parameters come out fitted.
    # Prompts are in prompts.json.
    for key in ("paths", "tracking", "force", "verbose", "prompts"):
        del config[key]
    params = {
        key.removesuffix(".name"): str(value)
        for key, value in leaves(config).items()
        if value is not None and key not in NO_PARAMETERS and not key.endswith("_target_")
    }
    names = [tags[key] for key in ("encoder", "index", "metric", "protocol", "dataset")]
    names += active(settings.protocol)
    return RunDescription(" ".join(names), tags, params)


def dataset_inputs(settings: Config, dataset: Dataset, task: RetrievalTask) -> dict[str, dict[str, str]]:
    """The splits of a run as MLflow's dataset inputs, by role."""
    sides: tuple[tuple[str, Queries], ...] = (("query", task.queries), ("gallery", task.gallery))
    return {
        role: {
            "name": f"{dataset.name}/{side.name}",
            "digest": side.content_sha256[:32],
            "source": str(settings.dataset.get("root") or settings.dataset["_target_"]),
            "profile": json.dumps(
                {side.kind: len(side)} | ({"size": dataset.size} if side.split is not None else {})
            ),
        }
        for role, side in sides
    }


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
