"""Published tables: files in experiments/published/, a table each, with the protocol that its rows follow."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from medretrieval.config import published_folder
from medretrieval.errors import UserError, choices, suggestion


@dataclass(frozen=True)
class PublishedProtocol:
    """How published scores came about, in the words that `differences.protocol_of` has for a run.

    Attributes:
        image_size: pixels a side of the dataset's images.
        query_split: whose images are the queries.
        gallery_split: whose images are searched.
        left_out: what a query may not find: "nothing", or options of `protocol`.
        query_images: "clean", or the corruption of them.
        view: what of an image a model is shown, as `encoder.view`.
        metric: the distance.
        search: "exact" or "approximate".
        adaptation: "none", or what was fitted to train.
    """

    image_size: int
    query_split: str
    gallery_split: str
    left_out: str
    query_images: str
    view: str
    metric: str
    search: str
    adaptation: str


@dataclass(frozen=True)
class Published:
    """A published table.

    Attributes:
        name: of its file.
        citation: authors, year, title, journal and place.
        doi: of the paper.
        dataset: its name here.
        queries: how many there were.
        protocol: what the rows follow.
        scores: score -> what the paper calls it.
        rows: encoder -> its scores in percent, in the order of `scores`.
    """

    name: str
    citation: str
    doi: str
    dataset: str
    queries: int
    protocol: PublishedProtocol
    scores: dict[str, str]
    rows: dict[str, list[float]]


def published_names() -> list[str]:
    """Tables that there are."""
    return sorted(path.stem for path in published_folder().glob("*.yaml"))


def read_published(name: str) -> Published:
    """A published table.

    Args:
        name: one of `published_names`.

    Raises:
        UserError: no such table, or a file that is not as it should be.
    """
    known = published_names()
    if name not in known:
        raise UserError(
            f"compare: published={name}: there is no such table; {suggestion(name, known)}{choices(known)}"
        )
    path = published_folder() / f"{name}.yaml"
    content = _content(path)
    _require_keys(path, content, [field.name for field in fields(Published) if field.name != "name"])
    _require_keys(path, content["protocol"], [field.name for field in fields(PublishedProtocol)])
    protocol = PublishedProtocol(**content.pop("protocol"))
    table = Published(name=name, protocol=protocol, **content)
    for encoder, values in table.rows.items():
        if len(values) != len(table.scores):
            raise UserError(f"{path}: {encoder} has {len(values)} values for {len(table.scores)} scores")
    return table


def _content(path: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf

    content: Any = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no table; give it the keys of mahbod2025.yaml")
    return content


def _require_keys(path: Path, node: Mapping[str, Any], names: list[str]) -> None:
    if wrong := sorted(node.keys() ^ set(names)):
        raise UserError(
            f"{path}: {wrong[0]}: a key that is missing or unknown; it has to have {', '.join(names)}"
        )
