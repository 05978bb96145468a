"""What a sweep's runs have come to: their table, score against cost, and those without results."""

import csv
from pathlib import Path
from typing import Any

from medretrieval.figures.pareto import figure
from medretrieval.runs import folder as run_folder
from medretrieval.runs.report import RunReport, read_report
from medretrieval.runs.tables import AXES, differing, ranked_together, sweep_rows, sweep_table
from medretrieval.sweep.plan import all_ended, has_results, job_folders, read_plan

MARKDOWN, CSV = "table.md", "table.csv"  # the table of a sweep's runs, in its folder


def reports_of(folder: Path) -> tuple[list[RunReport], list[str]]:
    """The reports of a sweep's runs (of the earlier run where one was skipped), and a line a failure."""
    reports, failures = [], []
    for job in job_folders(folder):
        if (job / run_folder.SCORES).exists():
            reports.append(read_report(job))
        elif (job / run_folder.SKIPPED).exists():
            earlier = run_folder.skipped_for(job)
            if (earlier / run_folder.SCORES).exists():
                reports.append(read_report(earlier))
            else:
                failures.append(f"skipped: {job.name}: its results were in {earlier}, which is gone")
        elif not (job / run_folder.FAILED).exists():
            failures.append(f"did not finish: {job.name}")
        else:
            failures.append(f"failed: {job.name}: {(job / run_folder.FAILED).read_text().strip()}")
    return reports, failures


def save_tables(folder: Path, reports: list[RunReport]) -> None:
    """Write the table of a sweep's runs into its folder, in Markdown and as CSV, where it has any."""
    if not reports:
        return
    (folder / MARKDOWN).write_text(sweep_table(reports, in_markdown=True) + "\n")
    with (folder / CSV).open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(sweep_rows(reports))


def sweep_summary(folder: Path, how_to_find: str | None) -> str:
    """The table of a sweep's runs, those that failed, and how to go on or to find them.

    Args:
        folder: of the sweep.
        how_to_find: its runs, where they are tracked.
    """
    plan, jobs = read_plan(folder), job_folders(folder)
    reports, failures = reports_of(folder)
    count = len(jobs) if plan is None else len(plan.jobs)
    done = sum(has_results(job) for job in jobs)
    if all_ended(plan, jobs):
        said = f"{len(reports)} of {count} runs have results"
    else:
        said = f"{done} of {count} runs done; start the same command again to go on"
    lines = ["", f"sweep {folder.name}: {said}", *([sweep_table(reports)] if reports else []), *failures]
    if reports:
        lines.append(f"table: {folder / MARKDOWN} and {CSV}")
    if len(reports) > 1:
        lines.append(f"is a difference more than chance? medretrieval compare {folder.name}")
    lines += [f"picture: {path}" for path in sorted(folder.glob("pareto*.png"))]
    return "\n".join([*lines, *([how_to_find] if how_to_find else [])])


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
    shown = differing(runs)
    if len(shown) > 1:  # the legend says the encoder
        shown.pop("encoder", None)
    return [
        {
            "label": " ".join(text for axis in shown.values() if (text := axis(run))),
            "encoder": AXES["encoder"](run),
            "score": run.objective.value,
            "latency_ms": run.speed.latency_ms.p50,
            "bytes_per_vector": run.speed.bytes_per_vector,
        }
        for run in runs
    ]
