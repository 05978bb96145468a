"""Stored values of a DICOM frame: what its transfer syntax wraps them in is undone, by pydicom and others."""

import importlib.util
import zlib
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medretrieval.errors import first_line
from medretrieval.images.readers.source import Unreadable, check_size

# Transfer syntaxes that need no decoder: implicit and explicit little endian, explicit big endian, deflated.
IMPLICIT_LITTLE, EXPLICIT_LITTLE = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
UNCOMPRESSED_SYNTAXES = (IMPLICIT_LITTLE, EXPLICIT_LITTLE, "1.2.840.10008.1.2.2", DEFLATED)
DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"  # each frame by itself; PS3.5, A.4.13
RLE = "1.2.840.10008.1.2.5"
J2K_START = b"\xff\x4f\xff\x51"  # SOC and SIZ (ISO/IEC 15444-1, A.5.1)
START_OF_FRAME = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7}
RLE_HEADER_BYTES = 64  # PS3.5, G.5


def stored_values(path: Path, dataset: Any, index: int, frames: int) -> tuple[NDArray[Any], str]:
    """A frame as it was stored; color of YBR_FULL and YBR_FULL_422 in RGB.

    Args:
        path: named in messages.
        dataset: pydicom's, with its pixels.
        index: of the frame, from 0.
        frames: how many there are.

    Returns:
        [height, width] or [height, width, 3], and the photometric interpretation after decoding.

    Raises:
        Unreadable: damaged, or compressed in a way that nothing installed decodes.
    """
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    try:
        if syntax in UNCOMPRESSED_SYNTAXES:
            return _decoded(dataset, syntax, index)
        frame = _compressed_frame(dataset, index, frames)
        size = codestream_size(frame)
        if size is not None and min(size) > 0:
            check_size(path, *size)
        if syntax == DEFLATED_FRAMES:
            return _unpacked(dataset, zlib.decompressobj(-zlib.MAX_WBITS).decompress(frame, _bytes(dataset)))
        if syntax == RLE and dataset.BitsAllocated == 1:  # which no decoder takes
            return _unpacked(dataset, _run_lengths(frame, _bytes(dataset)))
        return _decoded(dataset, syntax, index)
    except Unreadable:
        raise
    except Exception as error:  # each decoder raises what it likes
        raise Unreadable(path, _reason(syntax, error)) from error


def codestream_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in the header of a JPEG, JPEG-LS or JPEG 2000 stream; None where it is none.

    A decoder makes room for what the stream says, whatever the DICOM header says.
    """
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


def _decoded(dataset: Any, syntax: Any, index: int) -> tuple[NDArray[Any], str]:
    from pydicom.pixels import as_pixel_options, get_decoder

    options = as_pixel_options(dataset)
    stored, done = get_decoder(syntax).as_array(dataset, index=index, validate=True, **options)
    return stored, str(done["photometric_interpretation"])


def _compressed_frame(dataset: Any, index: int, frames: int) -> bytes:
    from pydicom.encaps import get_frame

    offsets = None
    if "ExtendedOffsetTable" in dataset and "ExtendedOffsetTableLengths" in dataset:
        offsets = dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths
    frame: bytes = get_frame(dataset.PixelData, index, number_of_frames=frames, extended_offsets=offsets)
    return frame


def _bytes(dataset: Any) -> int:
    """Bytes of a frame that is not compressed; bits are packed."""
    values = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel)
    return -(-values * int(dataset.BitsAllocated) // 8)


def _unpacked(dataset: Any, frame: bytes) -> tuple[NDArray[Any], str]:
    """The values of one frame's bytes, read as if they had never been compressed."""
    import pydicom

    single = pydicom.Dataset()
    single.update({element.tag: element for element in dataset.group_dataset(0x0028)})
    single.file_meta = pydicom.dataset.FileMetaDataset()
    single.file_meta.TransferSyntaxUID = pydicom.uid.UID(EXPLICIT_LITTLE)
    single.NumberOfFrames = 1
    single.add_new("PixelData", "OW", frame + b"\0" * (len(frame) % 2))
    return _decoded(single, single.file_meta.TransferSyntaxUID, 0)


def _run_lengths(frame: bytes, size_bytes: int) -> bytes:
    """The one segment of an RLE frame (PS3.5, G.3.1), at most so many bytes."""
    data, place, found = frame[RLE_HEADER_BYTES:], 0, bytearray()
    while place < len(data) and len(found) < size_bytes:
        length = data[place]
        if length < 128:
            found += data[place + 1 : place + 2 + length]
            place += 2 + length
        elif length > 128:
            found += data[place + 1 : place + 2] * (257 - length)
            place += 2
        else:
            place += 1
    return bytes(found[:size_bytes])


def _reason(syntax: Any, error: Exception) -> str:
    if syntax is None or syntax in UNCOMPRESSED_SYNTAXES:
        return f"damaged, its pixels cannot be read ({first_line(error)}); give an intact copy"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[1][:300] if len(lines) > 1 else first_line(error)  # the first one only says that all failed
    mend = "give an intact copy, or save it uncompressed"
    if importlib.util.find_spec("pylibjpeg") is None:
        mend = "save it uncompressed, or pip install 'medretrieval[dicom-compressed]'"
    return f"its pixels ({getattr(syntax, 'name', syntax)}) cannot be decoded ({said}); {mend}"
