"""What a person reads in the terminal: the table of a run, the table of a sweep."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from medretrieval.config import Baseline, leaves
from medretrieval.evaluate.score_table import MAP_DEPTH, is_headline
from medretrieval.protocol.exclusions import MORE_LEFT_OUT
from medretrieval.protocol.task import BY_HALVES
from medretrieval.runs.folder import SCORES, SPLITS
from medretrieval.runs.report import ProtocolReport, RunReport
from medretrieval.runs.report_data import GapReport, SubgroupReport
from medretrieval.runs.report_parts import EncoderReport, ScoreInterval
from medretrieval.runs.stages.rows import adapt_lines, adapt_table, stage_table

MAP = f"map_at_{MAP_DEPTH}"  # which every index answers
SAME_AT_1 = ("precision_at_1", "hit_rate_at_1", "ndcg_at_1")  # 1 where the nearest is relevant, else 0
READABLE = 0.001  # what is smaller has less than two of the four digits that are shown


def run_table(report: RunReport, folder: Path) -> str:
    """Headline scores with chance beside them, each stage's seconds, and where everything is."""
    lines = ["", report.title, ""]
    lines += _score_table(report) + subgroup_lines(report) + _stage_lines(report)
    counts, kept = report.counts, {"embeddings": report.encoder.cached, "index": report.index.cached}
    from_cache = " and ".join(name for name, cached in kept.items() if cached)
    seconds = {"ANN check" if stage == "ann_check" else stage: s for stage, s in report.timings_s.items()}
    stages = "   ".join(f"{stage} {s:.2f}" for stage, s in seconds.items())
    lines += ["", f"queries {counts.queries}, gallery {counts.gallery}   index {report.index.factory}"]
    lines.append(f"seconds: {stages}" + (f"   (from the cache: {from_cache})" if from_cache else ""))
    lines += (
        _file_lines(report)
        + _fidelity_lines(report.encoder)
        + _speed_lines(report)
        + _zero_shot_lines(report)
    )
    lines.append(f"what varies in the intervals: {what_varies(report)}; 'chance' is a random ranking")
    lines += [f"note: {note}" for note in report.notes]
    return "\n".join([*lines, f"results: {folder}", ""])


def what_varies(report: RunReport) -> str:
    """What the intervals of a run say the luck of."""
    if report.resampled in BY_HALVES:
        return f"{report.resampled} (random halves)"
    return f"{report.resampled}, the gallery held fixed (bootstrap)"


def _score_table(report: RunReport) -> list[str]:
    baseline = report.baseline
    columns: dict[str, Callable[[str], str]] = {
        "score": str,
        "value": lambda name: _number(report.scores, name),
        f"{report.percent} interval": lambda name: _interval(report.intervals, name),
        "chance": lambda name: _chance(report, name),
        "lift": lambda name: f"{report.lift[name]:.2f}" if name in report.lift else "-",
    }
    if baseline is not None:
        columns[baseline.encoder] = lambda name: _number(baseline.scores, name)
    names = [name for name in report.scores if is_headline(name)]
    small = [name for name in names if _unreadable(report, name)]
    shown = _once(report, [name for name in names if name not in small])
    cells = [[label, *(cell(name) for cell in list(columns.values())[1:])] for name, label in shown.items()]
    left_out = [f"not shown, below {READABLE:g}: {', '.join(small)} (in {SCORES})"] if small else []
    return table(list(columns), cells) + left_out


def subgroup_lines(report: RunReport) -> list[str]:
    """A table of the subgroups with the objective of each, and a line for each column's worst gap."""
    found = report.subgroups
    if found is None:
        return []
    columns: dict[str, Callable[[SubgroupReport], str]] = {
        "column": lambda row: row.column,
        "value": lambda row: row.said,
        "queries": lambda row: str(row.queries),
        "patients": lambda row: str(row.patients),
        found.score: lambda row: "too small" if row.too_small else _number(row.scores, found.score),
        f"{report.percent} interval": lambda row: _interval(row.intervals, found.score),
        "chance": lambda row: _number(row.chance, found.score),
        "lift": lambda row: f"{row.lift[found.score]:.2f}" if found.score in row.lift else "-",
    }
    if found.score != MAP:
        columns[MAP] = lambda row: _number(row.scores, MAP)
    if any(row.patients is None for row in found.values):
        del columns["patients"]
    rows = [[cell(row) for cell in columns.values()] for row in found.values]
    return ["", *table(list(columns), rows, ["value"]), *map(gap_line, found.gaps)]


