"""The numbers of a run under flat names, as trackers keep them."""

from medretrieval.runs.report import RunReport, numbers


def run_metrics(report: RunReport) -> dict[str, float]:
    """The numbers of a report under flat names, in the groups that the MLflow UI folds."""
    first = report.objective.name  # MLflow's page of a run lists them in this order
    values: dict[str, float] = {first: report.scores[first]} | report.scores | numbers(report.counts)
    values |= {f"time/{name}_s": seconds for name, seconds in report.timings_s.items()}
    for name, ends in report.intervals.items():
        values |= _grouped(f"interval/{name}_", ends)
    for group, found in (("chance", report.chance), ("lift", report.lift)):
        values |= {f"{group}/{name}": value for name, value in found.items()}
    values |= _grouped("audit/", report.audit)
    if report.baseline is not None:
        values |= {f"baseline/{name}": value for name, value in report.baseline.scores.items()}
    if report.left_out is not None and (change := report.left_out.change) is not None:
        values |= {"left_out/change": change.value}
        values |= {"left_out/change_low": change.low, "left_out/change_high": change.high}
    values["embed/images_per_s"] = report.encoder.images_per_s
    values |= _grouped("embed/", report.encoder.fidelity)
    values |= _grouped("search/latency_ms_", report.speed.latency_ms) | _grouped("search/", report.speed)
    return values | _flat_text(report) | _flat_ann_loss(report) | _flat_explain(report)


def _grouped(prefix: str, part: object | None) -> dict[str, float]:
    """The numbers of a part of a report, each name after the prefix; of None none."""
    return {} if part is None else {f"{prefix}{name}": value for name, value in numbers(part).items()}


def _flat_text(report: RunReport) -> dict[str, float]:
    """Numbers of runs whose queries are sentences; the areas of single classes stay in scores.json."""
    gap = report.modality_gap
    values = _grouped("zero_shot/", report.zero_shot) | _grouped("modality_gap/", gap)
    if gap is None or gap.recall is None:
        return values
    sides = {"sentences": gap.recall.sentences, "images": gap.recall.images}
    return values | {f"modality_gap/recall_{side}": recall for side, recall in sides.items()}


def _flat_ann_loss(report: RunReport) -> dict[str, float]:
    ann = report.ann_loss
    if ann is None:
        return {}
    values = {f"ann/recall_at_{k}": value for k, value in ann.recall.items()}
    values |= {f"ann/{name}_change": change.value for name, change in ann.changes.items()}
    return values | {"ann/missing": ann.missing}


def _flat_explain(report: RunReport) -> dict[str, float]:
    """explain/deletion_advantage, explain/deletion_advantage_low, explain/pointing_hits and their kin."""
    explain = report.explain
    if explain is None:
        return {}
    values = _grouped("explain/deletion_", explain.deletion) | _grouped("explain/pointing_", explain.pointing)
    intervals = {f"deletion_{name}": ends for name, ends in explain.deletion.intervals.items()}
    if explain.pointing is not None:
        for control in ("other_class", "same_class"):
            values |= _grouped(f"explain/pointing_{control}_", getattr(explain.pointing, control))
        intervals |= {f"pointing_{name}": ends for name, ends in explain.pointing.intervals.items()}
    for name, ends in intervals.items():
        values |= _grouped(f"explain/{name}_", ends)
    return values
