"""An entry of the cache: a folder written whole or not at all, that says what made it and notices damage.

Beside its files an entry holds `entry.json`, what made it in words, and `checksums.json`, the size and
SHA-256 of every other file. It is filled under another name, flushed to the disk, and renamed into place.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medretrieval.files import file_sha256, flush

FORMAT_VERSION = 2  # raised when the same key would name other bytes
ENTRY_FILE = "entry.json"
CHECKSUMS_FILE = "checksums.json"
SHARDS_SUFFIX = ".shards"
TRAINING_SUFFIX = ".training"  # the state of a training that is not finished
DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # may come amid the work
SETTLED_AGE_S = (
    1.0  # younger files are hashed again: a change within a clock tick leaves the same time behind
)

# path -> (its state when it was hashed, SHA-256): a sweep in one process hashes each file once.
_hashed: dict[Path, tuple[tuple[int, ...], str]] = {}


class Damaged(Exception):  # noqa: N818  # says what the entry is
    """A file of an entry is missing or not what was written.

    Attributes:
        file: its name.
    """

    def __init__(self, file: str) -> None:
        super().__init__(f"{file} is damaged")
        self.file = file


def content_key(parts: Mapping[str, Any]) -> str:
    """SHA-256 over everything that determines an entry's bytes, the cache's own format among it.

    Raises:
        ValueError: a part is named "format", which is the cache's own.
    """
    if "format" in parts:
        raise ValueError('a part of a key cannot be named "format": that is the format of the cache')
    return canonical_sha256({"format": FORMAT_VERSION, **parts})


def canonical_sha256(value: Mapping[str, Any]) -> str:
    """SHA-256 over canonical JSON: the order of keys and the kind of sequence make no difference."""
    # Through JSON first: numbers as keys become strings, which sort otherwise.
    text = json.dumps(json.loads(json.dumps(value)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read(
    folder: Path, files: Iterable[str] | None = None, key: str | None = None, *, remember: bool = True
) -> dict[str, Any]:
    """What entry.json says, once the files have been compared with their checksums.

    Args:
        folder: of the entry.
        files: names to compare, besides entry.json; None for all.
        key: what `made_from` must hash to; None for the folder's name.
        remember: do not hash a file again that this process has hashed and whose inode, size and times
            are as they were.

    Raises:
        Damaged: a file is missing or not what was written, or the entry is another one's.
    """
    sums = _read_sums(folder)
    for name in sums if files is None else (ENTRY_FILE, *files):
        if name not in sums:
            raise Damaged(CHECKSUMS_FILE)
        _compare(folder / name, *sums[name], remember)
    try:
        about: dict[str, Any] = json.loads((folder / ENTRY_FILE).read_bytes())
        whole = content_key(about["made_from"]) == (key or folder.name) and "facts" in about
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise Damaged(ENTRY_FILE)
    return about


def write(
    folder: Path, parts: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]
) -> Mapping[str, Any]:
    """Make an entry; at any moment it is either whole in its place or not there.

    Args:
        folder: its place; another process may put the same entry there meanwhile.
        parts: everything that determines its bytes.
        make: fills the folder it is handed with files and returns facts about them (JSON values).

    Returns:
        The facts.

    Raises:
        OSError: it cannot be written.
        Damaged: its place is taken by what is not this entry.
    """
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.partial-"))
    try:
        facts = make(partial)
        about = {
            "made_from": parts,
            "facts": facts,
            "format": FORMAT_VERSION,
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        (partial / ENTRY_FILE).write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")
        sums = {p.name: (p.stat().st_size, file_sha256(p)) for p in sorted(partial.iterdir())}
        (partial / CHECKSUMS_FILE).write_bytes(_sums_text(sums))
        for path in (*partial.iterdir(), partial):
            flush(path)
        partial.chmod(0o755)
        try:
            partial.replace(folder)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            # Where locks do not work, another process was first.
            shutil.rmtree(partial, ignore_errors=True)
            there: Mapping[str, Any] = read(folder)["facts"]
            return there
        flush(folder.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return facts


def kept_sha256(path: Path) -> str | None:
    """The SHA-256 that an entry keeps of one of its files; None for a file of no entry, or a damaged one."""
    try:
        return _read_sums(path.parent)[path.name][1]
    except (Damaged, KeyError, OSError):
        return None


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, so that what is put in them is found after a power cut."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        flush(folder.parent)


def set_aside(folder: Path, place: Path) -> None:
    """Rename something damaged to `<place>.damaged-...`, out of the way, so that it can be looked at."""
    folder.replace(tempfile.mkdtemp(dir=place.parent, prefix=f"{place.name}.damaged-"))


def remove(folder: Path, place: Path) -> None:
    """Remove a folder, first renamed to `<place>.partial-...`, so that no reader finds half of it."""
    doomed = tempfile.mkdtemp(dir=place.parent, prefix=f"{place.name}.partial-")
    folder.replace(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def touch(folder: Path) -> None:
    """Note that an entry was used now: the time of its entry.json."""
    with contextlib.suppress(OSError):  # a read-only cache
        os.utime(folder / ENTRY_FILE)


def _read_sums(folder: Path) -> dict[str, tuple[int, str]]:
    try:
        raw = (folder / CHECKSUMS_FILE).read_bytes()
        sums = {name: (int(f["bytes"]), str(f["sha256"])) for name, f in json.loads(raw).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _raise_unless_damage(error)
        raise Damaged(CHECKSUMS_FILE) from error
    # Byte for byte, so that no flipped bit passes for another way to write the same JSON.
    if raw != _sums_text(sums) or ENTRY_FILE not in sums:
        raise Damaged(CHECKSUMS_FILE)
    return sums


def _sums_text(sums: Mapping[str, tuple[int, str]]) -> bytes:
    document = {name: {"bytes": size, "sha256": digest} for name, (size, digest) in sums.items()}
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


def _compare(path: Path, size: int, digest: str, remember: bool) -> None:
    try:
        whole = path.stat().st_size == size and _hash(path, remember) == digest
    except OSError as error:
        _raise_unless_damage(error)
        whole = False
    if not whole:
        raise Damaged(path.name)


def _raise_unless_damage(error: BaseException) -> None:
    """A file that is gone or that the disk cannot read is damage; one that may not be read is not."""
    if isinstance(error, OSError) and error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EIO):
        raise error


def _hash(path: Path, remember: bool) -> str:
    state = _state(path)
    if remember and path in _hashed and _hashed[path][0] == state:
        return _hashed[path][1]
    settled = time.time() - path.stat().st_mtime > SETTLED_AGE_S
    digest = file_sha256(path)
    if settled and _state(path) == state:
        _hashed[path] = state, digest
    return digest


def _state(path: Path) -> tuple[int, ...]:
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
