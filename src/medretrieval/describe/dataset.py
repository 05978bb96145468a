"""A dataset described: read once, then counted."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import AuditConfig
from medretrieval.datasets.base import SPLITS, Dataset
from medretrieval.describe.copies import FILE, IMAGE, Images, identical, near
from medretrieval.describe.description import (
    ClassCount,
    Column,
    Description,
    GroupSizes,
    Likeness,
    OriginalCount,
    Pair,
    Quartiles,
    SharedGroups,
    SplitCount,
    Unreadable,
    ValueCount,
)
from medretrieval.describe.findings import findings, without_folders
from medretrieval.describe.read import ReadSplit, Sheet, members_of, read_dataset, rows_of

MOST_VALUES = 12  # of a column, that are listed
MOST_ORIGINALS = 20  # kinds and sizes of files, that are listed


def describe(dataset: Dataset, audit: AuditConfig, seed: int) -> tuple[Description, Sheet]:
    """Read a dataset and count what it holds.

    Args:
        dataset: what is described.
        audit: from when on two images count as near-duplicates.
        seed: of the images that are drawn for the contact sheet.

    Raises:
        UserError: as `Dataset.load`; no split has an image.
    """
    splits, sheet = read_dataset(dataset, seed)
    images = _together(splits)
    of_files = _of_files(images, splits)
    of_images = identical(images, images.codes, IMAGE)
    side = min(min(split.shape[:2]) for split in splits)
    alike, near_pairs, check = near(images, side, audit)
    originals = _originals(splits)
    facts = Description(
        dataset=dataset.name,
        label_type=dataset.label_type,
        size=dataset.size,
        findings=[],
        splits=_split_counts(dataset, splits),
        classes=_class_counts(dataset, splits),
        columns=_columns(dataset, splits),
        originals=None if originals is None else originals[:MOST_ORIGINALS],
        distinct_originals=None if originals is None else len(originals),
        likenesses=of_files[0] + of_images[0] + alike,
        hash_check=check,
        pairs=of_files[1] + of_images[1] + near_pairs,
        shared_groups=_shared_groups(splits),
        unreadable=[
            Unreadable(s.name, without_folders(name), without_folders(reason))
            for s in splits
            for name, reason in s.unreadable
        ],
    )
    return replace(facts, findings=findings(facts)), sheet


def _together(splits: Sequence[ReadSplit]) -> Images:
    labels = np.concatenate([split.split.labels for split in splits])
    return Images(
        [split.name for split in splits],
        np.repeat(np.arange(len(splits)), [len(split) for split in splits]),
        np.unique(labels, axis=0, return_inverse=True)[1].ravel().astype(np.int64),
        np.concatenate([split.codes for split in splits]),
        np.concatenate([split.hashes for split in splits]),
        np.concatenate([[f"{split.name}/{i}" for i in range(len(split))] for split in splits]),
    )


def _of_files(images: Images, splits: Sequence[ReadSplit]) -> tuple[list[Likeness], list[Pair]]:
    """Files of equal bytes, where every image has a file of its own."""
    hashes = [one.sha256 for split in splits for one in split.originals or ()]
    if len(hashes) != len(images.codes):
        return [], []
    codes = np.unique(np.array(hashes), return_inverse=True)[1].astype(np.int64)
    return identical(images, codes, FILE)


def _split_counts(dataset: Dataset, splits: Sequence[ReadSplit]) -> list[SplitCount]:
    found = {split.name: split for split in splits}
    return [
        _split_count(dataset, found[name])
        if name in found
        else SplitCount(name, 0, None, None, None, None, 0)
        for name in SPLITS
    ]


def _split_count(dataset: Dataset, read: ReadSplit) -> SplitCount:
    split, groups = read.split, None
    if split.groups is not None:
        sizes = np.unique(split.groups, return_counts=True)[1]
        groups = GroupSizes(len(sizes), int(sizes.min()), float(np.median(sizes)), int(sizes.max()))
    captions = split.captions
    without = None if dataset.label_type != "multi" else int((~split.labels.any(axis=1)).sum())
    return SplitCount(
        read.name,
        len(read),
        list(read.shape),
        groups,
        None if captions is None else sum(not caption.strip() for caption in captions),
        without,
        len(read.unreadable),
    )


def _class_counts(dataset: Dataset, splits: Sequence[ReadSplit]) -> list[ClassCount]:
    counts = {s.name: members_of(s.split.labels, len(dataset.classes)).sum(axis=0).tolist() for s in splits}
    lengths = {split.name: len(split) for split in splits}
    return [
        ClassCount(
            name,
            {split: of_split[i] for split, of_split in counts.items()},
            {split: of_split[i] / lengths[split] for split, of_split in counts.items()},
        )
        for i, name in enumerate(rows_of(dataset))
    ]


def _columns(dataset: Dataset, splits: Sequence[ReadSplit]) -> list[Column]:
    names = dict.fromkeys(name for split in splits for name in split.split.metadata or {})
    return [_column(name, dataset, splits) for name in names]


def _column(name: str, dataset: Dataset, splits: Sequence[ReadSplit]) -> Column:
    values = {s.name: (s.split.metadata or {}).get(name, np.full(len(s), "")) for s in splits}
    members = {s.name: members_of(s.split.labels, len(dataset.classes)) for s in splits}
    known = Counter(value for of_split in values.values() for value in of_split.tolist() if value)
    top = sorted(known, key=lambda value: (-known[value], value))[:MOST_VALUES]
    counts = []
    for value in top:
        where = {split: of_split == value for split, of_split in values.items()}
        classes = sum(members[split][rows].sum(axis=0) for split, rows in where.items())
        of_classes = dict(zip(rows_of(dataset), np.asarray(classes).tolist(), strict=True))
        counts.append(ValueCount(value, {s: int(rows.sum()) for s, rows in where.items()}, of_classes))
    return Column(
        name,
        {split: int((of_split == "").sum()) for split, of_split in values.items()},
        len(known),
        _quartiles(values),
        counts,
    )


def _quartiles(values: dict[str, NDArray[np.str_]]) -> dict[str, Quartiles] | None:
    """Of a column whose every value is a number; None for any other."""
    found = {}
    for split, of_split in values.items():
        try:
            numbers = of_split[of_split != ""].astype(np.float64)
        except ValueError:
            return None
        if not np.isfinite(numbers).all():
            return None
        if len(numbers):
            found[split] = Quartiles(*(float(q) for q in np.quantile(numbers, (0, 0.25, 0.5, 0.75, 1))))
    return found or None


def _originals(splits: Sequence[ReadSplit]) -> list[OriginalCount] | None:
    """Kinds and sizes of the files, the most frequent first; None where images have no files."""
    if all(split.originals is None for split in splits):
        return None
    counts: dict[tuple[str, int, int, int, int, int], Counter[str]] = {}
    for split in splits:
        for one in split.originals or ():
            key = (one.kind, one.width, one.height, one.channels, one.bits, one.frames)
            counts.setdefault(key, Counter())[split.name] += 1
    names = [split.name for split in splits]
    order = sorted(counts, key=lambda key: (-counts[key].total(), key))
    return [OriginalCount(*key, {name: counts[key][name] for name in names}) for key in order]


def _shared_groups(splits: Sequence[ReadSplit]) -> list[SharedGroups]:
    found = []
    grouped = [(split.name, split.split.groups) for split in splits if split.split.groups is not None]
    for (a, of_a), (b, of_b) in combinations(grouped, 2):
        shared = np.intersect1d(of_a, of_b)
        if len(shared):
            counts = [int(np.isin(groups, shared).sum()) for groups in (of_a, of_b)]
            found.append(SharedGroups(a, b, len(shared), *counts))
    return found
