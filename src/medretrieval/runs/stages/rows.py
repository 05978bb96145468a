"""What each stage changes, and what an adaptation is held against, as rows of tables."""

from collections.abc import Mapping
from typing import Any

from medretrieval.runs.report import RunReport
from medretrieval.runs.report_data import AdaptReport, BesideReport, StageGain
from medretrieval.runs.report_parts import Difference


def stage_table(report: RunReport) -> tuple[list[str], list[list[str]]]:
    """What each stage changes: header and rows, none where no stage changes anything."""
    header = ["stage", "choice", f"{report.objective.name} without", "with", f"change ({report.percent})"]
    return header, [_stage(row) for row in report.stages]


def _stage(row: StageGain) -> list[str]:
    values = ["-" if value is None else f"{value:.4f}" for value in (row.without, row.with_it)]
    if row.change is None and row.without is not None and row.with_it is not None:
        return [row.stage, row.choice, *values, f"{row.with_it - row.without:+.4f} (no interval)"]
    return [row.stage, row.choice, *values, said_change(row.change)]


def said_change(change: Difference | None) -> str:
    """A difference with its interval: "+0.0106 (-0.0082 to +0.0294)"."""
    if change is None:
        return "too few queries"
    return f"{change.value:+.4f} ({change.low:+.4f} to {change.high:+.4f})"


def said_choice(choice: Mapping[str, Any]) -> str:
    """The values that were chosen: "shrinkage=0.1"."""
    return ", ".join(f"{key}={value}" for key, value in choice.items()) or "nothing to choose"


def adapt_table(report: RunReport) -> tuple[list[str], list[list[str]]]:
    """What an adaptation is held against: header and rows, none where nothing is adapted."""
    header = ["beside the adaptation", "without", "with", f"change ({report.percent})"]
    found = report.adapt
    if found is None:
        return header, []
    reference = "shuffled labels, beside no labels" if found.uses_labels else "shuffled captions, beside none"
    beside: dict[str, BesideReport | None] = {
        reference: found.shuffled,
        "gallery out of fold, beside in": found.out_of_fold,
        "this run, beside pixels adapted": found.pixels,
    }
    return header, [
        [what, f"{row.without:.4f}", f"{row.with_it:.4f}", said_change(row.change)]
        for what, row in beside.items()
        if row is not None
    ]


def adapt_lines(report: RunReport) -> list[str]:
    """Facts of an adaptation, a line each: what was chosen, val beside test, spread of refits, shape."""
    found = report.adapt
    if found is None:
        return []
    captions = "without labels" if found.shuffled is None else "with the captions of train"
    labels = "with the labels of train" if found.uses_labels else captions
    name = report.objective.name
    lines = [f"adapt {found.name}, fitted on train {labels}; chosen on val: {said_choice(found.choice)}"]
    if found.val_score is not None and found.val_gap is not None:
        lines.append(f"{name} on val {found.val_score:.4f}, {found.val_gap:+.4f} against this run's queries")
    if found.refits:
        lines.append(
            f"{len(found.refits)} further fits (other samples of train, or other seeds): {name} "
            f"{min(found.refits):.4f} to {max(found.refits):.4f}"
        )
    return [*lines, _shapes(found)]


def _shapes(found: AdaptReport) -> str:
    old, new = found.before, found.after
    return (
        f"gallery: {old.dimension} -> {new.dimension} numbers a vector, effective dimension "
        f"{old.effective_dimension:.1f} -> {new.effective_dimension:.1f}, hub skewness "
        f"{old.hub_skewness:.2f} -> {new.hub_skewness:.2f}"
    )
