"""DICOM files: what their header says, and their frames as a reader would see them.

By pydicom (https://pydicom.github.io), which is installed by `pip install 'medretrieval[dicom]'`; compressed
pixels by pylibjpeg, `pip install 'medretrieval[dicom-compressed]'`.
"""

import importlib.util
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from medretrieval.errors import UserError, first_line, suggestion
from medretrieval.images.readers import dicom_display
from medretrieval.images.readers.dicom_pixels import DEFLATED, EXPLICIT_LITTLE, IMPLICIT_LITTLE, stored_values
from medretrieval.images.readers.source import (
    MIN_BYTES_A_FRAME,
    Frame,
    NoImage,
    Peek,
    Source,
    Unreadable,
    check_file,
    check_frames,
    check_size,
    quiet,
    unopened,
)

MARK, MARK_OFFSET_BYTES = b"DICM", 128  # DICOM PS3.10, section 7.1
MARK_END = MARK_OFFSET_BYTES + len(MARK)
SUFFIXES = (".dcm", ".dicom")
SYNTAX_WITHIN_BYTES = 2048  # the transfer syntax is among the first elements of a file
MOST_INFLATED_BYTES = 2**30
KEYWORDS = {
    "patient_id": "PatientID",
    "patient_name": "PatientName",
    "sop_instance_uid": "SOPInstanceUID",
    "series_instance_uid": "SeriesInstanceUID",
    "study_instance_uid": "StudyInstanceUID",
}
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
TAG = re.compile(r"\(?([0-9a-fA-F]{4}),?\s*([0-9a-fA-F]{4})\)?")


@dataclass(frozen=True)
class DicomHeader:
    """Who and what a DICOM file shows, each text "" where the file does not say; nothing of it is printed.

    Attributes:
        patient_id: (0010,0020)
        patient_name: (0010,0010)
        sop_instance_uid: (0008,0018), of this image.
        series_instance_uid: (0020,000E)
        study_instance_uid: (0020,000D)
        dataset: pydicom's, without the pixels.
    """

    patient_id: str = field(repr=False)
    patient_name: str = field(repr=False)
    sop_instance_uid: str = field(repr=False)
    series_instance_uid: str = field(repr=False)
    study_instance_uid: str = field(repr=False)
    dataset: Any = field(repr=False, compare=False)

    def tag(self, name: str) -> str:
        r"""The text of any element of the file's top level, "" where it has none.

        Args:
            name: its keyword ("BodyPartExamined") or number ("(0018,0015)").

        Returns:
            Several values with "\" between them, as DICOM writes them.

        Raises:
            UserError: no such keyword, or an element that is no text: a sequence, or bytes.
        """
        return _text(self.dataset, tag_number(name), name)


def tag_number(name: str) -> int:
    """The number of a DICOM element.

    Raises:
        UserError: pydicom is not installed, or the name is neither a keyword nor "(gggg,eeee)".
    """
    if importlib.util.find_spec("pydicom") is None:
        raise UserError(_without_pydicom())
    from pydicom.datadict import DicomDictionary, tag_for_keyword

    if (written := TAG.fullmatch(name)) is not None:
        return int(written[1] + written[2], 16)
    number = tag_for_keyword(name)
    if number is None:
        near = suggestion(name, [entry[4] for entry in DicomDictionary.values() if entry[4]])
        raise UserError(
            f'{name}: no DICOM keyword; {near}give one such as BodyPartExamined, or a number "(gggg,eeee)"'
        )
    return int(number)


def read_header(path: Path) -> DicomHeader:
    """Read a DICOM file up to its pixels.

    Raises:
        Unreadable: no DICOM file, damaged, or pydicom is not installed; the reason holds no patient data.
    """
    check_file(path)
    try:
        with path.open("rb") as file, quiet():
            dataset = _parsed(path, file, header_only=True)
            try:
                texts = {name: _text(dataset, tag_number(tag), tag) for name, tag in KEYWORDS.items()}
            except Exception as error:  # a value that cannot be what its element says
                raise _damaged(path, error) from error
    except OSError as error:
        raise unopened(path, error) from error
    return DicomHeader(dataset=dataset, **texts)


def has_mark(file: IO[bytes]) -> bool:
    """Whether an opened file has DICOM's mark; it is left at its begin."""
    file.seek(0)
    start = file.read(MARK_END)
    file.seek(0)
    return start[MARK_OFFSET_BYTES:] == MARK


def is_dicom(path: Path, start: bytes) -> bool:
    """Whether a file is DICOM by its mark, or says so by its name.

    Args:
        path: its name.
        start: its first MARK_END bytes.
    """
    return start[MARK_OFFSET_BYTES:] == MARK or path.suffix.lower() in SUFFIXES


