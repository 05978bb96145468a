"""A DICOM frame in 8 bits: modality LUT, VOI LUT or window, polarity (PS3.3, C.11), and colors."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.images.readers.source import Frame
from medretrieval.images.rescale import to_8_bits

Values = NDArray[np.float64]
# Of an enhanced (multi-frame) object: where the elements stand that others have at their top level.
FUNCTIONAL_GROUPS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")
BIG_ENDIAN = "1.2.840.10008.1.2.2"
COLORS, PALETTE = ("Red", "Green", "Blue"), "PALETTE COLOR"
# Decoders of JPEG 2000 undo these two themselves, whatever they say of their result.
CONVERTED_BY_THE_CODEC = ("YBR_RCT", "YBR_ICT")
AS_STORED_BITS = 8  # up to here values without a window are shown as they are, as those of a PNG


def gray(dataset: Any, stored: NDArray[Any], index: int) -> Frame:
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
    pixels = _by_value(stored, lambda values: show(_rescaled(elements, values)))
    shape = str(elements.get("PresentationLUTShape") or "").strip().upper()
    if str(dataset.PhotometricInterpretation) == "MONOCHROME1" or shape == "INVERSE":
        pixels = 255 - pixels
    if inside is not None:
        pixels[~inside] = 0
    return Frame(pixels, remarks)


def color(dataset: Any, stored: NDArray[Any], kind: str) -> NDArray[np.uint8]:
    """A frame in RGB.

    Args:
        dataset: pydicom's.
        stored: [height, width] places in a palette, or [height, width, 3].
        kind: its photometric interpretation after decoding.

    Returns:
        uint8 [height, width, 3]. More than 8 bits go by their full range: color has no window.

    Raises:
        ValueError: a color space that is not read.
    """
    if kind == PALETTE:
        return _by_palette(dataset, stored)
    if kind.startswith("YBR") and kind not in CONVERTED_BY_THE_CODEC:
        from pydicom.pixels import convert_color_space

        stored = convert_color_space(stored, kind, "RGB")
    elif kind != "RGB" and kind not in CONVERTED_BY_THE_CODEC:
        raise ValueError(f"its colors are {kind}, which is not read")
    bits = int(dataset.BitsStored)
    if stored.dtype == np.uint8 and bits == 8:
        return stored
    return to_8_bits(stored, 0, 2**bits - 1)


def _by_palette(dataset: Any, stored: NDArray[Any]) -> NDArray[np.uint8]:
    if "RedPaletteColorLookupTableData" not in dataset:  # in segments (PS3.3, C.7.9.2)
        from pydicom.pixels import apply_color_lut

        colors = apply_color_lut(stored, dataset)[..., : len(COLORS)]
        return to_8_bits(colors, 0, 2 ** (colors.dtype.itemsize * 8) - 1)
    little = is_little_endian(dataset)
    tables = [
        lut_of(
            dataset[f"{name}PaletteColorLookupTableData"].value,
            dataset[f"{name}PaletteColorLookupTableDescriptor"].value,
            little,
        )
        for name in COLORS
    ]
    # Entries of 8 bits may fill words of 16 as they are, or be their upper half.
    bits = max(max(said, 16 if table.max() > 255 else 8) for table, _, said in tables)
    channels = [looked_up(to_8_bits(table, 0, 2**bits - 1), first, stored) for table, first, _ in tables]
    return np.stack(channels, axis=-1)


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


def looked_up(table: NDArray[Any], first: int, values: NDArray[Any]) -> NDArray[Any]:
    """Entries for values; what lies outside takes the first or the last."""
    whole = np.rint(values) if values.dtype.kind == "f" else values
    return table[np.clip(whole, first, first + len(table) - 1).astype(np.int64) - first]


def is_little_endian(dataset: Any) -> bool:
    """By the transfer syntax: all but one are."""
    return bool(dataset.file_meta.get("TransferSyntaxUID") != BIG_ENDIAN)


def _lut(elements: dict[str, Any], name: str) -> tuple[NDArray[np.uint16], int, int] | None:
    """The first table of a sequence; None where there is none, or an empty one, as some writers leave it."""
    for item in (elements.get(name) or [])[:1]:
        data, descriptor = item.get("LUTData"), item.get("LUTDescriptor")
        if data is not None and descriptor is not None:
            return lut_of(data, descriptor, elements["little_endian"])
    return None


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
    low, high = min(0, int(stored.min())), int(stored.max())
    if high - low >= stored.size:
        return show(stored)
    table = show(np.arange(low, high + 1, dtype=np.int64))
    places = stored if low == 0 else np.subtract(stored, low, dtype=np.int64)
    return table.take(places, mode="clip")  # none lies outside: this mode only skips looking for them


def _rescaled(elements: dict[str, Any], values: NDArray[Any]) -> Values:
    """Stored values in the units of the modality."""
    if (lut := _lut(elements, "ModalityLUTSequence")) is not None:
        table, first, _ = lut
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
    if (lut := _lut(elements, "VOILUTSequence")) is not None:
        table, first, bits = lut
        return (lambda values: to_8_bits(looked_up(table, first, values), 0, 2**bits - 1)), ()
    center, width = _number(elements.get("WindowCenter")), _number(elements.get("WindowWidth"))
    if center is not None and width is not None and width > 0:
        function = str(elements.get("VOILUTFunction") or "LINEAR").strip().upper()
        if function == "LINEAR" and inside.dtype.kind == "f":
            function = "LINEAR_EXACT"
        return (lambda values: to_8_bits(_windowed(values, center, width, function), 0, 1)), ()
    has_window = center is not None and width is not None
    no_window = f"its window of width {width:g} is none" if has_window else "it has no window"
    bits = int(elements.get("BitsStored") or 0)
    if 0 < bits <= AS_STORED_BITS and _lut(elements, "ModalityLUTSequence") is None:
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

    LINEAR counts integers, from the first to the last: width 1 is a step. Real numbers are taken exactly,
    and so is a width below 1, which LINEAR does not allow.
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
