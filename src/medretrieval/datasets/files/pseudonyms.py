"""Names for patients that say nothing: hashes with a salt that stays here, and paths without names."""

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

from medretrieval.datasets.files.walk import shown
from medretrieval.errors import UserError

SALT_BYTES = 32
PSEUDONYM_DIGITS = 16  # of 64 bits: two of a million patients share one in 1 of 30 million collections
SHORT_NAME = 5  # characters, below which a name counts only where it stands alone


def salt_of(cache: Path) -> bytes:
    """The salt beside a cache, `<cache>.salt`; made where there is none, readable by its owner alone.

    Raises:
        UserError: it cannot be read or made, or is damaged.
    """
    place = cache.with_name(f"{cache.name}.salt")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        aside = place.with_name(f"{place.name}.{os.getpid()}")
        if not place.exists():
            with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(SALT_BYTES))
                os.fsync(file.fileno())
            try:
                os.link(aside, place)  # unlike a rename it leaves the salt of a process that was first
            except FileExistsError:
                pass
            finally:
                aside.unlink()
        salt = place.read_bytes()
    except OSError as error:
        raise UserError(
            f"{place}: the salt for the names of patients cannot be {'read' if place.exists() else 'made'} "
            f"({error.strerror}); set paths.cache to a folder of your own"
        ) from error
    if len(salt) != SALT_BYTES:
        raise UserError(
            f"{place}: the salt for the names of patients is damaged; put the old file back, or delete it: "
            "patients then get other names than in earlier runs"
        )
    return salt


def pseudonym(salt: bytes, name: str) -> str:
    """What a patient is called: HMAC-SHA256 of the id under the salt, such as "p-0123456789abcdef"."""
    raw = name.encode("utf-8", "surrogateescape")
    return f"p-{hmac.new(salt, raw, hashlib.sha256).hexdigest()[:PSEUDONYM_DIGITS]}"


class PathNames:
    """Paths as they may be shown: without the parts that name a patient.

    Args:
        salt: of the names.
        root: the folder that paths are below.
        owners: of each file whose header is known: the words that name its patient.
    """

    def __init__(self, salt: bytes, root: Path, owners: Iterable[tuple[Path, Sequence[str]]]) -> None:
        self._salt, self._root = salt, root
        self._naming: set[str] = set()  # parts of paths that hold the name of a patient whose file is there
        self._known: set[str] = set()  # other parts
        self._words: set[str] = set()
        for path, words in owners:
            self._words.update(words)
            for part in path.relative_to(root).parts:
                (self._naming if _names(part, words) else self._known).add(part)

    def of(self, path: Path, *, unknown: bool = False) -> str:
        """A path below the root as text; what names a patient is replaced by a hash.

        Args:
            path: the file.
            unknown: its header cannot be read, so a folder that holds no file of a known patient may be the
                name of one, and is replaced too.
        """
        *folders, name = path.relative_to(self._root).parts
        safe = [self._safe(part, unknown and part not in self._known) for part in folders]
        leaf = self._safe(name, False)
        if unknown and leaf == name and _names(name, self._words):
            leaf = pseudonym(self._salt, name)
        return shown(self._root.joinpath(*safe, leaf), self._root)

    def _safe(self, part: str, hidden: bool) -> str:
        return pseudonym(self._salt, part) if hidden or part in self._naming else part


def _names(part: str, words: Iterable[str]) -> bool:
    """Whether a part of a path holds one of the words, in any case."""
    lower = part.lower()
    for word in words:
        text = word.lower()
        if len(text) >= SHORT_NAME:
            if text in lower:
                return True
        elif text and re.search(rf"(?<![0-9a-z]){re.escape(text)}(?![0-9a-z])", lower):
            return True
    return False
