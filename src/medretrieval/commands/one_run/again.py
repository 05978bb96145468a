"""The verb `again`: does a run come out again?"""

import json
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from medretrieval.commands.parts.named_runs import chosen_run
from medretrieval.commands.words import ANY_KEY, CONFIG_DIR, JSON, OUTPUTS, URI, Given, Verb, one_run

if TYPE_CHECKING:
    from medretrieval.verify import DoneAgain


def _run(given: Given) -> int:
    """0 where ranking and scores come out again, else 1."""
    from medretrieval.runs.report import read_report
    from medretrieval.verify import again

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as aside:
        folder = chosen_run(given, Path(aside)).folder
        done = again(folder, given.overrides)
    kept = read_report(done.folder).encoder.cached
    if given.json:
        content = {
            "run": str(folder),
            "new_run": str(done.folder),
            "embeddings_cached": kept,
            "same_ranking_and_scores": not done.results,
            "differences": done.results,
            "surroundings": done.surroundings,
        }
        print(json.dumps(content, indent=2))
    else:
        print(*_lines(done, kept), f"results: {done.folder}", sep="\n")
    return 1 if done.results else 0


def _lines(done: "DoneAgain", kept: bool) -> list[str]:
    source = (
        "embeddings from the cache (paths.cache=<empty folder> computes them again)"
        if kept
        else "new embeddings"
    )
    lines = [f"the same ranking and scores; {source}"]
    if done.results:
        lines = ["ranking and scores are not the same:", *(f"  {line}" for line in done.results)]
    if done.surroundings:
        lines += ["what else differs:", *(f"  {line}" for line in done.surroundings)]
    return lines


VERB = Verb(
    "again",
    usage=("<run> [key=value ...]",),
    options=(one_run(), URI, OUTPUTS, CONFIG_DIR, JSON),
    run=_run,
    examples=(
        "medretrieval again outputs/runs/first",
        "medretrieval again outputs/runs/first paths.cache=new_cache outputs=elsewhere",
    ),
    overrides=(ANY_KEY,),
)
