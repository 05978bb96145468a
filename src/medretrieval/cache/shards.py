"""Rows of an array by the SHA-256 of what each is made of: embeddings of images, decoded images of files.

All rows of one maker (an encoder, a rule of decoding) are in one folder. There a split is an entry `<key>/`,
and while it is being made its shards are entries in `<key>.shards/`. Both hold the rows and the digest of
what each is made of, so both are sources for any other split. What no source has, in the order of its first
occurrence, is cut into shards of a fixed size: an interrupted split goes on with the same shards, and ends
with the same bytes. When the split is assembled its shards are removed, so that a row is on the disk once a
split. A split that is found damaged is set aside and made again.
"""

import contextlib
import hashlib
import logging
import math
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

MIN_SHARD_ROWS = 512  # at least: what a kill costs, half a minute where an encoder makes 20 images/s
ASSEMBLED_BYTES = 2**24  # of a split that is put together: held in memory at a time
Rows = NDArray[Any]


@dataclass(frozen=True)
class RowKind:
    """What a folder of rows holds.

    Attributes:
        maker: what makes them, the key under which `made_by` stands in entries: "encoder", "decoding".
        made_by: what determines a row beside what it is made of, as JSON values.
        made_of: what has a digest: "images", "files"; the name of the file of digests too.
        file: the name of the file of rows.
        dtype: of the rows, as NumPy writes it: "<f4", "|u1".
    """

    maker: str
    made_by: Mapping[str, Any]
    made_of: str
    file: str
    dtype: str

    @property
    def digests_file(self) -> str:
        """The file of digests, uint8 [n, 32]."""
        return f"{self.made_of}.npy"

    @property
    def group(self) -> str:
        """The folder of all rows of this maker in the cache."""
        return content_key({self.maker: dict(self.made_by)})[:16]

    def load(self, folder: Path) -> Rows:
        """The rows of an entry, [n, ...], memory-mapped and read-only."""
        # A plain view: after an import of faiss.contrib.torch_utils FAISS takes no np.memmap.
        return np.load(folder / self.file, mmap_mode="r", allow_pickle=False).view(np.ndarray)


@dataclass(frozen=True)
class Source:
    """An entry that has some of the rows.

    Attributes:
        folder: of the entry.
        rows: [n, ...], memory-mapped.
        facts: what was said of them when they were made.
    """

    folder: Path
    rows: Rows
    facts: Mapping[str, Any]


