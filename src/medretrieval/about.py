"""What a run is called, in folders, in MLflow and for telling whether it has finished before."""

import dataclasses
import importlib.metadata
from collections.abc import Mapping
from typing import Any

from medretrieval.cache import content_key
from medretrieval.config import Config, leaves, slugged
from medretrieval.datasets.base import Dataset, Queries, Split
from medretrieval.datasets.groups import groups_sha256
from medretrieval.encoders.base import Encoder
from medretrieval.evaluate import Task
from medretrieval.exclusions import active
from medretrieval.manifest import git_state
from medretrieval.results import FORMAT
from medretrieval.track import SWEEP_TAG, About

# Configuration that says nothing about a run that its other parameters do not say.
NO_PARAMETERS = {
    "dataset.channels",
    "dataset.classes",
    "dataset.root",
    "dataset.task",
    "encoder.batch_size",
    "encoder.device",
    "index.build",
    "index.search",
}


def fingerprint_of(
    settings: Config, task: Task, identity: Mapping[str, Any], centre: Split | None = None
) -> str:
    """What makes two runs the same: configuration, data and weights, but not where files lie."""
    config = dataclasses.asdict(settings)
    for key in ("paths", "force"):
        del config[key]
    for key in ("root", "groups"):
        config["dataset"].pop(key, None)
    fitted = {} if centre is None else {"centre": centre.images_sha256}
    return content_key(
        fitted
        | {
            "config": config,
            "images": [task.queries.content_sha256, task.gallery.images_sha256],
            "labels": [task.queries.labels_sha256, task.gallery.labels_sha256],
            "groups": [groups_sha256(task.queries.groups), groups_sha256(task.gallery.groups)],
            "encoder": dict(identity),
            "version": importlib.metadata.version("medretrieval"),
            "format": FORMAT,
        }
    )


def about(settings: Config, sweep: str | None) -> About:
    """Name, tags and parameters of a run for MLflow."""
    encoder = str(settings.encoder["name"])
    tags = {
        "dataset": str(settings.dataset["name"]),
        "encoder": encoder,
        "index": settings.index.name,
        "metric": settings.metric.name,
        "protocol": settings.protocol.name,
        "git_commit": str(git_state()["commit"]),
        "mlflow.source.name": "medretrieval",
    }
    if sweep is not None:
        tags[SWEEP_TAG] = sweep
    config = dataclasses.asdict(settings)
    # Where files lie does not tell two runs apart; templates and unfitted parameters come out fitted.
    # Prompts are in prompts.json.
    for key in ("paths", "tracking", "force", "prompts"):
        del config[key]
    params = {
        key.removesuffix(".name"): str(value)
        for key, value in leaves(config).items()
        if value is not None and key not in NO_PARAMETERS and not key.endswith("_target_")
    }
    names = [tags[key] for key in ("encoder", "index", "metric", "protocol", "dataset")]
    names += active(settings.protocol)
    return About(" ".join(names), tags, params)


def dataset_inputs(settings: Config, dataset: Dataset, task: Task) -> dict[str, dict[str, str]]:
    """The splits of a run as MLflow's dataset inputs, by role."""
    sides: tuple[tuple[str, Queries], ...] = (("query", task.queries), ("gallery", task.gallery))
    return {
        role: {
            "name": f"{dataset.name}/{side.name}",
            "digest": side.content_sha256[:32],
            "source": str(settings.dataset.get("root") or settings.dataset["_target_"]),
            "profile": f'{{"images": {len(side)}, "size": {dataset.size}}}'
            if isinstance(side, Split)
            else f'{{"prompts": {len(side)}}}',
        }
        for role, side in sides
    }


def slug(settings: Config) -> str:
    """A name for a run's folder."""
    parts = (
        settings.dataset["name"],
        settings.encoder["name"],
        settings.index.name,
        settings.metric.name,
        settings.protocol.name,
    )
    return "_".join(slugged(str(part)) for part in parts)


def title(settings: Config, encoder: Encoder) -> str:
    """One line that says what was run."""
    marked = " (RANDOM WEIGHTS)" if encoder.random_weights else ""
    protocol = settings.protocol
    asks = protocol.query or f"prompts, {protocol.prompts},"
    who = asks if protocol.query == protocol.gallery else f"{asks} queries {protocol.gallery}"
    itself = "" if protocol.exclude_self else ", the query itself counted"
    itself += f", centred on {protocol.center}" if protocol.center else ""
    itself += "".join(f", {option.replace('_', ' ')}" for option in active(protocol))
    return (
        f"{settings.dataset['name']} · {encoder.name}{marked} · {settings.index.name} · "
        f"{settings.metric.name} · {protocol.name} ({who}{itself})"
    )
