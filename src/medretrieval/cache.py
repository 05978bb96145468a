"""What is kept between runs: embeddings and indexes, each under the hash of all that made it.

An entry is a folder, written beside its place and renamed into it when whole, so that a killed run
leaves nothing that looks finished. `entry.json` in it says in words what made it.
"""

import errno
import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medretrieval.errors import UserError

log = logging.getLogger(__name__)

FORMAT_VERSION = 1  # raised when the same key would name other bytes


@dataclass(frozen=True)
class Entry:
    """A finished entry.

    Attributes:
        folder: holds the files and entry.json.
        facts: what `make` said of it when it was made (seconds, shapes).
        fresh: true where this call made it.
    """

    folder: Path
    facts: Mapping[str, Any]
    fresh: bool


def content_key(parts: Mapping[str, Any]) -> str:
    """SHA-256 over canonical JSON of everything that determines an entry's bytes."""
    text = json.dumps({"format": FORMAT_VERSION, **parts}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Cache:
    """A folder of entries: <root>/<kind>/<first two of the key>/<key>/."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get_or_make(
        self, kind: str, parts: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]
    ) -> Entry:
        """The entry for `parts`; made by `make` where it is not there yet.

        Args:
            kind: "embeddings", "indexes" or "identities".
            parts: everything that determines the bytes, as JSON values.
            make: fills the folder it is handed and returns facts about it (JSON values).

        Raises:
            UserError: the cache cannot be written and the entry is not there.
        """
        key = content_key(parts)
        folder = self.root / kind / key[:2] / key
        facts, _ = self._read(folder)
        if facts is not None:
            return Entry(folder, facts, fresh=False)
        self._require_writable(folder.parent)
        with self._locked(folder):
            facts, damaged = self._read(folder)
            if facts is not None:
                return Entry(folder, facts, fresh=False)
            if folder.exists():
                log.warning("%s: %s is damaged; set aside and made again", folder, damaged)
                folder.replace(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.damaged-"))
            return Entry(folder, self._write(folder, parts, make), fresh=True)

    @contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        # Imported here: a run that finds everything in the cache, as on a read-only share, takes no lock.
        from filelock import FileLock, Timeout

        lock = FileLock(folder.parent / f"{folder.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("waiting for another process that makes %s", folder)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _read(self, folder: Path) -> tuple[Mapping[str, Any] | None, str]:
        """The facts of a whole entry; else None and the first file that is missing or damaged."""
        try:
            entry = json.loads((folder / "entry.json").read_text())
            facts, sizes = entry["facts"], dict(entry["files"])
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return None, "entry.json"
        for name, size in sizes.items():
            if not (folder / name).exists() or (folder / name).stat().st_size != size:
                return None, name
        return facts, ""

    def _write(
        self, folder: Path, parts: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.partial-"))
        try:
            facts = make(partial)
            files = {p.name: p.stat().st_size for p in sorted(partial.iterdir())}
            entry = {"made_from": parts, "facts": facts, "files": files}
            (partial / "entry.json").write_text(json.dumps(entry, indent=2, sort_keys=True) + "\n")
            partial.chmod(0o755)
            partial.replace(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return facts

    def _require_writable(self, folder: Path) -> None:
        """Fail before the long work, not after it."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            raise UserError(
                f"paths.cache={self.root}: cannot be written ({error.strerror}) and does not hold what this "
                "run needs; set paths.cache (or MEDRETRIEVAL_CACHE) to a folder of your own"
            ) from error
