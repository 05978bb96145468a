"""What datasets of files have in common: splits, groups, decoding, and what cannot be read."""

import functools
import logging
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from medretrieval.cache.store import Cache
from medretrieval.datasets.base import SPLITS, Dataset, EmptySplitError, FileFacts, LabelType, Original, Split
from medretrieval.datasets.files.decoded import Decoded, FilesToDecode, decoded
from medretrieval.datasets.files.splits import assign, read_shares, shared_groups
from medretrieval.datasets.files.table import FINDINGS_MARK, FileTable
from medretrieval.errors import UserError, choices
from medretrieval.images.decode import Decoding, peek
from medretrieval.images.fit import Fit
from medretrieval.images.frames import Frames
from medretrieval.images.readers.source import Peek, Unreadable

log = logging.getLogger(__name__)
LISTED = 5  # unreadable files that a refusal names
GRAY, COLOR = 1, 3


class OnUnreadable(StrEnum):
    """What happens where a file cannot be read."""

    fail = "fail"
    skip = "skip"


class SplitBy(StrEnum):
    """What stays together where splits are drawn."""

    group = "group"
    image = "image"


class OnSharedGroups(StrEnum):
    """What happens where a group has images in more than one split."""

    refuse = "refuse"
    report = "report"


@dataclass(frozen=True)
class DecodingOptions:
    """How files become images, and splits are made: the keys that all datasets of files have.

    Attributes:
        size: pixels a side.
        channels: 1 gray, 3 RGB, None for gray where every file is gray.
        fit: how a picture that is no square becomes one.
        frames: which frames of a file that has several.
        unreadable: what happens where a file cannot be read.
        shares: of the splits that are made where none are given.
        split_seed: of the same.
        split_by: what stays together in them.
        shared_groups: what happens where a group is in more than one split.
        cache: the folder in which decoded images are kept.
    """

    size: int
    channels: int | None
    fit: Fit
    frames: Frames
    unreadable: OnUnreadable
    shares: Mapping[str, Any]
    split_seed: int
    split_by: SplitBy
    shared_groups: OnSharedGroups
    cache: Path

    @classmethod
    def read(cls, **given: Any) -> "DecodingOptions":
        """Check the keys of a configuration.

        Raises:
            UserError: a value that cannot be meant.
        """
        if given["channels"] not in (None, GRAY, COLOR):
            raise UserError(
                f"dataset.channels={given['channels']}: give 1 for gray, 3 for RGB, or null for gray where "
                "every file is gray"
            )
        read_shares(given["shares"])
        return cls(
            _whole("size", given["size"], 1),
            given["channels"],
            member("fit", given["fit"], Fit),
            member("frames", given["frames"], Frames),
            member("unreadable", given["unreadable"], OnUnreadable),
            given["shares"],
            _whole("split_seed", given["split_seed"], 0),
            member("split_by", given["split_by"], SplitBy),
            member("shared_groups", given["shared_groups"], OnSharedGroups),
            Path(given["cache"]).expanduser().absolute(),
        )


