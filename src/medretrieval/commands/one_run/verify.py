"""The verb `verify`: are a run's numbers what its files say?"""

import json
import tempfile
from pathlib import Path

from medretrieval.commands.parts.named_runs import chosen_run
from medretrieval.commands.words import CONFIG_DIR, JSON, OUTPUTS, URI, Given, Verb, one_run


def _run(given: Given) -> int:
    """0 where everything is as saved, else 1."""
    from medretrieval.runs.report import read_report
    from medretrieval.verify import verify

    with tempfile.TemporaryDirectory() as aside:
        folder = chosen_run(given, Path(aside)).folder
        differing = verify(folder, given.overrides)
        queries = read_report(folder).counts.queries
    if given.json:
        content = {"run": str(folder), "queries": queries, "differences": differing}
        print(json.dumps(content, indent=2))
    elif not differing:
        print(f"{given.run}: {queries} rankings and all scores are as saved")
    else:
        print(f"{given.run}: {len(differing)} differences", *differing, sep="\n  ")
    return 1 if differing else 0


VERB = Verb(
    "verify",
    usage=("<run> [key=value ...]",),
    options=(one_run(), URI, OUTPUTS, CONFIG_DIR, JSON),
    run=_run,
    examples=("medretrieval verify outputs/runs/first", "medretrieval verify outputs/runs/first --json"),
    overrides=("dataset.*", "paths.data"),
)
