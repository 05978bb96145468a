"""Captions as queries: an image's caption searches the images, and has to find that image or its group."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.cache.store import content_key
from medretrieval.config import Hit, PromptsConfig
from medretrieval.datasets.base import Split
from medretrieval.datasets.groups import common_codes, groups_sha256
from medretrieval.errors import UserError
from medretrieval.protocol.prompts import PROMPT
from medretrieval.protocol.ranking import Labels, class_name

Ints = NDArray[np.int64]
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Captions:
    """The captions of a split's images as queries; takes the place of a split on the query side of a task.

    Attributes:
        gallery: the images that are described and searched.
        classes: of the dataset, label i being classes[i].
        positions: int64 [q], the image that each query describes; images without a caption have no query.
        texts: the different captions, in the order in which they come first.
        members: int64 [q], the text of each query.
        hit: what a query has to find.
        max_words: how many words of a caption are asked with; None for all.
    """

    gallery: Split
    classes: tuple[str, ...]
    positions: Ints
    texts: tuple[str, ...]
    members: Ints
    hit: Hit
    max_words: int | None = None

    name = kind = use = "captions"
    split = None

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def prompts(self) -> "Captions":
        """Itself, as the query side of a task (`protocol.queries.Queries`)."""
        return self

    @property
    def ids(self) -> NDArray[np.str_]:
        """Names of the queries, "prompt/" and the id of the described image: "prompt/test/3" (str [q])."""
        return np.array([f"{PROMPT}{name}" for name in self.gallery.ids[self.positions]])

    @property
    def labels(self) -> Labels:
        """Classes of the described images, by which scores are taken apart; a hit does not depend on them."""
        return self.gallery.labels[self.positions]

    @property
    def groups(self) -> NDArray[np.str_] | None:
        """Groups of the described images, str [q]; None where the dataset has none."""
        return None if self.gallery.groups is None else self.gallery.groups[self.positions]

    @property
    def left_out(self) -> int:
        """Images of the gallery without a caption."""
        return len(self.gallery) - len(self)

    @property
    def cut(self) -> int:
        """Queries whose caption has more words than are asked with."""
        said = self.gallery.captions or ()
        return 0 if self.max_words is None else sum(len(text.split()) > self.max_words for text in said)

    def to_fit(self, split: Split, where: str) -> tuple[tuple[str, ...], Ints]:
        """The different captions of a split that a mean is fitted to, and which each image has (int64 [n]).

        Args:
            split: other images than those that are searched.
            where: the dataset, for messages.

        Raises:
            UserError: no image of the split has a caption.
        """
        return distinct([text for text in said_of(split, where, self.max_words) if text])

    @property
    def content_sha256(self) -> str:
        """Hash of the captions: what their vectors depend on."""
        return content_key({"texts": list(self.texts), "members": self.members.tolist(), "use": self.use})

    @property
    def labels_sha256(self) -> str:
        """Hash of what each caption has to find, and of the classes by which scores are taken apart."""
        return content_key(
            {
                "positions": self.positions.tolist(),
                "hit": self.hit.value,
                "groups": groups_sha256(self.gallery.groups) if self.hit == Hit.group else None,
                "labels": self.gallery.labels_sha256,
            }
        )

    def targets(self) -> tuple[Ints, Ints]:
        """What a hit shares with its query: numbers of images or groups (int64 [q] and int64 [n])."""
        if self.hit == Hit.image:
            return self.positions, np.arange(len(self.gallery))
        assert self.gallery.groups is not None  # `captions_of` asks for them
        return common_codes(self.gallery.groups[self.positions], self.gallery.groups)

    @cached_property
    def shared(self) -> tuple[int, int]:
        """Queries whose words another query has too, and of those the most that can have a hit at rank 1.

        The same words have the same vector, so their rankings are the same, and the first result is one image
        of one group.
        """
        wanted, sizes = self.targets()[0], np.bincount(self.members)
        alike = Counter(zip(self.members.tolist(), wanted.tolist(), strict=True))
        best: dict[int, int] = {}
        for (text, _), count in alike.items():
            best[text] = max(best.get(text, 0), count)
        repeated = np.flatnonzero(sizes > 1).tolist()
        return int(sizes[repeated].sum()), sum(best[text] for text in repeated)

    def document(self) -> list[dict[str, Any]]:
        """Every query with its image's class and its caption, for prompts.json."""
        said = zip(self.ids, self.positions, self.members, strict=True)
        return [
            {
                "id": str(name),
                "class": class_name(self.gallery.labels, int(position), self.classes),
                "texts": [self.texts[text]],
            }
            for name, position, text in said
        ]

    def queries(self, vectors: Vectors) -> Vectors:
        """Vectors of the queries from those of the texts (float32 [texts, d] -> [q, d])."""
        return vectors[self.members]


def captions_of(gallery: Split, classes: tuple[str, ...], wanted: PromptsConfig, where: str) -> Captions:
    """The captions of a split as queries.

    Args:
        gallery: the images.
        classes: of the dataset.
        wanted: what a caption has to find, and how many of its words are asked with.
        where: the dataset, for messages.

    Raises:
        UserError: the dataset has no captions or, where they are wanted, no groups.
    """
    said, hit = said_of(gallery, where, wanted.max_words), wanted.hit
    assert hit is not None  # as `checks.check` has seen to
    if hit == Hit.group and gallery.groups is None:
        raise UserError(
            f"prompts.hit=group: {where} does not say which images of split {gallery.name!r} belong "
            "together; give dataset.groups=<CSV with the columns split,index,group>, or set it to image"
        )
    positions = np.flatnonzero([bool(text) for text in said])
    texts, members = distinct([text for text in said if text])
    return Captions(gallery, classes, positions, texts, members, hit, wanted.max_words)


def said_of(split: Split, where: str, max_words: int | None) -> tuple[str, ...]:
    """The caption of each image without spaces around it, "" where it has none.

    Args:
        split: the images.
        where: the dataset, for messages.
        max_words: of each, its first words; None for all.

    Raises:
        UserError: no image of the split has one.
    """
    said = tuple(_first_words(text.strip(), max_words) for text in split.captions or ())
    if not any(said):
        raise UserError(
            f"prompts=captions: {where} has no captions of split {split.name!r}; use a dataset that has "
            "them, or leave prompts=captions out to ask for its classes"
        )
    return said


def _first_words(text: str, most: int | None) -> str:
    words = text.split()
    return text if most is None or len(words) <= most else " ".join(words[:most])


def distinct(texts: Sequence[str]) -> tuple[tuple[str, ...], Ints]:
    """The different texts in the order in which they come first, and which of them each is (int64 [n]).

    >>> distinct(["b", "a", "b"])
    (('b', 'a'), array([0, 1, 0]))
    """
    numbers: dict[str, int] = {}
    members = np.array([numbers.setdefault(text, len(numbers)) for text in texts], dtype=np.int64)
    return tuple(numbers), members
