"""The line that a sweep prints when a run has ended: which, its score, and the time that is left."""

import time
from collections.abc import Sequence
from pathlib import Path

from medretrieval.private import redacted
from medretrieval.runs import folder as run_folder
from medretrieval.runs.report import RunReport
from medretrieval.sweep.plan import Plan, has_ended, job_folders, read_plan

FAILED = "failed"


def scored(report: RunReport, skipped: bool) -> str:
    """What a run has come to."""
    objective = report.objective
    return f"{objective.name} {objective.value:.4f}" + (" (had finished before)" if skipped else "")


def run_line(folder: Path, number: int, overrides: Sequence[str], outcome: str) -> str:
    """The line of one run.

    Args:
        folder: of the sweep.
        number: of the job, from 0.
        overrides: of the job, shown where no plan says which of them vary.
        outcome: what it has come to (`scored`, or FAILED).

    Returns:
        "run 3/12  encoder=pixels index=ivf  precision_at_5 0.8109  about 2 min left"
    """
    plan = read_plan(folder)
    if plan is None or number >= len(plan.jobs):
        return "  ".join([f"run {number + 1}", redacted(" ".join(overrides)), outcome])
    width, names = len(str(len(plan.jobs))), plan.varied
    parts = [f"run {number + 1:{width}}/{len(names)}", names[number].ljust(max(map(len, names))), outcome]
    left = seconds_left(folder, plan)
    return "  ".join([*(part for part in parts if part), *([f"{in_words(left)} left"] if left else [])])


def seconds_left(folder: Path, plan: Plan) -> float | None:
    """Seconds until a sweep ends: what a run has taken since it was started, times the runs that are left.

    Runs that had finished before take no time and do not count. Jobs that run at once are allowed for.

    Args:
        folder: of the sweep.
        plan: of the sweep.

    Returns:
        None where no run is left, or none has ended since the start.
    """
    ended = [job for job in job_folders(folder) if has_ended(job)]
    left = len(plan.jobs) - len(ended)
    worked = [job for job in ended if _ended_at(job) >= plan.started]
    return (time.time() - plan.started) / len(worked) * left if worked and left > 0 else None


def _ended_at(job: Path) -> float:
    """When a job ended by working, seconds since 1970; 0 where it was skipped."""
    if (job / run_folder.SKIPPED).exists():
        return 0.0
    return max(
        (job / n).stat().st_mtime for n in (run_folder.SCORES, run_folder.FAILED) if (job / n).exists()
    )


def in_words(seconds: float) -> str:
    """A time that was estimated.

    >>> in_words(8), in_words(100), in_words(4000)
    ('about 8 s', 'about 2 min', 'about 1 h 7 min')
    """
    if seconds < 60:
        return f"about {max(1, round(seconds))} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"about {f'{hours} h ' if hours else ''}{minutes} min"
