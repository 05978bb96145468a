"""The page: the template with its style and script put into it, so that the file needs nothing else."""

import base64
import hashlib
from pathlib import Path
from typing import Any

from markupsafe import Markup

from medretrieval.figures.galleries import failing_words, hub_words
from medretrieval.report.views import Content
from medretrieval.runs.stages.rows import adapt_lines, adapt_table, stage_table
from medretrieval.runs.tables import gap_line

HERE = Path(__file__).resolve().parent
# Keys of scores.json that say too little by themselves.
WORDS = {
    "audited_queries": "queries compared",
    "identical_within_query": "byte-identical copies within the queries",
    "identical_within_gallery": "byte-identical copies within the gallery",
    "identical_between": "queries with a byte-identical copy in the gallery",
    "label_conflicts": "of these, with another label",
    "near_embedding": "queries with a near-duplicate in the gallery, by the encoder's embeddings",
    "near_hash": "queries with a near-duplicate in the gallery, by perceptual hash",
    "near_cosine": "cosine above which a pair counts, fitted to the nearest images of other classes",
    "hash_collisions": "share of the queries that the hash pairs with an image of another class",
    "same_group": "queries with an image of their group in the gallery",
    "groups_on_both_sides": "groups with images on both sides",
    "ann_check": "ANN check",
}


def render(content: Content, facts: dict[str, str], failures: list[str]) -> str:
    """The report as HTML.

    Args:
        content: what it says.
        facts: "title", "made" (when), "version" and "command" (what makes it again).
        failures: a line for each run of the sweep that did not finish.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "n": number, "signed": signed, "interval": interval, "said": said, "p": p_value,
        "gap_words": gap_line,
        "stage_table": stage_table,
        "adapt_table": adapt_table,
        "adapt_lines": adapt_lines,
        "hub_words": lambda hub: hub_words(hub["lists"], hub["wrong_lists"]),
        "failing_words": lambda shown: failing_words(shown["failing"], shown["counted"], shown["k"]),
    }  # fmt: skip
    script = (HERE / "report.js").read_text(encoding="utf-8")
    # The one script that a browser may run here, whatever a file's text should smuggle in.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        content=content,
        facts=facts,
        failures=failures,
        style=Markup((HERE / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        digest=digest,
        filters=_filters(content),
    )


def _filters(content: Content) -> dict[str, list[str]]:
    """Axes with more than one value, and their values."""
    names = ("dataset", "protocol", "encoder", "index", "metric")
    found = {name: list(dict.fromkeys(run.axes[name] for run in content.runs)) for name in names}
    return {name: values for name, values in found.items() if len(values) > 1}


def number(value: Any, digits: int = 4) -> str:
    """A number as the tables show it; a dash where there is none.

    >>> number(0.79615), number(None), number(1234567, 0)
    ('0.7962', '–', '1,234,567')
    """
    return "–" if value is None else f"{value:,.{digits}f}"


def signed(value: float, digits: int = 4) -> str:
    """A difference with its sign.

    >>> signed(-0.0173), signed(0.5, 2)
    ('−0.0173', '+0.50')
    """
    return f"{value:+.{digits}f}".replace("-", "−")


def interval(ends: Any, signs: bool = False) -> str:
    """Two ends: a pair of numbers, or what has a `low` and a `high`.

    >>> from medretrieval.runs.report_parts import ScoreInterval
    >>> interval(ScoreInterval(0.1, 0.25)), interval(None), interval((-0.1, 0.1), signs=True)
    ('0.1000 to 0.2500', '–', '−0.1000 to +0.1000')
    """
    if ends is None:
        return "–"
    both = ends if isinstance(ends, tuple) else (ends.low, ends.high)
    return " to ".join(signed(end) if signs else number(end) for end in both)


def p_value(value: float) -> str:
    """A p as the tables show it.

    >>> p_value(0.0758), p_value(0.00001)
    ('0.0758', '<0.0001')
    """
    return "<0.0001" if value < 0.00005 else number(value)


def said(key: str) -> str:
    """A key of scores.json in words.

    >>> said("identical_between"), said("ann_check"), said("search")
    ('queries with a byte-identical copy in the gallery', 'ANN check', 'search')
    """
    return WORDS.get(key, key.replace("_", " "))