def _stage_lines(report: RunReport) -> list[str]:
    """What each stage changes, and what an adaptation is held against."""
    tables = [table(*content) for content in (stage_table(report), adapt_table(report)) if content[1]]
    lines = [line for lines in tables for line in ["", *lines]]
    facts = adapt_lines(report)
    return [*lines, "", *facts] if facts else lines


def gap_line(gap: GapReport) -> str:
    """The worst gap of a column in a line."""
    begin = f"worst gap by {gap.column}: "
    if gap.difference is None:
        return f"{begin}none ({gap.why})"
    tested = f" ({gap.why})" if gap.p is None else f", corrected p {said_p(gap.p)}"
    return f"{begin}{gap.higher} over {gap.lower} by {gap.difference:.4f}{tested}"


def said_p(p: float) -> str:
    """A p-value as tables say it."""
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def _unreadable(report: RunReport, name: str) -> bool:
    """Whether four digits after the point say less than two of a score, of its chance and of its interval."""
    values = [report.scores[name], report.chance.get(name, 0.0)]
    values += [report.intervals[name].high] if name in report.intervals else []
    return max(values) < READABLE


def _once(report: RunReport, names: Sequence[str]) -> dict[str, str]:
    """Names of the scores that get a row, each with what the row is called: the same number stands once."""
    rows = {name: name for name in names}
    for same in _same_by_definition(report):
        first, *others = [name for name in same if name in rows] or [""]
        for other in others:
            del rows[other]
            rows[first] += f" = {other.removesuffix('_at_1')}"
    return rows


def _same_by_definition(report: RunReport) -> list[tuple[str, ...]]:
    """Names of scores that are one number, whatever was ranked."""
    found = [SAME_AT_1 + (("vote_accuracy",) if report.vote.k == 1 else ())]
    # A ranking of at most 100: its average precision over the first 100 is that over all of it.
    return found + ([("map", MAP)] if report.counts.depth <= MAP_DEPTH else [])


def _chance(report: RunReport, name: str) -> str:
    """With its standard error where it was drawn."""
    error = f" ± {report.chance_errors[name]:.4f}" if name in report.chance_errors else ""
    return _number(report.chance, name) + error


def _file_lines(report: RunReport) -> list[str]:
    """What became of the files of a dataset of one's own."""
    files = report.files
    if files is None:
        return []
    said = [f"{files.files - files.unreadable} read"]
    if files.unreadable:
        said.append(f"{files.unreadable} left out, which cannot be read")
    if files.splits_made:
        said.append(f"splits drawn ({SPLITS})")
    if files.shared_groups:
        said.append(f"{files.shared_groups} groups in more than one split")
    return [f"files: {', '.join(said)}"]


def _fidelity_lines(encoder: EncoderReport) -> list[str]:
    """What another runtime or precision than torch fp32 makes of the vectors."""
    fidelity = encoder.fidelity
    if fidelity is None:
        return []
    share, k = fidelity.neighbors_in_common, fidelity.neighbors
    neighbors = "" if share is None else f", {100 * share:.1f} % of {k} neighbors in common"
    return [
        f"vectors: {encoder.computed_by}, against {fidelity.against} on {fidelity.images} images: cosine "
        f"{fidelity.cosine_min:.6f} at least{neighbors}"
    ]


def _speed_lines(report: RunReport) -> list[str]:
    speed, tuned, ann, lines = report.speed, report.autotune, report.ann_loss, []
    if tuned is not None:
        lines.append(f"autotune: {tuned.parameters} reaches recall {tuned.recall:.4f} on validation vectors")
    lines.append(
        f"search: {speed.queries_per_s_batched:.0f} queries/s, p95 {speed.latency_ms.p95:.2f} ms, "
        f"{speed.bytes_per_vector:.0f} bytes a vector"
    )
    if ann is not None:
        k, recall = list(ann.recall.items())[-1]
        name, line = f"precision_at_{k}", f"against exact search: recall@{k} {recall:.4f}"
        if (change := ann.changes.get(name)) is not None:
            line += (
                f", {name} {change.value:+.4f} ({report.percent}: {change.low:+.4f} to {change.high:+.4f})"
            )
        lines.append(line)
    return lines