class Shards:
    """Which of a split's rows are there, and where.

    Args:
        digests: of what each row of the split is made of, S32 [n].
        kind: of the rows.
        place: of the split's entry, in the folder of the maker's rows.
        look_only: leave damaged shards where they are, for who only wants to know what is missing.

    Attributes:
        first: position in the split of each different digest, int64 [u].
        row_shape: of the rows found so far, None where there are none.
    """

    def __init__(
        self,
        digests: NDArray[np.bytes_],
        kind: RowKind,
        place: Path,
        *,
        look_only: bool = False,
    ) -> None:
        self.folder = place.with_name(place.name + SHARDS_SUFFIX)
        self.row_shape: tuple[int, ...] | None = None
        self._place = place
        self._kind = kind
        self._sources: list[Source] = []
        # Sorted, for searching; `_inverse` leads from a row of the split to its digest.
        self._wanted, self.first, self._inverse = np.unique(digests, return_index=True, return_inverse=True)
        self._source = np.full(len(self._wanted), -1)
        self._row = np.zeros(len(self._wanted), np.int64)
        self._find_own(look_only)
        self._find_others()

    @property
    def missing(self) -> NDArray[np.int64]:
        """Positions in the split of the rows that are not there, each digest once (int64 [m], ascending)."""
        return np.sort(self.first[self._source < 0])

    @property
    def done(self) -> int:
        """How many different rows are there."""
        return int((self._source >= 0).sum())

    @property
    def sources(self) -> list[Source]:
        """The entries that have rows of this split."""
        return self._sources

    def cut(self, batch_size: int, least: int | None = None) -> Iterator[NDArray[np.int64]]:
        """The positions of each missing shard: whole batches, at least `least` rows (MIN_SHARD_ROWS)."""
        size = -(-(MIN_SHARD_ROWS if least is None else least) // batch_size) * batch_size
        missing = self.missing
        for begin in range(0, len(missing), size):
            yield missing[begin : begin + size]

    def add(self, positions: NDArray[np.int64], make: Callable[[Path], Mapping[str, Any]]) -> None:
        """Write a shard.

        Args:
            positions: of its rows in the split.
            make: writes them to the path it is handed and returns facts about them.

        Raises:
            OSError: the disk is full.
        """
        digests = self._wanted[self._inverse[positions]]
        raw, kind = _as_rows(digests), self._kind

        def fill(partial: Path) -> Mapping[str, Any]:
            facts = make(partial / kind.file)
            save_rows(partial / kind.digests_file, raw)
            return facts

        of = hashlib.sha256(raw.data).hexdigest()
        parts = {kind.maker: dict(kind.made_by), f"{kind.made_of}_sha256": of}
        folder = self.folder / content_key(parts)
        entry.make_folder(self.folder)
        facts = entry.write(folder, parts, fill)
        self._use(folder, digests, kind.load(folder), facts)

    def assemble(self, folder: Path) -> dict[str, Any]:
        """Write the rows of the split that are there, and their digests, into a folder.

        Returns:
            shape.
        """
        there = self._inverse[self._source[self._inverse] >= 0]
        shape = (len(there), *(self.row_shape or ()))
        step = max(1, ASSEMBLED_BYTES // max(1, math.prod(shape[1:]) * np.dtype(self._kind.dtype).itemsize))
        with (folder / self._kind.file).open("wb") as file:
            write_header(file, shape, self._kind.dtype)
            for begin in range(0, len(there), step):
                file.write(self._gather(there[begin : begin + step]).tobytes())
        save_rows(folder / self._kind.digests_file, _as_rows(self._wanted[there]))
        return {"shape": list(shape)}

    def remove(self) -> None:
        """Remove the split's shards, once it is in its place."""
        if self.folder.is_dir():
            with contextlib.suppress(OSError):  # what is left, pruning removes
                entry.remove(self.folder, self._place)

    def _gather(self, numbers: NDArray[np.int64]) -> Rows:
        gathered = np.empty((len(numbers), *(self.row_shape or ())), self._kind.dtype)
        sources, rows = self._source[numbers], self._row[numbers]
        for source in np.unique(sources):
            of_it = sources == source
            gathered[of_it] = self._sources[source].rows[rows[of_it]]
        return gathered

    def _find_own(self, look_only: bool) -> None:
        for folder in _entries(self.folder):
            try:
                facts = entry.read(folder)["facts"]
            except entry.Damaged as damage:
                if not look_only:
                    log.warning("%s: %s is damaged; set aside and made again", folder, damage.file)
                    entry.set_aside(folder, self._place)
                continue
            self._use(folder, self._saved_digests(folder), self._kind.load(folder), facts)

    def _find_others(self) -> None:
        """Other splits, and shards of other unfinished ones, which may be pruned or removed at any time."""
        splits = [folder for folder in _entries(self._place.parent) if folder != self._place]
        unfinished = sorted(f for f in self._place.parent.glob(f"*{SHARDS_SUFFIX}") if f != self.folder)
        for folder in (*splits, *(shard for parent in unfinished for shard in _entries(parent))):
            if not (self._source < 0).any():
                return
            with contextlib.suppress(OSError):  # gone meanwhile, or not for us to read
                try:
                    entry.read(folder, files=(self._kind.digests_file,))
                    digests = self._saved_digests(folder)
                    if self._needed(digests)[0].any():
                        facts = entry.read(folder)["facts"]
                        self._use(folder, digests, self._kind.load(folder), facts)
                except entry.Damaged as damage:
                    if folder.exists():
                        log.warning("%s: %s is damaged; nothing is taken from it", folder, damage.file)

    def _needed(self, digests: NDArray[np.bytes_]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Which of some digests lack a row here, and their numbers among the wanted."""
        numbers = np.minimum(np.searchsorted(self._wanted, digests), len(self._wanted) - 1)
        return (self._wanted[numbers] == digests) & (self._source[numbers] < 0), numbers

    def _use(
        self,
        folder: Path,
        digests: NDArray[np.bytes_],
        rows: Rows,
        facts: Mapping[str, Any],
    ) -> None:
        needed, numbers = self._needed(digests)
        if needed.any() and self.row_shape in (None, rows.shape[1:]):
            self.row_shape = rows.shape[1:]
            self._source[numbers[needed]] = len(self._sources)
            self._row[numbers[needed]] = np.flatnonzero(needed)
            self._sources.append(Source(folder, rows, facts))

    def _saved_digests(self, folder: Path) -> NDArray[np.bytes_]:
        return as_bytes(np.load(folder / self._kind.digests_file, allow_pickle=False))


def write_header(file: Any, shape: tuple[int, ...], kind: str = "<f4") -> None:
    """The head of a .npy file of rows [n, ...], which then follow as plain bytes."""
    write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})


def save_rows(path: Path, digests: NDArray[np.uint8]) -> None:
    """Save digests, uint8 [n, 32]."""
    with path.open("wb") as file:
        write_header(file, digests.shape, "|u1")
        # Not np.save, whose error on a full disk does not say that it is one.
        file.write(digests.tobytes())


def as_bytes(digests: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """Digests uint8 [n, 32] as S32 [n], which NumPy sorts and compares."""
    return np.ascontiguousarray(digests).view(f"S{digests.shape[1]}")[:, 0]


def _as_rows(digests: NDArray[np.bytes_]) -> NDArray[np.uint8]:
    return np.frombuffer(digests.tobytes(), np.uint8).reshape(len(digests), digests.itemsize)


def _entries(folder: Path) -> list[Path]:
    """The entries in a folder, not what is half-written or damaged."""
    return sorted(p for p in folder.glob("*") if "." not in p.name and p.is_dir())
