"""What a person reads in the terminal: the table of a run, the table of a sweep."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medretrieval.evaluate.score_table import is_headline
from medretrieval.protocol.exclusions import MORE_LEFT_OUT


def run_table(report: dict[str, Any], folder: Path) -> str:
    """Headline scores with chance beside them, each stage's seconds, and where everything is."""
    lines = ["", report["title"], ""]
    lines += _score_table(report)
    counts, timings = report["counts"], report["timings_s"]
    stages = "   ".join(f"{stage} {seconds:.2f}" for stage, seconds in timings.items())
    lines += [
        "",
        f"queries {counts['queries']}, gallery {counts['gallery']}   index {report['index']['factory']}",
    ]
    lines += [f"seconds: {stages}{'   (embeddings from the cache)' if report['encoder']['cached'] else ''}"]
    lines += _fidelity_lines(report["encoder"]) + _speed_lines(report) + _zero_shot_lines(report)
    lines.append(
        f"intervals: {report['resampled']} drawn again, the gallery held fixed; random rankings are 'chance'"
    )
    lines += [f"note: {note}" for note in report["notes"]]
    return "\n".join([*lines, f"results: {folder}", ""])


def _score_table(report: dict[str, Any]) -> list[str]:
    baseline = report["baseline"]
    columns: dict[str, Callable[[str], str]] = {
        "score": str,
        "value": lambda name: _number(report["scores"], name),
        "interval": lambda name: _interval(report["intervals"], name),
        "chance": lambda name: _number(report["chance"], name),
        "lift": lambda name: f"{report['lift'][name]:.2f}" if name in report["lift"] else "-",
    }
    if baseline["encoder"] is not None:
        columns[baseline["encoder"]] = lambda name: _number(baseline["scores"], name)
    names = [name for name in report["scores"] if is_headline(name)]
    return table(list(columns), [[cell(name) for cell in columns.values()] for name in names])


def _fidelity_lines(encoder: dict[str, Any]) -> list[str]:
    """What another runtime or precision than torch fp32 makes of the vectors."""
    found = encoder["fidelity"]
    if found is None:
        return []
    share, k = found["neighbors_in_common"], found["neighbors"]
    neighbors = "" if share is None else f", {100 * share:.1f} % of {k} neighbors in common"
    return [
        f"vectors: {encoder['runtime']} {encoder['precision']}, against {found['against']} on "
        f"{found['images']} images: cosine {found['cosine_min']:.6f} at least{neighbors}"
    ]


def _speed_lines(report: dict[str, Any]) -> list[str]:
    speed, lines = report["speed"], []
    if report["autotune"] is not None:
        tuned = report["autotune"]
        lines.append(
            f"autotune: {tuned['parameters']} reaches recall {tuned['recall']:.4f} on validation vectors"
        )
    lines.append(
        f"search: {speed['queries_per_s_batched']:.0f} queries/s, p95 {speed['latency_ms']['p95']:.2f} ms, "
        f"{speed['bytes_per_vector']:.0f} bytes a vector"
    )
    found = report["approximation"]
    if found is not None:
        k, recall = list(found["recall"].items())[-1]
        name, line = f"precision_at_{k}", f"against exact search: recall@{k} {recall:.4f}"
        if name in found["changes"]:
            change, low, high = found["changes"][name]
            line += f", {name} {change:+.4f} ({low:+.4f} to {high:+.4f})"
        lines.append(line)
    return lines


def _zero_shot_lines(report: dict[str, Any]) -> list[str]:
    found = report.get("zero_shot")
    if found is None:
        return []
    shown = [
        f"{name.replace('_', ' ')} {found[name]:.4f}"
        for name in ("accuracy", "balanced_accuracy", "macro_auroc")
        if name in found
    ]
    return [f"zero-shot, {found['images']} images: {', '.join(shown) or 'one class, nothing to tell apart'}"]


def _interval(intervals: dict[str, list[float]], name: str) -> str:
    return "{:.4f} .. {:.4f}".format(*intervals[name]) if name in intervals else "-"


# What runs can differ in, and how their reports say it.
AXES: dict[str, Callable[[dict[str, Any]], str]] = {
    "dataset": lambda r: r["dataset"],
    "encoder": lambda r: r["encoder"]["name"] + ("*" if r["encoder"]["random_weights"] else ""),
    "index": lambda r: r["index"]["name"],
    "search": lambda r: r["index"]["search"],
    "metric": lambda r: r["metric"],
    "protocol": lambda r: _protocol(r["protocol"]),
}


def _protocol(protocol: dict[str, Any]) -> str:
    name = protocol["name"] + ("" if protocol["exclude_self"] else " +self")
    name += "".join(f" {protocol[key]}" for key in ("prompts", "center") if protocol.get(key))
    return name + "".join(f" -{key.split('_')[-1]}" for key in MORE_LEFT_OUT if protocol[key])


def differing(reports: Sequence[dict[str, Any]]) -> dict[str, Callable[[dict[str, Any]], str]]:
    """The axes along which runs differ; the encoder where they differ in none."""
    shown = {name: axis for name, axis in AXES.items() if len({axis(r) for r in reports}) > 1}
    return shown or {"encoder": AXES["encoder"]}


def ranked_together(reports: Sequence[dict[str, Any]]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """Runs by dataset, protocol and score: across these numbers mean different things."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for report in reports:
        place = AXES["dataset"](report), AXES["protocol"](report), str(report["objective"]["name"])
        groups.setdefault(place, []).append(report)
    return groups


def sweep_table(reports: list[dict[str, Any]]) -> str:
    """One line a run, best first: what differs between runs, objective, chance, map, seconds."""
    shown = differing(reports)
    rows = [
        [*(f(r) for f in shown.values()), r["objective"]["name"], f"{r['objective']['value']:.4f}",
         _number(r["chance"], r["objective"]["name"]), _number(r["scores"], "map"),
         f"{r['timings_s']['total']:.1f}"]
        for r in sorted(reports, key=lambda r: -r["objective"]["value"])
    ]  # fmt: skip
    lines = table([*shown, "score", "value", "chance", "map", "seconds"], rows)
    if any(r["encoder"]["random_weights"] for r in reports):
        lines.append("* RANDOM WEIGHTS: says nothing about the model")
    return "\n".join(lines)


def _number(values: dict[str, float], name: str) -> str:
    return f"{values[name]:.4f}" if name in values else "-"


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Aligned columns: words to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    numeric = [all(row[i][:1] in "0123456789-" for row in rows if row[i]) for i in range(len(header))]

    def line(row: list[str]) -> str:
        cells = (c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True))
        return "  ".join(cells).rstrip()

    return [line(header), "  ".join("-" * w for w in widths), *(line(row) for row in rows)]


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
