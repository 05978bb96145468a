"""A dataset read split by split; of each only what is counted stays in memory, not its images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medretrieval.datasets.base import SPLITS, Dataset, EmptySplitError, Original, Split
from medretrieval.datasets.groups import identical_codes, load_split
from medretrieval.errors import UserError
from medretrieval.figures.examples import thumbnail
from medretrieval.images.perceptual_hash import image_hashes
from medretrieval.protocol.ranking import NONE, Labels

THUMB_PIXELS = 96  # a side, at most
MOST_THUMBS = 720  # of the whole sheet: some 4 MB
MOST_IN_A_CELL = 8

# Class -> split -> (id, PNG as a data URI).
Sheet = dict[str, dict[str, list[tuple[str, str]]]]


@dataclass(frozen=True)
class ReadSplit:
    """What stays of a split.

    Attributes:
        split: without its images.
        shape: of an image.
        codes: equal for byte-identical images of any split, int64 [n].
        hashes: perceptual hashes, uint64 [n].
        originals: the files of its images, None where these have none.
        unreadable: name and reason of files that were left out.
    """

    split: Split
    shape: tuple[int, ...]
    codes: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    originals: Sequence[Original] | None
    unreadable: Sequence[tuple[str, str]]

    @property
    def name(self) -> str:
        """Of the split."""
        return self.split.name

    def __len__(self) -> int:
        return len(self.codes)


def read_dataset(dataset: Dataset, seed: int) -> tuple[list[ReadSplit], Sheet]:
    """Read every split that the dataset has, one after the other.

    Args:
        dataset: what is described.
        seed: of the images that are drawn for the contact sheet.

    Returns:
        The splits, and the contact sheet.

    Raises:
        UserError: as `Dataset.load`; no split has an image.
    """
    dataset.be_lenient()
    seen: dict[bytes, int] = {}
    found: list[ReadSplit] = []
    sheet: Sheet = {name: {} for name in rows_of(dataset)}
    for name in SPLITS:
        try:
            split = load_split(dataset, name)
        except EmptySplitError:
            continue
        found.append(_read(dataset, split, seen))
        _draw(split, sheet, np.random.default_rng([seed, SPLITS.index(name)]))
    if not found:
        raise UserError(f"dataset={dataset.name}: no split has an image; nothing can be described")
    return found, {name: cells for name, cells in sheet.items() if cells}


def rows_of(dataset: Dataset) -> list[str]:
    """The classes, and for a multi-label dataset what an image without any finding is called."""
    return [*dataset.classes, *([NONE] if dataset.label_type == "multi" else [])]


def members_of(labels: Labels, classes: int) -> NDArray[np.bool_]:
    """Which image counts for which row of `rows_of`: bool [n, rows].

    >>> members_of(np.array([[True, True], [False, False]]), 2).tolist()
    [[True, True, False], [False, False, True]]
    """
    if labels.ndim == 1:
        return np.asarray(labels[:, None] == np.arange(classes))
    return np.concatenate([labels, ~labels.any(axis=1, keepdims=True)], axis=1).astype(np.bool_)


def _read(dataset: Dataset, split: Split, seen: dict[bytes, int]) -> ReadSplit:
    originals = dataset.originals(split.name)
    return ReadSplit(
        Split(
            split.name,
            np.zeros((len(split), 0, 0), np.uint8),  # the images may go
            split.labels,
            split.captions,
            groups=split.groups,
            metadata=split.metadata,
        ),
        split.images.shape[1:],
        identical_codes(split.images, seen=seen)[0],
        image_hashes(split.images),
        originals,
        dataset.unreadable(split.name),
    )


def _draw(split: Split, sheet: Sheet, rng: np.random.Generator) -> None:
    """Draw images of each class at random, fewer where there are many classes."""
    members = members_of(split.labels, len(sheet) - (split.labels.ndim - 1))
    each = min(MOST_IN_A_CELL, max(1, MOST_THUMBS // (len(SPLITS) * len(sheet))))
    for row, cells in enumerate(list(sheet.values())[: MOST_THUMBS // len(SPLITS)]):
        places = np.flatnonzero(members[:, row])
        if len(places):
            chosen = np.sort(rng.choice(places, min(each, len(places)), replace=False))
            cells[split.name] = [
                (f"{split.name}/{i}", thumbnail(split.images[i], THUMB_PIXELS)) for i in chosen.tolist()
            ]
