"""The verb `compare`: which of several runs is best, and is that more than luck of the queries?"""

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medretrieval.commands.named_runs import all_runs, uri_of
from medretrieval.commands.words import JSON, OUTPUTS, RUNS, URI, Given, Option, Verb, track

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medretrieval.report.compare import Options
    from medretrieval.report.compare_tables import Comparison
    from medretrieval.track.find_runs import Run

FORMATS = ("terminal", "markdown", "csv", "latex")
# How the differences are tested; what is written beside a comparison in MLflow.
TESTED = ("baseline", "pairs", "resamples", "permutations", "confidence", "seed")
OF_RUNS = "as in the runs; where they differ"


def _run(given: Given) -> int:
    from medretrieval.report.compare import compare
    from medretrieval.report.compare_tables import as_entry, render
    from medretrieval.track.find_runs import load_run
    from medretrieval.track.tracker import tracker_of

    if given.json and given.format:
        raise VERB.refusal(f"--json and format={given.format}: both write to stdout; give one of them")
    with tempfile.TemporaryDirectory() as aside:
        places = all_runs(given, Path(aside))
        runs = [load_run(folder, source) for folder, source in places.items()]
        options = options_of(given, runs)
        comparison = compare(runs, options)
        if given.json:
            print(json.dumps(document(comparison), indent=2, allow_nan=False))
        else:
            print(render(comparison, given.format or FORMATS[0]))
        if given.format == "csv":  # a reader of CSV wants nothing below it
            print(*comparison.notes, sep="\n", file=sys.stderr)
        if given.track:
            params = {key: str(getattr(options, key)) for key in TESTED}
            place = tracker_of(runs[0].folder, uri_of(given)).log_entry(as_entry(comparison, params))
            if place is not None:
                print(f"in {place}", file=sys.stderr)
    return 0


def options_of(given: Given, runs: "Sequence[Run]") -> "Options":
    """What to compare by, and how to test it: what is not given is as in the runs."""
    from medretrieval.report.compare import Options, resampling_of

    how = resampling_of(runs)
    chosen = {key: getattr(given, key) for key in TESTED}
    chosen |= {key: getattr(how, key) for key, value in chosen.items() if value is None and hasattr(how, key)}
    return Options(score=given.score, **chosen)


def document(comparison: "Comparison") -> dict[str, Any]:
    """A comparison as JSON values.

    score, confidence, reference (the number of the run that differences are taken to), runs (number, name,
    source, value, low, high), pairs (run minus minus_run: difference, low, high, p, p_holm, not_different)
    and notes. Runs are numbered from 1, the best first.
    """
    numbered = enumerate(zip(comparison.names, comparison.sources, comparison.rows, strict=True), 1)
    return {
        "score": comparison.score,
        "confidence": comparison.confidence,
        "reference": comparison.reference + 1,
        "runs": [
            {"number": number, "name": name, "source": source, "value": value, "low": low, "high": high}
            for number, (name, source, (value, low, high)) in numbered
        ],
        "pairs": [
            {
                "run": pair.a + 1,
                "minus_run": pair.b + 1,
                "difference": pair.difference,
                "low": pair.low,
                "high": pair.high,
                "p": pair.p,
                "p_holm": pair.adjusted,
                "not_different": bool(pair.alike),
            }
            for pair in comparison.pairs
        ],
        "notes": comparison.notes,
    }


VERB = Verb(
    "compare",
    usage=("<run> <run> ... [key=value ...]",),
    options=(
        RUNS,
        Option(
            "score",
            "the score to compare; macro_<score> for the mean over classes",
            "<score>",
            unset="the objective of the first run",
        ),
        Option(
            "baseline",
            "compare every run with this one: its name, a part of the name, or its number in the table",
            "<run>",
            unset="the best run",
        ),
        Option(
            "pairs",
            "best: compare each run with the best one or the baseline; all: compare every pair",
            choices=("best", "all"),
            default="best",
        ),
        Option("resamples", "resamples of the bootstrap", "<n>", int, least=100, unset=f"{OF_RUNS} 10000"),
        Option("permutations", "permutations of the sign-flip test", "<n>", int, least=100, default=10_000),
        Option(
            "confidence", "of the intervals", "<p>", float, least=0.5, most=0.9999, unset=f"{OF_RUNS} 0.95"
        ),
        Option("seed", "of bootstrap and test", "<n>", int, unset=f"{OF_RUNS} 0"),
        Option("format", "of the table on stdout", choices=FORMATS, unset=FORMATS[0]),
        track("the comparison"),
        URI,
        OUTPUTS,
        JSON,
    ),
    run=_run,
    examples=(
        "medretrieval compare 20260101-120000-000000 baseline=pixels",
        "medretrieval compare outputs/runs/first outputs/runs/second score=map_at_100 format=markdown",
    ),
)
