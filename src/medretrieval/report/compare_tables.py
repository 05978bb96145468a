"""A comparison as a table in the terminal, as Markdown, CSV or LaTeX, and as a tracker keeps it."""

import csv
import io
import re
from dataclasses import dataclass
from typing import Any

from medretrieval.runs.tables import markdown, table
from medretrieval.track.tracker import Entry

NOT_DIFFERENT = "not significantly different"
SUFFIXES = {"terminal": "txt", "markdown": "md", "csv": "csv", "latex": "tex"}


@dataclass(frozen=True)
class Pair:
    """Run a minus run b (numbers in the table, from 0); adjusted is p after Holm's correction."""

    a: int
    b: int
    difference: float
    low: float
    high: float
    p: float
    adjusted: float
    alike: bool


@dataclass(frozen=True)
class Comparison:
    """Runs, best first, their scores with intervals, the pairs tested, and what is to be said of them."""

    score: str
    confidence: float
    names: list[str]
    sources: list[str]
    rows: list[tuple[float, float | None, float | None]]
    reference: int
    pairs: list[Pair]
    notes: list[str]


def render(comparison: Comparison, kind: str) -> str:
    """The comparison as text.

    Args:
        comparison: what was found.
        kind: terminal, markdown, latex, or csv (full precision; a row for each pair, and one for the best or
            the baseline, which is compared with nothing).
    """
    if kind == "csv":
        return _csv(comparison)
    tables = [_run_table(comparison)]
    if len(comparison.pairs) >= len(comparison.names):
        tables.append(_pair_table(comparison))
    if kind == "terminal":
        blocks = ["\n".join(table(*t)) for t in tables]
    elif kind == "markdown":
        blocks = [markdown(*t) for t in tables]
    else:
        blocks = [_tabular(*t) for t in tables]
        notes = " ".join(_latex(note) for note in comparison.notes)
        return "\n".join([r"\begin{table}", r"\centering", *blocks, rf"\caption{{{notes}}}", r"\end{table}"])
    return "\n\n".join([*blocks, ("\n\n" if kind == "markdown" else "\n").join(comparison.notes)])


def _run_table(c: Comparison) -> tuple[list[str], list[list[str]]]:
    reference = f"#{c.reference + 1}" if c.reference else "the best"
    percent, difference = f"{100 * c.confidence:g} %", f"difference from {reference}"
    header = ["#", "run", c.score, percent, difference, percent, "p", "p Holm", NOT_DIFFERENT]
    tested = {pair.a: pair for pair in c.pairs if pair.b == c.reference}
    rows = [
        [
            str(i + 1),
            name,
            f"{value:.4f}",
            _range(low, high),
            *(_cells(tested[i]) if i in tested else [""] * 5),
        ]
        for i, (name, (value, low, high)) in enumerate(zip(c.names, c.rows, strict=True))
    ]
    return header, rows


def _pair_table(c: Comparison) -> tuple[list[str], list[list[str]]]:
    header = ["run", "minus", "difference", f"{100 * c.confidence:g} %", "p", "p Holm", NOT_DIFFERENT]
    names = [f"{i} {name}" for i, name in enumerate(c.names, 1)]
    return header, [[names[pair.a], names[pair.b], *_cells(pair)] for pair in c.pairs]


def _cells(pair: Pair) -> list[str]:
    numbers = [f"{pair.difference:.4f}", _range(pair.low, pair.high), _p(pair.p), _p(pair.adjusted)]
    return [*numbers, "yes" if pair.alike else "no"]


def _p(p: float) -> str:
    return "<0.0001" if p < 0.00005 else f"{p:.4f}"


def _range(low: float | None, high: float | None) -> str:
    if low is None or high is None:  # none is valid
        return "-"
    return f"{low:.4f} to {high:.4f}"


def _csv(c: Comparison) -> str:
    header = (
        "number,run,score,value,low,high,minus_number,minus_run,difference,difference_low,difference_high,"
        "p,p_holm,not_different,source"
    )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header.split(","))

    def row(i: int, against: list[Any]) -> None:
        writer.writerow([i + 1, c.names[i], c.score, *c.rows[i], *against, c.sources[i]])

    row(c.reference, [""] * 8)
    for pair in c.pairs:
        found = [pair.difference, pair.low, pair.high, pair.p, pair.adjusted, str(pair.alike).lower()]
        row(pair.a, [pair.b + 1, c.names[pair.b], *found])
    return text.getvalue().rstrip("\n")


def _tabular(header: list[str], rows: list[list[str]]) -> str:
    lines = [" & ".join(map(_latex, line)) + r" \\" for line in [header, *rows]]
    columns = "l" * len(header)
    ruled = [r"\hline", lines[0], r"\hline", *lines[1:], r"\hline"]
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", *ruled, r"\end{tabular}"])


def _latex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {"<": r"\textless{}", ">": r"\textgreater{}"}
    return re.sub(r"[\\~^<>&%$#_{}]", lambda m: special.get(m[0], "\\" + m[0]), text)


def as_entry(c: Comparison, params: dict[str, str]) -> Entry:
    """The comparison as a tracker keeps it.

    Args:
        c: what was found.
        params: how it was made.
    """
    metrics = {
        f"{kind}/{pair.a + 1} {c.names[pair.a]} minus {pair.b + 1} {c.names[pair.b]}": value
        for pair in c.pairs
        for kind, value in (("difference", pair.difference), ("p", pair.p), ("p_holm", pair.adjusted))
    }
    return Entry(
        kind="compare",
        name=f"compare {len(c.names)} runs {c.score}",
        tags={"comparison": c.score, "compared": " ".join(c.sources)},
        files={f"comparison.{suffix}": render(c, kind) + "\n" for kind, suffix in SUFFIXES.items()},
        note=render(c, "markdown"),
        params={"score": c.score, **params},
        metrics=metrics,
    )
