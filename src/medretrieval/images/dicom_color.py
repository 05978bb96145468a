"""Colors of a DICOM frame in 8 bits: palettes and RGB; and what a compressed frame says of its size."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.images.dicom_gray import is_little_endian, looked_up, lut_of
from medretrieval.images.rescale import to_8_bits
from medretrieval.images.source import check_size

COLORS = ("Red", "Green", "Blue")
# Decoders of JPEG 2000 undo these two themselves, whatever they say of their result.
CONVERTED_BY_THE_CODEC = ("YBR_RCT", "YBR_ICT")
J2K_START = b"\xff\x4f\xff\x51"  # SOC and SIZ (ISO/IEC 15444-1, A.5.1)
START_OF_FRAME = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7}


def shown(dataset: Any, stored: NDArray[Any], kind: str) -> NDArray[np.uint8]:
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
    if kind == "PALETTE COLOR":
        colors, bits = _from_palette(dataset, stored)
        return to_8_bits(colors, 0, 2**bits - 1)
    if kind.startswith("YBR") and kind not in CONVERTED_BY_THE_CODEC:
        from pydicom.pixels import convert_color_space

        stored = convert_color_space(stored, kind, "RGB")
    elif kind != "RGB" and kind not in CONVERTED_BY_THE_CODEC:
        raise ValueError(f"its colors are {kind}, which is not read")
    bits = int(dataset.BitsStored)
    if stored.dtype == np.uint8 and bits == 8:
        return stored
    return to_8_bits(stored, 0, 2**bits - 1)


def check_codestream(path: Path, dataset: Any, index: int, frames: int) -> None:
    """Refuse a compressed frame whose own header says more pixels than are read, before it is decoded.

    Raises:
        Unreadable: more than MAX_PIXELS.
    """
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None or not syntax.is_encapsulated:
        return
    from pydicom.encaps import get_frame

    size = codestream_size(get_frame(dataset.PixelData, index, number_of_frames=frames))
    if size is not None and min(size) > 0:
        check_size(path, *size)


def codestream_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in the header of a JPEG, JPEG-LS or JPEG 2000 stream; None where it is none."""
    place = data.find(J2K_START, 0, 512)
    if place >= 0:
        right, bottom, left, top = (
            int.from_bytes(data[at : at + 4], "big") for at in range(place + 8, place + 24, 4)
        )
        return right - left, bottom - top
    if data[:2] != b"\xff\xd8":
        return None
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker in START_OF_FRAME:
            height, width = (int.from_bytes(data[at : at + 2], "big") for at in (place + 5, place + 7))
            return width, height
        place += 1 if marker == 0xFF else 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None


def _from_palette(dataset: Any, stored: NDArray[Any]) -> tuple[NDArray[np.uint16], int]:
    """Colors [height, width, 3], and the bits that they fill."""
    if "RedPaletteColorLookupTableData" not in dataset:
        return _from_segmented_palette(dataset, stored)
    little = is_little_endian(dataset)
    channels, bits = [], 0
    for name in COLORS:
        descriptor = dataset[f"{name}PaletteColorLookupTableDescriptor"].value
        data = dataset[f"{name}PaletteColorLookupTableData"].value
        table, first, said = lut_of(data, descriptor, little)
        # Entries of 8 bits may fill words of 16 as they are, or be their upper half.
        bits = max(bits, said, 16 if table.max() > 255 else 8)
        channels.append(looked_up(table, first, stored))
    return np.stack(channels, axis=-1), bits


def _from_segmented_palette(dataset: Any, stored: NDArray[Any]) -> tuple[NDArray[np.uint16], int]:
    """By pydicom, which unrolls the segments (PS3.3, C.7.9.2)."""
    from pydicom.pixels import apply_color_lut

    colors = apply_color_lut(stored, dataset)[..., : len(COLORS)]
    return colors.astype(np.uint16), colors.dtype.itemsize * 8
