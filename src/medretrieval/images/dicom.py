"""A picture from a DICOM file, as a reader would see it: rescaled, windowed, white where it is dense.

By pydicom (https://pydicom.github.io), which is installed by `pip install 'medretrieval[dicom]'`.
"""

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.errors import UserError, first_line
from medretrieval.images.rescale import to_8_bits

MARK, MARK_OFFSET_BYTES = b"DICM", 128  # DICOM PS3.10, section 7.1
SUFFIXES = (".dcm", ".dicom")
# Transfer syntaxes that need no decoder: implicit and explicit little endian, explicit big endian, deflated.
UNCOMPRESSED_SYNTAXES = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
)
Seen = tuple[NDArray[np.uint8], tuple[str, ...]]


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its mark, or says so by its name."""
    if path.suffix.lower() in SUFFIXES:
        return True
    with path.open("rb") as file:
        return file.read(MARK_OFFSET_BYTES + len(MARK))[MARK_OFFSET_BYTES:] == MARK


def has_picture(path: Path) -> bool:
    """Whether a DICOM file has rows of pixels, and is no report or directory; true where nobody can tell."""
    if importlib.util.find_spec("pydicom") is None:
        return True
    import pydicom

    try:
        with _quiet():
            return "Rows" in pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Rows"])
    except Exception:  # `read` says what is wrong with it
        return True


def read(path: Path, max_pixels: int) -> Seen:
    """Read the first frame of a DICOM file in 8 bits.

    Gray values go through the modality LUT (rescale slope and intercept) and the first VOI LUT or window
    (PS3.3, C.11.1 and C.11.2); without either their least and greatest value become 0 and 255, padding
    left out. MONOCHROME1 is inverted, so that dense is bright.

    Args:
        path: the file.
        max_pixels: of a frame.

    Returns:
        uint8 [height, width] or [height, width, 3], and what was done to it that its owner should know.

    Raises:
        UserError: pydicom is not installed; no DICOM file, none with a picture, damaged, larger than
            max_pixels, or compressed in a way that nothing installed decodes.
    """
    if importlib.util.find_spec("pydicom") is None:
        raise UserError(f"image={path}: DICOM needs the package pydicom; pip install 'medretrieval[dicom]'")
    with _quiet():
        return _read(path, max_pixels)


def _read(path: Path, max_pixels: int) -> Seen:
    dataset = _open(path)
    pixels = int(dataset.Rows) * int(dataset.Columns)
    if pixels > max_pixels:
        raise UserError(
            f"image={path}: {dataset.Columns} x {dataset.Rows} pixels; at most {max_pixels // 10**6} "
            "megapixels are read, make it smaller first"
        )
    frame = _first_frame(path, dataset)
    frames = int(dataset.get("NumberOfFrames") or 1)
    remarks = (f"the first of its {frames} frames",) if frames > 1 else ()
    try:
        seen, said = _seen(dataset, frame)
    except Exception as error:  # elements that contradict each other make pydicom raise anything
        raise UserError(
            f"image={path}: its elements do not say how to show it ({first_line(error)})"
        ) from error
    return seen, (*remarks, *said)


def _open(path: Path) -> Any:
    import pydicom

    try:
        dataset = pydicom.dcmread(path)
        if "PixelData" not in dataset:
            kind = dataset.get("Modality") or "unknown modality"
            raise UserError(f"image={path}: a DICOM file without a picture ({kind})")
        _ = dataset.Rows, dataset.Columns, dataset.PhotometricInterpretation, dataset.file_meta
    except (UserError, OSError):
        raise
    except Exception as error:  # a damaged file makes pydicom raise anything
        raise UserError(f"image={path}: not a DICOM file that can be read ({first_line(error)})") from error
    return dataset


def _first_frame(path: Path, dataset: Any) -> NDArray[np.generic]:
    from pydicom.pixels import pixel_array

    try:
        return pixel_array(dataset, index=0)
    except Exception as error:  # each decoder raises what it likes
        syntax = dataset.file_meta.get("TransferSyntaxUID")
        if syntax is None or syntax in UNCOMPRESSED_SYNTAXES:
            raise UserError(
                f"image={path}: damaged, its pixels cannot be read ({first_line(error)})"
            ) from error
        raise UserError(
            f"image={path}: its pixels ({getattr(syntax, 'name', syntax)}) cannot be decoded "
            f"({first_line(error)}); save it uncompressed, or pip install pylibjpeg pylibjpeg-libjpeg "
            "pylibjpeg-openjpeg"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what pydicom warns of on the way: what matters is in what it gives or raises."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)


def _seen(dataset: Any, frame: NDArray[Any]) -> Seen:
    kind = str(dataset.PhotometricInterpretation)
    if kind == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        frame = apply_color_lut(frame, dataset)
        return _eight(frame, frame.dtype.itemsize * 8), ()
    if frame.ndim == 3:
        return _eight(frame, int(dataset.BitsStored)), ()
    gray, said = _gray(dataset, frame)
    return (255 - gray if kind == "MONOCHROME1" else gray), said


def _gray(dataset: Any, frame: NDArray[Any]) -> Seen:
    from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing

    values = apply_modality_lut(frame, dataset)
    if dataset.get("VOILUTSequence"):
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        return to_8_bits(apply_voi(values, dataset), 0, 2**bits - 1), ()
    if dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        # What is below and above every window, in the units that pydicom gives.
        low, high = apply_windowing(np.array([-np.inf, np.inf]), dataset)
        scale = (apply_windowing(values, dataset) - low) / (high - low)  # the slope may be negative
        return to_8_bits(scale, 0, 1), ()
    inside = _not_padding(dataset, frame)
    shown = values[inside] if inside.any() else values
    low, high = float(shown.min()), float(shown.max())
    gray = to_8_bits(values, low, high)
    gray[~inside] = 255 if str(dataset.PhotometricInterpretation) == "MONOCHROME1" else 0
    return gray, (f"it has no window: its values {low:g} to {high:g} as 0 to 255",)


def _not_padding(dataset: Any, frame: NDArray[Any]) -> NDArray[np.bool_]:
    """Where the picture is, and not what fills its rectangle (PS3.3, C.7.5.1.1.2)."""
    padding = dataset.get("PixelPaddingValue")
    if padding is None:
        return np.ones(frame.shape, dtype=np.bool_)
    limit = dataset.get("PixelPaddingRangeLimit")
    ends = sorted((int(padding), int(padding if limit is None else limit)))
    return (frame < ends[0]) | (frame > ends[1])


def _eight(colors: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """RGB of so many bits in 8 (uint8 [height, width, 3])."""
    return colors if colors.dtype == np.uint8 and bits == 8 else to_8_bits(colors, 0, 2**bits - 1)
