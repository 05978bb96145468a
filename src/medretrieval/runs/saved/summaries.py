"""A line a run and a line a sweep: what each was, what it scored, and whether it has results."""

import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medretrieval.runs.saved.listing import (
    AXES,
    Facts,
    SavedRun,
    State,
    facts_of,
    planned_runs,
    runs_in,
    saved_run,
    sweeps_in,
)

MAX_SAID_CHARACTERS = 60  # of a failure, in the table
MAX_NAMES = 3  # of an axis that a sweep varies; more are counted
NOT_STARTED = "not started"  # runs that a sweep was going to have
STAMP = re.compile(r"\d{8}-\d{6}-\d{6}")  # with which this program begins the names of folders


@dataclass(frozen=True)
class Summary:
    """A run or a sweep.

    Attributes:
        folder: where it is.
        time: seconds since 1970 when it ended, of a sweep when its last run did.
        state: whether it has results; of a sweep, finished where all its runs have, else that of the others.
        axes: "dataset", "encoder", "index", "metric", "protocol", "adapt" and "rerank", each with the
            names that occur.
        score: name of the objective; None without results.
        value: of the objective, of a sweep that of its best run; None without results, or where its runs are
            ranked by several objectives.
        counts: of a sweep, how many of its runs are in each state, and how many are NOT_STARTED; None for a
            run.
        run_id: of a run in MLflow; None where it is not there.
        reason: why it failed, or which run has its results.
    """

    folder: Path
    time: float
    state: State
    axes: Mapping[str, Sequence[str]]
    score: str | None
    value: float | None
    counts: Mapping[str, int] | None = None
    run_id: str | None = None
    reason: str = ""

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.folder.name

    @property
    def what(self) -> str:
        """What was run, in a line."""
        known = [(axis, names) for axis, names in self.axes.items() if names]
        return " · ".join(
            ", ".join(names) if len(names) <= MAX_NAMES else f"{len(names)} {_plural(axis)}"
            for axis, names in known
        )

    @property
    def score_text(self) -> str:
        """The objective and its value."""
        if self.score is None or self.value is None:
            return "-" if self.score is None else "several scores"
        return f"{self.score} {self.value:.4f}{'' if self.counts is None else ' (best)'}"

    @property
    def said(self) -> str:
        """Whether it has results."""
        if self.counts is None:
            said = _FAILED.get(self.state, self.state.value)
            if self.state is State.SKIPPED and self.score is None:
                said = "skipped, and its results are gone"
            reason = f": {self.reason}" if self.reason and self.state is State.FAILED else ""
            return textwrap.shorten(f"{said}{reason}", MAX_SAID_CHARACTERS, placeholder=" ...")
        has = self.counts.get(State.FINISHED, 0) + self.counts.get(State.SKIPPED, 0)
        others = [f"{n} {_FAILED[state]}" for state, n in self.counts.items() if state in _FAILED]
        return ", ".join([f"{has} of {sum(self.counts.values())} runs", *others])


_FAILED = {State.FAILED: "failed", State.UNFINISHED: "interrupted or running", NOT_STARTED: "not started"}


def summaries(outputs: Path, sweep: Path | None = None) -> list[Summary]:
    """Runs and sweeps of an outputs folder, or the runs of one sweep; the newest first.

    Args:
        outputs: the folder that holds runs and sweeps.
        sweep: the folder of a sweep whose runs are wanted one by one.
    """
    everything = runs_in(outputs)
    if sweep is not None:
        lone = saved_run(sweep)
        of_it = [lone] if lone else [run for run in everything if run.sweep and run.sweep.samefile(sweep)]
        return [_of_run(run) for run in of_it]
    found = [_of_run(run) for run in everything if run.sweep is None]
    found += [
        _of_sweep(folder, runs)
        for folder in sweeps_in(outputs)
        if (runs := [run for run in everything if run.sweep == folder])
    ]
    return sorted(found, key=lambda summary: (summary.time, str(summary.folder)), reverse=True)


def short_names(outputs: Path) -> dict[Path, str]:
    """Of each run and sweep whose folder's name begins with its time: that time, where no other has it."""
    folders = [*sweeps_in(outputs), *(run.folder for run in runs_in(outputs) if run.sweep is None)]
    stamps = {folder: found[0] for folder in folders if (found := STAMP.match(folder.name))}
    several = Counter(stamps.values())
    return {folder: stamp for folder, stamp in stamps.items() if several[stamp] == 1}


def _of_run(run: SavedRun) -> Summary:
    facts = facts_of(run)
    axes = {axis: [name] if name else [] for axis, name in facts.axes.items()}
    return Summary(
        run.folder, run.time, run.state, axes, facts.score, facts.value, None, facts.run_id, facts.reason
    )


def _of_sweep(folder: Path, runs: Sequence[SavedRun]) -> Summary:
    facts = [facts_of(run) for run in runs]
    axes = {axis: sorted({f.axes[axis] for f in facts} - {""}) for axis in AXES}
    counts: dict[str, int] = {
        state.value: n for state in State if (n := sum(run.state is state for run in runs))
    }
    if (missing := (planned_runs(folder) or 0) - len(runs)) > 0:
        counts[NOT_STARTED] = missing
    without = [state for state in (State.FAILED, State.UNFINISHED) if counts.get(state)]
    if not without and NOT_STARTED in counts:
        without = [State.UNFINISHED]
    score, value = _best(facts)
    return Summary(
        folder, max(run.time for run in runs), (without or [State.FINISHED])[0], axes, score, value, counts
    )


def _best(facts: Sequence[Facts]) -> tuple[str | None, float | None]:
    """The objective of a sweep and its highest value; no value where its runs have several objectives."""
    values = {(f.score, f.value) for f in facts if f.score is not None and f.value is not None}
    names = sorted({str(name) for name, _ in values})
    if len(names) != 1:
        return (", ".join(names) or None), None
    return names[0], max(value for _, value in values if value is not None)


def _plural(axis: str) -> str:
    return {"index": "indexes"}.get(axis, f"{axis}s")
