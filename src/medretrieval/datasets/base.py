"""What a dataset is to the rest of the pipeline: named splits of raw images with labels."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medretrieval.datasets.corruptions import Corruption
from medretrieval.errors import UserError
from medretrieval.images.fit import Fit

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

    @staticmethod
    def targets() -> None:
        """A hit is of the query's class (`protocol.queries.Queries`)."""

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
    def metadata_sha256(self) -> str | None:
        """SHA-256 over columns and values of the metadata: what scores of subgroups depend on."""
        if self.metadata is None:
            return None
        columns = sorted((name, column.tolist()) for name, column in self.metadata.items())
        return hashlib.sha256(json.dumps(columns).encode()).hexdigest()

    @cached_property
    def labels_sha256(self) -> str:
        """SHA-256 over shape and bytes of the labels: what scores depend on besides."""
        return _sha256(self.labels)


class EmptySplitError(UserError):
    """A split without images: a mistake where it is asked for, a fact where a dataset is described."""


@dataclass(frozen=True)
class Original:
    """What is known of the file that an image was read from, before it was made 8-bit and of one size.

    Attributes:
        name: what the image is called where its files are listed: a path below the dataset's folder.
        kind: the format, such as "PNG", "JPEG" or "DICOM".
        width: in pixels.
        height: in pixels.
        channels: 1 for gray, 3 for color (an alpha channel counts too).
        bits: of a value of a channel, such as 8, 12 or 16.
        frames: pictures in the file; 1 for a single one.
        sha256: of the file's bytes, in hexadecimal.
    """

    name: str
    kind: str
    width: int
    height: int
    channels: int
    bits: int
    frames: int
    sha256: str


@dataclass(frozen=True)
class FileFacts:
    """What a run says of the files that its images were read from.

    Attributes:
        files: of the splits that were read.
        unreadable: of these, left out because they cannot be read.
        splits_made: the splits were drawn, because nobody gave them.
        shared_groups: groups with images in more than one split.
    """

    files: int
    unreadable: int
    splits_made: bool
    shared_groups: int


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
        group_rule: regular expression that finds the group in the source names of that file; None where the
            file names the groups.
        channels: 1 for gray images, 3 for RGB, None where only its images tell.
        fit: how its pictures that were no squares became squares; None where nobody says.
        corruption: what is done to images that are queries, None for nothing. `load` gives clean images.
    """

    channels: int | None = None
    fit: Fit | None = None

    group_rule: str | None = None

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
            EmptySplitError: it has no images (an empty split may be returned too).
            UserError: the data is missing, damaged or not what the configuration says.
        """

    def is_here(self) -> bool:
        """Whether `load` can do without a download."""
        return True

    def originals(self, split: str) -> Sequence[Original] | None:
        """The files that the images of a split were read from, in the order of `load(split)`.

        Called after `load(split)`.

        Returns:
            one an image; None where images have no files of their own.
        """
        return None

    def unreadable(self, split: str) -> Sequence[tuple[str, str]]:
        """Files of a split that `load(split)` left out: their names, and why each cannot be read.

        Called after `load(split)`.
        """
        return ()

    def be_lenient(self) -> None:  # noqa: B027 - most datasets refuse nothing of the kind
        """Count from now on what a run would refuse, for who describes the data before anything is run."""

    def facts(self) -> FileFacts | None:
        """What a run says of the files it has read; None where images have no files of their own."""
        return None

    def listing(self) -> Iterable[Mapping[str, str]] | None:
        """A row for each image of every split, for splits.csv; None where images have no files of their own.

        Columns: file, split, id (as `Split.ids`, "" where the image was not read), label, and where there are
        such group and others. Every row has the same ones.
        """
        return None


def _sha256(array: NDArray[np.generic]) -> str:
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
