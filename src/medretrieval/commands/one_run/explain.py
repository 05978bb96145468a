"""The verb `explain`: which regions of a finished run's query and results make them similar."""

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medretrieval.commands.parts.named_runs import chosen_run
from medretrieval.commands.words import (
    CONFIG_DIR,
    JSON,
    OUTPUTS,
    UNVERIFIED,
    URI,
    Given,
    Option,
    Verb,
    one_run,
    picture_path,
)
from medretrieval.files import put_in_place

if TYPE_CHECKING:
    from medretrieval.explain.pairs import Explained

OTHERS = ("result", "k", "text")  # what a query can be explained with


def _run(given: Given) -> int:
    from medretrieval.query.explain_run import Question, explain

    others = [key for key in OTHERS if getattr(given, key) is not None]
    if len(others) > 1:
        raise VERB.refusal(f"{others[0]}= and {others[1]}=: give one of them")
    out = _out(given)
    with tempfile.TemporaryDirectory() as aside:
        folder = chosen_run(given, Path(aside)).folder
        question = Question(given.query, given.result, given.k or 1, given.text)
        found = explain(folder, given.overrides, question)
    for line in found.remarks:
        print(line, file=sys.stderr)
    if out is not None:
        _draw(out, found.pairs, found.title)
    if given.json:
        picture = None if out is None else str(out)
        content = {"run": str(folder), "picture": picture, "pairs": [p.document() for p in found.pairs]}
        print(json.dumps(content, indent=2))
    else:
        print(*_table(found.pairs), *([] if out is None else [f"picture: {out}"]), sep="\n")
    return 0


def _out(given: Given) -> Path | None:
    """Where the picture goes, None for no picture."""
    if given.out == "none" or (given.out is None and given.json):
        return None
    name = re.sub(r"[^0-9A-Za-z]+", "-", given.query)
    return picture_path(VERB.name, given.out or f"explain_{name}.png")


def _draw(out: Path, found: list["Explained"], title: str) -> None:
    from medretrieval.figures import saliency as pictures

    with put_in_place(out) as aside:
        pictures.explanations(aside, found, title)


def _table(found: list["Explained"]) -> list[str]:
    """One line a pair; `on finding` is where the query's map has its largest value."""
    from medretrieval.runs.tables import table

    header = ["query", "result", "cosine", "area, marked removed", "area, random", "on finding", "mass", "of"]
    return table(header, [_row(pair.document()) for pair in found])


def _row(pair: dict[str, Any]) -> list[str]:
    pointed = pair["pointing"]
    on = ["-", "-", "-"]
    if pointed is not None:
        on = ["yes" if pointed["hit"] else "no", f"{pointed['mass']:.3f}", f"{pointed['area']:.3f}"]
    query = pair["query"] or repr(pair["text"])
    numbers = [pair["cosine"], pair["deletion"]["area_marked"], pair["deletion"]["area_random"]]
    return [query, pair["result"], *(f"{value:.4f}" for value in numbers), *on]


VERB = Verb(
    "explain",
    usage=("<run> query=<image> [k=<n> | result=<image> | text=<sentence>] [key=value ...]",),
    options=(
        one_run(),
        Option("query", "the query image to explain, by its id, such as test/3", "<image>", needed=True),
        Option(
            "k",
            "explain the similarity of the query to each of its first k results",
            "<n>",
            int,
            least=1,
            unset="1, its nearest result",
        ),
        Option(
            "result",
            "explain its similarity to this image instead: any id, such as train/7",
            "<image>",
            unset="its results",
        ),
        Option(
            "text",
            "explain its similarity to a sentence instead (encoders with a text tower)",
            "<sentence>",
            unset="its results",
        ),
        Option(
            "out",
            "the picture to write, a .png file; none writes no picture",
            "<file>",
            unset="explain_<query>.png in this folder; with --json none",
        ),
        URI,
        OUTPUTS,
        CONFIG_DIR,
        UNVERIFIED,
        JSON,
    ),
    run=_run,
    examples=(
        "medretrieval explain outputs/runs/first query=test/3 k=3",
        "medretrieval explain outputs/runs/first query=test/3 text='a large heart' out=heart.png",
    ),
    overrides=("dataset.*", "device", "encoder.*", "explain.steps", "paths.cache", "paths.data", "seed"),
)
