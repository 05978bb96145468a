"""Which files an ONNX file needs beside it, read from its protocol buffers without the package onnx.

The messages and their numbers are those of onnx.proto (https://github.com/onnx/onnx).
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from medretrieval.errors import UserError

# Where in a message of onnx.proto tensors may be: field number -> kind of the message in it.
INSIDE = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
IR_VERSION, GRAPH = 1, 7  # fields that every model has


def external_data(file: Path) -> set[str]:
    """Names of the files beside an ONNX file that hold tensors of it.

    Raises:
        UserError: not an ONNX file, or data that is missing or not in the file's folder.
    """
    where = f"encoder.checkpoint={file}"
    try:
        content = np.memmap(file, np.uint8, "r").data
        numbers = {number for number, _ in _fields(content)}
        places = set(_locations(content, "model"))
    except (ValueError, IndexError, RecursionError) as error:
        raise UserError(f"{where}: not an ONNX file; give one that was exported with ONNX") from error
    if not {IR_VERSION, GRAPH} <= numbers:
        raise UserError(f"{where}: not an ONNX file; give one that was exported with ONNX")
    for place in sorted(places):
        parts = PurePosixPath(place)
        if parts.is_absolute() or ".." in parts.parts:
            raise UserError(
                f"{where}: has its weights outside its own folder, in {place}; put them beside it"
            )
        if not (file.parent / place).is_file():
            raise UserError(f"{where}: has its weights in {place}, which is not beside it; put it there")
    return places


def _locations(message: memoryview, kind: str) -> Iterator[str]:
    """The `location` of all external data in a message of onnx.proto."""
    if kind == "entry":
        said = {number: bytes(value).decode() for number, value in _fields(message) if value is not None}
        if said.get(1) == "location":
            yield said[2]
        return
    inside = INSIDE[kind]
    for number, value in _fields(message):
        if number in inside and value is not None:
            yield from _locations(value, inside[number])


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """Each field of a message of protocol buffers: its number, and its bytes where it has a length.

    Raises:
        ValueError: no such message (https://protobuf.dev/programming-guides/encoding/).
        IndexError: it ends within a field.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if number == 0 or kind not in (0, 1, 2, 5):
            raise ValueError("not a field")
        value = None
        if kind == 0:
            _, at = _varint(message, at)
        elif kind == 2:
            length, at = _varint(message, at)
            value = message[at : at + length]
            at += length
        else:
            at += 8 if kind == 1 else 4
        if at > len(message):
            raise IndexError("it ends within a field")
        yield number, value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    result = shift = 0
    while True:
        byte = message[at]
        result |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return result, at
        if shift > 63:
            raise ValueError("not a number")