def _zero_shot_lines(report: RunReport) -> list[str]:
    found = report.zero_shot
    if found is None:
        return []
    values = {
        "accuracy": found.accuracy,
        "balanced accuracy": found.balanced_accuracy,
        "macro auroc": found.macro_auroc,
    }
    shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items() if value is not None)
    return [f"zero-shot, {found.images} images: {shown or 'one class, nothing to tell apart'}"]


def _interval(intervals: dict[str, ScoreInterval], name: str) -> str:
    return f"{intervals[name].low:.4f} .. {intervals[name].high:.4f}" if name in intervals else "-"


CSV_COLUMNS = (
    "score", "value", "low", "high", "difference", "chance", MAP, "ann_recall", "latency_ms_p50", "seconds",
    "embeddings_cached",
)  # fmt: skip
# What runs can differ in, and how their reports say it.
AXES: dict[str, Callable[[RunReport], str]] = {
    "dataset": lambda r: r.dataset,
    "corrupt": lambda r: r.corrupt or "",
    "encoder": lambda r: r.encoder.name + ("*" if r.encoder.random_weights else ""),
    "view": lambda r: r.encoder.view or "",
    "index": lambda r: r.index.name,
    "search": lambda r: r.index.search,
    "metric": lambda r: r.metric,
    "protocol": lambda r: _protocol(r.protocol),
    "adapt": lambda r: "" if r.adapt is None else r.adapt.name,
    "rerank": lambda r: "" if r.rerank is None else r.rerank.said,
}


def _protocol(protocol: ProtocolReport) -> str:
    name = protocol.name + ("" if protocol.exclude_self else " +self")
    name += "".join(f" {choice}" for choice in (protocol.prompts, protocol.hit, protocol.center) if choice)
    return name + "".join(f" -{key.split('_')[-1]}" for key in MORE_LEFT_OUT if getattr(protocol, key))


def axis_values(reports: Sequence[RunReport]) -> dict[str, list[str]]:
    """What occurs on each axis, in the order of the runs."""
    found = {name: list(dict.fromkeys(axis(r) for r in reports)) for name, axis in AXES.items()}
    # An encoder without a view is told from others by its name.
    return found | {"view": [view for view in found["view"] if view]}


def differing(reports: Sequence[RunReport]) -> dict[str, Callable[[RunReport], str]]:
    """The axes along which runs differ; the encoder where they differ in none."""
    values = axis_values(reports)
    shown = {name: axis for name, axis in AXES.items() if len(values[name]) > 1}
    return shown or {"encoder": AXES["encoder"]}


def ranked_together(reports: Sequence[RunReport]) -> dict[tuple[str, str, str], list[RunReport]]:
    """Runs by dataset, protocol and score: across these numbers mean different things."""
    groups: dict[tuple[str, str, str], list[RunReport]] = {}
    for report in reports:
        place = AXES["dataset"](report), AXES["protocol"](report), report.objective.name
        groups.setdefault(place, []).append(report)
    return groups


def interval_heading(reports: Sequence[RunReport]) -> str:
    """What the column of intervals is called; without their level where runs differ in it."""
    levels = {report.percent for report in reports}
    return f"{levels.pop()} interval" if len(levels) == 1 else "interval"


def baseline_names(reports: Sequence[RunReport]) -> str:
    """What the column of the baseline is called; "pixels" where no run has one."""
    names = sorted({report.baseline.encoder for report in reports if report.baseline is not None})
    return " or ".join(names) or Baseline.pixels


def best_first(reports: Sequence[RunReport], values: Sequence[float] | None = None) -> list[int]:
    """Numbers of runs, the best first: of equals exact search, then the fewest settings, then the title.

    Everything that ranks runs or names the best asks here.

    Args:
        reports: of the runs.
        values: what they are ranked by; None for their objectives.
    """
    ranked_by = [report.objective.value for report in reports] if values is None else values

    def place(i: int) -> tuple[float, bool, bool, int, str]:
        index = reports[i].index
        # Means of the same numbers differ in their last bits where they were summed in another order.
        return (
            -round(ranked_by[i], 12),
            reports[i].ann_loss is not None,
            not index.exhaustive,
            _settings(reports[i]),
            reports[i].title,
        )

    return sorted(range(len(reports)), key=place)


def _settings(report: RunReport) -> int:
    """How many settings of index, encoder and protocol a run has."""
    index = [part for text in (report.index.build, report.index.search) for part in text.split(",") if part]
    index += report.index.factory.split(",")
    chosen = [value for value in leaves(report.encoder.identity).values() if value is not None]
    return len(index) + (report.autotune is not None) + len(chosen) + (report.protocol.center is not None)


