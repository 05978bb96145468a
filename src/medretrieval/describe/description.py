"""What is said of a dataset, as plain values: what JSON, table and page are made from."""

from dataclasses import dataclass

Counts = dict[str, int]  # split -> number


@dataclass(frozen=True)
class GroupSizes:
    """Groups (patients, lesions) of a split.

    Attributes:
        groups: how many.
        least: images of the smallest.
        median: images of the middle one.
        most: images of the largest.
    """

    groups: int
    least: int
    median: float
    most: int


@dataclass(frozen=True)
class SplitCount:
    """A split.

    Attributes:
        name: "train", "val" or "test".
        images: how many; 0 for a split that the dataset does not have.
        shape: of each image as it is loaded, [height, width] or [height, width, 3]; null without images.
        groups: null where nobody says which images belong together.
        without_caption: images without a sentence; null where the dataset has no captions.
        without_finding: images of a multi-label dataset with no finding; null for other datasets.
        unreadable: files that were left out.
    """

    name: str
    images: int
    shape: list[int] | None
    groups: GroupSizes | None
    without_caption: int | None
    without_finding: int | None
    unreadable: int


@dataclass(frozen=True)
class ClassCount:
    """A class: its images in each split, and their share of the split."""

    name: str
    images: Counts
    shares: dict[str, float]


@dataclass(frozen=True)
class Quartiles:
    """Of a column of numbers: least value, quartiles and greatest value."""

    least: float
    lower: float
    median: float
    upper: float
    most: float


@dataclass(frozen=True)
class ValueCount:
    """A value of a column: its images in each split and of each class."""

    value: str
    images: Counts
    classes: Counts


@dataclass(frozen=True)
class Column:
    """A column of metadata.

    Attributes:
        name: of the column.
        missing: images without a value, by split.
        distinct: number of different values.
        numbers: quartiles by split, where every value is a number; null where not.
        values: the most frequent ones.
    """

    name: str
    missing: Counts
    distinct: int
    numbers: dict[str, Quartiles] | None
    values: list[ValueCount]


@dataclass(frozen=True)
class OriginalCount:
    """Files of one kind and size, and how many each split has."""

    kind: str
    width: int
    height: int
    channels: int
    bits: int
    frames: int
    images: Counts


@dataclass(frozen=True)
class Likeness:
    """Images of a split that are copies of images of another split, or of the same.

    Attributes:
        kind: "file" (bytes of the file), "image" (bytes of the image as it is loaded) or "near" (perceptual
            hash, and not byte-identical).
        split: whose images are counted.
        other: where their copies are.
        images: of `split`, with a copy in `other`.
        other_images: of `other`, with a copy in `split`.
        conflicts: of `images`, with a copy of another label; null for "near", where two labels may be right.
    """

    kind: str
    split: str
    other: str
    images: int
    other_images: int
    conflicts: int | None


@dataclass(frozen=True)
class Pair:
    """Two images that are copies of each other or look alike.

    Attributes:
        kind: as `Likeness.kind`.
        image: id of the one.
        other: id of the other.
        bits: of their perceptual hashes that differ; 0 for identical ones.
        same_label: whether they have the same label.
    """

    kind: str
    image: str
    other: str
    bits: int
    same_label: bool


@dataclass(frozen=True)
class HashCheck:
    """Whether the perceptual hash tells these images apart (`evidence.duplicate_audit`).

    Attributes:
        trusted: whether what it calls near is counted.
        bits: that may differ (audit.near_hash).
        collisions: share of the images that it takes for a near-duplicate of an image of another label.
        side: of the images, in pixels; 32 are needed.
    """

    trusted: bool
    bits: int
    collisions: float
    side: int


@dataclass(frozen=True)
class SharedGroups:
    """Groups that have images in two splits, and how many images these are."""

    split: str
    other: str
    groups: int
    images: int
    other_images: int


@dataclass(frozen=True)
class Unreadable:
    """A file that cannot be read, and why."""

    split: str
    name: str
    reason: str


@dataclass(frozen=True)
class Thumb:
    """An image of the contact sheet: its id and a PNG as a data URI."""

    image: str
    uri: str


@dataclass(frozen=True)
class Description:
    """What a dataset holds.

    Attributes:
        dataset: its name.
        label_type: "single", "multi" or "ordinal".
        size: height and width that images are brought to, in pixels.
        findings: what needs action, a sentence each, the worst first.
        splits: all three.
        classes: in the dataset's order.
        columns: of metadata.
        originals: the most frequent kinds and sizes of files; null where images have no files of their own.
        distinct_originals: how many kinds and sizes there are; null likewise.
        likenesses: copies within and across splits, of those that there are.
        hash_check: about those of kind "near".
        pairs: examples, labels that differ first.
        shared_groups: of splits that share any.
        unreadable: every file that is left out.
    """

    dataset: str
    label_type: str
    size: int
    findings: list[str]
    splits: list[SplitCount]
    classes: list[ClassCount]
    columns: list[Column]
    originals: list[OriginalCount] | None
    distinct_originals: int | None
    likenesses: list[Likeness]
    hash_check: HashCheck
    pairs: list[Pair]
    shared_groups: list[SharedGroups]
    unreadable: list[Unreadable]
