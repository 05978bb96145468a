"""The encoders that conf/encoder has a file for, with their cards: what there is to choose from."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra.utils import get_class
from omegaconf import OmegaConf

from medretrieval.config import compose, root
from medretrieval.encoders.base import Encoder, reads_text
from medretrieval.encoders.card import CARD, Card, read_card
from medretrieval.errors import UserError
from medretrieval.instantiate import instantiate

OWN_LIBRARY = "medretrieval"
GENERIC = "any model of its library: encoder.model=<name>"


@dataclass(frozen=True)
class Entry:
    """One file of conf/encoder.

    Attributes:
        name: as in encoder=<name>.
        library: whose models they are.
        generic: the file is for any model of its library.
        text: whether there is a text tower.
        card: what the file says about it.
    """

    name: str
    library: str
    generic: bool
    text: bool
    card: Card


@cache
def entries() -> tuple[Entry, ...]:
    """Every file, in the order of their names; loads no library of models."""
    return tuple(_entry(path) for path in _files())


def here(entry: Entry) -> tuple[bool | None, str]:
    """Whether all that a run with an encoder needs is on this machine, and what that is.

    Asks nobody and loads no model, but may import the library that knows where its files are.

    Args:
        entry: of `entries`.

    Returns:
        true and what there is; false and what is missing and how to get it; None where the model decides.
    """
    if entry.generic:
        return None, GENERIC
    try:
        node: Any = OmegaConf.to_container(compose(f"encoder={entry.name}").encoder, resolve=True)
        encoder = instantiate(node, Encoder, "encoder")  # type: ignore[type-abstract]
        return encoder.here()
    except UserError as error:
        return False, str(error)


def _files() -> Iterator[Path]:
    yield from sorted((root() / "conf" / "encoder").glob("*.yaml"))


def _entry(path: Path) -> Entry:
    node = _merged(path)
    cls: Any = get_class(node["_target_"])
    card = read_card(node.get(CARD))
    if card is None:
        raise UserError(f"{path}: has no card; give one (see medretrieval.encoders.card.Card)")
    library = getattr(cls, "library", OWN_LIBRARY)
    return Entry(path.stem, library, node.get("model") == "???", reads_text(cls), card)


def _merged(path: Path) -> dict[str, Any]:
    """A file with those of its folder that it builds on; interpolations stay as they are."""
    content: Any = OmegaConf.to_container(OmegaConf.load(path))
    merged: dict[str, Any] = {}
    for base in [name for name in content.pop("defaults", []) if name != "_self_" and isinstance(name, str)]:
        merged |= _merged(path.with_stem(base))
    return merged | content