class DicomFile(Source):
    """A DICOM file with frames; the file object is closed by whoever opened it."""

    def __init__(self, path: Path, file: IO[bytes], size_bytes: int, header_only: bool) -> None:
        """Read the header, and the bytes of the pixels unless only the header is wanted.

        Args:
            path: named in messages.
            file: opened, at its begin.
            size_bytes: of the file.
            header_only: leave the pixels on the disk.

        Raises:
            Unreadable: no DICOM file, none with an image, damaged, or larger than MAX_PIXELS.
        """
        self._path = path
        self._dataset = _parsed(path, file, header_only)
        try:
            self.peek = self._peek(file, size_bytes, header_only)
        except Unreadable:
            raise
        except Exception as error:  # an element that is not of its type
            raise _damaged(path, error) from error

    def frame(self, index: int) -> Frame:
        """The frame at a place from 0 in 8 bits, see `dicom_display`.

        Raises:
            Unreadable: damaged, or compressed in a way that nothing installed decodes.
        """
        stored, kind = stored_values(self._path, self._dataset, index, self.peek.frames)
        try:
            if stored.ndim == 3 or kind == dicom_display.PALETTE:
                return Frame(dicom_display.color(self._dataset, stored, kind))
            return dicom_display.gray(self._dataset, stored, index)
        except Exception as error:  # elements that contradict each other make pydicom raise anything
            raise Unreadable(
                self._path, f"its elements do not say how to show it ({first_line(error)})"
            ) from error

    def _peek(self, file: IO[bytes], size_bytes: int, header_only: bool) -> Peek:
        dataset = self._dataset
        if header_only:  # the reader stopped before the pixels, or at the end
            has_pixels = bool(file.read(1)) or _is_deflated(dataset)
        else:
            has_pixels = any(name in dataset for name in PIXELS)
            if not has_pixels:  # a file that ends within its pixels gives nothing at all
                dataset = _parsed(self._path, file, header_only=True)
        if has_pixels != ("Rows" in dataset):
            what = "Rows" if has_pixels else "pixels"
            raise Unreadable(self._path, f"damaged, it has no {what}; give an intact copy")
        if not dataset:
            raise Unreadable(self._path, "damaged, it ends before its first element; give an intact copy")
        if not has_pixels:
            modality = str(dataset.get("Modality") or "")
            what = modality if re.fullmatch("[A-Z]{2,16}", modality) else "unknown modality"
            raise NoImage(self._path, f"a DICOM file that holds no image ({what})")
        width, height = int(dataset.Columns), int(dataset.Rows)
        check_size(self._path, width, height)
        frames = max(1, int(dataset.get("NumberOfFrames") or 1))
        # 1-bit frames may be smaller than that, deflated ones are within MOST_INFLATED_BYTES.
        least = min(MIN_BYTES_A_FRAME, max(1, width * height // 8))
        most = (MOST_INFLATED_BYTES if _is_deflated(dataset) else size_bytes) // least
        check_frames(self._path, frames, most)
        color = int(dataset.get("SamplesPerPixel", 1)) > 1 or _kind(dataset) == dicom_display.PALETTE
        bits = int(dataset.get("BitsStored") or dataset.get("BitsAllocated") or 0)
        return Peek("dicom", width, height, 3 if color else 1, bits, frames)


def _parsed(path: Path, file: IO[bytes], header_only: bool) -> Any:
    """The file's elements, without those of the pixels and behind them where only the header is wanted."""
    if importlib.util.find_spec("pydicom") is None:
        raise Unreadable(path, _without_pydicom())
    import pydicom

    _check_inflated(path, file)
    try:
        if has_mark(file):
            return pydicom.dcmread(file, stop_before_pixels=header_only)
        return _without_mark(pydicom.dcmread(file, stop_before_pixels=header_only, force=True))
    except OSError:
        raise
    except Exception as error:  # a damaged file makes pydicom raise anything
        raise _damaged(path, error) from error


def _without_mark(dataset: Any) -> Any:
    """Elements of an old file without the mark and perhaps without a word on its transfer syntax."""
    if "Rows" not in dataset and "SOPClassUID" not in dataset:
        raise ValueError("no element of an image")
    if "TransferSyntaxUID" not in dataset.file_meta:
        from pydicom.uid import UID

        implicit, _ = dataset.original_encoding
        dataset.file_meta.TransferSyntaxUID = UID(IMPLICIT_LITTLE if implicit else EXPLICIT_LITTLE)
    return dataset


def _check_inflated(path: Path, file: IO[bytes]) -> None:
    """Refuse a deflated file that would fill the memory: pydicom inflates all of it at once."""
    start = file.read(SYNTAX_WITHIN_BYTES)
    place = start.find(DEFLATED.encode())
    file.seek(0)
    if place < 0:
        return
    inflater, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    file.seek(_end_of_meta(start))
    try:
        data = file.read(2**16)
        while data and not inflater.eof:
            total += len(inflater.decompress(data, 2**22))
            if total > MOST_INFLATED_BYTES:
                raise Unreadable(path, "larger than 1 GiB when it is inflated; save it uncompressed")
            data = inflater.unconsumed_tail or file.read(2**16)
    except zlib.error as error:
        raise Unreadable(path, "damaged, it cannot be inflated; give an intact copy") from error
    file.seek(0)


def _end_of_meta(start: bytes) -> int:
    """Where the elements behind the file meta information begin: its first element has its length."""
    length_at = MARK_END + 8
    return length_at + 4 + int.from_bytes(start[length_at : length_at + 4], "little")


def _text(dataset: Any, number: int, name: str) -> str:
    if number not in dataset:
        return ""
    element = dataset[number]
    if element.VR == "SQ" or isinstance(element.value, bytes):
        raise UserError(f"{name}: this DICOM element is no text; give one with a text or a number")
    value = element.value
    if value is None:
        return ""
    values = value if element.VM > 1 else [value]
    return "\\".join(str(part) for part in values).strip()


def _is_deflated(dataset: Any) -> bool:
    return bool(dataset.file_meta.get("TransferSyntaxUID") == DEFLATED)


def _kind(dataset: Any) -> str:
    return str(dataset.get("PhotometricInterpretation", ""))


def _without_pydicom() -> str:
    return "DICOM needs the package pydicom; pip install 'medretrieval[dicom]'"


def _damaged(path: Path, error: Exception) -> Unreadable:
    """Without the error's own words: they may quote an element, and so a patient's name."""
    return Unreadable(
        path, f"not a DICOM file that can be read ({type(error).__name__}); give an intact copy"
    )
