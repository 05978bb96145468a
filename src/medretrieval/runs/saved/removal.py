"""Removing folders of runs and sweeps: looked at first, then renamed aside and deleted.

A folder is removed only where all of it is runs of this program. A link is unlinked, what it leads to stays.
"""

import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medretrieval.errors import UserError
from medretrieval.runs import folder as run_folder
from medretrieval.runs.identity import finished_note, marked_run
from medretrieval.runs.saved.listing import (
    SWEEPS,
    SavedRun,
    State,
    facts_of,
    fingerprint_of,
    is_ours,
    runs_below,
    runs_in,
    saved_run,
)

ASIDE = ".removed"  # folder in outputs where folders are while they are deleted
SWEEP_FILE = "multirun.yaml"


@dataclass(frozen=True)
class Removal:
    """What is to be removed.

    Attributes:
        folder: a run's, a sweep's, or a link to one.
        kind: "run", "sweep" or "link".
        runs: that go with it; none with a link.
        others: files of a sweep's folder that are of none of its runs.
        size: bytes that are freed; files in the cache stay.
    """

    folder: Path
    kind: str
    runs: Sequence[SavedRun]
    others: Sequence[str]
    size: int


def removal_of(folder: Path, *, unfinished: bool) -> Removal:
    """What removing a folder means.

    Args:
        folder: as it is named, so that a link is known as one.
        unfinished: whether runs without results, which may be running still, may go too.

    Raises:
        UserError: it is, or holds, something else than runs of this program, or runs that may be running.
    """
    run = saved_run(folder)
    is_sweep = run is None and ((folder / SWEEP_FILE).is_file() or folder.resolve().parent.name == SWEEPS)
    runs = [run] if run is not None else list(runs_below(folder, folder)) if is_sweep else []
    strange = [r.folder for r in runs if not is_ours(r)] + (_not_runs(folder, runs) if is_sweep else [])
    if strange or not runs:
        raise UserError(
            f"{strange[0] if strange else folder}: no run and no sweep of this program (a run's folder holds "
            f"{run_folder.SCORES} and {run_folder.MANIFEST}, or {run_folder.FAILED} and .hydra); nothing is "
            "removed"
        )
    if folder.is_symlink():
        return Removal(folder, "link", [], [], 0)
    if running := [r for r in runs if r.state is State.UNFINISHED and not unfinished]:
        raise UserError(
            f"{running[0].folder}: has not finished, and may be running still; where nothing runs there any "
            "more, unfinished=true removes it too"
        )
    others = [] if run is not None else _others(folder, runs)
    return Removal(folder, "run" if run is not None else "sweep", runs, others, _size(folder))


def results_of(removals: Sequence[Removal], outputs: Path) -> list[Path]:
    """Skipped runs that stay and whose results go with the runs that are removed."""
    gone = {run.folder.resolve() for removal in removals for run in removal.runs}
    kept = [run for run in runs_in(outputs) if run.folder.resolve() not in gone]
    return [run.folder for run in kept if run.state is State.SKIPPED and facts_of(run).results in gone]


def remove(removal: Removal, outputs: Path) -> None:
    """Remove a folder: at any moment it is whole where it was, or out of the way and deleted in the end.

    Raises:
        OSError: it may not be removed; it is whole in its place.
    """
    if removal.kind == "link":
        removal.folder.unlink()
        return
    notes = [note for run in removal.runs if (note := _note(run, outputs)) is not None]
    aside = _aside(removal.folder, outputs)
    removal.folder.replace(aside)
    for note in notes:
        note.unlink(missing_ok=True)
    shutil.rmtree(aside)
    with suppress(OSError):  # something else is there
        aside.parent.rmdir()


def leftovers(outputs: Path) -> list[Path]:
    """Folders that were put aside and not deleted to the end, because a removal was interrupted."""
    return sorted((outputs / ASIDE).glob("*"))


def remove_leftovers(outputs: Path) -> None:
    """Delete what an interrupted removal has left."""
    for path in leftovers(outputs):
        shutil.rmtree(path, ignore_errors=True)  # another process may be at it
    with suppress(OSError):
        (outputs / ASIDE).rmdir()


def _not_runs(sweep: Path, runs: Sequence[SavedRun]) -> list[Path]:
    """Folders in a sweep's folder that hold no run, but for the one that Hydra makes."""
    inside = {path for run in runs for path in (run.folder, *run.folder.parents)}
    return [p for p in sorted(sweep.iterdir()) if p.is_dir() and p.name != ".hydra" and p not in inside]


def _others(folder: Path, runs: Sequence[SavedRun]) -> list[str]:
    inside = {run.folder for run in runs}
    files = (path for path in folder.rglob("*") if not path.is_dir())
    return sorted(str(p.relative_to(folder)) for p in files if not any(r in p.parents for r in inside))


def _size(folder: Path) -> int:
    """Bytes of the files in a folder; of a link its own."""
    return sum((Path(top) / name).lstat().st_size for top, _, names in os.walk(folder) for name in names)


def _note(run: SavedRun, outputs: Path) -> Path | None:
    """The note that a run has the results of its configuration; None where it names another."""
    fingerprint = fingerprint_of(run)
    if fingerprint is None:
        return None
    noted = marked_run(outputs, fingerprint)
    of_it = noted is not None and noted.resolve() == run.folder.resolve()
    return finished_note(outputs, fingerprint) if of_it else None


def _aside(folder: Path, outputs: Path) -> Path:
    """A free name on the same disk that no list of runs looks at."""
    inside = folder.resolve().is_relative_to(outputs.resolve())
    place = outputs / ASIDE if inside else folder.parent / ASIDE
    place.mkdir(exist_ok=True)
    return Path(tempfile.mkdtemp(dir=place, prefix=f"{folder.name}."))
