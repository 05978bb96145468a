"""A CSV table of images: path, label and whatever else is known of each."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medretrieval.datasets.files.csv_rows import CsvTable, read_csv, require_unique
from medretrieval.datasets.files.dataset import FileDataset, given_folder
from medretrieval.datasets.files.table import (
    FileTable,
    not_dropped,
    read_labels,
    read_splits,
    require_groups,
)
from medretrieval.datasets.files.walk import shown
from medretrieval.errors import UserError, choices

ROLES = ("path", "label", "split", "group", "caption")
NEEDED = ("path", "label")
PLACE = "{}"  # of the text of the path column in dataset.path_pattern


class CsvDataset(FileDataset):
    """Images that a CSV table lists, a row each.

    Args:
        table: the CSV file, UTF-8; its first line names the columns.
        root: the folder that paths begin in; None for that of the table.
        columns: role -> column: path, label (findings with | between them), and where there are such columns
            split, group, caption; None for none.
        path_pattern: a file's path, {} standing for the text of its column: "images/{}.jpg".
        metadata: columns that are kept beside these; None for all others.
        options: the arguments of `FileDataset`.
    """

    def __init__(
        self,
        *,
        table: str | None,
        root: str | None,
        columns: Mapping[str, str | None],
        path_pattern: str,
        metadata: Sequence[str] | None,
        **options: Any,
    ) -> None:
        if table is None:
            raise UserError("dataset.table: give the CSV file that lists the images: dataset.table=<file>")
        self.path = Path(str(table)).expanduser()
        folder = self.path.parent if root is None else given_folder(root, "dataset.root")
        super().__init__(root=folder, **options)
        self.columns = read_columns(columns, ROLES, NEEDED)
        self.path_pattern = _pattern(path_pattern)
        self.metadata = metadata

    def read_table(self) -> FileTable:
        """Every row of the table.

        Raises:
            UserError: the file or a column is missing, two rows for a file, a path that leaves the folder or
                where no file is, or a label, split or group that is none.
        """
        csv = read_csv(self.path, "dataset.table")
        kept, left_out = self._kept(csv)
        files = self._files(csv, kept)
        names = np.array([shown(path, self.root) for path in files], dtype=np.str_)

        def at(row: int) -> str:
            return csv.at(kept[row])

        def column(role: str) -> list[str]:
            return [csv.column(self.columns[role], f"dataset.columns.{role}")[row] for row in kept]

        labels, classes = read_labels(column("label"), self.label_type, self.wanted_classes, at)
        return FileTable(
            files,
            names,
            labels,
            classes,
            splits=read_splits(column("split"), at) if "split" in self.columns else None,
            groups=require_groups(column("group"), at) if "group" in self.columns else None,
            captions=tuple(column("caption")) if "caption" in self.columns else None,
            metadata=self._metadata(csv, kept),
            left_out=left_out,
        )

    def _kept(self, csv: CsvTable) -> tuple[list[int], tuple[str, ...]]:
        """Rows that are not left out, and a sentence about the others."""
        labels = csv.column(self.columns["label"], "dataset.columns.label")
        return not_dropped(labels, self.drop_labels, "row")

    def _files(self, csv: CsvTable, kept: Sequence[int]) -> tuple[Path, ...]:
        paths = csv.column(self.columns["path"], "dataset.columns.path")
        normal = []
        for row, text in enumerate(paths):
            if not text:
                raise UserError(f"{csv.at(row)}: has no path")
            text = self.path_pattern.replace(PLACE, text)
            normal.append(os.path.normpath(text))
            if os.path.isabs(text) or normal[-1].split(os.sep)[0] == os.pardir:
                raise UserError(
                    f"{csv.at(row)}: path {text!r} leaves the folder {self.root}; set dataset.root to the "
                    "folder "
                    "that holds all images, and give paths below it"
                )
        require_unique(normal, csv, "file")
        files = tuple(self.root / normal[row] for row in kept)
        missing = [i for i, path in enumerate(files) if not path.exists()]
        if missing:
            more = f" (and {len(missing) - 1} other rows)" if len(missing) > 1 else ""
            raise UserError(
                f"{csv.at(kept[missing[0]])}: there is no file {normal[kept[missing[0]]]!r} in "
                f"{self.root}{more}; "
                "correct the path, or set dataset.root"
            )
        return files

    def _metadata(self, csv: CsvTable, kept: Sequence[int]) -> dict[str, Any]:
        used = set(self.columns.values())
        wanted = (
            [name for name in csv.columns if name not in used] if self.metadata is None else self.metadata
        )
        return {
            str(name): np.array(
                [csv.column(str(name), "dataset.metadata")[row] for row in kept], dtype=np.str_
            )
            for name in wanted
        }


def _pattern(text: str) -> str:
    if text.count(PLACE) != 1:
        raise UserError(
            f"dataset.path_pattern={text}: needs {PLACE} once, where the text of the path column goes: "
            f"'images/{PLACE}.jpg'"
        )
    return text


def read_columns(
    columns: Mapping[str, str | None], roles: Sequence[str], needed: Sequence[str]
) -> dict[str, str]:
    """Role -> column, of the roles that have one.

    Raises:
        UserError: an unknown role, or one that is needed and has no column.
    """
    for role in columns:
        if role not in roles:
            raise UserError(f"dataset.columns.{role}: no such role of a column; {choices(list(roles))}")
    found = {role: str(columns[role]) for role in roles if role in columns and columns[role] is not None}
    for role in needed:
        if role not in found:
            raise UserError(f"dataset.columns.{role}: is needed; give the name of the column")
    return found
