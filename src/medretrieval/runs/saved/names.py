"""What a word names in an outputs folder: a run or a sweep, by folder, id, its beginning, or `latest`."""

import re
from pathlib import Path

from medretrieval.errors import UserError
from medretrieval.runs import folder as run_folder
from medretrieval.runs.saved.listing import RUNS, SWEEPS, SavedRun, newest, run_id_of, runs_in, sweeps_in

LATEST = "latest"
MIN_CHARACTERS = 4  # of a short id
ID_CHARACTERS = 32  # of a whole id of MLflow
HEXADECIMAL = re.compile(r"[0-9a-f]+")
MAX_CANDIDATES = 6  # that a refusal names


def local_folder(word: str, outputs: Path, *, one: bool = False) -> Path | None:
    """The folder on this machine that a word means, the first of these that there is.

    A folder itself, or that of a manifest.json; a sweep's id or the name of a run's folder, in `outputs`;
    `latest`; the beginning of such an id or name, or of the id that MLflow has given a run there.

    Args:
        word: of the command line.
        outputs: the folder that holds runs and sweeps.
        one: whether a single run is asked for: `latest` is the run that finished last, else the whole
            sweep where that run is of one.

    Returns:
        The folder as it is named, a link not followed; None where there is nothing of that name.

    Raises:
        UserError: a short id that several runs or sweeps have, or `latest` where no run has finished.
    """
    named = Path(word).expanduser()
    named = named.parent if named.name == run_folder.MANIFEST else named
    for folder in (named, outputs / SWEEPS / word, outputs / RUNS / word):
        if folder.is_dir():
            return folder
    if word == LATEST:
        return _latest(outputs, one)
    return _short(word, outputs)


def _latest(outputs: Path, one: bool) -> Path:
    run = newest(outputs)
    if run is None:
        raise UserError(
            f"{LATEST}: no finished run in {outputs / RUNS} or {outputs / SWEEPS}; give a run's folder, or "
            "outputs="
        )
    return run.folder if one or run.sweep is None else run.sweep


def _short(word: str, outputs: Path) -> Path | None:
    """The run or sweep whose name or id begins with a word."""
    if len(word) < MIN_CHARACTERS or Path(word).name != word:
        return None
    runs = runs_in(outputs)
    names = [*sweeps_in(outputs), *(run.folder for run in runs if run.sweep is None)]
    meant = {folder: folder.name for folder in names if folder.name.startswith(word)}
    if HEXADECIMAL.fullmatch(word) and len(word) < ID_CHARACTERS:
        meant |= _by_run_id(word, runs)
    require_one(word, list(meant.values()))
    return next(iter(meant), None)


def _by_run_id(word: str, runs: list[SavedRun]) -> dict[Path, str]:
    found = {run.folder: run_id_of(run.folder) for run in runs}
    return {
        folder: f"{run_id} ({folder})"
        for folder, run_id in found.items()
        if run_id and run_id.startswith(word)
    }


def require_one(word: str, candidates: list[str]) -> None:
    """Refuse a short id that several have.

    Raises:
        UserError: naming them.
    """
    if len(candidates) > 1:
        shown = sorted(candidates)[:MAX_CANDIDATES]
        more = f" and {len(candidates) - len(shown)} more" if len(candidates) > len(shown) else ""
        raise UserError(f"{word}: the beginning of several: {', '.join(shown)}{more}; give more of it")
