"""What is known of an encoder beside its settings: license, training data, how to get its files."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from medretrieval.errors import UserError, choices

CARD = "card"  # the key of an encoder's configuration


@dataclass(frozen=True)
class Card:
    """What an encoder's file in conf/encoder says about it; no value changes a vector.

    Attributes:
        license: of the weights, an SPDX name or words; None where the model decides.
        dimension: numbers of a vector; None where the model or the images decide.
        trained_on: one sentence.
        overlap: one sentence on which sources of MedMNIST, or other named data, the training may have seen;
            None where none are known.
        access: one sentence, how to get the files and where to put them; None where anyone can download them.
        source: the paper or address that the rest is taken from.
    """

    license: str | None
    dimension: int | None
    trained_on: str | None
    overlap: str | None
    access: str | None
    source: str | None

    def overlaps(self, dataset: str, of_medmnist: bool) -> bool:
        """Whether the training may have seen images of a dataset, by the words of `overlap`.

        A sentence that names sets of MedMNIST (ChestMNIST) is about these, and one that names none about all.

        Args:
            dataset: its name.
            of_medmnist: whether it is one of MedMNIST.
        """
        said = (self.overlap or "").lower()
        named = set(re.findall(r"\w+mnist\b", said)) - {"medmnist"}
        return dataset.lower() in said or (bool(said) and of_medmnist and not named)


def read_card(node: object) -> Card | None:
    """The card of an encoder's configuration; None where a file of the user's own has none.

    Args:
        node: the value of its key `card`.

    Raises:
        UserError: an unknown or a missing key, or a value of another type.
    """
    if node is None:
        return None
    names = [field.name for field in fields(Card)]
    if not isinstance(node, Mapping):
        raise UserError(f"encoder.card={str(node)[:40]}: give a mapping with the keys {', '.join(names)}")
    for key in node:
        if key not in names:
            raise UserError(f"encoder.card.{key}: a card has no such key; {choices(names)}")
    for name in names:
        if name not in node:
            raise UserError(f"encoder.card.{name}: is missing; give it, or null where it is not known")
        kind, said = (int, "a whole number") if name == "dimension" else (str, "words")
        if node[name] is not None and type(node[name]) is not kind:
            raise UserError(f"encoder.card.{name}={str(node[name])[:40]}: give {said} or null")
    return Card(**node)


def without_cards(node: Any) -> Any:
    """A configuration without the card of each encoder in it: what tells two runs apart."""
    if isinstance(node, dict):
        return {key: without_cards(value) for key, value in node.items() if key != CARD}
    return [without_cards(item) for item in node] if isinstance(node, list) else node
