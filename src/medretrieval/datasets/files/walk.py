"""The files below a folder: in a fixed order, each folder once, whatever links lead to it."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MOST_KINDS = 4  # of files left out that a sentence names


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    Attributes:
        files: that are taken, by their path.
        skipped: of the others, the ending of each name, "" for none.
    """

    files: tuple[Path, ...]
    skipped: tuple[str, ...]

    def left_out(self) -> tuple[str, ...]:
        """A sentence about the files that were not taken; none where all were."""
        if not self.skipped:
            return ()
        kinds = Counter(suffix or "no ending" for suffix in self.skipped).most_common()
        named = ", ".join(f"{suffix} {count}" for suffix, count in kinds[:MOST_KINDS])
        more = ", ..." if len(kinds) > MOST_KINDS else ""
        count = len(self.skipped)
        what = "files are no images and are" if count > 1 else "file is no image and is"
        return (f"{count} {what} left out ({named}{more})",)


def find(folder: Path, root: Path, wanted: Callable[[Path], bool]) -> Found:
    """The files below a folder, sorted by their path.

    Links to files are followed, and links to folders outside of the root, each folder once. A link to a
    folder within the root, or above it, is passed over: its files are found in their own place. So are names
    that begin with a dot, of systems and editors.

    Args:
        folder: where to begin, the root or a folder in it.
        root: the folder of the dataset.
        wanted: which files are taken; one of which it raises OSError is not.
    """
    taken: list[Path] = []
    skipped: list[str] = []
    for path in _walk(folder, root):
        try:
            is_taken = wanted(path)
        except OSError:  # not for us to read, and by its name no image
            is_taken = False
        if is_taken:
            taken.append(path)
        else:
            skipped.append(path.suffix.lower())
    return Found(tuple(taken), tuple(skipped))


def _walk(folder: Path, root: Path) -> Iterator[Path]:
    home = root.resolve()
    seen: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        state = os.stat(place)
        if (state.st_dev, state.st_ino) in seen:
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and not _leads_back(Path(place, name), home)
        )
        yield from (Path(place, name) for name in sorted(files) if not name.startswith("."))


def _leads_back(folder: Path, home: Path) -> bool:
    """Whether a folder is a link to one within the root of a dataset, or to one that holds it."""
    if not folder.is_symlink():
        return False
    target = folder.resolve()
    return target.is_relative_to(home) or home.is_relative_to(target)


def shown(path: Path, root: Path) -> str:
    r"""A path below a folder as text that every file can hold: bytes that are no UTF-8 as \xNN."""
    name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
    return "".join(c if c.isprintable() else _escaped(c) for c in name)


def _escaped(character: str) -> str:
    raw = character.encode("utf-8", "surrogateescape")
    return "".join(f"\\x{byte:02x}" for byte in raw)


def sub_folders(folder: Path) -> Sequence[Path]:
    """The folders in a folder, sorted, without those whose name begins with a dot."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
