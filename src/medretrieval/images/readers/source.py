"""What the readers of every kind of file have in common: a header, frames in 8 bits, and one exception."""

import logging
import re
import stat
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medretrieval.errors import UserError

MAX_PIXELS = 80_000_000  # of a frame; as RGB that is 240 MB
# A frame costs at least this much of any file: the header of its chunk, block, item or page.
MIN_BYTES_A_FRAME = 8


class Unreadable(UserError):  # noqa: N818 - a finding, of which a data set may hold some
    """A file that gives no image.

    Attributes:
        path: the file.
        reason: why, and how to mend it, in one line without the file's name. It holds no patient data.
    """

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"{path}: {reason}")


class NoImage(Unreadable):
    """A file of another kind: nothing is wrong with it, but it is no image."""


@dataclass(frozen=True)
class Peek:
    """What a file's header says, before any pixel is decoded.

    Attributes:
        kind: "png", "jpeg", "tiff", "bmp", "webp", "gif", "jpeg2000", "ppm", "dicom" or "nifti".
        width: pixels of the (first) frame, upright.
        height: pixels of the (first) frame, upright.
        channels: 1 where `decode` would see gray, 3 where it would see color.
        bits: of a channel, as stored.
        frames: pages of a TIFF, frames of an animation or a DICOM file, slices of a volume.
    """

    kind: str
    width: int
    height: int
    channels: int
    bits: int
    frames: int


@dataclass(frozen=True)
class Frame:
    """One frame in 8 bits.

    Attributes:
        pixels: uint8 [height, width] (gray) or [height, width, 3] (RGB), upright.
        remarks: what was done to it that its owner should know.
    """

    pixels: NDArray[np.uint8]
    remarks: tuple[str, ...] = ()


class Source(ABC):
    """An opened file: its header is read, its pixels are not."""

    peek: Peek

    @abstractmethod
    def frame(self, index: int) -> Frame:
        """The frame at a place from 0.

        Raises:
            Unreadable: damaged, or it has no such frame.
        """

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Give the file back."""


def check_file(path: Path) -> int:
    """The bytes of a regular file that is not empty; it is not opened, for a FIFO would wait for ever.

    Raises:
        Unreadable: it is something else.
    """
    try:
        state = path.stat()
    except FileNotFoundError as error:
        raise Unreadable(path, "there is no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise unopened(path, error) from error
    if stat.S_ISDIR(state.st_mode):
        raise NoImage(path, "a folder, and not a file")
    if not stat.S_ISREG(state.st_mode):
        raise NoImage(path, "a pipe, socket or device, and not a file of data")
    if state.st_size == 0:
        raise NoImage(path, "empty (0 bytes); give an intact copy")
    return state.st_size


def check_size(path: Path, width: int, height: int) -> None:
    """Refuse a frame by what its header says of it.

    Raises:
        Unreadable: no pixels, or more than MAX_PIXELS.
    """
    if width < 1 or height < 1:
        raise Unreadable(path, f"damaged, its header says {width} x {height} pixels; give an intact copy")
    if width * height > MAX_PIXELS:
        raise Unreadable(
            path,
            f"{width} x {height} pixels; at most {MAX_PIXELS // 10**6} megapixels are read, make it smaller "
            "first",
        )


def check_frames(path: Path, frames: int, most: int) -> None:
    """Refuse a header that says more frames than the file's bytes can hold.

    Raises:
        Unreadable: more than `most`.
    """
    if frames > most:
        raise Unreadable(
            path, f"damaged, its header says {frames} frames and its bytes hold fewer; give an intact copy"
        )


def unopened(path: Path, error: Exception) -> Unreadable:
    """What the system says of a file that it does not open."""
    said = getattr(error, "strerror", None) or type(error).__name__
    return Unreadable(path, f"cannot be read ({said})")


# What these packages warn of on the way: what matters is in what they give or raise.
NOISY = re.compile(r"(PIL|pydicom|pylibjpeg|openjpeg|libjpeg|rle|nibabel|medretrieval\.images)(\.|$)")
NOISY_LOGGERS = (
    "pydicom",
    "pydicom.pixels.decoders.base",
    "pydicom.pixels.utils",
    "pylibjpeg",
    "openjpeg.utils",
    "nibabel.global",
    "PIL.ImageFile",
    "PIL.PngImagePlugin",
    "PIL.TiffImagePlugin",
)
_reading: ContextVar[bool] = ContextVar("medretrieval_reading", default=False)


class _WhileReading(logging.Filter):
    """Drops what is logged by a thread while it reads a file, and by no other."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _reading.get()


_FILTER = _WhileReading()


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings and the log of the readers, in this thread.

    `warnings.catch_warnings` swaps a list that all threads share, and a logger's level is shared too. So
    one filter of these packages' warnings is put in place and stays, and their log is dropped for the
    thread that reads.
    """
    item = ("ignore", None, Warning, NOISY, 0)
    if item not in warnings.filters:  # whoever resets the filters, as pytest does, takes it away
        warnings.filterwarnings("ignore", category=Warning, module=NOISY.pattern)
    for name in NOISY_LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)  # once: it is not added again
    token = _reading.set(True)
    try:
        yield
    finally:
        _reading.reset(token)
