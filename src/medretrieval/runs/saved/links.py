"""What runs link to in the cache: their embeddings, their index, their map."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from medretrieval.runs import folder as run_folder
from medretrieval.runs.saved.listing import runs_in


def losing(outputs: Path, doomed: Sequence[Path]) -> dict[Path, list[str]]:
    """Runs that link to something that goes, and the names of their links.

    Args:
        outputs: the folder that holds runs and sweeps.
        doomed: folders of the cache.
    """
    gone = {path.resolve() for path in doomed}
    found = {
        run.folder: sorted(name for name, to in _links(run.folder) if any(p in gone for p in to.parents))
        for run in runs_in(outputs)
    }
    return {folder: names for folder, names in found.items() if names}


def _links(folder: Path) -> Iterator[tuple[str, Path]]:
    """The links in a run's folder and its figures, and where they lead."""
    for top in (folder, folder / run_folder.FIGURES):
        with suppress(OSError), os.scandir(top) as entries:
            for entry in entries:
                if entry.is_symlink():
                    yield str(Path(entry.path).relative_to(folder)), Path(entry.path).resolve()