class FileDataset(Dataset):
    """Images that lie in files of the user's own. A new kind is a subclass that reads a table of them.

    Args:
        name: short name.
        label_type: "single", "multi" or "ordinal".
        classes: their names in the order of the label numbers; None for those that are found, sorted.
        drop_labels: images with one of these labels are left out.
        root: the folder of the files.
        the others: as `DecodingOptions`, and `corrupt` as `Dataset`.
    """

    def __init__(
        self,
        *,
        name: str,
        label_type: LabelType,
        classes: Sequence[str] | None,
        drop_labels: Sequence[str],
        root: Path,
        size: int,
        channels: int | None,
        fit: str,
        frames: str,
        unreadable: str,
        shares: Mapping[str, Any],
        split_seed: int,
        split_by: str,
        shared_groups: str,
        cache: str,
        corrupt: str | None,
    ) -> None:
        if label_type not in ("single", "multi", "ordinal"):
            raise UserError(f"dataset.label_type={label_type}: choose from: multi, ordinal, single")
        if classes is not None and (isinstance(classes, str) or not all(isinstance(c, str) for c in classes)):
            raise UserError(f"dataset.classes={classes}: give a list of names, or null for those found")
        self.options = DecodingOptions.read(
            size=size, channels=channels, fit=fit, frames=frames, unreadable=unreadable, shares=shares,
            split_seed=split_seed, split_by=split_by, shared_groups=shared_groups, cache=cache,
        )  # fmt: skip
        self.fit = self.options.fit
        super().__init__(name, label_type, classes or (), self.options.size, None, corrupt)
        self.root = root
        self.drop_labels = frozenset(map(str, drop_labels))
        self._loaded: dict[str, Decoded] = {}

    @abstractmethod
    def read_table(self) -> FileTable:
        """Every image of every split, as its table or folder says.

        Raises:
            UserError: files or table are missing or not as the configuration says.
        """

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; label i is classes[i]."""
        return self.table.classes

    @classes.setter
    def classes(self, wanted: tuple[str, ...]) -> None:
        self.wanted_classes = wanted

    @functools.cached_property
    def table(self) -> FileTable:
        """Every image with its split.

        Raises:
            UserError: as `read_table`, no folder, and where a group is in more than one split.
        """
        if not self.root.is_dir():
            what = "is a file, not a folder" if self.root.exists() else "there is no such folder"
            raise UserError(f"dataset.root={self.root}: {what}")
        table = self.read_table()
        self.splits_made = table.splits is None
        if self.options.frames is Frames.all:
            if table.groups is None:  # the frames of a file are not independent of each other
                table = replace(table, groups=table.names)
            table = table.by_frames([self._frames(path) for path in table.files])
        groups = self._stay_together(table)
        if table.splits is None:
            shares = read_shares(self.options.shares)
            table = replace(table, splits=assign(table.labels, groups, shares, self.options.split_seed))
        for line in table.left_out:
            log.info("dataset=%s: %s", self.name, line)
        self._about_shared_groups(table)
        return table

    def _stay_together(self, table: FileTable) -> Any:
        """The groups that drawn splits keep together, None where each image is drawn on its own.

        Raises:
            UserError: split_by=image, and there are no splits to draw or no groups to part.
        """
        if self.options.split_by is SplitBy.group:
            return table.groups
        why = "no groups are given" if table.groups is None else "the splits are given, not drawn"
        if table.groups is None or table.splits is not None:
            raise UserError(f"dataset.split_by=image: has no effect, as {why}; leave it at group")
        return None

    @functools.cached_property
    def peeks(self) -> Mapping[Path, Peek | Unreadable]:
        """What the head of each file says, or why it cannot be read."""
        from concurrent.futures import ThreadPoolExecutor

        from tqdm import tqdm

        def one(path: Path) -> Peek | Unreadable:
            try:
                return peek(path)
            except Unreadable as error:
                return error

        files = list(dict.fromkeys(self.table.files))
        with ThreadPoolExecutor() as pool:
            found = pool.map(one, files)
            bar = tqdm(found, total=len(files), unit="file", desc="look at files", leave=False, disable=None)
            return dict(zip(files, bar, strict=True))

    @functools.cached_property
    def channels(self) -> int:  # type: ignore[override]
        """1 for gray images, 3 for RGB."""
        if self.options.channels is not None:
            return self.options.channels
        gray = all(found.channels == GRAY for found in self.peeks.values() if isinstance(found, Peek))
        return GRAY if gray else COLOR

    def load(self, split: str) -> Split:
        """Decode one split, or take it from the cache.

        Raises:
            UserError: no such split, no image in it, or a file that cannot be read where unreadable=fail.
        """
        if split not in SPLITS:
            raise UserError(f"split {split!r}: choose from: {', '.join(SPLITS)}")
        assert self.table.splits is not None
        table = self.table.rows(np.flatnonzero(self.table.splits == split))
        if len(table) == 0:
            raise EmptySplitError(
                f"dataset={self.name}: split {split!r} is empty; choose another split, or give it a share "
                "with "
                f"dataset.shares.{split}"
            )
        found = self._decoded(split, table)
        if found.reasons:
            self._about_unreadable(split, table, found)
        there = table.rows(np.flatnonzero(found.readable))
        return Split(
            split,
            found.images,
            there.labels,
            captions=there.captions,
            groups=there.groups,
            metadata=there.metadata or None,
        )

    def be_lenient(self) -> None:
        """As `Dataset.be_lenient`: files that cannot be read, and groups on two sides."""
        self.options = replace(
            self.options, unreadable=OnUnreadable.skip, shared_groups=OnSharedGroups.report
        )

    def facts(self) -> FileFacts:
        """What a run says of the files of the splits that it has read."""
        shared = shared_groups(self.table.groups, self._splits())
        return FileFacts(
            files=sum(len(found.readable) for found in self._loaded.values()),
            unreadable=sum(len(found.reasons) for found in self._loaded.values()),
            splits_made=self.splits_made,
            shared_groups=len(shared),
        )

    def originals(self, split: str) -> Sequence[Original]:
        """The files of the images of a split, as `Dataset.originals`."""
        rows = np.flatnonzero(self._splits() == split)
        found, names = self._loaded[split], self.table.names.tolist()
        return [
            self._original(names[row], self.table.files[row], found.sha256[i])
            for i, row in enumerate(rows)
            if found.readable[i]
        ]

    def unreadable(self, split: str) -> Sequence[tuple[str, str]]:
        """Files that a split was loaded without: name and reason."""
        rows, found = np.flatnonzero(self._splits() == split), self._loaded[split]
        return [(str(self.table.names[rows[i]]), reason) for i, reason in found.reasons.items()]

    def listing(self) -> Iterator[Mapping[str, str]]:
        """A row for each image of each split, for splits.csv (see `Dataset.listing`)."""
        table, splits = self.table, self._splits()
        positions = dict.fromkeys(SPLITS, 0)
        read = {name: self._loaded[name].readable if name in self._loaded else None for name in SPLITS}
        seen = dict.fromkeys(SPLITS, 0)
        for row, split in enumerate(splits.tolist()):
            flags, place = read[split], seen[split]
            seen[split] += 1
            image = ""
            if flags is not None and flags[place]:
                image = f"{split}/{positions[split]}"
                positions[split] += 1
            line = {"file": str(table.names[row]), "split": split, "id": image, "label": self._label(row)}
            if table.groups is not None:
                line["group"] = str(table.groups[row])
            yield line

    def _label(self, row: int) -> str:
        label = self.table.labels[row]
        numbers = np.flatnonzero(label) if self.label_type == "multi" else [label]
        return FINDINGS_MARK.join(self.classes[int(number)] for number in numbers)

    def _splits(self) -> Any:
        assert self.table.splits is not None
        return self.table.splits

    def _original(self, name: str, path: Path, sha256: str) -> Original:
        found = self.peeks[path]
        if isinstance(found, Unreadable):  # its pixels could be read, its head could not be understood
            return Original(name, "unknown", 0, 0, self.channels, 8, 1, sha256)
        return Original(
            name, found.kind, found.width, found.height, found.channels, found.bits, found.frames, sha256
        )

    def _frames(self, path: Path) -> int:
        try:
            return max(1, peek(path).frames)
        except Unreadable:  # it is named where it is decoded
            return 1

    def _decoded(self, split: str, table: FileTable) -> Decoded:
        options = self.options
        decoding = Decoding(options.size, self.channels, options.fit, options.frames)
        wanted = FilesToDecode(split, self.root, table.files, table.frames)
        self._loaded[split] = decoded(wanted, decoding, Cache(options.cache))
        return self._loaded[split]

    def _about_unreadable(self, split: str, table: FileTable, found: Decoded) -> None:
        """Refuse unreadable files, or say how many are left out."""
        count, n = len(found.reasons), len(table)
        lines = [f"{table.names[i]} ({reason})" for i, reason in list(found.reasons.items())[:LISTED]]
        more = f"; and {count - LISTED} more" if count > LISTED else ""
        listed = "; ".join(lines) + more
        of = f"{count} of the {n} files of split {split!r} cannot be read: {listed}"
        if self.options.unreadable is OnUnreadable.fail or count == n:
            mend = "mend or remove them" if count == n else (
                "mend or remove them, or leave them out with dataset.unreadable=skip"
            )  # fmt: skip
            raise UserError(f"dataset={self.name}: {of}; {mend} (medretrieval data lists all)")
        log.warning("dataset=%s: left out: %s", self.name, of)

    def _about_shared_groups(self, table: FileTable) -> None:
        assert table.splits is not None
        shared = shared_groups(table.groups, table.splits)
        if not shared:
            return
        assert table.groups is not None
        sides = sorted(set(table.splits[table.groups == shared[0]].tolist()), key=SPLITS.index)
        line = (
            f"{len(shared)} {'groups have' if len(shared) > 1 else 'group has'} images in more than one "
            "split "
            f"(first {shared[0]!r}: {', '.join(sides)})"
        )
        if self.options.shared_groups is OnSharedGroups.refuse:
            raise UserError(
                f"dataset={self.name}: {line}; a query would find its own patient. Keep each group in one "
                "split, leave out the split column so that one is made, or allow it with "
                "dataset.shared_groups=report"
            )
        log.warning("dataset=%s: %s", self.name, line)


def _whole(key: str, value: object, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"dataset.{key}={value}: give a whole number, {least} or more")
    return value


def member(key: str, value: object, kind: Any) -> Any:
    """The member of an enumeration that a key of the dataset's configuration names.

    Raises:
        UserError: it names none.
    """
    try:
        return kind(value)
    except ValueError as error:
        raise UserError(f"dataset.{key}={value}: {choices([str(member) for member in kind])}") from error


def given_folder(value: object, key: str) -> Path:
    """A folder that a key of the configuration names; it need not be there yet.

    Raises:
        UserError: it is not given.
    """
    if value is None:
        raise UserError(f"{key}: give the folder of the images: {key}=<folder>")
    return Path(str(value)).expanduser()
