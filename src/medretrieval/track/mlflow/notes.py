"""What MLflow shows beside numbers: the notes of runs and sweeps."""

from collections.abc import Sequence

from medretrieval.runs.report import RunReport
from medretrieval.runs.report_parts import Difference, ScoreInterval
from medretrieval.runs.tables import (
    AXES,
    baseline_names,
    best_first,
    differing,
    interval_heading,
    markdown,
    ranked_together,
)
from medretrieval.track.mlflow.views import address

MOST = 4800  # characters of a note: MLflow takes 5,000 in older versions


def run_note(report: RunReport) -> str:
    """A run in Markdown: its score with its interval, beside chance and beside raw pixels, and its notes.

    Args:
        report: the run's.
    """
    name, value = report.objective.name, report.objective.value
    ends = report.intervals.get(name)
    within = "" if ends is None else f" ({report.percent} interval {_range(ends)})"
    lines = [f"**{name} {value:.4f}**{within}: {report.title}"]
    points = [*_beside_chance(report, name, ends), *_beside_pixels(report, name), *report.notes]
    return "\n".join([*lines, "", *(f"- {point}" for point in points)])[:MOST]


def _beside_chance(report: RunReport, name: str, ends: ScoreInterval | None) -> list[str]:
    random = report.chance.get(name)
    if random is None:
        return []
    lift = f", lift {report.lift[name]:.2f}" if name in report.lift else ""
    reached = ends is not None and ends.low <= random <= ends.high
    return [
        f"A random ranking scores {random:.4f}{lift}{'; it lies within the interval' if reached else ''}."
    ]


def _beside_pixels(report: RunReport, name: str) -> list[str]:
    line = report.baseline
    if line is None or name not in line.scores:
        return []
    said, difference = f"Raw {line.encoder} score {line.scores[name]:.4f}", line.difference
    # Where this run is not above them, its own notes say so, with the difference.
    if difference is None or difference.low <= 0:
        return [f"{said}."]
    ends = f"{report.percent}: {difference.low:+.4f} to {difference.high:+.4f}"
    return [f"{said}; this run is above them: difference {difference.value:+.4f} ({ends})."]


def sweep_note(sweep: str, experiment: str, reports: Sequence[RunReport]) -> str:
    """A sweep in Markdown: where its runs are shown best first, and a table for each dataset and protocol.

    Args:
        sweep: its id.
        experiment: the id of its MLflow experiment.
        reports: of its runs.
    """
    table, charts = (address(experiment, sweep, charts=charts) for charts in (False, True))
    text = f"[The runs in columns, best first]({table}), [as charts]({charts})\n\n"
    text += f"To make a report to send: `medretrieval report {sweep}`\n"
    left = len(reports)
    for place, runs in ranked_together(reports).items():
        text += f"\n**{', '.join(place)}**\n\n"
        lines = markdown(*_rows(place[2], runs)).split("\n")
        kept = max(
            (n for n in range(len(lines) + 1) if len(text + "\n".join(lines[:n])) < MOST - 60), default=0
        )
        if kept > 2:
            text += "\n".join(lines[:kept]) + "\n"
            left -= kept - 2
        if kept < len(lines):
            return f"{text}\n{left} more runs are in sweep.txt."
    return text


def _rows(name: str, runs: Sequence[RunReport]) -> tuple[list[str], list[list[str]]]:
    shown = differing(runs)
    if "index" in shown:  # narrow: how the index is searched goes with it
        shown.pop("search", None)
    line = baseline_names(runs)
    header = [*shown, name, interval_heading(runs), "chance", line, f"minus {line}", "p50 ms"]
    rows = [
        [
            *(_axis(axis, run) for axis in shown),
            f"{run.objective.value:.4f}",
            _range(run.intervals.get(name), ".."),
            _number(run.chance.get(name)),
            _number(run.baseline_score(name)),
            _difference(run.baseline.difference if run.baseline else None),
            f"{run.speed.latency_ms.p50:.2f}",
        ]
        for run in (runs[i] for i in best_first(runs))
    ]
    return header, rows


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _axis(axis: str, run: RunReport) -> str:
    search = AXES["search"](run) if axis == "index" else ""
    return f"{AXES[axis](run)} {search}".strip()


def _range(ends: ScoreInterval | None, between: str = " to ") -> str:
    return "-" if ends is None else f"{ends.low:.4f}{between}{ends.high:.4f}"


def _difference(found: Difference | None) -> str:
    return "-" if found is None else f"{found.value:+.4f} ({found.low:+.4f}..{found.high:+.4f})"
