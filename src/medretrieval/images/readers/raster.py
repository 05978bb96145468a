"""The files that Pillow opens: PNG, JPEG, TIFF, BMP, WebP, GIF, JPEG 2000 and PPM."""

from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medretrieval.errors import first_line
from medretrieval.images.readers.source import (
    MIN_BYTES_A_FRAME,
    Frame,
    NoImage,
    Peek,
    Source,
    Unreadable,
    check_frames,
    check_size,
)
from medretrieval.images.rescale import to_8_bits

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

# Nothing else that Pillow knows is tried: some of its formats call other programs.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "DIB", "WEBP", "GIF", "JPEG2000", "PPM")
SUFFIXES = (
    ".bmp", ".dib", ".gif", ".j2k", ".jp2", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".pnm",
    ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
KINDS = {"dib": "bmp", "mpo": "jpeg"}  # where Pillow says it in another way
MODES_BEYOND_8_BITS = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")  # of Pillow, one channel
MODES_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")  # its modes with an alpha channel
GRAY_MODES = ("1", "L", "LA", "La")
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
ORIENTATION = 0x0112


class Raster(Source):
    """A file opened by Pillow; the file object is closed by whoever opened it."""

    def __init__(self, path: Path, file: IO[bytes], size_bytes: int) -> None:
        """Read the header.

        Args:
            path: named in messages.
            file: opened, at its begin.
            size_bytes: of the file.

        Raises:
            Unreadable: not one of FORMATS, damaged, or larger than MAX_PIXELS.
        """
        from PIL import Image, UnidentifiedImageError

        self._path = path
        try:
            self._opened: ImageFile = Image.open(file, formats=FORMATS)
            self.peek = self._peek(size_bytes)
        except UnidentifiedImageError as error:
            raise NoImage(
                path, "not a picture; give PNG, JPEG, TIFF, BMP, WebP, GIF, DICOM or NIfTI"
            ) from error
        except Image.DecompressionBombError as error:
            raise Unreadable(path, "more megapixels than are read; make it smaller first") from error
        except Unreadable:
            raise
        except Exception as error:  # damaged files make the decoders raise anything
            raise _damaged(path, error) from error

    def frame(self, index: int) -> Frame:
        """The frame at a place from 0, in 8 bits.

        EXIF orientation is honored, transparency laid on black (the background of radiographs), CMYK and
        palettes become RGB. One channel of more than 8 bits goes from the frame's least to its greatest
        value onto 0 to 255, for a file does not say which of its values mean something. Color of 16 bits
        keeps its upper 8.
        """
        from PIL import Image, ImageOps

        try:
            self._opened.seek(index)
            check_size(self._path, *self._opened.size)  # pages differ
            gray = _is_gray(self._opened)
            self._opened.load()
            picture: Image.Image = self._opened
            if picture.getexif().get(ORIENTATION, 1) != 1:
                picture = ImageOps.exif_transpose(picture)
            return self._eight_bits(picture, gray)
        except Image.DecompressionBombError as error:
            raise Unreadable(self._path, "more megapixels than are read; make it smaller first") from error
        except Unreadable:
            raise
        except Exception as error:
            raise _damaged(self._path, error) from error

    def close(self) -> None:
        """Give the decoder's memory back."""
        self._opened.close()

    def _peek(self, size_bytes: int) -> Peek:
        opened = self._opened
        kind = (opened.format or "").lower()
        # The second picture of a JPEG (MPO) is a preview or the other eye's, and no frame.
        frames = 1 if kind == "mpo" else getattr(opened, "n_frames", 1)
        check_frames(self._path, frames, size_bytes // MIN_BYTES_A_FRAME)
        if opened.tell() != 0:
            opened.seek(0)
        check_size(self._path, *opened.size)
        width, height = opened.size
        if _orientation(opened) in SIDEWAYS:
            width, height = height, width
        channels = 1 if _is_gray(opened) else 3
        return Peek(KINDS.get(kind, kind), width, height, channels, _bits(opened), frames)

    def _eight_bits(self, picture: "Image", gray: bool) -> Frame:
        if picture.mode in MODES_BEYOND_8_BITS:
            return self._narrowed(np.asarray(picture))
        remarks: tuple[str, ...] = ()
        if picture.mode in MODES_WITH_ALPHA or "transparency" in picture.info:
            picture, remarks = _on_black(picture)
        mode = "L" if gray else "RGB"
        return Frame(np.array(picture if picture.mode == mode else picture.convert(mode)), remarks)

    def _narrowed(self, values: NDArray[np.generic]) -> Frame:
        if not np.isfinite(values).all():
            raise Unreadable(self._path, "holds values that are not numbers (NaN or infinite)")
        low, high = float(values.min()), float(values.max())
        return Frame(to_8_bits(values, low, high), (f"its values {low:g} to {high:g} as 0 to 255",))


def _on_black(picture: "Image") -> tuple["Image", tuple[str, ...]]:
    """RGB over black, and what is to be said of it; nothing where it hides nothing."""
    from PIL import Image

    picture = picture.convert("RGBA")
    if picture.getchannel("A").getextrema() == (255, 255):
        return picture.convert("RGB"), ()
    black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, picture).convert("RGB"), ("its transparent parts laid on black",)


def _is_gray(opened: "ImageFile") -> bool:
    """Whether a frame that is not loaded yet is gray; a palette is where all its colors are."""
    if opened.mode in GRAY_MODES or opened.mode in MODES_BEYOND_8_BITS:
        return True
    if opened.mode in ("P", "PA"):
        colors = np.array(opened.getpalette("RGB") or [0, 1, 0]).reshape(-1, 3)
        return bool((colors == colors[:, :1]).all())
    return _stored(opened).startswith("LA")  # gray of 16 bits with alpha is RGBA to Pillow


def _bits(opened: "ImageFile") -> int:
    if opened.mode == "1":
        return 1
    stored = _stored(opened)
    if opened.mode.startswith("I;16") or ";16" in stored:
        return 16
    return 32 if opened.mode in ("I", "F") else 8


def _stored(opened: "ImageFile") -> str:
    """Pillow's name of how the pixels are stored, "" where it does not say."""
    arguments = opened.tile[0].args if opened.tile else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _orientation(opened: "ImageFile") -> int:
    """By EXIF, as far as the header has it; Pillow gives a TIFF's size upright."""
    # In a PNG it may stand behind the pixels.
    if opened.format == "TIFF" or (opened.format == "PNG" and "exif" not in opened.info):
        return 1
    found = opened.getexif().get(ORIENTATION, 1)
    return found if isinstance(found, int) else 1


def _damaged(path: Path, error: Exception) -> Unreadable:
    return Unreadable(path, f"damaged, cannot be read ({first_line(error)}); give an intact copy")
