"""The one run that a word means: a folder or an MLflow run itself, of a sweep its best run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medretrieval.errors import UserError
from medretrieval.runs import folder as run_folder
from medretrieval.runs.report import RunReport
from medretrieval.runs.saved.names import LATEST, local_folder
from medretrieval.runs.tables import best_first
from medretrieval.track.find_runs import RUN_ID, Run, find, find_one, load_run, place


@dataclass(frozen=True)
class Chosen:
    """A run, and how it was chosen.

    Attributes:
        folder: of the run.
        why: a sentence where it was chosen among several, else None.
    """

    folder: Path
    why: str | None = None


def choose(word: str, uri: str, outputs: Path, aside: Path) -> Chosen:
    """The run that a word means.

    Args:
        word: a run's folder or manifest, its name, an MLflow run id, the beginning of either, `latest`, or
            a sweep: its id, its folder, or any folder or MLflow experiment of runs over the same task.
        uri: MLflow's store.
        outputs: the folder that holds sweeps.
        aside: a folder for files from MLflow.

    Raises:
        UserError: no such run, or runs whose scores cannot be compared.
    """
    folder = local_folder(word, outputs, one=True)
    if folder is not None and (folder / run_folder.SCORES).exists():
        return Chosen(folder, f"{word}: the run that finished last: {folder}" if word == LATEST else None)
    if folder is None and RUN_ID.fullmatch(word):
        return Chosen(find_one(word, uri, aside))
    chosen = _best(word, [load_run(*place) for place in find(word, uri, outputs, aside)])
    if _is_copy(chosen.folder, aside):  # its ranking is not among what `find` fetches
        find_one(chosen.folder.name, uri, aside)
    return chosen


def require_here(folder: Path, aside: Path, word: str) -> None:
    """Refuse a run of which MLflow had to send the small files: its index is not among them.

    Raises:
        UserError: saying how to make it again.
    """
    if _is_copy(folder, aside):
        raise UserError(
            f"run={word}: the run's folder, which has its index, is not on this machine; repeat the run "
            f"with: medretrieval again {folder.name}"
        )


def _is_copy(folder: Path, aside: Path) -> bool:
    return folder.resolve().is_relative_to(aside.resolve())


def _best(word: str, runs: Sequence[Run]) -> Chosen:
    """The run of the highest objective; of equals as in every table."""
    tasks = sorted({_task(run.report) for run in runs})
    if len({place(run) for run in runs}) > 1:
        raise UserError(
            f"run={word}: its runs differ in data, protocol or relevance, so their scores cannot be compared "
            f"({'; '.join(tasks)}); give one run's folder"
        )
    best = runs[best_first([run.report for run in runs])[0]]
    if len(runs) == 1:
        return Chosen(best.folder)
    objective = best.report.objective
    said = f"{objective.name} ({objective.value:.4f})"
    return Chosen(best.folder, f"{word}: the best of {len(runs)} runs by {said}: {best.report.title}")


def _task(report: RunReport) -> str:
    protocol = report.protocol
    options = "".join(
        f" {name}={getattr(protocol, name)}"
        for name in ("exclude_self", "exclude_same_group", "drop_duplicates")
        if getattr(protocol, name) != (name == "exclude_self")
    )
    asks = protocol.query or ("prompts" if protocol.hit is None else f"captions, hit: {protocol.hit},")
    return f"{report.objective.name} on {report.dataset}, {asks} queries {protocol.gallery}{options}"