def sweep_table(reports: Sequence[RunReport], in_markdown: bool = False) -> str:
    """The runs of a sweep, best first: a table for each dataset, protocol and score.

    Seconds say where the embeddings were in the cache already: such runs are not faster encoders.

    Args:
        reports: of its runs.
        in_markdown: in Markdown instead of columns.
    """
    groups, blocks = ranked_together(reports), []
    for place, runs in groups.items():
        header, rows = _ranked(runs)
        lines = [markdown(header, rows)] if in_markdown else table(header, rows)
        heading = ", ".join(place)
        named = [f"**{heading}**\n" if in_markdown else heading] if len(groups) > 1 or in_markdown else []
        blocks.append("\n".join(named + lines))
    notes = ["difference: from the best run of the table"]
    if unread := max((r.files.unreadable for r in reports if r.files is not None), default=0):
        notes.append(f"up to {unread} files a run are left out, which cannot be read")
    if any(r.encoder.random_weights for r in reports):
        notes.append("* RANDOM WEIGHTS: says nothing about the model")
    return "\n\n".join(blocks) + ("\n\n" if in_markdown else "\n") + "\n".join(notes)


def _ranked(runs: Sequence[RunReport]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of runs that are ranked together: in what they differ, their score and its cost."""
    shown, order = differing(runs), [runs[i] for i in best_first(runs)]
    name, best = order[0].objective.name, order[0].objective.value
    ks = {list(r.ann_loss.recall)[-1] for r in runs if r.ann_loss is not None}
    recall = f"ANN recall@{ks.pop()}" if len(ks) == 1 else "ANN recall"
    level = interval_heading(runs)
    header = [*shown, name, level, "difference", "chance", MAP, recall, "p50 ms", "seconds"]
    rows = [
        [
            *(axis(r) for axis in shown.values()),
            f"{r.objective.value:.4f}",
            _interval(r.intervals, name),
            f"{round(r.objective.value - best, 4) + 0.0:.4f}",
            _number(r.chance, name),
            _number(r.scores, MAP),
            "exact" if r.ann_loss is None else f"{list(r.ann_loss.recall.values())[-1]:.4f}",
            f"{r.speed.latency_ms.p50:.2f}",
            _seconds(r),
        ]
        for r in order
    ]
    return header, rows


def sweep_rows(reports: Sequence[RunReport]) -> list[list[Any]]:
    """The same for a program: a header, and a row of plain values for each run; "" where a run has none.

    `difference` is to the best run of the same dataset, protocol and score; `ann_recall` is that at the
    largest of evaluation.ks, 1 for exact search.
    """
    rows: list[list[Any]] = [[*AXES, *CSV_COLUMNS]]
    for runs in ranked_together(reports).values():
        order = [runs[i] for i in best_first(runs)]
        for r in order:
            name, value = r.objective.name, r.objective.value
            ends = r.intervals.get(name)
            low, high = ("", "") if ends is None else (ends.low, ends.high)
            recall = 1.0 if r.ann_loss is None else list(r.ann_loss.recall.values())[-1]
            of_it = [name, value, low, high, value - order[0].objective.value, r.chance.get(name, "")]
            costs = [recall, r.speed.latency_ms.p50, r.timings_s["total"], str(r.encoder.cached).lower()]
            rows.append([*(axis(r) for axis in AXES.values()), *of_it, r.scores.get(MAP, ""), *costs])
    return rows


def _seconds(report: RunReport) -> str:
    return f"{report.timings_s['total']:.1f}" + (" cached" if report.encoder.cached else "")


def _number(values: dict[str, float], name: str) -> str:
    return f"{values[name]:.4f}" if name in values else "-"


def table(header: list[str], rows: list[list[str]], words: Collection[str] = ()) -> list[str]:
    """Aligned columns: words to the left, numbers to the right.

    Args:
        header: names of the columns.
        rows: cells.
        words: columns whose cells are words, though they may begin with a digit.
    """
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    numeric = [
        name not in words and all(row[i][:1] in "0123456789-<" for row in rows if row[i])
        for i, name in enumerate(header)
    ]

    def line(row: list[str]) -> str:
        cells = (c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True))
        return "  ".join(cells).rstrip()

    return [line(header), "  ".join("-" * w for w in widths), *(line(row) for row in rows)]


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
