"""Gray values of a DICOM frame in 8 bits: modality LUT, VOI LUT or window, polarity (PS3.3, C.11)."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.images.rescale import to_8_bits
from medretrieval.images.source import Frame

Values = NDArray[np.float64]
# Of an enhanced (multi-frame) object: where the elements stand that others have at their top level.
FUNCTIONAL_GROUPS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")
AS_STORED_BITS = 8  # up to here values without a window are shown as they are, as those of a PNG


def shown(dataset: Any, stored: NDArray[Any], index: int) -> Frame:
    """A gray frame as a reader sees it.

    Modality LUT or rescale slope and intercept first, then the first VOI LUT, else the first window (linear,
    exact or sigmoid). Without either: up to 8 stored bits are shown as they are, of more bits the frame's
    least and greatest value become 0 and 255. A window without a width is none. MONOCHROME1 and the
    presentation LUT shape INVERSE are inverted, once where both are set: MONOCHROME1 demands that shape
    (PS3.3, C.8.11.3). Padding and values that are no numbers are black, whatever the polarity.

    Args:
        dataset: pydicom's.
        stored: [height, width], integers or floats.
        index: which of the frames it is, from 0.

    Returns:
        uint8 [height, width], with a remark where there is no window.
    """
    elements = _of_frame(dataset, index)
    inside = _inside(dataset, stored)
    show, remarks = _display(elements, stored if inside is None else stored[inside])
    gray = _by_value(stored, lambda values: show(_rescaled(elements, values)))
    shape = str(elements.get("PresentationLUTShape") or "").strip().upper()
    if str(dataset.PhotometricInterpretation) == "MONOCHROME1" or shape == "INVERSE":
        gray = 255 - gray
    if inside is not None:
        gray[~inside] = 0
    return Frame(gray, remarks)


def lut_of(data: Any, descriptor: Any, little_endian: bool) -> tuple[NDArray[np.uint16], int, int]:
    """A lookup table (PS3.3, C.11.1.1 and C.7.6.3.1.6), of whatever type its element is.

    Args:
        data: bytes, or a list of numbers.
        descriptor: entries (0: 65,536), the stored value of the first, bits of an entry.
        little_endian: of the bytes.

    Returns:
        uint16 [entries], the first stored value, the bits.

    Raises:
        ValueError: no entries.
    """
    entries, first, bits = (int(part) for part in descriptor)
    entries = entries or 2**16
    if isinstance(data, bytes):
        words = np.frombuffer(data[: len(data) // 2 * 2], "<u2" if little_endian else ">u2")
        packed = len(data) < 2 * entries  # 8 bits an entry, two of them a word
        data = words.astype("<u2").view(np.uint8) if packed else words
    table = np.atleast_1d(np.asarray(data)).astype(np.uint16)[:entries]
    if not len(table):
        raise ValueError("a lookup table without entries")
    return table, first, bits


def looked_up(table: NDArray[np.uint16], first: int, values: NDArray[Any]) -> NDArray[np.uint16]:
    """Entries for values; what lies outside takes the first or the last."""
    places = np.rint(values).astype(np.int64) - first
    return table[np.clip(places, 0, len(table) - 1)]


def is_little_endian(dataset: Any) -> bool:
    """By the transfer syntax."""
    return bool(getattr(dataset.file_meta.get("TransferSyntaxUID"), "is_little_endian", True))


def _of_frame(dataset: Any, index: int) -> Any:
    """The elements that say how a frame is shown, those of functional groups at the top."""
    groups = []
    if shared := dataset.get("SharedFunctionalGroupsSequence"):
        groups.append(shared[0])
    if (each := dataset.get("PerFrameFunctionalGroupsSequence")) and index < len(each):
        groups.append(each[index])
    found = {
        element.keyword: element.value
        for group in groups
        for name in FUNCTIONAL_GROUPS
        for item in (group.get(name) or [])[:1]
        for element in item
    }
    names = (
        "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "VOILUTSequence", "WindowCenter",
        "WindowWidth", "VOILUTFunction", "PresentationLUTShape", "BitsStored", "PixelRepresentation",
    )  # fmt: skip
    top = {name: dataset.get(name) for name in names}
    return {**top, **found, "little_endian": is_little_endian(dataset)}


def _by_value(stored: NDArray[Any], show: Callable[[NDArray[Any]], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """What `show` makes of each value: computed once a value where that is less than once a pixel."""
    if stored.dtype.kind not in "iu":
        return show(stored)
    low, high = int(stored.min()), int(stored.max())
    if high - low >= stored.size:
        return show(stored)
    table = show(np.arange(low, high + 1, dtype=np.int64))
    wide = np.int32 if stored.dtype.itemsize <= 2 else np.int64
    return table[np.subtract(stored, low, dtype=wide)]


def _rescaled(elements: dict[str, Any], values: NDArray[Any]) -> Values:
    """Stored values in the units of the modality."""
    if sequence := elements.get("ModalityLUTSequence"):
        item = sequence[0]
        table, first, _ = lut_of(item.LUTData, item.LUTDescriptor, elements["little_endian"])
        return looked_up(table, first, values).astype(np.float64)
    slope, intercept = _number(elements.get("RescaleSlope")), _number(elements.get("RescaleIntercept"))
    scaled = values.astype(np.float64)
    if slope is not None and intercept is not None:
        scaled = scaled * slope + intercept
    return scaled


def _display(
    elements: dict[str, Any], inside: NDArray[Any]
) -> tuple[Callable[[Values], NDArray[np.uint8]], tuple[str, ...]]:
    """From values of the modality to 8 bits, and what is to be said of it."""
    if sequence := elements.get("VOILUTSequence"):
        item = sequence[0]
        table, first, bits = lut_of(item.LUTData, item.LUTDescriptor, elements["little_endian"])
        return (lambda values: to_8_bits(looked_up(table, first, values), 0, 2**bits - 1)), ()
    center, width = _number(elements.get("WindowCenter")), _number(elements.get("WindowWidth"))
    if center is not None and width is not None and width > 0:
        function = str(elements.get("VOILUTFunction") or "LINEAR").strip().upper()
        return (lambda values: to_8_bits(_windowed(values, center, width, function), 0, 1)), ()
    no_window = "it has no window" if width is None else f"its window of width {width:g} is none"
    bits = int(elements.get("BitsStored") or 0)
    if 0 < bits <= AS_STORED_BITS and not elements.get("ModalityLUTSequence"):
        signed = bool(elements.get("PixelRepresentation"))
        ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1])
        low, high = sorted(_rescaled(elements, ends).tolist())
        return (lambda values: to_8_bits(values, low, high)), ()
    shown_values = _rescaled(elements, inside)
    low, high = float(shown_values.min()), float(shown_values.max())
    return (
        lambda values: to_8_bits(values, low, high),
        (f"{no_window}: its values {low:g} to {high:g} as 0 to 255",),
    )


def _windowed(values: Values, center: float, width: float, function: str) -> Values:
    """A window's values from 0 to 1 (PS3.3, C.11.2.1.2 and C.11.2.1.3).

    LINEAR demands a width of at least 1. Files of real numbers have smaller ones, and mean them exactly.
    """
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            return 1 / (1 + np.exp(-4 * (values - center) / width))
    if function == "LINEAR_EXACT" or width < 1:
        return (values - center) / width + 0.5
    if width == 1:
        return (values > center - 0.5).astype(np.float64)
    return (values - (center - 0.5)) / (width - 1) + 0.5


def _number(value: Any) -> float | None:
    """The first number of an element, None where it has none."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) and hasattr(value, "__len__"):
        return _number(value[0]) if len(value) else None
    number = float(value)
    return number if math.isfinite(number) else None


def _inside(dataset: Any, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Where the picture is, and not what fills its rectangle (PS3.3, C.7.5.1.1.2); None: everywhere."""
    inside = None
    if stored.dtype.kind == "f":
        inside = np.isfinite(stored)
    elif (padding := dataset.get("PixelPaddingValue")) is not None:
        limit = dataset.get("PixelPaddingRangeLimit")
        ends = sorted((int(padding), int(padding if limit is None else limit)))
        inside = (stored < ends[0]) | (stored > ends[1])
    return None if inside is None or inside.all() or not inside.any() else inside
