"""Files as images of one size, each decoded once and kept: every encoder of a sweep reads the same bytes.

A decoded image is a row of the cache under the SHA-256 of its file and the rule of decoding, so that it is
found whatever the file is called, and an interrupted decoding goes on after its last whole shard
(`cache.shards`). Files that cannot be decoded are remembered with their reason.
"""

import hashlib
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.cache.entry import DISK_FULL_ERRNOS
from medretrieval.cache.shards import RowKind, Shards, as_bytes, write_header
from medretrieval.cache.store import Cache
from medretrieval.datasets.files.file_hashes import Unhashed, hash_files
from medretrieval.errors import UserError
from medretrieval.images.decode import Decoding, decode
from medretrieval.images.readers.source import Unreadable

log = logging.getLogger(__name__)
KIND = "decoded"  # in the cache
SHARD_BYTES = 2**26  # of decoded images that are held in memory at a time
MIN_SHARD_FILES, MAX_SHARD_FILES = 16, 512
MANY_FILES = 10_000  # from which on it is said why embedding waits


@dataclass(frozen=True)
class FilesToDecode:
    """The files of one split.

    Attributes:
        name: of the split, for the progress bar.
        root: the folder of the dataset.
        files: paths, the same one several times where its frames are images.
        frames: int64 [n], which frame of its file an image is; None where a file is one image.
    """

    name: str
    root: Path
    files: Sequence[Path]
    frames: NDArray[np.int64] | None


@dataclass(frozen=True)
class Decoded:
    """Files as images.

    Attributes:
        images: uint8 [m, size, size] or [m, size, size, 3], memory-mapped: those that can be read.
        readable: bool [n], of the files in their order.
        reasons: position -> why the file there cannot be read.
        sha256: hexadecimal digest of each file, "" where its bytes cannot be read.
    """

    images: NDArray[np.uint8]
    readable: NDArray[np.bool_]
    reasons: Mapping[int, str]
    sha256: Sequence[str]


def decoded(wanted: FilesToDecode, decoding: Decoding, cache: Cache) -> Decoded:
    """Decode files, or take what the cache has of them.

    Args:
        wanted: the files.
        decoding: the rule.
        cache: where decoded images are kept.

    Raises:
        UserError: the cache cannot be written or is full.
    """
    n = len(wanted.files)
    hashes = hash_files(wanted.files, wanted.root, cache.root, f"look at {wanted.name} files")
    reasons = {i: str(found) for i, found in enumerate(hashes) if isinstance(found, Unhashed)}
    there = np.array([i for i in range(n) if i not in reasons], dtype=np.int64)
    sha256 = ["" if isinstance(found, Unhashed) else found.hex() for found in hashes]
    if not len(there):
        return Decoded(_no_images(decoding), np.zeros(n, np.bool_), reasons, sha256)
    digests = _digests(
        [hashes[i] for i in there], wanted.frames if wanted.frames is None else wanted.frames[there]
    )
    images, failed = _kept(wanted, there, digests, decoding, cache)
    reasons |= {int(i): failed[d.hex()] for i, d in zip(there, digests, strict=True) if d.hex() in failed}
    readable = np.ones(n, np.bool_)
    readable[list(reasons)] = False
    return Decoded(images, readable, dict(sorted(reasons.items())), sha256)


def _no_images(decoding: Decoding) -> NDArray[np.uint8]:
    return np.zeros((0, *_row_shape(decoding)), np.uint8)


def _row_shape(decoding: Decoding) -> tuple[int, ...]:
    return (decoding.size, decoding.size) + (() if decoding.channels == 1 else (3,))


def _digests(hashes: Sequence[Any], frames: NDArray[np.int64] | None) -> list[bytes]:
    """What each image is made of: its file, and the frame of it where a file has several images."""
    if frames is None:
        return list(hashes)
    return [
        hashlib.sha256(digest + frame.to_bytes(8, "little")).digest()
        for digest, frame in zip(hashes, frames.tolist(), strict=True)
    ]


