"""What a run is called, in folders, in MLflow and for telling whether it has finished before."""

import dataclasses
import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

from medretrieval.cache.entry import canonical_sha256
from medretrieval.config import Config, is_set, slug_of_stage, slugged
from medretrieval.datasets.groups import groups_sha256
from medretrieval.encoders.base import Encoder
from medretrieval.encoders.card import without_cards
from medretrieval.errors import UserError
from medretrieval.protocol.captions import Captions
from medretrieval.protocol.exclusions import active
from medretrieval.protocol.inputs import Inputs
from medretrieval.rerank.base import NONE
from medretrieval.runs.folder import FORMAT, write_json
from medretrieval.runs.report import read_report


def fingerprint_of(settings: Config, inputs: Inputs) -> str:
    """What makes two runs the same: configuration, data and weights; not where files lie or who is told."""
    config, task, center = dataclasses.asdict(settings), inputs.task, inputs.center_split
    for key in ("paths", "tracking", "force", "verbose"):
        del config[key]
    config["encoder"] = without_cards(config["encoder"])
    if rerank_of(settings) is None:  # said in one of two ways
        del config["rerank"]
    for key in ("root", "groups", "group_rule", "table", "labels", "cache"):
        config["dataset"].pop(key, None)
    fitted: dict[str, Any] = {} if center is None else {"center": center.images_sha256}
    for role, split in (("train", inputs.train_split), ("val", inputs.val_split)):
        if split is not None:
            said = canonical_sha256({"captions": list(split.captions or ())})
            fitted[role] = [split.images_sha256, split.labels_sha256, groups_sha256(split.groups), said]
    if center is not None and isinstance(task.queries, Captions):
        fitted["center_captions"] = canonical_sha256({"captions": list(center.captions or ())})
    if settings.evaluation.subgroups and task.queries.split is not None:
        known = task.queries.split.metadata or {}
        fitted |= {f"metadata.{n}": str(groups_sha256(known.get(n))) for n in settings.evaluation.subgroups}
    return canonical_sha256(
        fitted
        | {
            "config": config,
            "images": [task.queries.content_sha256, task.gallery.images_sha256],
            "labels": [task.queries.labels_sha256, task.gallery.labels_sha256],
            "metadata": [split and split.metadata_sha256 for split in (task.queries.split, task.gallery)],
            "groups": [groups_sha256(task.queries.groups), groups_sha256(task.gallery.groups)],
            "encoder": inputs.identity,
            "version": importlib.metadata.version("medretrieval"),
            "format": FORMAT,
        }
    )


def slug(settings: Config) -> str:
    """A name for a run's folder."""
    parts = (
        settings.dataset["name"],
        settings.encoder["name"],
        settings.index.name,
        settings.metric.name,
        settings.protocol.name,
    )
    adapted = slug_of_stage(settings.adapt["name"])
    reranked = slug_of_stage(settings.rerank["name"]) if rerank_of(settings) else ""
    return "_".join(slugged(str(part)) for part in parts) + adapted + reranked


def title(settings: Config, encoder: Encoder) -> str:
    """One line that says what was run."""
    marked = " (RANDOM WEIGHTS)" if encoder.random_weights else ""
    marked += f" (view={encoder.view})" if encoder.view else ""
    marked += f" · adapt={settings.adapt['name']}" if is_set(settings.adapt) else ""
    protocol = settings.protocol
    hit = None if settings.prompts is None else settings.prompts.hit
    corrupt = corruption_of(settings)
    asks = protocol.query or (f"prompts, {protocol.prompts}," if hit is None else f"captions, hit: {hit},")
    asks += f" with {corrupt}" if corrupt else ""
    who = asks if asks == protocol.gallery else f"{asks} queries {protocol.gallery}"
    itself = "" if protocol.exclude_self else ", the query itself counted"
    itself += f", centered on {protocol.center}" if protocol.center else ""
    itself += "".join(f", {option.replace('_', ' ')}" for option in active(protocol))
    return (
        f"{settings.dataset['name']} · {encoder.name}{marked} · {settings.index.name} · "
        f"{settings.metric.name} · {protocol.name} ({who}{itself})"
        + (f" · rerank {method}" if (method := rerank_of(settings)) else "")
    )


def rerank_of(settings: Config) -> str | None:
    """The re-ranking method in words, with "(transductive)" where it is; None for none."""
    node = settings.rerank
    if node is None or node.get("name") == NONE:
        return None
    return f"{node.get('name')}{' (transductive)' if node.get('transductive') else ''}"


def corruption_of(settings: Config) -> str | None:
    """What is done to the queries; None for nothing, also of a dataset of one's own without the key."""
    corrupt = settings.dataset.get("corrupt")
    return None if corrupt is None else str(corrupt)


def finished_note(outputs: Path, fingerprint: str) -> Path:
    """The file that says which run has the results of a configuration."""
    return outputs / "finished" / f"{fingerprint}.json"


def mark_finished(outputs: Path, fingerprint: str, folder: Path) -> None:
    """Remember which run has the results of a configuration."""
    where = os.path.relpath(folder, outputs)
    write_json(finished_note(outputs, fingerprint), {"run": where})


def marked_run(outputs: Path, fingerprint: str) -> Path | None:
    """The folder that `mark_finished` has noted; None where there is no note."""
    try:
        where = json.loads(finished_note(outputs, fingerprint).read_text())["run"]
    except (OSError, ValueError, KeyError):
        return None
    return Path(os.path.normpath(outputs / where))


def find_finished(outputs: Path, fingerprint: str) -> Path | None:
    """The folder of the run that has finished this configuration, None where there is none any more."""
    folder = marked_run(outputs, fingerprint)
    if folder is None:
        return None
    try:
        return folder if read_report(folder).fingerprint == fingerprint else None
    except (OSError, UserError):  # gone, or not as it should be: the run is done again
        return None
