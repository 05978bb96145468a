"""A tracker without a database: a line of JSON for each run, in a file that any program reads."""

import json
import math
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medretrieval.config import expand
from medretrieval.errors import UserError
from medretrieval.private import each
from medretrieval.runs.report import read_report
from medretrieval.runs.tables import sweep_table
from medretrieval.track.run_metrics import run_metrics
from medretrieval.track.tracker import SWEEP_TAG, Ending, Entry, RunDescription, Sweep, Tracker, unless_away

LOCK_TIMEOUT_S = 60


class JsonLinesTracker(Tracker):
    """Appends a line when a run has ended: finished, failed, interrupted, or skipped.

    A line is an object with the keys kind ("run", "sweep", "compare" or "report"), status ("FINISHED",
    "FAILED", "KILLED", "SKIPPED"), ended (UTC, ISO 8601), name, tags, params, inputs, metrics (numbers of
    scores.json under the names that MLflow has them under; null for what is no finite number), folder and
    reason (of a failure); what a line has nothing to say of is null. Lines are written whole, by one process
    at a time; what a process that was killed left half written stays a line of its own.

    Attributes:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        if not isinstance(path, str) or not path:
            raise UserError(f"tracking.path={path}: give the name of a file")
        self.path = expand(path)

    def finish(self, about: RunDescription, folder: Path) -> None:
        """Append the run with its scores."""
        consequence = f"its results are kept in {folder}"
        self._append(consequence, "FINISHED", about.__dict__, folder=folder, metrics=_metrics(folder))

    def fail(self, about: RunDescription, reason: str, status: Ending) -> None:
        """Append the run with the reason and no scores."""
        self._append("its failure is not recorded there", status, about.__dict__, reason=reason)

    def skip(self, about: RunDescription, finished: Path) -> None:
        """Append the run with the scores that it had before, so that a sweep's lines are all of its runs."""
        consequence = f"the skipped run in {finished} is not recorded there"
        self._append(consequence, "SKIPPED", about.__dict__, folder=finished, metrics=_metrics(finished))

    def log_sweep(self, sweep: Sweep) -> None:
        """Append the sweep with its table."""
        files = {"sweep.txt": sweep_table(sweep.reports)}
        facts = {"kind": "sweep", "name": f"sweep {sweep.id}", "tags": {SWEEP_TAG: sweep.id}, "files": files}
        self._append("the sweep's table is not there", "FINISHED", facts, folder=sweep.folder)

    def log_entry(self, entry: Entry) -> str | None:
        """Append the entry's note and numbers; its files are too large for a line."""
        facts = {"kind": entry.kind, "name": entry.name, "tags": entry.tags, "params": dict(entry.params)}
        consequence = f"what {entry.kind} made is not recorded there"
        metrics = _finite(entry.metrics)
        if not self._append(consequence, "FINISHED", facts | {"note": entry.note}, metrics=metrics):
            return None
        return str(self.path)

    def how_to_find(self, sweep: str) -> str | None:
        """By the tag of the sweep."""
        return f'in {self.path} its runs are the lines with "{SWEEP_TAG}": "{sweep}" among their tags'

    def _append(self, consequence: str, status: str, facts: Mapping[str, Any], **more: Any) -> bool:
        """Add a line; returns whether it is there."""
        line = dict.fromkeys(("kind", "status", "ended", "name", "tags", "params", "inputs", "metrics"))
        line |= dict.fromkeys(("folder", "reason"))
        line |= {"kind": "run", "status": status, "ended": datetime.now(UTC).isoformat(timespec="seconds")}
        line |= {**facts, **more}
        if line["folder"] is not None:
            line["folder"] = str(Path(line["folder"]).absolute())
        with unless_away(f"the file {self.path}", consequence) as attempt:
            append_line(self.path, json.dumps(each(line), allow_nan=False))
        return not attempt.failed


def append_line(path: Path, line: str) -> None:
    """Append a line whole or not at all, whatever other processes write at the same time.

    Args:
        path: a file that may not exist, or end in half a line.
        line: text without line breaks.

    Raises:
        OSError: the file cannot be written, or another process has held its lock for LOCK_TIMEOUT_S.
    """
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_TIMEOUT_S)
    with lock, path.open("ab+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        after_half_a_line = size > 0 and file.read(1) != b"\n"
        rest = memoryview(b"\n" * after_half_a_line + line.encode() + b"\n")
        try:
            while rest:  # a disk that fills up takes a part first
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(size)
            raise


def _metrics(folder: Path) -> dict[str, float | None]:
    return _finite(run_metrics(read_report(folder)))


def _finite(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """JSON knows no NaN."""
    return {name: float(value) if math.isfinite(value) else None for name, value in numbers.items()}
