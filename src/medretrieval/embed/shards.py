"""The vectors of images wherever the cache has them: in finished splits, in shards of unfinished ones.

All embeddings of one encoder are in one folder. There a split is an entry `<key>/`, and while it is being
embedded its shards are entries in `<key>.shards/`. Both hold the vectors and the SHA-256 of each image, so
both are sources for any other split. The images that no source has, in the order of their first occurrence,
are cut into shards of a fixed size: an interrupted split goes on with the same shards, and ends with the
same bytes. When the split is assembled its shards are removed, so that a vector is on the disk once a split.
A split that is found damaged is set aside and embedded again.
"""

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from medretrieval.cache import entry
from medretrieval.cache.entry import SHARDS_SUFFIX, content_key

log = logging.getLogger(__name__)

VECTORS = "embeddings.npy"
IMAGES = "images.npy"
MIN_SHARD_IMAGES = 512  # at least: what a kill costs, half a minute where an encoder makes 20 images/s
ASSEMBLED_IMAGES = 1024  # of a split that is put together: held in memory at a time


@dataclass(frozen=True)
class Source:
    """An entry that has some of the vectors.

    Attributes:
        folder: of the entry.
        vectors: float32 [n, d], memory-mapped.
        facts: what was said of them when they were made.
    """

    folder: Path
    vectors: NDArray[np.float32]
    facts: Mapping[str, Any]


def load(folder: Path) -> NDArray[np.float32]:
    """The vectors of an entry, float32 [n, d], memory-mapped and read-only."""
    # A plain view: after an import of faiss.contrib.torch_utils FAISS takes no np.memmap.
    return np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False).view(np.ndarray)


