"""What is kept between runs: embeddings, indexes and scores, each under the hash of all that made it.

Several processes that want the same entry make it once. A read compares every file with its SHA-256,
once a process: hashing (about 1.8 GB/s) costs less than whatever is then done with the bytes, and damage
that leaves size and time alone is found too.
"""

import errno
import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medretrieval.cache import entry
from medretrieval.cache.entry import content_key
from medretrieval.cache.lock import locked
from medretrieval.errors import UserError

__all__ = ["Cache", "Entry", "content_key"]

log = logging.getLogger(__name__)

Make = Callable[[Path], Mapping[str, Any]]


@dataclass(frozen=True)
class Entry:
    """A finished entry.

    Attributes:
        folder: holds the files, entry.json and checksums.json.
        facts: what `make` said of it when it was made (seconds, shapes).
        fresh: true where this call made it.
    """

    folder: Path
    facts: Mapping[str, Any]
    fresh: bool


class Cache:
    """A folder of entries: <root>/<kind>/<group>/<key>/."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def place(self, kind: str, parts: Mapping[str, Any], group: str | None = None) -> Path:
        """Where the entry for `parts` is, or would be; the group is the first two of its key if not given."""
        key = content_key(parts)
        return self.root / kind / (group or key[:2]) / key

    def get_or_make(
        self,
        kind: str,
        parts: Mapping[str, Any],
        make: Make,
        *,
        group: str | None = None,
        before: Callable[[], None] | None = None,
    ) -> Entry:
        """The entry for `parts`; made by `make` where it is not there yet.

        Args:
            kind: "embeddings", "indexes", "baselines", "maps", "corrupted", "neighbors" or "identities".
            parts: everything that determines the bytes, as JSON values.
            make: fills the folder it is handed and returns facts about it (JSON values).
            group: the folder of entries that belong together.
            before: work that `make` needs and that keeps what it has done itself.

        Raises:
            UserError: the cache cannot be written and the entry is not there.
            OSError: the disk is full.
        """
        folder = self.place(kind, parts, group)
        facts, _ = self._read(folder)
        if facts is not None:
            return Entry(folder, facts, fresh=False)
        self._require_writable(folder.parent)
        with locked(folder):
            facts, damaged = self._read(folder)
            if facts is not None:
                return Entry(folder, facts, fresh=False)
            if folder.exists():
                log.warning("%s: %s is damaged; set aside and made again", folder, damaged)
                entry.set_aside(folder, folder)
            if before is not None:
                before()
            return Entry(folder, entry.write(folder, parts, make), fresh=True)

    def _read(self, folder: Path) -> tuple[Mapping[str, Any] | None, str]:
        """The facts of a whole entry; else None and the first file that is missing or damaged."""
        try:
            facts: Mapping[str, Any] = entry.read(folder)["facts"]
        except entry.Damaged as damage:
            return None, damage.file
        entry.touch(folder)
        return facts, ""

    def _require_writable(self, folder: Path) -> None:
        """Fail before the long work, not after it."""
        try:
            entry.make_folder(folder)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(
                f"paths.cache={self.root}: cannot be written ({error.strerror}) and does not hold what this "
                "run needs; set paths.cache (or MEDRETRIEVAL_CACHE) to a folder of your own"
            ) from error
