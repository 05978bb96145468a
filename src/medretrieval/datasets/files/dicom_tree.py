"""DICOM files of a folder: patients as groups under names that say nothing, labels from a table or a tag."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from medretrieval.datasets.files.csv_rows import CsvTable, read_csv, require_unique
from medretrieval.datasets.files.csv_table import read_columns
from medretrieval.datasets.files.dataset import FileDataset, given_folder, member
from medretrieval.datasets.files.pseudonyms import PathNames, pseudonym, salt_of
from medretrieval.datasets.files.table import FileTable, not_dropped, read_labels, read_splits
from medretrieval.datasets.files.walk import find
from medretrieval.errors import UserError
from medretrieval.images.decode import peek
from medretrieval.images.readers.dicom import SUFFIXES, has_mark, read_header, tag_number
from medretrieval.images.readers.source import NoImage, Unreadable

ROLES = ("key", "label", "split", "caption")
# Tags that name a person or lead to one: they never become metadata or labels.
NAMING = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientBirthTime", "PatientAddress", "OtherPatientIDs",
    "OtherPatientNames", "PatientTelephoneNumbers", "PatientMotherBirthName", "AccessionNumber", "StudyID",
    "IssuerOfPatientID", "MedicalRecordLocator", "PatientComments", "ReferringPhysicianName",
    "PerformingPhysicianName", "OperatorsName", "InstitutionAddress",
)  # fmt: skip
NAME_MARKS = "^= ,"  # between the parts of a person's name (PS3.5, 6.2.1)


class Key(StrEnum):
    """What the rows of the table of labels are keyed by."""

    sop_instance_uid = "sop_instance_uid"
    series_instance_uid = "series_instance_uid"
    path = "path"


class OnUnlabeled(StrEnum):
    """What happens to an image without a label."""

    fail = "fail"
    skip = "skip"


@dataclass(frozen=True)
class Head:
    """What a dataset takes from the header of a file.

    Attributes:
        path: the file.
        readable: whether there is a header.
        picture: whether it says that there is a picture.
        patient: its group: a pseudonym.
        words: that name the patient; never shown.
        sop, series: its UIDs.
        label: the text of the label's tag.
        metadata: of the wanted tags, in their order.
    """

    path: Path
    readable: bool
    picture: bool = True
    patient: str = ""
    words: tuple[str, ...] = ()
    sop: str = ""
    series: str = ""
    label: str = ""
    metadata: tuple[str, ...] = ()


class DicomDataset(FileDataset):
    """The DICOM files below a folder that hold a picture.

    The patient (tag PatientID) becomes the group, as a hash with the salt beside the cache; an image without
    one is grouped by its study. Neither ids nor names go into tables, messages, MLflow or the cache.

    Args:
        root: the folder.
        labels: a CSV with a label for each image or series; None where a tag says it.
        key: what its rows are keyed by.
        columns: role -> column: key, label, and where there are such columns split and caption.
        label_tag: the keyword of the tag that is the label, such as "BodyPartExamined"; None for `labels`.
        metadata: tags whose text is kept of each image.
        metadata_columns: columns of `labels` that are kept of each image.
        unlabeled: whether an image without a label fails the run or is left out.
        options: the arguments of `FileDataset`.
    """

    def __init__(
        self,
        *,
        root: str | None,
        labels: str | None,
        key: str,
        columns: Mapping[str, str | None],
        label_tag: str | None,
        metadata: Sequence[str],
        metadata_columns: Sequence[str],
        unlabeled: str,
        **options: Any,
    ) -> None:
        super().__init__(root=given_folder(root, "dataset.root"), **options)
        _require_one_source(labels, label_tag, metadata_columns)
        for tag in [*metadata, *([label_tag] if label_tag else [])]:
            if tag_number(str(tag)) in map(tag_number, NAMING):
                key_of = "label_tag" if tag == label_tag else "metadata"
                raise UserError(
                    f"dataset.{key_of}: {tag} leads to a person and is never shown; choose another tag"
                )
        self.labels_csv = None if labels is None else Path(labels).expanduser()
        self.key = member("key", key, Key)
        self.columns = read_columns(columns, ROLES, ("key", "label") if labels is not None else ())
        self.label_tag = label_tag
        self.tags = tuple(map(str, metadata))
        self.metadata_columns = tuple(map(str, metadata_columns))
        self.on_unlabeled = member("unlabeled", unlabeled, OnUnlabeled)
        self.heads: tuple[Head, ...] = ()

    def read_table(self) -> FileTable:
        """Every picture below the folder, its label and its patient.

        Raises:
            UserError: no DICOM file, none with a label, or a table that does not fit the files.
        """
        found = find(self.root, self.root, _is_dicom)
        if not found.files:
            raise UserError(f"dataset.root={self.root}: holds no DICOM file")
        salt = salt_of(self.options.cache)
        heads = self._heads(found.files, salt)
        pictures = [head for head in heads if head.picture]
        names = PathNames(salt, self.root, ((head.path, head.words) for head in heads if head.readable))
        table, rows = self._rows(pictures, names)
        labeled = [i for i in range(len(pictures)) if rows[i] is not None or not pictures[i].readable]
        without = len(pictures) - len(labeled)
        if without and self.on_unlabeled is OnUnlabeled.fail:
            first = next(head for i, head in enumerate(pictures) if i not in set(labeled))
            mend = "add them to dataset.labels" if self.label_tag is None else (
                f"dataset.label_tag={self.label_tag} is empty there: choose another tag or dataset.labels"
            )  # fmt: skip
            raise UserError(
                f"dataset={self.name}: {without} of {len(pictures)} images have no label (first "
                f"{names.of(first.path)}); {mend}, or leave them out with dataset.unlabeled=skip"
            )
        left_out = [*found.left_out()]
        if len(pictures) < len(heads):
            left_out.append(f"{len(heads) - len(pictures)} DICOM files hold no picture and are left out")
        if without:
            what = "images have no label and are" if without > 1 else "image has no label and is"
            left_out.append(f"{without} {what} left out")
        texts = self._label_texts([pictures[i] for i in labeled], [rows[i] for i in labeled], table)
        kept, dropped = not_dropped(texts, self.drop_labels, "image")
        labeled, left_out = [labeled[i] for i in kept], [*left_out, *dropped]
        return self._table([pictures[i] for i in labeled], [rows[i] for i in labeled], table, names, left_out)

    def listing(self) -> Iterator[Mapping[str, str]]:
        """As `FileDataset.listing`, with the UID by which another program finds each image."""
        uids = {head.path: head.sop for head in self.heads}
        for row, line in enumerate(super().listing()):
            yield {**line, "sop_instance_uid": uids[self.table.files[row]]}

    def _heads(self, files: Sequence[Path], salt: bytes) -> list[Head]:
        from tqdm import tqdm

        with ThreadPoolExecutor() as pool:
            found = pool.map(lambda path: self._head(path, salt), files)
            said = "read DICOM headers"
            return list(tqdm(found, total=len(files), unit="file", desc=said, leave=False, disable=None))

    def _head(self, path: Path, salt: bytes) -> Head:
        try:
            header = read_header(path)
        except Unreadable:  # it is named where it is decoded
            return Head(path, readable=False)
        owner = header.patient_id or header.study_instance_uid
        if not owner:  # of a damaged file: nobody can say whose it is
            return Head(path, readable=False, picture=_may_be_picture(path))
        words = (header.patient_id, *_parts(header.patient_name))
        return Head(
            path,
            readable=True,
            picture=header.tag("Rows") != "" or _may_be_picture(path),
            patient=pseudonym(salt, owner),
            words=tuple(word for word in words if word),
            sop=header.sop_instance_uid,
            series=header.series_instance_uid,
            label=header.tag(self.label_tag) if self.label_tag else "",
            metadata=tuple(header.tag(tag) for tag in self.tags),
        )

    def _rows(self, pictures: Sequence[Head], names: PathNames) -> tuple[CsvTable | None, list[int | None]]:
        """The table of labels, and the row of each picture in it; None where it has no label.

        Where a tag says the label there is no table, and the row is the picture's own number.
        """
        if self.labels_csv is None:
            return None, [i if head.label else None for i, head in enumerate(pictures)]
        table = read_csv(self.labels_csv, "dataset.labels")
        keys = table.column(self.columns["key"], "dataset.columns.key")
        if self.key is not Key.path:  # a path may name a patient, so it is not quoted
            require_unique(keys, table, str(self.key))
        places = {key: row for row, key in enumerate(keys)}
        if len(places) < len(keys):
            row = next(row for row, key in enumerate(keys) if places[key] != row)
            raise UserError(f"{table.at(row)}: a second row for the same path; keep one")
        found = [places.get(self._key_of(head)) for head in pictures]
        if not any(row is not None for row in found):
            raise UserError(
                f"{table.where}: no row has the {self.key} of an image in dataset.root; check dataset.key "
                "and "
                "dataset.columns.key"
            )
        return table, found

    def _label_texts(
        self, heads: Sequence[Head], rows: Sequence[int | None], table: CsvTable | None
    ) -> list[str | None]:
        """The label of each image, None where its header cannot be read."""
        cells = None if table is None else table.column(self.columns["label"], "dataset.columns.label")
        return [
            None if row is None else head.label if cells is None else cells[row]
            for head, row in zip(heads, rows, strict=True)
        ]

    def _key_of(self, head: Head) -> str:
        if self.key is Key.path:
            return head.path.relative_to(self.root).as_posix()
        return head.sop if self.key is Key.sop_instance_uid else head.series

    def _table(
        self,
        heads: Sequence[Head],
        rows: Sequence[int | None],
        table: CsvTable | None,
        names: PathNames,
        left_out: Sequence[str],
    ) -> FileTable:
        """The rows of the images; one whose header cannot be read stands in them until it is decoded."""
        self.heads = tuple(heads)
        shown = np.array([names.of(h.path, unknown=not h.readable) for h in heads], dtype=np.str_)
        known = [i for i, row in enumerate(rows) if row is not None]
        if not known:
            raise UserError(
                f"dataset={self.name}: no image of {self.root} has a label; see dataset.label_tag"
            )

        def column(role: str) -> list[str]:
            assert table is not None
            cells = table.column(self.columns[role], f"dataset.columns.{role}")
            # The first known one stands for what cannot be read: it is never loaded.
            return [cells[rows[known[0]] if row is None else row] for row in rows]  # type: ignore[index]

        def at(i: int) -> str:
            row = rows[i]
            return (
                table.at(row) if table is not None and row is not None else f"dataset={self.name}: {shown[i]}"
            )

        tagged = [
            heads[known[0]].label if row is None else head.label
            for head, row in zip(heads, rows, strict=True)
        ]
        labels, classes = read_labels(
            tagged if table is None else column("label"), self.label_type, self.wanted_classes, at
        )
        metadata = {
            tag: [h.metadata[i] if h.metadata else "" for h in heads] for i, tag in enumerate(self.tags)
        }
        for name in self.metadata_columns:
            assert table is not None
            cells = table.column(name, "dataset.metadata_columns")
            metadata[name] = ["" if row is None else cells[row] for row in rows]
        return FileTable(
            tuple(head.path for head in heads),
            shown,
            labels,
            classes,
            splits=read_splits(column("split"), at) if "split" in self.columns else None,
            groups=np.array([h.patient or f"unread {i}" for i, h in enumerate(heads)], dtype=np.str_),
            captions=tuple(column("caption")) if "caption" in self.columns else None,
            metadata={name: np.array(texts, dtype=np.str_) for name, texts in metadata.items()},
            left_out=tuple(left_out),
        )


def _may_be_picture(path: Path) -> bool:
    """Whether a file without rows is damaged, and no report or directory."""
    try:
        peek(path)
    except NoImage:
        return False
    except Unreadable:  # it is named where it is decoded
        return True
    return True


def _has_mark(path: Path) -> bool:
    if not path.is_file():  # a pipe would block whoever opens it
        return False
    with path.open("rb") as file:
        return has_mark(file)


def _is_dicom(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES or _has_mark(path)


def _parts(name: str) -> list[str]:
    """The words of a person's name."""
    for mark in NAME_MARKS:
        name = name.replace(mark, " ")
    return name.split()


def _require_one_source(labels: str | None, tag: str | None, columns: Sequence[str]) -> None:
    if labels is None and tag is None:
        raise UserError(
            "dataset.labels: give a CSV with a label for each image (dataset.labels=<file>), or the tag "
            "that is "
            "the label (dataset.label_tag=BodyPartExamined)"
        )
    if labels is not None and tag is not None:
        raise UserError(
            f"dataset.labels={labels} and dataset.label_tag={tag}: both say the label; set one of them to "
            "null"
        )
    if columns and labels is None:
        raise UserError("dataset.metadata_columns: are columns of dataset.labels, which is not given")
