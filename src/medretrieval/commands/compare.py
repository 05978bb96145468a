"""The verb `compare`: which of several runs is best, and is that more than luck of the queries?"""

import math
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from medretrieval.errors import UserError, choices
from medretrieval.report.compare import Options, compare
from medretrieval.report.compare_tables import SUFFIXES, as_entry, render
from medretrieval.track.find_runs import (
    default_uri,
    find,
    load_run,
    runs_and_options,
)
from medretrieval.track.tracker import tracker_of

USAGE = """medretrieval compare <run> <run> ... [key=value ...]

<run>  a run's folder, a folder of runs, a sweep's id, an MLflow run id, or an MLflow experiment's name

score=         default: the objective of the first run; macro_<score> for the mean over classes
baseline=      compare with this run (its name, part of it, or its number in the table); default: the best
pairs=         best: each run with the best or the baseline (default); all: every pair
resamples=     of the bootstrap (10000)    permutations=  of the sign-flip test (10000)
confidence=    0.95                        seed=          0
format=        terminal (default), markdown, csv, latex
uri=           MLflow store (MLFLOW_TRACKING_URI, or sqlite:///<outputs>/mlflow.db)
outputs=       where sweeps are (outputs)  track=         true (default): log it to MLflow
"""


def main(arguments: list[str]) -> int:
    """Run the verb; returns the exit code.

    Raises:
        UserError: an unknown key, runs that are not there or cannot be compared.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    options = parse(arguments)
    with tempfile.TemporaryDirectory() as aside:
        places = dict(
            place for what in options.runs for place in find(what, options.uri, options.outputs, Path(aside))
        )
        runs = [load_run(folder, source) for folder, source in places.items()]
        comparison = compare(runs, options)
        print(render(comparison, options.format))
        if options.format == "csv":  # a reader of CSV wants nothing below it
            print(*comparison.notes, sep="\n", file=sys.stderr)
        if options.track:
            kept = ("baseline", "pairs", "resamples", "permutations", "confidence", "seed")
            params = {key: str(getattr(options, key)) for key in kept}
            place = tracker_of(runs[0].folder, options.uri).log_entry(as_entry(comparison, params))
            if place is not None:
                print(f"in {place}", file=sys.stderr)
    return 0


def parse(arguments: list[str]) -> Options:
    """Turn the command's words into checked options.

    Raises:
        UserError: no run, a key that is unknown or given twice, a value that cannot be meant.
    """
    keys = [field for field in Options.__dataclass_fields__ if field != "runs"]
    runs, given = runs_and_options("compare", arguments, keys)
    if not runs:
        raise UserError("compare wants runs: medretrieval compare <run> <run> ... (--help says which)")
    values = {
        "score": None, "baseline": None, "pairs": "best", "resamples": "10000", "permutations": "10000",
        "confidence": "0.95", "seed": "0", "format": "terminal", "outputs": "outputs", "track": "true",
    } | given  # fmt: skip
    for key, allowed in {"pairs": ("best", "all"), "format": SUFFIXES, "track": ("true", "false")}.items():
        if values[key] not in allowed:
            raise UserError(f"compare: {key}={values[key]}: {choices(list(allowed))}")
    uri = default_uri(Path(str(values["outputs"])))
    checked: dict[str, Any] = {"uri": uri} | values
    for key, least in {"resamples": 100, "permutations": 100, "seed": 0}.items():
        checked[key] = int(_number(key, values[key], r"\d+", least, math.inf))
    checked["confidence"] = _number("confidence", values["confidence"], r"0?\.\d+", 0.5, 0.9999)
    checked |= {"outputs": Path(str(values["outputs"])), "track": values["track"] == "true"}
    return Options(runs=runs, **checked)


def _number(key: str, text: str | None, pattern: str, least: float, most: float) -> float:
    if text is None or not re.fullmatch(pattern, text) or not least <= float(text) <= most:
        upper = "" if most == math.inf else f" to {most}"
        raise UserError(f"compare: {key}={text}: give a number, {least}{upper or ' or more'}")
    return float(text)
