"""The one run that a word means: a folder or an MLflow run itself, of a sweep its best run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medretrieval.errors import UserError
from medretrieval.runs import folder as run_folder
from medretrieval.runs.report import RunReport
from medretrieval.track.find_runs import RUN_ID, Run, default_uri, find, find_one, load_run, place

KEYS = ("paths.outputs=", "tracking.uri=")


@dataclass(frozen=True)
class Chosen:
    """A run, and how it was chosen.

    Attributes:
        folder: of the run.
        why: a sentence where it was chosen among several, else None.
    """

    folder: Path
    why: str | None = None


def choose(word: str, overrides: Mapping[str, str], aside: Path) -> Chosen:
    """The run that a word means.

    Args:
        word: a run's folder or manifest, an MLflow run id, or a sweep: its id, its folder, or any folder
            or MLflow experiment of runs over the same task.
        overrides: paths.outputs and tracking.uri are looked at.
        aside: a folder for files from MLflow.

    Raises:
        UserError: no such run, or runs whose scores cannot be compared.
    """
    folder = Path(word).expanduser()
    if folder.name == run_folder.MANIFEST:
        folder = folder.parent
    if (folder / run_folder.SCORES).exists():
        return Chosen(folder)
    outputs = Path(overrides.get("paths.outputs", "outputs"))
    uri = overrides.get("tracking.uri") or default_uri(outputs)
    if RUN_ID.fullmatch(word) and not folder.is_dir():
        return Chosen(_here(find_one(word, uri, aside), aside, word))
    runs = [load_run(*place) for place in find(str(folder), uri, outputs, aside, KEYS)]
    chosen = _best(word, runs)
    _here(chosen.folder, aside, word)
    return chosen


def _here(folder: Path, aside: Path, word: str) -> Path:
    """Refuse a run of which MLflow had to send the small files: its index is not among them."""
    if folder.resolve().is_relative_to(aside.resolve()):
        raise UserError(
            f"run={word}: the run's folder is not on this machine, and with it its index; make it anew with: "
            f"medretrieval again {folder.name}"
        )
    return folder


def _best(word: str, runs: Sequence[Run]) -> Chosen:
    """The run of the highest objective; the first of equals."""
    tasks = sorted({_task(run.report) for run in runs})
    if len({place(run) for run in runs}) > 1:
        raise UserError(
            f"run={word}: its runs differ in data, protocol or relevance, so their scores cannot be compared "
            f"({'; '.join(tasks)}); give one run's folder"
        )
    best = max(runs, key=lambda run: run.report.objective.value)
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
    return (
        f"{report.objective.name} on {report.dataset}, {protocol.query or 'prompts'} queries "
        f"{protocol.gallery}{options}"
    )
