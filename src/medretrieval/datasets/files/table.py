"""A row for each image of a dataset of files: where it is, what it shows, whose it is."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medretrieval.datasets.base import SPLITS, LabelType
from medretrieval.datasets.groups import compiled_rule, group_in, require_several
from medretrieval.errors import UserError, choices

FINDINGS_MARK = "|"  # between the labels of an image that has several
MAX_FINDINGS = 64  # of a multi-label dataset (`protocol.relevance.codes`)
SPLIT_WORDS = {**{name: name for name in SPLITS}, "validation": "val"}  # in lower case
Labels = NDArray[np.int64] | NDArray[np.bool_]
Texts = NDArray[np.str_]


@dataclass(frozen=True)
class FileTable:
    """The images of a dataset of files, row i of every field being the same image.

    Attributes:
        files: paths [n].
        names: what each is called in messages and tables, str [n].
        labels: int64 [n], or bool [n, classes] of a multi-label dataset.
        classes: names, label i being classes[i].
        splits: str [n], "train", "val" or "test"; None where nobody says.
        groups: str [n], of a patient or lesion; None where nobody says.
        captions: a sentence an image, "" where it has none; None where nobody says.
        metadata: column -> str [n], "" where it is not known.
        frames: int64 [n], which frame of its file an image is; None where a file is one image.
        left_out: what the table does not hold, a sentence each.
    """

    files: tuple[Path, ...]
    names: Texts
    labels: Labels
    classes: tuple[str, ...]
    splits: Texts | None = None
    groups: Texts | None = None
    captions: tuple[str, ...] | None = None
    metadata: Mapping[str, Texts] = field(default_factory=dict)
    frames: NDArray[np.int64] | None = None
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    def rows(self, positions: NDArray[np.int64]) -> "FileTable":
        """Some of the rows, in the order of `positions`; one may be wanted several times."""
        return replace(
            self,
            files=tuple(self.files[i] for i in positions),
            names=self.names[positions],
            labels=self.labels[positions],
            splits=None if self.splits is None else self.splits[positions],
            groups=None if self.groups is None else self.groups[positions],
            captions=None if self.captions is None else tuple(self.captions[i] for i in positions),
            metadata={name: column[positions] for name, column in self.metadata.items()},
            frames=None if self.frames is None else self.frames[positions],
        )

    def by_frames(self, counts: Sequence[int]) -> "FileTable":
        """Each row as many times as its file has frames; names say which.

        Args:
            counts: frames of each file, 1 or more.
        """
        positions = np.repeat(np.arange(len(self)), counts)
        frames = np.concatenate([np.arange(count) for count in counts]).astype(np.int64)
        spread = self.rows(positions)
        names = np.array(
            [
                f"{name}#{frame}" if counts[row] > 1 else name
                for name, frame, row in zip(spread.names.tolist(), frames, positions.tolist(), strict=True)
            ],
            dtype=np.str_,
        )
        return replace(spread, names=names, frames=frames)


def read_labels(
    texts: Sequence[str], label_type: LabelType, wanted: Sequence[str], at: Callable[[int], str]
) -> tuple[Labels, tuple[str, ...]]:
    """Class numbers from the words of a table.

    Args:
        texts: the label of each image; of a multi-label dataset its findings with FINDINGS_MARK between them,
            "" for none.
        label_type: as `Dataset.label_type`.
        wanted: dataset.classes; empty for the classes that are found, sorted.
        at: where a row stands, as messages begin.

    Returns:
        labels int64 [n] or bool [n, classes], and the names of the classes.

    Raises:
        UserError: an empty label or several where one is wanted, a label that is none of the classes, too few
            or too many classes, or ordered classes whose order nobody says.
    """
    if label_type == "ordinal" and not wanted:
        raise UserError(
            "dataset.label_type=ordinal: the order of the classes is not known; give it with "
            "dataset.classes=[...], the mildest first"
        )
    multi = label_type == "multi"
    words = [_findings(text) if multi else [text] for text in texts]
    if not multi:
        _require_one_label(texts, at)
    found = sorted({word for row in words for word in row})
    classes = tuple(wanted) or tuple(found)
    _require_classes(classes, multi)
    numbers = {name: number for number, name in enumerate(classes)}
    for row, names in enumerate(words):
        for name in names:
            if name not in numbers:
                raise UserError(
                    f"{at(row)}: label {name!r} is none of dataset.classes; {choices(list(classes))}, or "
                    "leave "
                    f"its rows out with dataset.drop_labels=['{name}']"
                )
    if not multi:
        return np.array([numbers[text] for text in texts], dtype=np.int64), classes
    labels = np.zeros((len(words), len(classes)), dtype=np.bool_)
    for row, names in enumerate(words):
        labels[row, [numbers[name] for name in names]] = True
    return labels, classes


def _findings(text: str) -> list[str]:
    return [word for part in text.split(FINDINGS_MARK) if (word := part.strip())]


def _require_one_label(texts: Sequence[str], at: Callable[[int], str]) -> None:
    for row, text in enumerate(texts):
        if not text:
            raise UserError(
                f"{at(row)}: has no label; give it one, or leave such rows out with dataset.drop_labels=['']"
            )
        if FINDINGS_MARK in text:
            raise UserError(
                f"{at(row)}: has several labels ({text[:80]!r}); set dataset.label_type=multi, or give one"
            )


def _require_classes(classes: Sequence[str], multi: bool) -> None:
    for name in classes:
        if classes.count(name) > 1:
            raise UserError(f"dataset.classes: names {name!r} twice; name it once")
    least = 1 if multi else 2
    if len(classes) < least:
        names = ", ".join(map(repr, classes)) or "none"
        raise UserError(
            f"dataset.classes: {names}: retrieval is scored by class, and at least {least} "
            f"{'is' if least == 1 else 'are'} needed"
        )
    if multi and len(classes) > MAX_FINDINGS:
        raise UserError(f"dataset.classes: {len(classes)} findings; at most {MAX_FINDINGS} can be scored")


def not_dropped(
    texts: Sequence[str | None], dropped: Collection[str], what: str
) -> tuple[list[int], tuple[str, ...]]:
    """The rows that dataset.drop_labels leaves, and a sentence about the others.

    Args:
        texts: the label of each row; None where it is not known.
        dropped: labels whose rows are left out.
        what: rows are called in the sentence.

    Raises:
        UserError: a label that no row has, or nothing is left.
    """
    known = sorted({text for text in texts if text is not None})
    unused = sorted(set(dropped) - set(known))
    if unused:
        raise UserError(f"dataset.drop_labels: nothing has the label {unused[0]!r}; {choices(known)}")
    kept = [row for row, text in enumerate(texts) if text not in dropped]
    if not kept:
        raise UserError("dataset.drop_labels: leaves no image; drop fewer labels")
    count = len(texts) - len(kept)
    line = f"dataset.drop_labels leaves out {count} {what}{'s' if count > 1 else ''}"
    return kept, (line,) if count else ()


def read_splits(texts: Sequence[str], at: Callable[[int], str]) -> Texts:
    """The split of each row, str [n]: train, val (or validation) or test, in any case.

    Raises:
        UserError: another word, or none.
    """
    found = []
    for row, text in enumerate(texts):
        if text.lower() not in SPLIT_WORDS:
            raise UserError(f"{at(row)}: no split {text!r}; choose from: {', '.join(SPLITS)}")
        found.append(SPLIT_WORDS[text.lower()])
    return np.array(found, dtype=np.str_)


def require_groups(texts: Sequence[str], at: Callable[[int], str]) -> Texts:
    """The group of each row, str [n].

    Raises:
        UserError: an empty one.
    """
    for row, text in enumerate(texts):
        if not text:
            raise UserError(
                f"{at(row)}: has an empty group; give an image whose group is unknown a group name of its own"
            )
    return np.array(texts, dtype=np.str_)


def groups_by_rule(names: Sequence[str], rule: str) -> Texts:
    """The group of each image by a regular expression on its path: its first group, or the whole match.

    Raises:
        UserError: no regular expression, a path in which it finds nothing, or the same in all.
    """
    pattern = compiled_rule(rule)
    groups = [group_in(pattern, name, "dataset.root") for name in names]
    if len(groups) > 1:
        require_several(set(groups), rule, "all paths")
    return np.array(groups, dtype=np.str_)
