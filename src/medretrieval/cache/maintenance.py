"""What is in a cache, whether it is whole, and making room: on the files alone, without what made them."""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medretrieval.cache import entry
from medretrieval.cache.entry import SHARDS_SUFFIX, TRAINING_SUFFIX
from medretrieval.cache.lock import LOCK_SUFFIX, OWNER_SUFFIX, locked_if_free

HASH_MEMORIES = "file_hashes"  # the folder of what is remembered of files
NAME = re.compile(r"(?P<key>[0-9a-f]{64})(?P<suffix>\..+)?")


@dataclass(frozen=True)
class Kept:
    """Something in the cache; what does not have a name that the cache gives is none of it.

    Attributes:
        kind: what `get_or_make` was asked for: "embeddings", "indexes", "audits", ...
        path: a folder, or the file of a lock.
        place: of the entry it belongs to, whose lock guards it.
        leftover: no run will use it.
        size: bytes.
        used: seconds since 1970 when it was last used.
    """

    kind: str
    path: Path
    place: Path
    leftover: bool
    size: int
    used: float

    @property
    def unfinished(self) -> bool:
        """Whether it holds the shards of a split that is not whole yet."""
        return self.path.suffix == SHARDS_SUFFIX and not self.leftover

    @property
    def outdated(self) -> bool:
        """Whether an older version made it, under a key that no run asks for."""
        return not (self.path / entry.CHECKSUMS_FILE).exists() and "files" in about(self.path)

    @property
    def entries(self) -> list[Path]:
        """The folders with checksums in it: itself, or its shards."""
        if not self.unfinished:
            return [self.path]
        return sorted(p for p in self.path.iterdir() if NAME.fullmatch(p.name) and not p.suffix)


@dataclass(frozen=True)
class Pruned:
    """What pruning did, or would do.

    Attributes:
        removed: what went.
        size: bytes that are left.
        in_use: entries that stayed because another process holds their lock.
    """

    removed: tuple[Kept, ...]
    size: int
    in_use: int

    @property
    def freed(self) -> int:
        """Bytes removed."""
        return sum(kept.size for kept in self.removed)


def contents(root: Path) -> list[Kept]:
    """Everything in a cache, the least recently used first."""
    kept_things = []
    for path in root.glob("*/*/*"):
        name = NAME.fullmatch(path.name)
        if name is None:
            continue
        place, suffix = path.with_name(name["key"]), name["suffix"] or ""
        known = ("", SHARDS_SUFFIX, TRAINING_SUFFIX, LOCK_SUFFIX, OWNER_SUFFIX)
        if suffix not in known and not suffix.startswith((".partial-", ".damaged-")):
            continue
        leftover = suffix not in ("", SHARDS_SUFFIX) or (suffix == SHARDS_SUFFIX and place.exists())
        size, used = _measure(path)
        kept_things.append(Kept(path.parts[-3], path, place, leftover, size, used))
    return sorted(kept_things, key=lambda kept: (kept.used, kept.path))


def hash_memories(root: Path) -> list[Path]:
    """What is remembered of the files of own datasets (`datasets.files.file_hashes`), a file for each folder.

    No entries: pruning leaves them, as they are small and cost hours to make again.
    """
    return sorted(root.glob(f"{HASH_MEMORIES}/*.npz"))


def about(folder: Path) -> Mapping[str, Any]:
    """What entry.json says, unchecked; empty where it cannot be read."""
    try:
        said = json.loads((folder / entry.ENTRY_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def damages(root: Path, report: Callable[[Path, str], None]) -> int:
    """Compare every file of every entry with its checksum.

    Args:
        root: of the cache.
        report: told the folder and the file of each damage.

    Returns:
        How many entries and shards are whole.
    """
    whole = 0
    for kept in contents(root):
        if kept.leftover or kept.outdated:
            continue
        for folder in kept.entries:
            try:
                entry.read(folder, remember=False)
                whole += 1
            except entry.Damaged as damage:
                if folder.exists():  # another process may remove it meanwhile
                    report(folder, damage.file)
    return whole


def prune(root: Path, keep: int, *, dry_run: bool = False) -> Pruned:
    """Remove leftovers, then the least recently used entries until `keep` bytes or fewer are left.

    What another process holds the lock of stays.

    Args:
        root: of the cache.
        keep: bytes that may stay.
        dry_run: remove nothing and take no lock: what is in use is not known, and counted as removed.

    Raises:
        OSError: something may not be removed.
    """
    everything = contents(root)
    size, removed, in_use = sum(kept.size for kept in everything), [], 0
    for kept in sorted(everything, key=lambda kept: not kept.leftover):
        if not kept.leftover and size <= keep:
            break
        with nullcontext(True) if dry_run else locked_if_free(kept.place) as free:
            if free:
                if not dry_run:
                    _remove(kept)
                size -= kept.size
                removed.append(kept)
            elif not kept.leftover:
                in_use += 1
    return Pruned(tuple(removed), size, in_use)


def _remove(kept: Kept) -> None:
    if kept.path.suffix in (LOCK_SUFFIX, OWNER_SUFFIX):
        return  # goes with the lock itself
    if not kept.path.exists():  # its maker was quicker
        return
    if kept.leftover and kept.path.suffix != SHARDS_SUFFIX:
        shutil.rmtree(kept.path)
    else:
        entry.remove(kept.path, kept.place)


def _measure(path: Path) -> tuple[int, float]:
    """Bytes of all files, and when the newest entry.json in it was last touched."""
    size, used = 0, 0.0
    for file in _files(path):
        try:
            stat = file.stat()
        except FileNotFoundError:  # another process works here
            continue
        size += stat.st_size
        if file.name == entry.ENTRY_FILE:
            used = max(used, stat.st_mtime)
    return size, used


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (file for file in path.rglob("*") if not file.is_dir())
    else:
        yield path
