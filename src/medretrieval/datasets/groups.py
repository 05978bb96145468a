"""Which images belong together: of one patient or lesion by a file, and of the same bytes."""

import csv
import dataclasses
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medretrieval.datasets.base import SPLITS, Dataset, EmptySplitError, Split
from medretrieval.errors import UserError

GROUP, SOURCE = "group", "image_id"  # columns that name the group, or the source that tells it
COLUMNS = ("split", "index", GROUP)


def read_groups(path: Path, split: str, n: int, rule: str | None = None) -> NDArray[np.str_]:
    """The group of each image of a split, from a CSV with the columns split, index and group.

    With a rule the CSV is the one that MedMNIST's authors publish for each set (linked in
    MedMNIST/MedMNIST#49): its columns are split, index and image_id, the image's name in the source.
    `index` is the image's position in its split, from 0; the group may be any text (spaces around it do
    not count). Columns stand in any order, other columns may stand beside them, and rows of other splits
    are not looked at beyond the name of the split.

    Args:
        path: the file, UTF-8 with or without a byte order mark.
        split: "train", "val" or "test".
        n: images in the split; each wants exactly one row.
        rule: regular expression, searched for in image_id: its first group is the image's group, or the
            whole match where it has none. The same name is the same group in all splits.

    Returns:
        str [n].

    Raises:
        UserError: the file is missing, no UTF-8 or no such CSV; an image of the split without a row, with
            two, or with an empty group; an index that is no position in the split; a rule that is no regular
            expression, that does not find a group in each name of the split, or finds the same in all.
    """
    where = f"dataset.groups={path}"
    pattern = None if rule is None else compiled_rule(rule)
    groups: dict[int, str] = {}
    for line, row in _rows(path, where, GROUP if pattern is None else SOURCE):
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
        if pattern is not None:
            group = group_in(pattern, group, f"{where}: line {line}")
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
    if rule is not None and n > 1:
        require_several(set(groups.values()), rule, f"all {n} names of split {split!r}")
    return np.array([groups[i] for i in range(n)], dtype=np.str_)


def require_several(found: set[str], rule: str, where: str) -> None:
    """Refuse a rule that finds the same group in all names.

    Raises:
        UserError: it does.
    """
    if len(found) == 1:
        raise UserError(
            f"dataset.group_rule={rule}: finds {found.pop()!r} in {where}, one group in all; let it match "
            "what tells patients apart, such as their number"
        )


def compiled_rule(rule: str) -> re.Pattern[str]:
    """The regular expression of dataset.group_rule.

    Raises:
        UserError: it is none.
    """
    try:
        return re.compile(rule)
    except re.error as error:
        raise UserError(
            f"dataset.group_rule={rule}: no regular expression ({error}); write one as in Python's re"
        ) from error


def group_in(pattern: re.Pattern[str], name: str, where: str) -> str:
    """The group in the name of a file: the first group of the pattern, or the whole match.

    Args:
        pattern: of dataset.group_rule.
        name: of the file, or of the image that it was made from.
        where: what messages begin with.

    Raises:
        UserError: none is found.
    """
    match = pattern.search(name)
    found = "" if match is None else (match[1] if pattern.groups else match[0]) or ""
    if not found:
        raise UserError(
            f"{where}: dataset.group_rule={pattern.pattern} finds no group in {name[:80]!r}; "
            "let it match all forms of names, with | between them"
        )
    return found


def _rows(path: Path, where: str, last: str) -> Iterator[tuple[int, tuple[str, str, str]]]:
    """Line number, and split, index and the last column (GROUP or SOURCE) as they stand there."""
    columns = (*COLUMNS[:2], last)
    try:
        # Excel writes a byte order mark.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _require_columns(header, columns, where)
            places = [header.index(name) for name in columns]
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


def _require_columns(header: list[str], columns: tuple[str, ...], where: str) -> None:
    """Refuse a first line that names other columns, or two that both tell the group."""
    if columns[-1] == SOURCE and GROUP in header:
        raise UserError(
            f"{where}: has a column {GROUP}, so dataset.group_rule has no effect; set that to null"
        )
    if columns[-1] == GROUP and GROUP not in header and SOURCE in header:
        raise UserError(
            f"{where}: has the column {SOURCE} and no column {GROUP}; give dataset.group_rule=<regular "
            "expression that finds the patient in it>"
        )
    if any(header.count(name) != 1 for name in columns):
        raise UserError(
            f"{where}: the first line is {','.join(header)[:80]!r}; it must name the columns "
            f"{','.join(columns)}, each once"
        )


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
    path = Path(dataset.groups).expanduser()
    groups = read_groups(path, name, len(split), dataset.group_rule)
    return dataclasses.replace(split, groups=groups)
