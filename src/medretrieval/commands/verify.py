"""The verb `verify`: are a run's numbers what its files say?"""

import json
import tempfile
from pathlib import Path

from medretrieval.commands.named_runs import chosen_run
from medretrieval.commands.words import JSON, OUTPUTS, URI, Given, Verb, one_run


def _run(given: Given) -> int:
    """0 where everything is as saved, else 1."""
    from medretrieval.runs import folder as run_folder
    from medretrieval.verify import verify

    with tempfile.TemporaryDirectory() as aside:
        folder = chosen_run(given, Path(aside)).folder
        differing = verify(folder, given.overrides)
        counts = run_folder.read_scores(folder)["counts"]
    if given.json:
        print(
            json.dumps({"run": str(folder), "queries": counts["queries"], "differences": differing}, indent=2)
        )
    elif not differing:
        print(f"{given.run}: {counts['queries']} rankings and all scores are as saved")
    else:
        print(f"{given.run}: {len(differing)} differences", *differing, sep="\n  ")
    return 1 if differing else 0


VERB = Verb(
    "verify",
    usage=("<run> [key=value ...]",),
    options=(one_run(), URI, OUTPUTS, JSON),
    run=_run,
    examples=("medretrieval verify outputs/runs/first", "medretrieval verify outputs/runs/first --json"),
    overrides=("dataset.*", "paths.data"),
)
