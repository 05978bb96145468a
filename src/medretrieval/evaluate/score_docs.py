"""Write the tables of scores into Markdown files, between two markers, from the table of scores.

`python -m medretrieval.evaluate.score_docs docs/*.md README.md` rewrites what stands between
`<!-- scores:begin -->` and `<!-- scores:end -->` (everything known of each score) and between
`<!-- scores-short:begin -->` and `<!-- scores-short:end -->` (name and meaning of the
headline scores); files without markers stay as they are.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from medretrieval.errors import UserError
from medretrieval.evaluate.score_table import ANY_LABELS, SCORES, Score

FULL_COLUMNS: dict[str, Callable[[Score], str]] = {
    "score": lambda score: f"`{_shown_name(score)}`",
    "meaning": lambda score: score.meaning,
    "formula": lambda score: score.formula,
    "other names": lambda score: score.other_names,
    "better": lambda score: "" if score.is_chance else "less" if score.less_is_better else "more",
    "ranking it needs": lambda score: "" if score.is_chance else score.needs.value,
    "datasets": lambda score: "all" if score.label_types == ANY_LABELS else ", ".join(score.label_types),
    "chance": lambda score: (
        "closed form" if score.chance else score.exact_chance or ("by drawing" if score.is_drawn else "")
    ),
}
SHORT_COLUMNS = {name: FULL_COLUMNS[name] for name in ("score", "meaning")}


def _shown_name(score: Score) -> str:
    return score.name.replace("{k}", "K")


def full_table() -> str:
    """Everything known of each score, as Markdown."""
    return _table(FULL_COLUMNS, SCORES)


def short_table() -> str:
    """Name and meaning of each headline score, as Markdown."""
    return _table(SHORT_COLUMNS, [score for score in SCORES if score.headline])


def _table(columns: dict[str, Callable[[Score], str]], scores: Sequence[Score]) -> str:
    rows = [list(columns), ["---"] * len(columns)]
    rows += [[text(score).replace("|", r"\|") for text in columns.values()] for score in scores]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


TABLES: dict[str, Callable[[], str]] = {"scores": full_table, "scores-short": short_table}


def with_tables(text: str, tables: Mapping[str, Callable[[], str]] = TABLES) -> str:
    """A Markdown page with its generated parts written again.

    Args:
        text: the page.
        tables: name of the markers -> what stands between them.

    Raises:
        UserError: a marker without the other one of its pair.
    """
    for name, table in tables.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        if begin not in text and end not in text:
            continue
        before, opened, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not opened or not closed:
            raise UserError(f"the page needs {begin} and after it {end}; one of them is missing")
        text = f"{before}{begin}\n\n{table()}\n{end}{after}"
    return text


def rewrite(path: Path, tables: Mapping[str, Callable[[], str]] = TABLES) -> bool:
    """Write a page's generated parts again; whether that changed the page.

    Args:
        path: the page.
        tables: as for `with_tables`.

    Raises:
        UserError: a marker without the other one of its pair.
    """
    before = path.read_text(encoding="utf-8")
    after = with_tables(before, tables)
    if after != before:
        path.write_text(after, encoding="utf-8")
    return after != before


def main(paths: Sequence[str]) -> None:
    """Rewrite pages, and name those that changed."""
    for path in paths:
        try:
            if rewrite(Path(path)):
                print(f"{path}: tables of scores written")
        except UserError as error:
            sys.exit(f"{path}: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