def image_digests(images: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """SHA-256 over shape and bytes of each image (S32 [n]; images uint8 [n, h, w] or [n, h, w, 3])."""
    start = hashlib.sha256(f"{images.dtype.str}{images.shape[1:]}".encode())
    digests = np.empty((len(images), start.digest_size), np.uint8)
    for row, image in zip(digests, images, strict=True):
        digest = start.copy()
        digest.update(np.ascontiguousarray(image).data)
        row[:] = np.frombuffer(digest.digest(), np.uint8)
    return _as_bytes(digests)


class Shards:
    """Which of a split's images have a vector, and where.

    Args:
        images: of the split, uint8 [n, h, w] or [n, h, w, 3].
        identity: of the encoder.
        place: of the split's entry, in the folder of the encoder's embeddings.
        look_only: leave damaged shards where they are, for who only wants to know what is missing.

    Attributes:
        first: position in the split of each different image, int64 [u].
        width: dimension of the vectors found so far, 0 where there are none.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        identity: Mapping[str, Any],
        place: Path,
        *,
        look_only: bool = False,
    ) -> None:
        self.folder = place.with_name(place.name + SHARDS_SUFFIX)
        self.width = 0
        self._place = place
        self._identity = identity
        self._sources: list[Source] = []
        # Sorted, for searching; `_inverse` leads from an image of the split to its digest.
        self._wanted, self.first, self._inverse = np.unique(
            image_digests(images), return_index=True, return_inverse=True
        )
        self._source = np.full(len(self._wanted), -1)
        self._row = np.zeros(len(self._wanted), np.int64)
        self._find_own(look_only)
        self._find_others()

    @property
    def missing(self) -> NDArray[np.int64]:
        """Positions in the split of the images without a vector, each image once (int64 [m], ascending)."""
        return np.sort(self.first[self._source < 0])

    @property
    def done(self) -> int:
        """How many different images have a vector."""
        return int((self._source >= 0).sum())

    @property
    def sources(self) -> list[Source]:
        """The entries that have vectors of this split."""
        return self._sources

    def cut(self, batch_size: int) -> Iterator[NDArray[np.int64]]:
        """The positions of each shard that is missing: whole batches, at least MIN_SHARD_IMAGES images."""
        size = -(-MIN_SHARD_IMAGES // batch_size) * batch_size
        missing = self.missing
        for begin in range(0, len(missing), size):
            yield missing[begin : begin + size]

    def add(self, positions: NDArray[np.int64], make: Callable[[Path], Mapping[str, Any]]) -> None:
        """Write a shard.

        Args:
            positions: of its images in the split.
            make: writes their vectors to the path it is handed and returns facts about them.

        Raises:
            OSError: the disk is full.
        """
        digests = self._wanted[self._inverse[positions]]
        raw = _as_rows(digests)

        def fill(partial: Path) -> Mapping[str, Any]:
            facts = make(partial / VECTORS)
            save_rows(partial / IMAGES, raw)
            return facts

        parts = {"encoder": dict(self._identity), "images_sha256": hashlib.sha256(raw.data).hexdigest()}
        folder = self.folder / content_key(parts)
        entry.make_folder(self.folder)
        facts = entry.write(folder, parts, fill)
        self._use(folder, digests, load(folder), facts)

    def assemble(self, folder: Path) -> dict[str, Any]:
        """Write the vectors of the split and the digests of its images into a folder.

        Returns:
            shape.
        """
        n = len(self._inverse)
        with (folder / VECTORS).open("wb") as file:
            write_header(file, (n, self.width))
            for begin in range(0, n, ASSEMBLED_IMAGES):
                file.write(self._gather(self._inverse[begin : begin + ASSEMBLED_IMAGES]).tobytes())
        save_rows(folder / IMAGES, _as_rows(self._wanted[self._inverse]))
        return {"shape": [n, self.width]}

    def remove(self) -> None:
        """Remove the split's shards, once it is in its place."""
        if self.folder.is_dir():
            with contextlib.suppress(OSError):  # what is left, pruning removes
                entry.remove(self.folder, self._place)

    def _gather(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        vectors = np.empty((len(numbers), self.width), "<f4")
        sources, rows = self._source[numbers], self._row[numbers]
        for source in np.unique(sources):
            of_it = sources == source
            vectors[of_it] = self._sources[source].vectors[rows[of_it]]
        return vectors

    def _find_own(self, look_only: bool) -> None:
        for folder in _entries(self.folder):
            try:
                facts = entry.read(folder)["facts"]
            except entry.Damaged as damage:
                if not look_only:
                    log.warning("%s: %s is damaged; set aside and made again", folder, damage.file)
                    entry.set_aside(folder, self._place)
                continue
            self._use(folder, _saved_digests(folder), load(folder), facts)

    def _find_others(self) -> None:
        """Other splits, and shards of other unfinished ones, which may be pruned or removed at any time."""
        splits = [folder for folder in _entries(self._place.parent) if folder != self._place]
        unfinished = sorted(f for f in self._place.parent.glob(f"*{SHARDS_SUFFIX}") if f != self.folder)
        for folder in (*splits, *(shard for parent in unfinished for shard in _entries(parent))):
            if not (self._source < 0).any():
                return
            with contextlib.suppress(OSError):  # gone meanwhile, or not for us to read
                try:
                    entry.read(folder, files=(IMAGES,))
                    digests = _saved_digests(folder)
                    if self._needed(digests)[0].any():
                        facts = entry.read(folder)["facts"]
                        self._use(folder, digests, load(folder), facts)
                except entry.Damaged as damage:
                    if folder.exists():
                        log.warning("%s: %s is damaged; nothing is taken from it", folder, damage.file)

    def _needed(self, digests: NDArray[np.bytes_]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Which of some digests lack a vector here, and their numbers among the wanted."""
        numbers = np.minimum(np.searchsorted(self._wanted, digests), len(self._wanted) - 1)
        return (self._wanted[numbers] == digests) & (self._source[numbers] < 0), numbers

    def _use(
        self,
        folder: Path,
        digests: NDArray[np.bytes_],
        vectors: NDArray[np.float32],
        facts: Mapping[str, Any],
    ) -> None:
        needed, numbers = self._needed(digests)
        if needed.any() and self.width in (0, vectors.shape[1]):
            self.width = vectors.shape[1]
            self._source[numbers[needed]] = len(self._sources)
            self._row[numbers[needed]] = np.flatnonzero(needed)
            self._sources.append(Source(folder, vectors, facts))


def write_header(file: Any, shape: tuple[int, int], kind: str = "<f4") -> None:
    """The head of a .npy file of rows [n, d], which then follow as plain bytes."""
    write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})


def save_rows(path: Path, digests: NDArray[np.uint8]) -> None:
    """Save digests, uint8 [n, 32]."""
    with path.open("wb") as file:
        write_header(file, digests.shape, "|u1")
        # Not np.save, whose error on a full disk does not say that it is one.
        file.write(digests.tobytes())


def _as_bytes(digests: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """Digests uint8 [n, 32] as S32 [n], which NumPy sorts and compares."""
    return np.ascontiguousarray(digests).view(f"S{digests.shape[1]}")[:, 0]


def _as_rows(digests: NDArray[np.bytes_]) -> NDArray[np.uint8]:
    return np.frombuffer(digests.tobytes(), np.uint8).reshape(len(digests), -1)


def _saved_digests(folder: Path) -> NDArray[np.bytes_]:
    return _as_bytes(np.load(folder / IMAGES, allow_pickle=False))


def _entries(folder: Path) -> list[Path]:
    """The entries in a folder, not what is half-written or damaged."""
    return sorted(p for p in folder.glob("*") if "." not in p.name and p.is_dir())
