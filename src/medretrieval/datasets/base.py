"""What a dataset is to the rest of the pipeline: named splits of raw images with labels."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medretrieval.images.corruptions import Corruption

LabelType = Literal["single", "multi", "ordinal"]
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """One split of a dataset, row i of every field being the same image.

    Attributes:
        name: "train", "val" or "test".
        images: uint8 [n, height, width] (gray) or [n, height, width, 3] (RGB).
        labels: int64 [n] class numbers, or bool [n, classes] for a multi-label dataset.
        captions: one sentence an image, where the dataset has them.
        masks: bool [n, height, width], true where the finding is, where the dataset has them.
        groups: str [n], what an image shares with others that are not independent of it (a patient, a
            lesion), the same name meaning the same group in all splits; None where nobody says.
        metadata: what else is known of each image: column -> str [n], "" where it is not known; None where
            the dataset has no such columns.
        clean: the split before its images were corrupted; None where they are as they were read.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | NDArray[np.bool_]
    captions: tuple[str, ...] | None = None
    masks: NDArray[np.bool_] | None = None
    groups: NDArray[np.str_] | None = None
    metadata: Mapping[str, NDArray[np.str_]] | None = None
    clean: "Split | None" = None

    kind = "images"
    prompts = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def split(self) -> "Split":
        """Itself, as the query side of a task (`protocol.queries.Queries`)."""
        return self

    @property
    def ids(self) -> NDArray[np.str_]:
        """Names of the images, unique over all splits: "test/0", "test/1", ... (str [n])."""
        return np.array([f"{self.name}/{i}" for i in range(len(self))])

    @cached_property
    def images_sha256(self) -> str:
        """SHA-256 over shape and bytes of the images: what embeddings depend on."""
        return _sha256(self.images)

    @property
    def content_sha256(self) -> str:
        """The same, under the name that prompts have too."""
        return self.images_sha256

    @cached_property
    def labels_sha256(self) -> str:
        """SHA-256 over shape and bytes of the labels: what scores depend on besides."""
        return _sha256(self.labels)


class Dataset(ABC):
    """A collection of labeled medical images. A new one is a subclass and a file in conf/dataset/.

    Attributes:
        name: short name for tables, tags and file names.
        label_type: "single" (one class an image), "multi" (any number of findings) or "ordinal"
            (classes in an order of severity).
        classes: the names of the classes; label i is classes[i].
        size: height and width of an image in pixels.
        groups: a CSV that says which images belong together (`datasets.groups.read_groups`), None for
            what `load` says itself.
        channels: 1 for gray images, 3 for RGB, None where only its images tell.
        corruption: what is done to images that are queries, None for nothing. `load` gives clean images.
    """

    channels: int | None = None

    def __init__(
        self,
        name: str,
        label_type: LabelType,
        classes: Sequence[str],
        size: int,
        groups: str | None = None,
        corrupt: str | None = None,
    ) -> None:
        """Keep what a dataset is.

        Raises:
            UserError: no such corruption, or no severity of 1 to 5.
        """
        self.name = name
        self.label_type: LabelType = label_type
        self.classes = tuple(classes)
        self.size = size
        self.groups = groups
        self.corruption = None if corrupt is None else Corruption.from_word(corrupt)

    @abstractmethod
    def load(self, split: str) -> Split:
        """Read one split.

        Raises:
            UserError: the data is missing, damaged or not what the configuration says.
        """

    def is_here(self) -> bool:
        """Whether `load` can do without a download."""
        return True


def _sha256(array: NDArray[np.generic]) -> str:
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
