"""The numbers of a run under flat names, as trackers keep them: few enough to be read, the objective first.

Everything else that a run says of itself is in scores.json.
"""

from medretrieval.evaluate.score_table import is_headline
from medretrieval.runs.report import RunReport, numbers
from medretrieval.runs.tables import MAP

OBJECTIVE = "objective"  # the score that runs are ranked by, under one name in every run
MAX_METRICS = 60  # of a run, those that a tracker adds to them included
# Scores among these: the same number in all runs, so that those of a sweep have the same columns.
MAX_SCORES = 22
# Scores without a depth, then those with one, depth by depth; others follow as long as there is room.
FIRST_SCORES = (MAP, "map", "mrr", "r_precision", "vote_accuracy")
FIRST_AT_DEPTHS = ("precision_at_", "recall_at_")
LAST_SCORES = ("chance_precision", "vote_balanced_accuracy", "vote_auroc", "vote_calibration_error")


def run_metrics(report: RunReport) -> dict[str, float]:
    """The numbers of a report under flat names, in the groups that the MLflow UI folds.

    Returns:
        name -> value, at most MAX_METRICS, in the order in which MLflow's page of a run lists them.
    """
    values = _objective(report) | {name: report.scores[name] for name in logged_scores(report)}
    values |= _chosen("", report.counts, "queries", "gallery", "queries_without_relevant", "missing_results")
    stages = ("embed", "index", "search", "total")
    values |= {f"time/{s}_s": report.timings_s[s] for s in stages if s in report.timings_s}
    values |= _chosen("search/latency_ms_", report.speed.latency_ms, "p50", "p95", "p99")
    speed = ("queries_per_s_single", "queries_per_s_batched", "bytes_per_vector")
    values |= _chosen("search/", report.speed, *speed)
    values |= _chosen(
        "audit/", report.audit, "identical_between", "label_conflicts", "near_embedding", "near_hash",
        "same_group",
    )  # fmt: skip
    values["embed/images_per_s"] = report.encoder.images_per_s
    values |= _chosen("embed/", report.encoder.fidelity, "cosine_min", "neighbors_in_common")
    if report.left_out is not None and report.left_out.change is not None:
        values["left_out/change"] = report.left_out.change.value
    for gain in report.stages:
        if gain.change is not None:
            values[f"gain/{gain.stage}"] = gain.change.value
    values |= _chosen("adapt/", report.adapt, "val_score", "val_gap")
    return values | _subgroups(report) | _ann_loss(report) | _text(report) | _explain(report)


def logged_scores(report: RunReport) -> list[str]:
    """Names of the scores that trackers keep, at most MAX_SCORES: the objective, then by what is asked for.

    Args:
        report: of a run; with many depths the later ones are left out.
    """
    first = report.objective.name
    headline = [name for name in report.scores if is_headline(name)]
    wanted = [first, *FIRST_SCORES]
    wanted += [name for name in headline if name.startswith(FIRST_AT_DEPTHS)]
    wanted += [*headline, *LAST_SCORES, f"macro_{first}"]
    there = [name for name in dict.fromkeys(wanted) if name in report.scores]
    return there[:MAX_SCORES]


def _objective(report: RunReport) -> dict[str, float]:
    """The objective with what stands beside it: its interval, a random ranking, the baseline."""
    name, values = report.objective.name, {OBJECTIVE: report.objective.value}
    if (ends := report.intervals.get(name)) is not None:
        values |= {f"{OBJECTIVE}_low": ends.low, f"{OBJECTIVE}_high": ends.high}
    for beside, scores in (("chance", report.chance), ("lift", report.lift)):
        if name in scores:
            values[f"{OBJECTIVE}_{beside}"] = scores[name]
    line = report.baseline
    if line is not None and name in line.scores:
        values[f"{OBJECTIVE}_baseline"] = line.scores[name]
    if line is not None and (difference := line.difference) is not None:
        values[f"{OBJECTIVE}_minus_baseline"] = difference.value
        values[f"{OBJECTIVE}_minus_baseline_low"] = difference.low
        values[f"{OBJECTIVE}_minus_baseline_high"] = difference.high
    return values


def _chosen(prefix: str, part: object | None, *names: str) -> dict[str, float]:
    """Some numbers of a part of a report, each name after the prefix; of None none."""
    known = {} if part is None else numbers(part)
    return {f"{prefix}{name}": known[name] for name in names if name in known}


def _subgroups(report: RunReport) -> dict[str, float]:
    """The largest of the worst gaps, and the smallest corrected p."""
    gaps = [] if report.subgroups is None else report.subgroups.gaps
    found = {
        "worst_gap": max((gap.difference for gap in gaps if gap.difference is not None), default=None),
        "worst_gap_p": min((gap.p for gap in gaps if gap.p is not None), default=None),
    }
    return {f"subgroups/{name}": value for name, value in found.items() if value is not None}


def _ann_loss(report: RunReport) -> dict[str, float]:
    """Recall of the neighbors at the largest depth, and what the index costs the objective."""
    ann, name = report.ann_loss, report.objective.name
    if ann is None:
        return {}
    k = max(ann.recall)
    values = {f"ann/recall_at_{k}": ann.recall[k]}
    return values | ({f"ann/{OBJECTIVE}_change": ann.changes[name].value} if name in ann.changes else {})


def _text(report: RunReport) -> dict[str, float]:
    """Numbers of runs whose queries are sentences."""
    gap = report.modality_gap
    values = _chosen(
        "zero_shot/", report.zero_shot, "accuracy", "balanced_accuracy", "majority", "macro_auroc"
    )
    values |= _chosen("modality_gap/", gap, "distance", "cosine_text_image")
    if gap is None or gap.recall is None:
        return values
    sides = {"sentences": gap.recall.sentences, "images": gap.recall.images}
    return values | {f"modality_gap/recall_{side}": recall for side, recall in sides.items()}


def _explain(report: RunReport) -> dict[str, float]:
    explain = report.explain
    if explain is None:
        return {}
    values = _chosen("explain/deletion_", explain.deletion, "advantage")
    if (pointing := explain.pointing) is not None:
        values |= _chosen("explain/pointing_", pointing, "hits")
        values |= _chosen("explain/pointing_other_class_", pointing.other_class, "hits_gain")
        values |= _chosen("explain/pointing_same_class_", pointing.same_class, "hits_gain")
    return values
