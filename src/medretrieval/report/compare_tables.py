"""A comparison as a table in the terminal, as Markdown, CSV or LaTeX, and as a tracker keeps it."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medretrieval.runs.tables import markdown, table
from medretrieval.track.tracker import Entry

Ends = tuple[float, float] | None  # None where no interval is valid
NO_ENDS = ("", "")
NOT_DIFFERENT = "not significantly different"
LATEX_NEEDS = r"% in the preamble: \usepackage{booktabs} \usepackage{siunitx}"
EMPTY = ("", "-")  # cells of a table that hold nothing
NUMBER = re.compile(r"<?[-+]?\d+(\.\d+)?")
INTERVAL = re.compile(rf"{NUMBER.pattern} to {NUMBER.pattern}")
SUFFIXES = {"terminal": "txt", "markdown": "md", "csv": "csv", "latex": "tex"}


@dataclass(frozen=True)
class Pair:
    """Run a minus run b (numbers in the table, from 0).

    Attributes:
        a: a run.
        b: the run that is subtracted.
        difference: of their scores.
        ends: of its interval, None where none is valid.
        p: of this comparison alone.
        adjusted: p corrected for all comparisons.
        corrected: ends of the interval that holds together with those of all comparisons.
        alike: whether they are not significantly different.
    """

    a: int
    b: int
    difference: float
    ends: Ends
    p: float
    adjusted: float
    corrected: Ends
    alike: bool


@dataclass(frozen=True)
class Comparison:
    """Runs, best first, their scores with intervals, the pairs tested, and what is to be said of them."""

    score: str
    confidence: float
    names: list[str]
    sources: list[str]
    rows: list[tuple[float, Ends]]
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
        blocks = [tabular(*t) for t in tables]
        notes = " ".join(latex(note) for note in comparison.notes)
        return "\n".join([
            LATEX_NEEDS, r"\begin{table}", r"\centering", r"\small", *blocks, rf"\caption{{{notes}}}",
            r"\end{table}",
        ])  # fmt: skip
    return "\n\n".join([*blocks, ("\n\n" if kind == "markdown" else "\n").join(comparison.notes)])


def _run_table(c: Comparison) -> tuple[list[str], list[list[str]]]:
    reference = f"#{c.reference + 1}" if c.reference else "the best"
    percent, difference = f"{100 * c.confidence:g} %", f"difference from {reference}"
    header = ["#", "run", c.score, percent, difference, *_headers(c)]
    tested = {pair.a: pair for pair in c.pairs if pair.b == c.reference}
    rows = [
        [
            str(i + 1),
            name,
            f"{value:.4f}",
            _range(ends),
            *(_cells(tested[i]) if i in tested else [""] * 6),
        ]
        for i, (name, (value, ends)) in enumerate(zip(c.names, c.rows, strict=True))
    ]
    return header, rows


def _pair_table(c: Comparison) -> tuple[list[str], list[list[str]]]:
    header = ["run", "minus", "difference", *_headers(c)]
    names = [f"{i} {name}" for i, name in enumerate(c.names, 1)]
    return header, [[names[pair.a], names[pair.b], *_cells(pair)] for pair in c.pairs]


def _headers(c: Comparison) -> list[str]:
    percent = f"{100 * c.confidence:g} %"
    return [percent, f"{percent} corrected", "p", "p corrected", NOT_DIFFERENT]


def _cells(pair: Pair) -> list[str]:
    ends = _range(pair.ends), _range(pair.corrected)
    numbers = [*ends, _p(pair.p), _p(pair.adjusted)]
    return [f"{pair.difference:.4f}", *numbers, "yes" if pair.alike else "no"]


def _p(p: float) -> str:
    return "<0.0001" if p < 0.00005 else f"{p:.4f}"


def _range(ends: Ends) -> str:
    return "-" if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}"


def _csv(c: Comparison) -> str:
    header = (
        "number,run,score,value,low,high,minus_number,minus_run,difference,difference_low,difference_high,"
        "p,p_corrected,low_corrected,high_corrected,not_different,source"
    )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header.split(","))

    def row(i: int, against: list[Any]) -> None:
        value, ends = c.rows[i]
        writer.writerow([i + 1, c.names[i], c.score, value, *(ends or NO_ENDS), *against, c.sources[i]])

    row(c.reference, [""] * 10)
    for pair in c.pairs:
        numbers = [pair.difference, *(pair.ends or NO_ENDS), pair.p, pair.adjusted]
        numbers += [*(pair.corrected or NO_ENDS), str(pair.alike).lower()]
        row(pair.a, [pair.b + 1, c.names[pair.b], *numbers])
    return text.getvalue().rstrip("\n")


@dataclass(frozen=True)
class _Column:
    """A column of a LaTeX table, from what stands in it.

    Attributes:
        name: its head.
        cells: of the rows.
        formats: one siunitx table-format for numbers, two for intervals, none for words.
    """

    name: str
    cells: list[str]
    formats: tuple[str, ...]

    @classmethod
    def from_cells(cls, name: str, cells: list[str]) -> "_Column":
        """Numbers are aligned by their decimal point, the ends of intervals in a column each."""
        filled = [cell for cell in cells if cell not in EMPTY]
        if filled and all(map(INTERVAL.fullmatch, filled)):
            ends = zip(*(cell.split(" to ") for cell in filled), strict=True)
            return cls(name, cells, tuple(_table_format(end) for end in ends))
        if filled and all(map(NUMBER.fullmatch, filled)):
            return cls(name, cells, (_table_format(filled),))
        return cls(name, cells, ())

    @property
    def specification(self) -> str:
        """What the table says of it at its beginning."""
        return " ".join(f"S[table-format={form}]" for form in self.formats) or "l"

    @property
    def head(self) -> str:
        """Its name, over all that it takes."""
        name = latex(self.name)
        if len(self.formats) > 1:
            return rf"\multicolumn{{{len(self.formats)}}}{{c}}{{{name}}}"
        return f"{{{name}}}" if self.formats else name

    def written(self, row: int) -> str:
        """A cell; words among numbers stand in braces."""
        cell, width = self.cells[row], max(len(self.formats), 1)
        if cell in EMPTY:
            return " & ".join([f"{{{latex(cell)}}}" if self.formats and cell else ""] + [""] * (width - 1))
        return cell.replace(" to ", " & ") if self.formats else latex(cell)


def _table_format(numbers: Sequence[str]) -> str:
    """Signs and digits that numbers need, as siunitx has it: "-1.4".

    >>> _table_format(["0.8138", "-12.5"]), _table_format(["<0.0001", "0.2500"]), _table_format(["1", "12"])
    ('-2.4', '<1.4', '2.0')
    """
    bare = [number.lstrip("<+-").partition(".") for number in numbers]
    sign = "".join(mark for mark in "<-" if any(mark in number for number in numbers))
    return f"{sign}{max(len(a) for a, _, _ in bare)}.{max(len(b) for _, _, b in bare)}"


def tabular(header: list[str], rows: list[list[str]]) -> str:
    """A table by booktabs, its numbers aligned by siunitx."""
    columns = [_Column.from_cells(name, [row[place] for row in rows]) for place, name in enumerate(header)]
    heads = " & ".join(column.head for column in columns)
    lines = [" & ".join(column.written(row) for column in columns) + r" \\" for row in range(len(rows))]
    specification = " ".join(column.specification for column in columns)
    return "\n".join([
        rf"\begin{{tabular}}{{{specification}}}", r"\toprule", rf"{heads} \\", r"\midrule", *lines,
        r"\bottomrule", r"\end{tabular}",
    ])  # fmt: skip


def latex(text: str) -> str:
    """Text with LaTeX's special characters written out."""
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
        for kind, value in (("difference", pair.difference), ("p", pair.p), ("p_corrected", pair.adjusted))
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