def _kept(
    wanted: FilesToDecode, there: NDArray[np.int64], digests: list[bytes], decoding: Decoding, cache: Cache
) -> tuple[NDArray[np.uint8], Mapping[str, str]]:
    """Images of the readable files among `there`, in their order, and digest -> reason of the others."""
    kind = RowKind("decoding", decoding.key(), "files", "images.npy", "|u1")
    parts = {
        "decoding": dict(kind.made_by),
        "files_sha256": hashlib.sha256(b"".join(digests)).hexdigest(),
    }
    place = cache.place(KIND, parts, kind.group)
    work: _Work | None = None

    def before() -> None:
        nonlocal work
        rows = as_bytes(np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), -1))
        shards = Shards(rows, kind, place)
        work = _Work(wanted, there, digests, decoding, shards)
        work.decode()

    def assemble(partial: Path) -> Mapping[str, Any]:
        assert work is not None
        if work.shards.row_shape is None:  # nothing can be read
            work.shards.row_shape = _row_shape(decoding)
        return work.shards.assemble(partial) | {"unreadable": work.failed, "files_per_s": work.files_per_s}

    try:
        entry = cache.get_or_make(KIND, parts, assemble, group=kind.group, before=before)
    except OSError as error:
        if error.errno not in DISK_FULL_ERRNOS:
            raise
        where = error.filename or f"paths.cache={cache.root}"
        raise UserError(
            f"{where}: {error.strerror}; what is decoded so far is kept; free some space (medretrieval cache "
            "prune --keep-gb N) or set paths.cache to a folder with more, and run the same command again"
        ) from error
    if work is not None:
        work.shards.remove()
    return kind.load(entry.folder), entry.facts["unreadable"]


class _Work:
    """A split that is being decoded."""

    def __init__(
        self,
        wanted: FilesToDecode,
        there: NDArray[np.int64],
        digests: Sequence[bytes],
        decoding: Decoding,
        shards: Shards,
    ) -> None:
        self.wanted, self.there, self.digests = wanted, there, digests
        self.decoding, self.shards = decoding, shards
        self.failed: dict[str, str] = {}
        self.files_per_s = 0.0

    def decode(self) -> None:
        """Decode what is missing, shard by shard."""
        from tqdm import tqdm

        missing, start = len(self.shards.missing), time.perf_counter()
        if missing > MANY_FILES:
            log.info(
                "%d files are decoded before the first is embedded, because one that cannot be read would "
                "stop the run, and which images there are is part of every key; this is done once for all "
                "encoders, and goes on where it stopped",
                missing,
            )
        row_bytes = math.prod(_row_shape(self.decoding))
        size = min(MAX_SHARD_FILES, max(MIN_SHARD_FILES, SHARD_BYTES // row_bytes))
        said = f"decode {self.wanted.name} files"
        total, done = len(self.shards.first), self.shards.done
        with (
            tqdm(total=total, initial=done, unit="file", desc=said, leave=False, disable=None) as bar,
            ThreadPoolExecutor(os.cpu_count() or 1, "decode") as pool,
        ):
            for positions in self.shards.cut(size, least=size):
                self._shard(positions, pool, bar)
        if missing:
            self.files_per_s = missing / (time.perf_counter() - start)

    def _shard(self, positions: NDArray[np.int64], pool: ThreadPoolExecutor, bar: Any) -> None:
        waiting = [pool.submit(self._one, int(position)) for position in positions]
        good, images = [], []
        try:
            for position, future in zip(positions, waiting, strict=True):
                found = future.result()
                if isinstance(found, str):
                    self.failed[self.digests[position].hex()] = found
                else:
                    good.append(position)
                    images.append(found)
                bar.update(1)
        finally:
            for future in waiting:
                future.cancel()
        if good:
            self.shards.add(np.array(good), lambda path: self._write(path, images))

    def _one(self, position: int) -> NDArray[np.uint8] | str:
        """The image at a position among the digests, or why there is none."""
        row = int(self.there[position])
        frame = None if self.wanted.frames is None else int(self.wanted.frames[row])
        try:
            return decode(self.wanted.files[row], self.decoding, frame)
        except Unreadable as error:
            return error.reason

    def _write(self, path: Path, images: Sequence[NDArray[np.uint8]]) -> Mapping[str, Any]:
        shape = (len(images), *_row_shape(self.decoding))
        with path.open("wb") as file:
            write_header(file, shape, "|u1")
            for image in images:
                file.write(image.tobytes())
        return {"shape": list(shape)}
