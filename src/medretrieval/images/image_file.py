"""A file as an image: which reader opens it, and single pictures as questions to a finished run.

The gallery's vectors were made from images of size x size, so a query is brought to that size and those
channels: what the encoder is asked is then of one kind with what it is compared to.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medretrieval.errors import UserError
from medretrieval.images.readers import dicom, nifti, raster
from medretrieval.images.readers.source import (
    Frame,
    NoImage,
    Source,
    Unreadable,
    check_file,
    quiet,
    unopened,
)

SUFFIXES = (*raster.SUFFIXES, *dicom.SUFFIXES, *nifti.SUFFIXES)


def is_supported(path: Path) -> bool:
    """Whether a file of a tree is taken as an image: by its suffix, or by DICOM's mark at byte 128.

    A file that says so by its name and is none is taken, for whoever reads it is told why it is left out.

    Raises:
        OSError: a file without a known suffix may not be read.
    """
    name = path.name.lower()
    if name.startswith("."):  # "._a.png" is what macOS leaves behind
        return False
    if name.endswith(SUFFIXES):
        return True
    if not path.is_file():  # a FIFO would wait for ever
        return False
    with path.open("rb") as file:
        return dicom.has_mark(file)


@contextmanager
def opened(path: Path, header_only: bool = False) -> Iterator[Source]:
    """Open a file with the reader of its kind; no pixel is decoded yet.

    Told by its bytes and not by its name, but for the suffixes .dcm, .dicom, .nii and .nii.gz.

    Args:
        path: the file.
        header_only: no frame will be asked for, so that pixels need not be read from the disk.

    Raises:
        Unreadable: no regular file, not permitted, no image, damaged, or larger than MAX_PIXELS.
    """
    size_bytes = check_file(path)
    try:
        with path.open("rb") as file, quiet():
            start = file.read(dicom.MARK_END)
            file.seek(0)
            source: Source
            if nifti.is_nifti(path):
                source = nifti.Volume(path, file)
            elif dicom.is_dicom(path, start):
                source = dicom.DicomFile(path, file, size_bytes, header_only)
            else:
                source = raster.Raster(path, file, size_bytes)
            try:
                yield source
            finally:
                source.close()
    except OSError as error:
        raise unopened(path, error) from error


def read(path: Path) -> Frame:
    """Read a picture: the first frame of a file of any kind, as it is, with what was done to it.

    Raises:
        UserError: no such file, no picture, damaged, or of more than MAX_PIXELS pixels.
    """
    try:
        with opened(path) as source:
            frames = source.peek.frames
            first = (f"the first of its {frames} frames",) if frames > 1 else ()
            found = source.frame(0)
    except Unreadable as error:
        raise UserError(f"image={path}: {error.reason}") from error
    return Frame(found.pixels, (*first, *found.remarks))


def is_picture(path: Path) -> bool:
    """Whether a file begins as a picture does; the rest of it may be damaged.

    Raises:
        UserError: the file may not be read.
    """
    try:
        with opened(path, header_only=True):
            return True
    except NoImage:
        return False
    except Unreadable as error:
        if isinstance(error.__cause__, PermissionError):
            raise UserError(f"image={path}: {error.reason}") from error
        return True  # `read` says what is wrong with it


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
