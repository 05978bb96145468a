"""What a tracker is told of a run besides its scores: name, tags, parameters, data; kept in tracking.json."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medretrieval.config import Config, PromptSource, is_set, leaves
from medretrieval.encoders.card import without_cards
from medretrieval.private import each
from medretrieval.protocol.exclusions import active
from medretrieval.protocol.inputs import Inputs
from medretrieval.protocol.queries import Queries
from medretrieval.runs.folder import TRACKING as TRACKING
from medretrieval.runs.folder import read_json, write_json
from medretrieval.runs.identity import corruption_of, rerank_of
from medretrieval.runs.manifest import git_state
from medretrieval.track.default_config import GROUPS, default_config, plain
from medretrieval.track.tracker import KIND_TAG, SWEEP_TAG, RunDescription, Tracker, class_name

# Where files lie, and whether a run is done again, do not tell two runs apart; prompts are in prompts.json.
NOT_COMPARED = ("paths", "tracking", "force", "verbose", "prompts")
ALWAYS = {"encoder.view"}  # whether or not it is as its file has it: scores hang on it
# Configuration that says nothing about a run that its other parameters do not say.
NO_PARAMETERS = {
    "dataset.channels",
    "dataset.classes",
    "dataset.cache",
    "dataset.labels",
    "dataset.root",
    "dataset.table",
    "dataset.label_type",
    "encoder.batch_size",
    "encoder.device",
    "encoder.nodes",
    "index.build",
    "index.search",
}


def describe_run(settings: Config, sweep: str | None) -> RunDescription:
    """Name, tags and parameters of a run, from its configuration."""
    encoder = str(settings.encoder["name"])
    tags = {
        KIND_TAG: "run",
        "dataset": str(settings.dataset["name"]),
        "encoder": encoder,
        "index": settings.index.name,
        "metric": settings.metric.name,
        "protocol": settings.protocol.name,
        "git_commit": str(git_state().commit),
    }
    if sweep is not None:
        tags[SWEEP_TAG] = sweep
    names = [tags[key] for key in ("encoder", "index", "metric")]
    names += active(settings.protocol)
    if is_set(settings.adapt):
        tags["adapt"] = str(settings.adapt["name"])
        names.append(tags["adapt"])
    if (method := rerank_of(settings)) is not None:
        names.append(method)
        tags["rerank"] = method
    if (corrupt := corruption_of(settings)) is not None:
        names.append(corrupt)
    return RunDescription(" ".join(names), tags, _params(settings, tags))


def _params(settings: Config, tags: dict[str, str]) -> dict[str, str]:
    """What runs are compared by: the choice of each group, and every key that is not as its file has it.

    Index parameters that were unset come out fitted, when the index has been built.
    """
    config = dataclasses.asdict(settings)
    config["encoder"] = without_cards(config["encoder"])
    defaults = leaves(default_config(config))
    if settings.rerank is None:
        del config["rerank"]
    for group in NOT_COMPARED:
        del config[group]
    changed = {
        key: str(value)
        for key, value in leaves(config).items()
        if key not in NO_PARAMETERS and not key.endswith(("_target_", ".name"))
        if plain(value) != plain(defaults.get(key)) or key in ALWAYS
        if value is not None or not key.startswith("index.")  # unset there: to be fitted
    }
    if changed.get("encoder.model") == tags["encoder"]:
        del changed["encoder.model"]
    if settings.prompts is not None and settings.prompts.hit is not None:
        changed |= {"prompts": PromptSource.captions.value, "prompts.hit": settings.prompts.hit.value}
        if settings.prompts.max_words is not None:
            changed["prompts.max_words"] = str(settings.prompts.max_words)
    chosen = {group: tags[group] for group in GROUPS if group in tags}
    if settings.rerank is not None and "rerank" in tags:
        chosen["rerank"] = str(settings.rerank["name"])
    return chosen | changed


def dataset_inputs(settings: Config, inputs: Inputs) -> dict[str, dict[str, str]]:
    """The splits of a run as MLflow's dataset inputs, by role; those that something is fitted on too."""
    dataset, task = inputs.dataset, inputs.task
    sides: list[tuple[str, Queries]] = [("query", task.queries), ("gallery", task.gallery)]
    fitted_on = (("fitted_on", inputs.train_split), ("chosen_on", inputs.val_split))
    sides += [(role, split) for role, split in fitted_on if split is not None]
    return {
        role: {
            "name": f"{dataset.name}/{side.name}",
            "digest": side.content_sha256[:32],
            "source": _source(settings.dataset),
            "profile": json.dumps(
                {side.kind: len(side)} | ({"size": dataset.size} if side.split is not None else {})
            ),
        }
        for role, side in sides
    }


def _source(dataset: Mapping[str, Any]) -> str:
    """Where a dataset's images come from: its folder or table, else its class."""
    return str(next((dataset[key] for key in ("root", "table") if dataset.get(key)), dataset["_target_"]))


def write_tracking(folder: Path, about: RunDescription, tracker: Tracker, **facts: Any) -> None:
    """Write down a run's description, its tracker's class, and what the tracker adds: where the run is there.

    Args:
        folder: of the run.
        about: its description.
        tracker: that was told.
        facts: of that tracker; MLflow's are uri, experiment, log_index, run_id and logged.
    """
    note = {"tracker": class_name(type(tracker)), **facts, "about": about.__dict__}
    write_json(folder / TRACKING, each(note))


def read_tracking(folder: Path) -> dict[str, Any]:
    """The content of a run's tracking.json.

    Raises:
        UserError: it is not there, or no JSON.
    """
    return read_json(folder, TRACKING)
