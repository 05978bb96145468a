"""A folder with a sub-folder for each class, and train, val and test above them where there are splits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medretrieval.datasets.files.dataset import FileDataset, given_folder
from medretrieval.datasets.files.table import (
    SPLIT_WORDS,
    FileTable,
    groups_by_rule,
    not_dropped,
    read_labels,
)
from medretrieval.datasets.files.walk import Found, find, shown, sub_folders
from medretrieval.errors import UserError
from medretrieval.images.image_file import is_supported


class FolderDataset(FileDataset):
    """Images in class folders: `root/<class>/...` or `root/<split>/<class>/...`.

    The class is the name of the folder; folders in it are searched too.

    Args:
        root: the folder.
        group_rule: a regular expression that finds the patient in a path below the folder: its first group,
            or the whole match; None where nobody says.
        options: the arguments of `FileDataset`.
    """

    def __init__(self, *, root: str | None, group_rule: str | None, **options: Any) -> None:
        super().__init__(root=given_folder(root, "dataset.root"), **options)
        if self.label_type == "multi":
            raise UserError(
                "dataset.label_type=multi: a file lies in one class folder; use dataset=csv for several "
                "findings"
            )
        self.group_rule = group_rule

    def read_table(self) -> FileTable:
        """Every image below the folder, its class and split.

        Raises:
            UserError: no class folders, images that lie in none, or split folders beside others.
        """
        sides = self._split_folders()
        files: list[Path] = []
        splits: list[str] = []
        words: list[str] = []
        skipped: list[str] = []
        for split, folder in sides:
            for class_folder in sub_folders(folder):
                found = find(class_folder, self.root, is_supported)
                files += found.files
                skipped += found.skipped
                splits += [split] * len(found.files)
                words += [shown(class_folder, folder)] * len(found.files)
        self._require_images(files, sides)
        kept, dropped = not_dropped(words, self.drop_labels, "image")
        files, splits = [files[row] for row in kept], [splits[row] for row in kept]
        words = [words[row] for row in kept]
        names = np.array([shown(path, self.root) for path in files], dtype=np.str_)
        labels, classes = read_labels(
            words, self.label_type, self.wanted_classes, lambda row: f"dataset.root={self.root}: {names[row]}"
        )
        given = np.array(splits, dtype=np.str_) if splits[0] else None
        left_out = Found((), tuple(skipped)).left_out() + dropped
        groups = None if self.group_rule is None else groups_by_rule(names.tolist(), self.group_rule)
        return FileTable(tuple(files), names, labels, classes, splits=given, groups=groups, left_out=left_out)

    def _split_folders(self) -> list[tuple[str, Path]]:
        """The folders that hold class folders, each with its split; "" where there are no splits."""
        folders = sub_folders(self.root)
        named = {
            folder: SPLIT_WORDS[folder.name.lower()]
            for folder in folders
            if folder.name.lower() in SPLIT_WORDS
        }
        if not named:
            return [("", self.root)]
        others = [folder.name for folder in folders if folder not in named]
        if others:
            raise UserError(
                f"dataset.root={self.root}: holds the split folders {', '.join(f.name for f in named)} and "
                f"beside them {', '.join(others[:3])}; give a folder with class folders, or with split "
                "folders, "
                "alone"
            )
        for split in set(named.values()):
            same = [folder.name for folder, found in named.items() if found == split]
            if len(same) > 1:
                raise UserError(
                    f"dataset.root={self.root}: {' and '.join(same)} are one split; keep one folder"
                )
        return [(split, folder) for folder, split in named.items()]

    def _require_images(self, files: Sequence[Path], sides: Sequence[tuple[str, Path]]) -> None:
        for _, folder in sides:
            loose = [p for p in sorted(folder.iterdir()) if p.is_file() and is_supported(p)]
            if loose:
                count = f"{len(loose)} images lie" if len(loose) > 1 else "1 image lies"
                raise UserError(
                    f"dataset.root={folder}: {count} in no class folder (first {shown(loose[0], folder)}); "
                    "put "
                    "each into the folder of its class, or use dataset=csv"
                )
        if not files:
            raise UserError(
                f"dataset.root={self.root}: holds no image in a class folder; make it "
                "<root>/<class>/<image>, or "
                "<root>/<split>/<class>/<image>"
            )
