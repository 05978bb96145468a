"""The verb `again`: does a run come out again?"""

import json
import logging
import tempfile
from pathlib import Path

from medretrieval.commands.named_runs import chosen_run
from medretrieval.commands.words import ANY_KEY, JSON, OUTPUTS, URI, Given, Verb, one_run


def _run(given: Given) -> int:
    """0 where the scores come out again, else 1."""
    from medretrieval.runs.report import read_report
    from medretrieval.verify import again

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as aside:
        folder = chosen_run(given, Path(aside)).folder
        new, differing = again(folder, given.overrides)
    kept = read_report(new).encoder.cached
    if given.json:
        content = {
            "run": str(folder),
            "new_run": str(new),
            "embeddings_cached": kept,
            "differences": differing,
        }
        print(json.dumps(content, indent=2))
    else:
        print(f"results: {new}", *_lines(kept, differing), sep="\n")
    return 1 if differing else 0


def _lines(kept: bool, differing: list[str]) -> list[str]:
    if differing:
        return ["what differs:", *(f"  {line}" for line in differing)]
    source = (
        "embeddings from the cache (paths.cache=<empty folder> computes them again)"
        if kept
        else "new embeddings"
    )
    return [f"the same ranking and scores, bit for bit; {source}"]


VERB = Verb(
    "again",
    usage=("<run> [key=value ...]",),
    options=(one_run(), URI, OUTPUTS, JSON),
    run=_run,
    examples=(
        "medretrieval again outputs/runs/first",
        "medretrieval again outputs/runs/first paths.cache=/tmp/empty outputs=elsewhere",
    ),
    overrides=(ANY_KEY,),
)
