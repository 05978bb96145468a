"""What lies in an outputs folder: runs and sweeps, and what each is, read quickly and of any results format.

Runs are folders in <outputs>/runs and, of sweeps, folders in <outputs>/sweeps/<id>. What a run is says its
scores.json; where it has none, the configuration that Hydra wrote there.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from medretrieval.runs import folder as run_folder

RUNS, SWEEPS = "runs", "sweeps"
SWEEP_PLAN = "sweep.json"  # in a sweep's folder: what it is going to run
HYDRA_CONFIG = Path(".hydra") / "config.yaml"
NEEDED_AXES = ("dataset", "encoder", "index", "metric", "protocol")
AXES = (
    *NEEDED_AXES,
    "adapt",
    "rerank",
)  # the last two are "" for earlier runs, and where nothing is adapted or re-ranked


class State(StrEnum):
    """Whether a run has results.

    finished: it has. skipped: an earlier run has them. failed: an error stopped it. unfinished: it was
    interrupted, or is running still; its folder does not say which.
    """

    FINISHED = "finished"
    SKIPPED = "skipped"
    FAILED = "failed"
    UNFINISHED = "unfinished"


MARKS = {
    run_folder.SCORES: State.FINISHED,
    run_folder.SKIPPED: State.SKIPPED,
    run_folder.FAILED: State.FAILED,
    str(HYDRA_CONFIG): State.UNFINISHED,
}


@dataclass(frozen=True)
class SavedRun:
    """A run's folder.

    Attributes:
        folder: of the run.
        state: whether it has results.
        time: seconds since 1970 when it ended, or began where that is all there is.
        sweep: the folder of its sweep; None where it is of none.
    """

    folder: Path
    state: State
    time: float
    sweep: Path | None = None


@dataclass(frozen=True)
class Facts:
    """What a run's files say of it; what they do not say is empty.

    Attributes:
        axes: "dataset", "encoder", "index", "metric", "protocol", "adapt" and "rerank", each with its name.
        score: name of the objective; None without results.
        value: of the objective; None without results.
        run_id: of the run in MLflow; None where it is not there.
        reason: why it failed, or which run has its results.
        results: the folder, resolved, that has its results; None without results.
    """

    axes: Mapping[str, str]
    score: str | None = None
    value: float | None = None
    run_id: str | None = None
    reason: str = ""
    results: Path | None = None


def saved_run(folder: Path, sweep: Path | None = None) -> SavedRun | None:
    """A folder as a run; None where it is none."""
    for name, state in MARKS.items():
        with contextlib.suppress(OSError):
            return SavedRun(folder, state, (folder / name).stat().st_mtime, sweep)
    return None


def runs_in(outputs: Path) -> list[SavedRun]:
    """All runs of an outputs folder, those of its sweeps among them, the newest first."""
    found = list(runs_below(outputs / RUNS, None))
    for sweep in sweeps_in(outputs):
        found += runs_below(sweep, sweep)
    return sorted(found, key=lambda run: (run.time, str(run.folder)), reverse=True)


def sweeps_in(outputs: Path) -> list[Path]:
    """The folders of the sweeps of an outputs folder."""
    return list(_folders(outputs / SWEEPS))


def planned_runs(sweep: Path) -> int | None:
    """How many runs a sweep was going to have; None where its folder does not say."""
    jobs = _json(sweep / SWEEP_PLAN).get("jobs")
    return len(jobs) if isinstance(jobs, list) else None


def newest(outputs: Path) -> SavedRun | None:
    """The run that finished last; None where none has."""
    return next((run for run in runs_in(outputs) if run.state is State.FINISHED), None)


def facts_of(run: SavedRun) -> Facts:
    """What a run's files say of it; of a skipped run, what those of the earlier one say."""
    where, reason = run.folder, ""
    if run.state is State.SKIPPED:
        with contextlib.suppress(OSError, ValueError, KeyError):
            where = run_folder.skipped_for(run.folder)
        reason = f"its results are in {where}"
    scores = _json(where / run_folder.SCORES)
    if not scores:
        return Facts(_axes(_config(run.folder)), None, None, run_id_of(run.folder), reason or _reason(run))
    objective = scores.get("objective")
    objective = objective if isinstance(objective, dict) else {}
    name, value = objective.get("name"), objective.get("value")
    return Facts(_axes(scores), name, value, run_id_of(where), reason, where.resolve())


def run_id_of(folder: Path) -> str | None:
    """MLflow's id of a run, as its folder has it; None where it was not logged there."""
    found = _json(folder / run_folder.TRACKING).get("run_id")
    return found if isinstance(found, str) else None


def fingerprint_of(run: SavedRun) -> str | None:
    """The fingerprint of a finished run's configuration, data and weights; None where it has none."""
    found = _json(run.folder / run_folder.SCORES).get("fingerprint")
    return found if isinstance(found, str) else None


def is_ours(run: SavedRun) -> bool:
    """Whether this program has made a run's folder, rather than another one that has such files too."""
    if run.state is State.FINISHED:
        scores, manifest = _json(run.folder / run_folder.SCORES), _json(run.folder / run_folder.MANIFEST)
        return "scores" in scores and "config" in manifest
    return all(isinstance(_config(run.folder).get(axis), dict) for axis in NEEDED_AXES)


def runs_below(top: Path, sweep: Path | None) -> Iterator[SavedRun]:
    """The runs in a folder and in its subfolders.

    Args:
        top: a folder that is no run itself.
        sweep: the folder of their sweep, None where they are of none.
    """
    for folder in _folders(top):
        run = saved_run(folder, sweep)
        if run is not None:
            yield run
        elif not folder.is_symlink():
            yield from runs_below(folder, sweep)


def _folders(top: Path) -> Iterator[Path]:
    """Folders in a folder, but for hidden ones: what is being removed is one."""
    with contextlib.suppress(OSError), os.scandir(top) as entries:
        yield from (Path(e.path) for e in entries if not e.name.startswith(".") and e.is_dir())


def _json(path: Path) -> dict[str, Any]:
    """The content of a file; empty where it cannot be read."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _config(folder: Path) -> dict[str, Any]:
    """The configuration that Hydra wrote before the run began; empty where it cannot be read."""
    import yaml

    # The parser in C is ten times as fast, where PyYAML was built with it.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = yaml.load((folder / HYDRA_CONFIG).read_text(), loader)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _axes(content: Mapping[str, Any]) -> dict[str, str]:
    """Names of the axes: in scores.json some stand as they are; the others are an object with a name."""
    found = {}
    for axis in AXES:
        said = content.get(axis)
        said = said.get("name") if isinstance(said, dict) else said
        found[axis] = said if isinstance(said, str) and said != "none" else ""
    return found


def _reason(run: SavedRun) -> str:
    if run.state is not State.FAILED:
        return ""
    try:
        return (run.folder / run_folder.FAILED).read_text().strip().partition("\n")[0]
    except (OSError, ValueError):
        return ""
