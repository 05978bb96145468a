"""The verb `compare`: which of several runs is best, and is that more than luck of the queries?"""

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medretrieval.commands.parts.named_runs import all_runs, uri_of
from medretrieval.commands.words import (
    CONFIG_DIR,
    JSON,
    OUTPUTS,
    RUNS,
    UNVERIFIED,
    URI,
    Given,
    Option,
    Verb,
    track,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medretrieval.report.compare import Options
    from medretrieval.report.compare_tables import Comparison
    from medretrieval.track.find_runs import Run

FORMATS = ("terminal", "markdown", "csv", "latex")
# How the differences are tested; what is written beside a comparison in MLflow.
TESTED = ("baseline", "family", "resamples", "permutations", "confidence", "seed")
OF_RUNS = "as in the runs; where they differ"
# What stands above each table where runs of several tasks are compared.
HEADING = {"terminal": "{}", "markdown": "**{}**\n", "latex": "% {}"}


def _run(given: Given) -> int:
    from medretrieval.report.compare import compare
    from medretrieval.track.find_runs import load_run

    if given.json and given.format:
        raise VERB.refusal(f"--json and format={given.format}: both write to stdout; give one of them")
    if given.published:
        return _beside_published(given)
    with tempfile.TemporaryDirectory() as aside:
        places = all_runs(given, Path(aside))
        tasks = _tasks(given, [load_run(folder, source) for folder, source in places.items()])
        if given.format == "csv" and len(tasks) > 1:
            needed = "; ".join(heading for heading, _ in tasks)
            raise VERB.refusal(f"format=csv: it holds one table, and these runs need several: {needed}")
        compared = []
        for heading, members in tasks:
            options = options_of(given, members)
            compared.append((heading, compare(members, options)))
            if given.track:
                _track(given, members[0], compared[-1][1], options)
        _show(given, compared)
    return 0


def _beside_published(given: Given) -> int:
    """The same verb with published=: runs beside the rows of a published table."""
    from medretrieval.report.published.beside import beside
    from medretrieval.report.published.rows import read_published
    from medretrieval.report.published.tables import as_entry, document, render
    from medretrieval.track.find_runs import load_run
    from medretrieval.track.tracker import tracker_of

    usual = {option.name: option.default for option in VERB.options}
    for key in ("score", *TESTED):
        if getattr(given, key) != usual[key]:
            raise VERB.refusal(
                f"{key}={getattr(given, key)}: has no effect with published=, which tests nothing; leave it "
                "out"
            )
    published = read_published(given.published)
    with tempfile.TemporaryDirectory() as aside:
        runs = [load_run(folder, source) for folder, source in all_runs(given, Path(aside)).items()]
        found = beside(runs, published)
        if given.json:
            print(json.dumps(document(found), indent=2, allow_nan=False))
        else:
            print(render(found, given.format or FORMATS[0]))
        if given.format == "csv":
            print(*found.notes, sep="\n", file=sys.stderr)
        if given.track:
            place = tracker_of(runs[0].folder, uri_of(given)).log_entry(as_entry(found))
            if place is not None:
                print(f"in {place}", file=sys.stderr)
    return 0


def _tasks(given: Given, runs: "list[Run]") -> "list[tuple[str, list[Run]]]":
    """What the runs are about, and those that may be ranked together.

    Runs that a sweep or an experiment holds are put together by dataset and protocol, as in a report. Those
    named one by one stay together, and so do all where none has a second: `compare` says how they differ.
    """
    from medretrieval.report.gather import headings
    from medretrieval.track.find_runs import place

    together: dict[str, list[Run]] = {}
    for run in runs:
        together.setdefault(place(run, given.score), []).append(run)
    if len(runs) <= len(given.run) or all(len(members) == 1 for members in together.values()):
        return [("", runs)]
    named = headings([members[0] for members in together.values()])
    tasks = list(zip(named, together.values(), strict=True))
    for heading, members in tasks:
        if len(members) == 1:
            line = f"not compared, the only run of its kind: {heading} ({members[0].source})"
            print(line, file=sys.stderr)
    return [(heading, members) for heading, members in tasks if len(members) > 1]


def _show(given: Given, compared: "list[tuple[str, Comparison]]") -> None:
    from medretrieval.report.compare_tables import render

    several = len(compared) > 1
    if given.json:
        found = [({"task": heading} if several else {}) | document(one) for heading, one in compared]
        print(json.dumps(found if several else found[0], indent=2, allow_nan=False))
        return
    kind = given.format or FORMATS[0]
    for number, (heading, comparison) in enumerate(compared):
        if several:
            print("\n" * min(number, 1) + HEADING[kind].format(heading))
        print(render(comparison, kind))
        if kind == "csv":  # a reader of CSV wants nothing below it
            print(*comparison.notes, sep="\n", file=sys.stderr)


def _track(given: Given, first: "Run", comparison: "Comparison", options: "Options") -> None:
    from medretrieval.report.compare_tables import as_entry
    from medretrieval.track.tracker import tracker_of

    params = {key: str(getattr(options, key)) for key in TESTED}
    place = tracker_of(first.folder, uri_of(given)).log_entry(as_entry(comparison, params))
    if place is not None:
        print(f"in {place}", file=sys.stderr)


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
    source, value, low, high), pairs (run minus minus_run: difference, low, high, p, p_corrected,
    low_corrected, high_corrected, not_different)
    and notes. Runs are numbered from 1, the best first. Of runs of several tasks there is a list, with the
    task (dataset, protocol and score) of each.
    """
    numbered = enumerate(zip(comparison.names, comparison.sources, comparison.rows, strict=True), 1)
    return {
        "score": comparison.score,
        "confidence": comparison.confidence,
        "reference": comparison.reference + 1,
        "runs": [
            {"number": number, "name": name, "source": source, "value": value, **_ends(ends)}
            for number, (name, source, (value, ends)) in numbered
        ],
        "pairs": [
            {
                "run": pair.a + 1,
                "minus_run": pair.b + 1,
                "difference": pair.difference,
                **_ends(pair.ends),
                "p": pair.p,
                "p_corrected": pair.adjusted,
                **_ends(pair.corrected, "_corrected"),
                "not_different": bool(pair.alike),
            }
            for pair in comparison.pairs
        ],
        "notes": comparison.notes,
    }


def _ends(ends: "tuple[float, float] | None", kind: str = "") -> dict[str, float | None]:
    low, high = ends or (None, None)
    return {f"low{kind}": low, f"high{kind}": high}


VERB = Verb(
    "compare",
    usage=("<run> <run> ... [key=value ...]", "<run> ... published=<table> [key=value ...]"),
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
            "compare every run with this one: its name or a part of it, chosen beforehand, or its number in "
            "the table, which counts as chosen afterwards",
            "<run>",
            unset="the best run",
        ),
        Option(
            "family",
            "the comparisons that are made and corrected together: best: each run with the best one or the "
            "baseline; all: every pair; encoders: as best, among the runs with exact search",
            choices=("best", "all", "encoders"),
            default="best",
            formerly="pairs",
        ),
        Option(
            "resamples",
            "resamples of the bootstrap; runs with random halves need none",
            "<n>",
            int,
            least=100,
            unset=f"{OF_RUNS} 10000",
        ),
        Option(
            "permutations",
            "permutations of the sign-flip test, or draws of the correction",
            "<n>",
            int,
            least=100,
            default=10_000,
        ),
        Option(
            "confidence", "of the intervals", "<p>", float, least=0.5, most=0.9999, unset=f"{OF_RUNS} 0.95"
        ),
        Option("seed", "of bootstrap and test", "<n>", int, unset=f"{OF_RUNS} 0"),
        Option(
            "published",
            "put the runs beside the rows of a published table, a file in experiments/published/; nothing is "
            "tested, and one run is enough",
            "<table>",
            unset="none",
        ),
        Option("format", "of the table on stdout", choices=FORMATS, unset=FORMATS[0]),
        track("the comparison"),
        URI,
        OUTPUTS,
        CONFIG_DIR,
        UNVERIFIED,
        JSON,
    ),
    run=_run,
    examples=(
        "medretrieval compare 20260101-120000-000000 baseline=pixels",
        "medretrieval compare outputs/runs/first outputs/runs/second score=map_at_100 format=markdown",
        "medretrieval compare outputs/runs/first published=mahbod2025",
    ),
)
