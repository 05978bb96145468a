"""A file of any kind as an image of a dataset: 8 bits, a square of its size, with its channels."""

import functools
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.images.fit import Fit, as_in_dataset
from medretrieval.images.frames import Frames, cell_side, in_montage, montage
from medretrieval.images.image_file import opened
from medretrieval.images.readers.source import NoImage as NoImage
from medretrieval.images.readers.source import Peek, Source
from medretrieval.images.readers.source import Unreadable as Unreadable

DECODING_FORMAT = 1  # raised where the same file gives other pixels than before
# Whoever decodes: another version may give other pixels.
LIBRARIES = (
    "pillow", "numpy", "pydicom", "pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle",
    "python-gdcm", "pyjpegls", "nibabel",
)  # fmt: skip


@dataclass(frozen=True)
class Decoding:
    """How files become images of a dataset.

    Attributes:
        size: pixels a side.
        channels: 1 (gray) or 3 (RGB).
        fit: how a frame that is no square becomes one.
        frames: which frames of a file that holds several.
    """

    size: int
    channels: int
    fit: Fit
    frames: Frames

    def key(self) -> dict[str, Any]:
        """All that determines an image beside its file, as JSON; no library is imported for it."""
        options = {name: getattr(value, "value", value) for name, value in asdict(self).items()}
        return {"format": DECODING_FORMAT, **options, "libraries": _versions()}


def decode(path: Path, decoding: Decoding, frame: int | None = None) -> NDArray[np.uint8]:
    """Read an image. May be called from several threads at once.

    Args:
        path: of any kind that `image_file` reads.
        decoding: size, channels, and what is done with other shapes and several frames.
        frame: from 0, exactly where the decoding takes all frames.

    Returns:
        uint8 [size, size] or [size, size, 3].

    Raises:
        Unreadable: it gives no image, or has no such frame.
        ValueError: `frame` is missing, or given where it has no effect.
    """
    if (frame is not None) != (decoding.frames is Frames.all):
        raise ValueError("frame is given exactly where frames=all")
    with opened(path) as source:
        if decoding.frames is Frames.montage:
            return _montage(source, decoding)
        chosen = {Frames.first: 0, Frames.middle: source.peek.frames // 2}.get(decoding.frames, frame)
        assert chosen is not None
        if not 0 <= chosen < source.peek.frames:
            raise Unreadable(path, f"it has {source.peek.frames} frames, and none at {chosen} (from 0)")
        return _fitted(source, chosen, decoding.size, decoding)


def peek(path: Path) -> Peek:
    """What a file's header says; no pixel is decoded.

    Raises:
        Unreadable: the header alone shows that it gives no image.
    """
    with opened(path, header_only=True) as source:
        return source.peek


def _fitted(source: Source, frame: int, size: int, decoding: Decoding) -> NDArray[np.uint8]:
    return as_in_dataset(source.frame(frame).pixels, size, decoding.channels, decoding.fit)


def _montage(source: Source, decoding: Decoding) -> NDArray[np.uint8]:
    shown = in_montage(source.peek.frames, decoding.size)
    side = cell_side(len(shown), decoding.size)
    # One frame at a time: they may be large.
    return montage([_fitted(source, frame, side, decoding) for frame in shown], decoding.size)


@functools.cache
def _versions() -> dict[str, str | None]:
    return {name: _version(name) for name in LIBRARIES}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
