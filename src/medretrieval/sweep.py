"""What Hydra's sweeps need of us: the tracker prepared before the jobs, and one table after them.

The sweeping itself is Hydra's; there is no second sweep engine here.
"""

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from medretrieval.errors import UserError
from medretrieval.figures.pareto import figure
from medretrieval.runs import folder as run_folder
from medretrieval.runs.report import RunReport, read_report
from medretrieval.runs.tables import AXES, differing, ranked_together, sweep_table
from medretrieval.track.tracker import Sweep, Tracker, tracker_from_config

log = logging.getLogger(__name__)


class SweepCallback(Callback):
    """Set in conf/config.yaml under hydra.callbacks.

    Attributes:
        folder: of the sweep that this process started, None for a single run.
        tracker: of its runs.
    """

    folder: Path | None = None
    tracker = Tracker()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Let the tracker make what parallel jobs must not all make."""
        SweepCallback.folder = Path(str(config.hydra.sweep.dir)).absolute()
        with suppress(UserError):  # each job says it, as its own failure
            SweepCallback.tracker = tracker_from_config(config.tracking)
            SweepCallback.tracker.prepare()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Draw what the runs cost against what they score, and log it beside them."""
        folder = SweepCallback.folder
        if folder is None or not folder.exists():
            return
        reports, _ = reports_of(folder)
        pictures = draw_pareto(folder, reports)
        if reports:
            SweepCallback.tracker.log_sweep(Sweep(folder, reports, pictures))


def sweep_id(folder: str) -> str:
    """The id under which a sweep's runs are found: the name of its folder."""
    return Path(folder).name


def reports_of(folder: Path) -> tuple[list[RunReport], list[str]]:
    """The reports of a sweep's runs (of the earlier run where one was skipped), and a line a failure."""
    reports, failures = [], []
    jobs = sorted(
        {p.parent.parent for p in folder.rglob(".hydra/overrides.yaml")}, key=lambda p: (len(p.name), p.name)
    )
    for job in jobs:
        if (job / run_folder.SCORES).exists():
            reports.append(read_report(job))
        elif (job / run_folder.SKIPPED).exists():
            earlier = run_folder.skipped_for(job)
            if (earlier / run_folder.SCORES).exists():
                reports.append(read_report(earlier))
            else:
                failures.append(f"skipped: {job.name}: its results were in {earlier}, which is gone")
        else:
            reason = (
                (job / run_folder.FAILED).read_text()
                if (job / run_folder.FAILED).exists()
                else "did not finish"
            )
            failures.append(f"failed: {job.name}: {reason.strip()}")
    return reports, failures


def sweep_summary(folder: Path) -> str:
    """The table of a sweep's runs, those that failed, and how to find them where they are tracked."""
    reports, failures = reports_of(folder)
    count = len(reports) + len(failures)
    lines = ["", f"sweep {folder.name}: {len(reports)} of {count} runs have results"]
    lines += [sweep_table(reports)] if reports else []
    lines += [*failures, *(f"picture: {path}" for path in sorted(folder.glob("pareto*.png")))]
    found = SweepCallback.tracker.how_to_find(folder.name)
    return "\n".join([*lines, *([found] if found else [])])


def draw_pareto(folder: Path, reports: list[RunReport]) -> list[Path]:
    """Draw quality against latency and bytes, a picture for each dataset, protocol and score of a sweep.

    Args:
        folder: where pareto.png goes; pareto_<what>.png where there is more than one.
        reports: of its runs.

    Returns:
        The pictures; none for what has a single run.
    """
    compared = {place: runs for place, runs in ranked_together(reports).items() if len(runs) > 1}
    pictures = []
    for place, runs in compared.items():
        name = "pareto.png" if len(compared) == 1 else f"pareto_{'_'.join(place).replace(' ', '_')}.png"
        figure(folder / name, _points(runs), f"{place[2]} ({place[0]}, {place[1]})")
        pictures.append(folder / name)
    return pictures


def _points(runs: list[RunReport]) -> list[dict[str, Any]]:
    shown = differing(runs).values()
    return [
        {
            "label": " ".join(text for axis in shown if (text := axis(run))),
            "encoder": AXES["encoder"](run),
            "score": run.objective.value,
            "latency_ms": run.speed.latency_ms.p50,
            "bytes_per_vector": run.speed.bytes_per_vector,
        }
        for run in runs
    ]
