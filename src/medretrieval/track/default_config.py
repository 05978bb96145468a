"""What a run's configuration would be had nobody changed a key: the files in conf/ that it chose from."""

from dataclasses import MISSING as DATACLASS_MISSING
from dataclasses import fields
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from medretrieval.config import (
    EvaluationConfig,
    IndexConfig,
    MetricConfig,
    ProtocolConfig,
    register_resolvers,
    root,
)

GROUPS = ("dataset", "encoder", "index", "metric", "protocol", "adapt", "rerank")
SCHEMAS: dict[str, type[Any]] = {
    "evaluation": EvaluationConfig, "index": IndexConfig, "metric": MetricConfig, "protocol": ProtocolConfig,
}  # fmt: skip


def default_config(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with every key of the file that each of its groups comes from.

    A group that comes from a file of the user's own is left out: its defaults are not known.

    Args:
        config: a run's configuration, as nested dictionaries.
    """
    register_resolvers()
    content = _content(root() / "conf" / "config.yaml")
    chosen: dict[str, Any] = {key: node for key, node in content.items() if key not in ("defaults", "hydra")}
    # Keys of groups that follow these ones are as in their files, whatever these are.
    followed = {key: config[key] for key in ("seed", "device", "paths")}
    chosen["evaluation"] = _of_schema("evaluation") | chosen["evaluation"]
    tree = chosen | followed
    for group in GROUPS:
        if config.get(group) and (file := _file_of(group, config[group])) is not None:
            tree[group] = _of_schema(group) | _merged(file) | {"name": config[group]["name"]}
    resolved = OmegaConf.to_container(OmegaConf.create(tree), resolve=True, throw_on_missing=False)
    return cast(dict[str, Any], resolved) | {key: chosen[key] for key in ("seed", "device")}


def _of_schema(group: str) -> dict[str, Any]:
    """What the schema says of keys that need not stand in YAML."""
    defaults = {f.name: f for f in fields(SCHEMAS[group])} if group in SCHEMAS else {}
    return {
        name: f.default if f.default_factory is DATACLASS_MISSING else f.default_factory()
        for name, f in defaults.items()
    }


def plain(value: Any) -> Any:
    """A value of the schema as YAML has it."""
    if isinstance(value, Enum):
        return value.value
    return [plain(item) for item in value] if isinstance(value, list) else value


def _file_of(group: str, node: dict[str, Any]) -> Path | None:
    """The file of a group's folder that a node comes from: of its name, else the one of its class."""
    files = sorted((root() / "conf" / group).glob("*.yaml"))
    target = node.get("_target_")
    same = [file for file in files if _merged(file).get("_target_") == target]
    named = [file for file in same if _merged(file)["name"] == node["name"]]
    if target is None or named:  # without a class, a name of the user's own is a file of the user's own
        return named[0] if named else None
    return next((file for file in same if len(same) == 1 or _merged(file).get("model") == "???"), None)


@cache
def _content(file: Path) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(file)))


def _merged(file: Path) -> dict[str, Any]:
    """A file of a group with those of the same group that it builds on."""
    content = dict(_content(file))
    merged: dict[str, Any] = {}
    for base in content.pop("defaults", []):
        merged |= content if base == "_self_" else _merged(file.with_name(f"{base}.yaml"))
    return merged or content
