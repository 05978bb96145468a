"""The tables of scores in the documentation, written from the table of scores.

`python -m medretrieval.evaluate.score_page docs/scores.md README.md` rewrites what stands between the markers
`<!-- scores:begin -->` and `<!-- scores:end -->` (all scores, all that is known of them) and between
`<!-- scores-short:begin -->` and `<!-- scores-short:end -->` (the headline scores in a line each).
"""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from medretrieval.evaluate.score_table import ANY_LABELS, SCORES, Score


def rewrite(path: Path) -> None:
    """Put the tables into a page, between its markers.

    Raises:
        ValueError: the page has none of the markers.
    """
    text = path.read_text(encoding="utf-8")
    filled = filled_in(text)
    if filled is None:
        raise ValueError(f"{path}: no line '<!-- scores:begin -->' or '<!-- scores-short:begin -->'")
    if filled != text:
        path.write_text(filled, encoding="utf-8")


def filled_in(text: str) -> str | None:
    """A page's text with its tables as they should be; None where it has no markers."""
    found = 0
    for name, table in TABLES.items():
        pattern = re.compile(rf"(?<=<!-- {name}:begin -->\n).*?(?=<!-- {name}:end -->)", re.DOTALL)
        text, count = pattern.subn(table().replace("\\", r"\\"), text)
        found += count
    return text if found else None


def long_table() -> str:
    """Every score: name, meaning, formula, other names, and what it asks for."""
    header = ("name", "meaning", "formula", "also known as", "best", "needs", "labels", "chance")
    return _table(header, [_facts(score) for score in SCORES])


def short_table() -> str:
    """The scores that the terminal shows, a line each."""
    rows = [(_name(score), score.meaning) for score in SCORES if score.headline]
    return _table(("score", "meaning"), rows)


TABLES: dict[str, Callable[[], str]] = {"scores": long_table, "scores-short": short_table}


def _facts(score: Score) -> tuple[str, ...]:
    if score.is_chance:
        chance = "is chance"
    elif score.chance is not None:
        chance = "closed form"
    else:
        chance = "drawn" if score.is_drawn else "none"
    labels = "all" if score.label_types == ANY_LABELS else ", ".join(score.label_types)
    best = "least" if score.less_is_better else "most"
    headline = f"**{_name(score)}**" if score.headline else _name(score)
    facts = (score.meaning, score.formula, score.other_names, best, score.needs.value, labels, chance)
    return (headline, *facts)


def _name(score: Score) -> str:
    return f"`{score.name.replace('{k}', 'K')}`"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines: list[Sequence[str]] = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)


def main() -> None:
    """Rewrite the pages that are named on the command line."""
    for name in sys.argv[1:]:
        rewrite(Path(name))


if __name__ == "__main__":
    main()
