"""A picture from a file as an encoder takes it: uint8, one or three channels, of the dataset's size.

The gallery's vectors were made from images of size x size, so a query is brought to that size and those
channels first: what the encoder is asked is then of one kind with what it is compared to.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medretrieval.errors import UserError, first_line
from medretrieval.images import dicom
from medretrieval.images.rescale import to_8_bits

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 80_000_000  # of a picture; as RGB that is 240 MB
MODES_BEYOND_8_BITS = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")  # of Pillow, one channel
MODES_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")  # its modes with an alpha channel
GRAY_MODES = ("1", "L", "LA", "La")


@dataclass(frozen=True)
class Picture:
    """A picture as its file has it, in 8 bits.

    Attributes:
        pixels: uint8 [height, width] (gray) or [height, width, 3] (RGB), upright.
        remarks: what was done to it that its owner should know.
    """

    pixels: NDArray[np.uint8]
    remarks: tuple[str, ...] = ()


def read(path: Path) -> Picture:
    """Read a picture: what Pillow opens (PNG, JPEG, TIFF, BMP, WebP, GIF, ...), or DICOM.

    EXIF orientation is honored, transparency laid on black (the background of radiographs), CMYK and
    palettes become RGB, the first of several frames is taken. One channel of more than 8 bits goes from
    its least to its greatest value onto 0 to 255, for a 16-bit file does not say which of its values mean
    something. DICOM: see `dicom.read`.

    Raises:
        UserError: no such file, no picture, damaged, or of more than MAX_PIXELS pixels.
    """
    if not path.exists():
        raise UserError(f"image={path}: there is no such file")
    try:
        if dicom.is_dicom(path):
            return Picture(*dicom.read(path, MAX_PIXELS))
        return _read(path)
    except OSError as error:
        if error.strerror is None:  # Pillow's own
            raise _damaged(path, error) from error
        raise UserError(f"image={path}: cannot be read ({error.strerror})") from error


def is_picture(path: Path) -> bool:
    """Whether a file begins as a picture does; the rest of it may be damaged.

    Raises:
        UserError: the file may not be read.
    """
    from PIL import Image

    try:
        if dicom.is_dicom(path):
            return dicom.has_picture(path)
        with _quiet(), Image.open(path):
            return True
    except PermissionError as error:
        raise UserError(f"image={path}: cannot be read ({error.strerror})") from error
    except Image.DecompressionBombError:
        return True
    except Exception:  # what is no picture makes the readers raise anything
        return False


def pictures_in(folder: Path) -> tuple[list[Path], int]:
    """The pictures of a folder by name, folders in it left alone, and how many other files it has.

    Raises:
        UserError: it cannot be read, or holds no picture.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise UserError(f"image={folder}: cannot be read ({error.strerror})") from error
    pictures = [path for path in files if is_picture(path)]
    if not pictures:
        what = f"none of its {len(files)} files is a picture" if files else "it has no files"
        raise UserError(f"image={folder}: {what}; give a picture, or a folder of pictures")
    return pictures, len(files) - len(pictures)


def _read(path: Path) -> Picture:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with _quiet(), Image.open(path) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise _too_large(path, opened.width, opened.height)
            remarks = ["the first of its frames"] if getattr(opened, "n_frames", 1) > 1 else []
            opened.seek(0)
            opened.load()
            picture = ImageOps.exif_transpose(opened)
    except UnidentifiedImageError as error:
        raise UserError(
            f"image={path}: not a picture; give PNG, JPEG, TIFF, BMP, WebP, GIF or DICOM"
        ) from error
    except Image.DecompressionBombError as error:
        raise UserError(
            f"image={path}: more than {MAX_PIXELS // 10**6} megapixels; make it smaller first"
        ) from error
    except (UserError, OSError):
        raise
    except Exception as error:  # damaged files make the decoders raise anything
        raise _damaged(path, error) from error
    if picture.mode in MODES_BEYOND_8_BITS:
        return _narrowed(path, np.asarray(picture), remarks)
    if picture.mode in MODES_WITH_ALPHA or "transparency" in picture.info:
        picture = _on_black(picture, remarks)
    return Picture(np.array(picture.convert("L" if picture.mode in GRAY_MODES else "RGB")), tuple(remarks))


def _narrowed(path: Path, values: NDArray[np.generic], remarks: list[str]) -> Picture:
    if not np.isfinite(values).all():
        raise UserError(f"image={path}: holds values that are not numbers (NaN or infinite)")
    low, high = float(values.min()), float(values.max())
    return Picture(to_8_bits(values, low, high), (*remarks, f"its values {low:g} to {high:g} as 0 to 255"))


def _on_black(picture: "Image", remarks: list[str]) -> "Image":
    from PIL import Image

    gray = picture.mode in GRAY_MODES
    picture = picture.convert("RGBA")
    if picture.getchannel("A").getextrema() == (255, 255):
        return picture.convert("L" if gray else "RGB")
    remarks.append("its transparent parts laid on black")
    black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, picture).convert("L" if gray else "RGB")


def _quiet() -> "warnings.catch_warnings[None]":
    """Without Pillow's warning of large pictures: they are refused, or below our limit."""
    return warnings.catch_warnings(action="ignore")


def _too_large(path: Path, width: int, height: int) -> UserError:
    return UserError(
        f"image={path}: {width} x {height} pixels; at most {MAX_PIXELS // 10**6} megapixels are read, make "
        "it smaller first"
    )


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"image={path}: damaged, cannot be read ({first_line(error)}); give an intact copy")
