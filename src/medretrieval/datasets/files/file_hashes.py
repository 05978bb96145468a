"""SHA-256 of many files, remembered by what the file system says of each: inode, size and times.

What is remembered names no file: a path may name a patient.
"""

import contextlib
import hashlib
import os
import stat
import time
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medretrieval.cache.entry import SETTLED_AGE_S, make_folder
from medretrieval.cache.maintenance import HASH_MEMORIES
from medretrieval.files import put_in_place

MAX_THREADS = 8  # that read files: more help no disk


class State(NamedTuple):
    """What changes where the bytes of a file do."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


class Unhashed(Exception):  # noqa: N818  # says what the file is
    """A file whose bytes cannot be read; its message is the reason."""


def hash_files(files: Sequence[Path], root: Path, cache: Path, said: str) -> list[bytes | Unhashed]:
    """The SHA-256 of each file, or why there is none.

    A file that was hashed before and whose inode, size and times are as they were is not read again.

    Args:
        files: paths.
        root: the folder the files belong to; each has a memory of its own.
        cache: the folder of the cache.
        said: what the progress bar says.

    Returns:
        32 bytes each, or the reason.
    """
    from tqdm import tqdm

    place = cache / HASH_MEMORIES / f"{hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:16]}.npz"
    known, begin = _remembered(place), time.time_ns()
    fresh: dict[State, bytes] = {}

    def one(path: Path) -> bytes | Unhashed:
        try:
            state = _state(path)
            digest = known.get(state) or fresh.get(state)
            if digest is None:
                digest = _sha256(path)
                if _state(path) == state and state.modified_ns < begin - SETTLED_AGE_S * 1e9:
                    fresh[state] = digest
            return digest
        except Unhashed as error:
            return error
        except OSError as error:
            return Unhashed((error.strerror or str(error)).lower())

    try:
        with (
            ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool,
            tqdm(pool.map(one, files), total=len(files), unit="file", desc=said, leave=False, disable=None)
            as bar,
        ):  # fmt: skip
            return list(bar)
    finally:
        if fresh:
            _remember(place, known | fresh)


def _state(path: Path) -> State:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # a FIFO would block whoever opens it
        raise Unhashed("not a file but a folder, pipe or device")
    return State(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _remembered(place: Path) -> dict[State, bytes]:
    """What earlier runs hashed; nothing where that cannot be read."""
    try:
        with np.load(place, allow_pickle=False) as npz:
            states, digests = npz["states"], npz["digests"]
        return {State(*row): bytes(d) for row, d in zip(states.tolist(), digests, strict=True)}
    except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile):
        return {}


def _remember(place: Path, known: dict[State, bytes]) -> None:
    states = np.array(list(known), np.int64)
    digests: NDArray[np.uint8] = np.frombuffer(b"".join(known.values()), np.uint8).reshape(len(known), -1)
    with contextlib.suppress(OSError):  # a cache that is full or read-only costs the next run the time again
        make_folder(place.parent)
        with put_in_place(place) as aside, aside.open("wb") as file:
            np.savez(file, states=states, digests=digests, allow_pickle=False)
