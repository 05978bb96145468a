"""Runs beside published rows as text for the terminal, as Markdown, CSV, LaTeX and JSON, and as an entry."""

import csv
import io
from typing import Any

from medretrieval.report.compare_tables import LATEX_NEEDS, SUFFIXES, latex, tabular
from medretrieval.report.published.beside import Beside, OwnRun, OwnScore
from medretrieval.runs.tables import markdown, table
from medretrieval.track.tracker import Entry

INSIDE = "inside"
COLUMNS = (
    "run", "source", "score", "published_as", "value", "low", "high", "encoder", "published", "position",
    "distance",
)  # fmt: skip


def render(found: Beside, kind: str) -> str:
    """The runs and the rows as text.

    Args:
        found: what stands beside what.
        kind: terminal, markdown, latex, or csv (full precision, a row for each run, published row and score).
    """
    if kind == "csv":
        return _csv(found)
    tables = [_values(found), *(_positions(found, run) for run in found.runs)]
    if kind == "latex":
        notes = " ".join(latex(note) for note in found.notes)
        blocks = [tabular(*one) for one in tables]
        return "\n".join([
            LATEX_NEEDS, r"\begin{table}", r"\centering", r"\small", *blocks, rf"\caption{{{notes}}}",
            r"\end{table}",
        ])  # fmt: skip
    blocks = [markdown(*one) if kind == "markdown" else "\n".join(table(*one)) for one in tables]
    return "\n\n".join([*blocks, ("\n\n" if kind == "markdown" else "\n").join(found.notes)])


def document(found: Beside) -> dict[str, Any]:
    """Runs and rows as JSON values.

    published (its name), citation, doi, scores (our name -> theirs), runs (name, source, differences, scores:
    value, low, high), rows (a run, a published row and a score each, as in the CSV: distance is 0 inside the
    interval, positive above it, negative below, null without one) and notes. All values in percent.
    """
    table = found.published
    runs = [
        {
            "name": run.name,
            "source": run.source,
            "differences": run.differences,
            "scores": {
                score: {"value": own.value, "low": own.low, "high": own.high}
                for score, own in run.scores.items()
            },
        }
        for run in found.runs
    ]
    return {
        "published": table.name,
        "citation": table.citation,
        "doi": table.doi,
        "scores": table.scores,
        "runs": runs,
        "rows": _rows(found),
        "notes": found.notes,
    }


def as_entry(found: Beside) -> Entry:
    """Runs and rows as a tracker keeps them."""
    name = found.published.name
    return Entry(
        kind="compare",
        name=f"compare {len(found.runs)} runs published={name}",
        tags={"published": name, "compared": " ".join(run.source for run in found.runs)},
        files={f"published.{suffix}": render(found, kind) + "\n" for kind, suffix in SUFFIXES.items()},
        note=render(found, "markdown"),
        params={"published": name},
    )


def _values(found: Beside) -> tuple[list[str], list[list[str]]]:
    """Scores in percent: of the runs with their intervals, and as published."""
    scores = found.published.scores
    ours = [[run.name, *(_with_ends(run.scores[score]) for score in scores), "run"] for run in found.runs]
    theirs = [
        [encoder, *(f"{value:.2f}" for value in values), "published"]
        for encoder, values in found.published.rows.items()
    ]
    return ["encoder", *scores.values(), "source"], ours + theirs


def _positions(found: Beside, run: OwnRun) -> tuple[list[str], list[list[str]]]:
    """Where each published value lies, seen from one run's intervals."""
    rows = [
        [encoder, *(_position(run.scores[s], v) for s, v in zip(found.published.scores, values, strict=True))]
        for encoder, values in found.published.rows.items()
    ]
    return [f"beside {run.name}", *found.published.scores.values()], rows


def _with_ends(own: OwnScore) -> str:
    ends = "-" if own.low is None or own.high is None else f"{own.low:.2f} to {own.high:.2f}"
    return f"{own.value:.2f} ({ends})"


def _position(own: OwnScore, published: float) -> str:
    distance = own.distance(published)
    if distance is None:
        return "-"
    return f"{_word(distance)} by {abs(distance):.2f}" if distance else INSIDE


def _word(distance: float) -> str:
    return INSIDE if distance == 0 else "above" if distance > 0 else "below"


def _rows(found: Beside) -> list[dict[str, Any]]:
    rows = []
    for run in found.runs:
        for encoder, values in found.published.rows.items():
            for (score, theirs), value in zip(found.published.scores.items(), values, strict=True):
                own = run.scores[score]
                distance = own.distance(value)
                position = None if distance is None else _word(distance)
                cells = (run.name, run.source, score, theirs, own.value, own.low, own.high, encoder, value)
                rows.append(dict(zip(COLUMNS, (*cells, position, distance), strict=True)))
    return rows


def _csv(found: Beside) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_rows(found))
    return text.getvalue().rstrip("\n")
