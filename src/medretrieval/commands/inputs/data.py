"""The verb `data`: what a dataset holds, before anything is run."""

import json
import shlex
import sys
from pathlib import Path

from medretrieval.commands.words import JSON, Given, Option, Verb

NONE = "none"


def _run(given: Given) -> int:
    from medretrieval.commands.parts.run_words import settings_of
    from medretrieval.config import slugged
    from medretrieval.datasets.base import Dataset
    from medretrieval.describe.dataset import describe
    from medretrieval.describe.findings import without_folders
    from medretrieval.describe.page import render
    from medretrieval.describe.text import as_text
    from medretrieval.instantiate import instantiate
    from medretrieval.report.write import write_page
    from medretrieval.runs.typed_json import to_json

    settings = settings_of(given.words)
    dataset = instantiate(settings.dataset, Dataset, "dataset")  # type: ignore[type-abstract]
    out = _page_path(given.out or f"data_{slugged(dataset.name)}.html")
    if not dataset.is_here():
        print(f"dataset={dataset.name}: not here yet; it is downloaded, as by a run", file=sys.stderr)
    facts, sheet = describe(dataset, settings.audit, settings.seed)
    if out is not None:
        command = shlex.join(["medretrieval", "data", *map(without_folders, given.words)])
        write_page("data", out, render(facts, sheet, command, settings.seed))
    if given.json:
        page = None if out is None else str(out)
        print(json.dumps(to_json(facts) | {"page": page}, indent=2, allow_nan=False))
    else:
        print(as_text(facts))
        if out is not None:
            print(f"\npage with pictures: {out}")
    return 0


def _page_path(word: str) -> Path | None:
    """Where the page goes; None where none is wanted."""
    if word == NONE:
        return None
    path = Path(word).expanduser()
    if path.suffix.lower() not in (".html", ".htm"):
        raise VERB.refusal(f"out={word}: give a name that ends in .html, or none")
    if path.is_dir():
        raise VERB.refusal(f"out={word}: is a folder; give the name of a file")
    return path


VERB = Verb(
    "data",
    usage=("<words of a run> [out=<file>] [--json]",),
    options=(
        Option(
            "out",
            "the HTML page to write, with pictures of each class and split; none: no page. It holds pictures "
            "of the data, and no folder's name",
            "<file>|none",
            unset="data_<dataset>.html in the current folder",
        ),
        JSON,
    ),
    run=_run,
    examples=(
        "medretrieval data dataset=pneumoniamnist",
        "medretrieval data dataset=retinamnist dataset.size=64 seed=1 out=retina.html",
    ),
    bare=None,
    composes=True,
    note="of these dataset, paths.data, audit.near_hash, audit.near_quantile and seed (of the pictures) "
    "count; the others say nothing of the data and change nothing. Data that is not here is downloaded, as "
    "by a run.",
)
