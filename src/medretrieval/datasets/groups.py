"""Which images belong together: of one patient or lesion by a file, and of the same bytes."""

import csv
import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medretrieval.datasets.base import SPLITS, Dataset, EmptySplitError, Split
from medretrieval.errors import UserError

COLUMNS = ("split", "index", "group")


def read_groups(path: Path, split: str, n: int) -> NDArray[np.str_]:
    """The group of each image of a split, from a CSV with the columns split, index and group.

    `index` is the image's position in its split, from 0; the group may be any text (spaces around it do
    not count). Columns stand in any order, other columns may stand beside them, and rows of other splits
    are not looked at beyond the name of the split.

    Args:
        path: the file, UTF-8 with or without a byte order mark.
        split: "train", "val" or "test".
        n: images in the split; each wants exactly one row.

    Returns:
        str [n].

    Raises:
        UserError: the file is missing, no UTF-8 or no such CSV; an image of the split without a row, with
            two, or with an empty group; an index that is no position in the split.
    """
    where = f"dataset.groups={path}"
    groups: dict[int, str] = {}
    for line, row in _rows(path, where):
        name, text, group = row
        if name not in SPLITS:
            raise UserError(f"{where}: line {line}: no split {name!r}; choose from: {', '.join(SPLITS)}")
        if name != split:
            continue
        # int() would also take "1_0" and refuse thousands of digits.
        plain = text.isascii() and text.isdecimal() and len(text) < 19
        if not plain or int(text) >= n:
            raise UserError(
                f"{where}: line {line}: index {text[:20]!r} is not an image of split {split!r}; "
                f"write the position of the image, 0 to {n - 1}"
            )
        if int(text) in groups:
            raise UserError(f"{where}: line {line}: a second row for image {split}/{text}; keep one")
        if not group:
            raise UserError(
                f"{where}: line {line}: image {split}/{text} has an empty group; "
                "give an image whose group is unknown a group name of its own"
            )
        groups[int(text)] = group
    if missing := [i for i in range(n) if i not in groups]:
        raise UserError(
            f"{where}: {len(missing)} of the {n} images of split {split!r} have no row "
            f"(first {split}/{missing[0]}); each needs exactly one"
        )
    return np.array([groups[i] for i in range(n)], dtype=np.str_)


def _rows(path: Path, where: str) -> Iterator[tuple[int, tuple[str, str, str]]]:
    """Line number, and split, index and group as they stand there."""
    try:
        # Excel writes a byte order mark.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            if any(header.count(name) != 1 for name in COLUMNS):
                raise UserError(
                    f"{where}: the first line is {','.join(header)[:80]!r}; it must name the columns "
                    f"{','.join(COLUMNS)}, each once"
                )
            places = [header.index(name) for name in COLUMNS]
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise UserError(
                        f"{where}: line {reader.line_num} has {len(row)} fields, the header {len(header)}; "
                        "put text with commas in double quotes"
                    )
                name, text, group = (row[place].strip() for place in places)
                yield reader.line_num, (name, text, group)
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 (byte {error.start}); save it as CSV UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{where}: not a CSV file ({error}); save it as CSV UTF-8") from error
    except OSError as error:
        raise UserError(
            f"{where}: cannot be read ({error.strerror or error}); give the path of a CSV with the columns "
            f"{','.join(COLUMNS)}"
        ) from error


def common_codes(
    left: NDArray[np.str_], right: NDArray[np.str_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers instead of names, the same on both sides (int64 [left], int64 [right]).

    >>> common_codes(np.array(["b", "a"]), np.array(["a", "c"]))
    (array([1, 0]), array([0, 2]))
    """
    codes = np.unique(np.concatenate([left, right]), return_inverse=True)[1].astype(np.int64)
    return codes[: len(left)], codes[len(left) :]


def identical_codes(
    *images: NDArray[np.uint8], seen: dict[bytes, int] | None = None
) -> list[NDArray[np.int64]]:
    """A number for each image of one or more stacks, equal where all bytes are equal.

    Args:
        images: uint8 [n, height, width] or [n, height, width, 3] each, all of one size.
        seen: hashes of stacks before these and their numbers; those of these are added.

    Returns:
        int64 [n] each; numbers count up from 0 in the order of first occurrence.
    """
    seen = {} if seen is None else seen
    return [
        np.array([seen.setdefault(_digest(image), len(seen)) for image in stack], dtype=np.int64)
        for stack in images
    ]


def _digest(image: NDArray[np.uint8]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(image).data).digest()


def groups_sha256(groups: NDArray[np.str_] | None) -> str | None:
    """SHA-256 over the groups of a split in order: what scores depend on where a group is left out."""
    if groups is None:
        return None
    # The text "p1", "23" must not read as "p", "123".
    return hashlib.sha256("".join(f"{len(g)}:{g}" for g in groups.tolist()).encode()).hexdigest()


def load_split(dataset: Dataset, name: str) -> Split:
    """Read a split, with its groups where the dataset or a file says them.

    Raises:
        EmptySplitError: an empty split.
        UserError: as `read_groups`.
    """
    split = dataset.load(name)
    if len(split) == 0:
        raise EmptySplitError(
            f"dataset={dataset.name}: split {name!r} is empty; choose another split or a larger n"
        )
    if dataset.groups is None:
        return split
    groups = read_groups(Path(dataset.groups).expanduser(), name, len(split))
    return dataclasses.replace(split, groups=groups)
