"""Write the table of encoders into Markdown files, between two markers, from the cards in conf/encoder.

`python docs/encoder_table.py docs/encoders.md` rewrites what stands between `<!-- encoders:begin -->` and
`<!-- encoders:end -->`.
"""

import sys
from pathlib import Path

from medretrieval.encoders.catalog import Entry, entries
from medretrieval.evaluate.score_docs import rewrite

HEADER = ("`encoder=`", "library", "size", "text", "trained on", "license", "overlap", "access", "source")


def encoder_table() -> str:
    """A row for each file of conf/encoder."""
    rows = [HEADER, ("---",) * len(HEADER), *(_row(entry) for entry in entries())]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(entry: Entry) -> tuple[str, ...]:
    card = entry.card
    cells = (
        entry.library,
        str(card.dimension or ""),
        "yes" if entry.text else "",
        *(card.trained_on, card.license, card.overlap, card.access, card.source),
    )
    return (f"`{entry.name}`", *(_text(cell or "") for cell in cells))


def _text(words: str) -> str:
    """Words in which Markdown sees no tag and no border of a table."""
    return words.replace("<", "&lt;").replace("|", "&#124;")


TABLES = {"encoders": encoder_table}


def main(paths: list[str]) -> None:
    """Rewrite pages, and name those that changed."""
    for path in paths:
        if rewrite(Path(path), TABLES):
            print(f"{path}: encoders written")


if __name__ == "__main__":
    main(sys.argv[1:])
