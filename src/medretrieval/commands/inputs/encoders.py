"""The verb `encoders`: which encoders there are, what is known of them, and what of them is here."""

import csv
import io
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from medretrieval.commands.words import JSON, Given, Option, Verb

if TYPE_CHECKING:
    from medretrieval.encoders.catalog import Entry

FORMATS = ("text", "csv")
COLUMNS = ("name", "library", "size", "text", "license", "overlap", "access", "here")
CSV_COLUMNS = (
    "name", "library", "dimension", "text", "license", "trained_on", "overlap", "access", "source", "here",
    "files",
)  # fmt: skip


def _run(given: Given) -> int:
    from medretrieval.encoders.catalog import entries

    if given.json and given.format:
        raise VERB.refusal(f"--json and format={given.format}: both write to stdout; give one of them")
    wanted = [entry for entry in entries() if given.of is None or given.of.lower() in entry.name]
    if not wanted:
        raise VERB.refusal(f"of={given.of}: no encoder's name contains it; see medretrieval encoders")
    facts = [_facts(entry) for entry in wanted]
    if given.json:
        print(json.dumps({"encoders": facts}, indent=2, ensure_ascii=False))
    elif given.format == "csv":
        print(_csv(facts), end="")
    else:
        print(*_lines(facts, whole=given.of is not None), sep="\n")
    return 0


def _facts(entry: "Entry") -> dict[str, Any]:
    """An encoder as JSON values: its card, whether it has a text tower, and what is here (null: see files).

    Keys: name, library, text, those of the card, here and files.
    """
    from medretrieval.encoders.catalog import here

    is_here, files = here(entry)
    known = {"name": entry.name, "library": entry.library, "text": entry.text}
    return known | asdict(entry.card) | {"here": is_here, "files": files}


def _csv(facts: list[dict[str, Any]]) -> str:
    table = io.StringIO()
    writer = csv.DictWriter(table, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    words = {True: "true", False: "false", None: ""}
    writer.writerows(
        {
            key: words[value] if value is None or isinstance(value, bool) else value
            for key, value in row.items()
        }
        for row in facts
    )
    return table.getvalue()


def _lines(facts: list[dict[str, Any]], whole: bool) -> list[str]:
    from medretrieval.runs.tables import table

    lines = table(list(COLUMNS), [_row(row) for row in facts], words=COLUMNS)
    if whole:
        for row in facts:
            lines += ["", row["name"]]
            said = {
                key: row[key] for key in ("trained_on", "overlap", "license", "source", "access", "files")
            }
            lines += [f"  {key.replace('_', ' ')}: {value}" for key, value in said.items() if value]
        return lines
    count = sum(row["here"] is True for row in facts)
    return [
        *lines,
        f"{count} of {len(facts)} need nothing that is not here. overlap: may have been trained on images of "
        "the data it is scored on. access: getting the files takes steps.",
        "What is missing, and the rest of what is known of one: medretrieval encoders <name>",
    ]


def _row(facts: dict[str, Any]) -> list[str]:
    """Cells of the table, shortened: whole words are in the card."""
    return [
        facts["name"],
        facts["library"],
        str(facts["dimension"] or ""),
        "yes" if facts["text"] else "no",
        _short(facts["license"] or ""),
        "yes" if facts["overlap"] else "",
        "steps" if facts["access"] else "",
        "missing" if facts["here"] is False else facts["files"] if facts["here"] else "",
    ]


def _short(license_: str) -> str:
    """Of a license the part before its remarks."""
    for sign in (",", " (", ";", " at this "):
        license_ = license_.partition(sign)[0]
    return license_


VERB = Verb(
    "encoders",
    usage=("[<text>] [format=csv] [--json]",),
    options=(
        Option(
            "of",
            "only those whose name contains this text, each with all that is known of it. The word alone, "
            "without of=, is enough",
            "<text>",
            unset="all, as a table",
        ),
        Option("format", "of the table on stdout", choices=FORMATS, unset=FORMATS[0]),
        JSON,
    ),
    run=_run,
    examples=("medretrieval encoders", "medretrieval encoders medclip", "medretrieval encoders format=csv"),
    bare="of",
)
