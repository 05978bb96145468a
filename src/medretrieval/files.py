"""Files that are put in place whole or not at all, and the hash of one."""

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def put_in_place(path: Path) -> Iterator[Path]:
    """Write a file in one step: at any moment a reader finds what was there before, or the whole new one.

    Args:
        path: of the file, in a folder that is there.

    Yields:
        A path beside it to write to. Where the block ends well, the file is flushed to the disk and takes
        its place; where it raises, nothing is left.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield aside
        flush(aside)
        aside.replace(path)
        flush(path.parent)
    finally:
        with contextlib.suppress(OSError):  # one that stops the write is raised already
            aside.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have the disk hold a file, or a folder's names, before what depends on it is written."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that flush no folders
            raise
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
