"""The verb `report`: what runs found, as one HTML file."""

import json
import sys
from pathlib import Path

from medretrieval.commands.parts.named_runs import say_latest, uri_of
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


def _run(given: Given) -> int:
    from medretrieval.report.write import NAME, Request, log_report, said_runs, write_report
    from medretrieval.sweep import reports_of

    if given.out is not None and given.out.is_dir():
        raise VERB.refusal(f"out={given.out}: is a folder; give the name of a file: out={given.out / NAME}")
    say_latest(given)
    request = Request(given.run, uri_of(given), given.outputs, given.track)
    failures = reports_of(request.folder)[1] if request.folder else []
    written = write_report(request, given.out, failures)
    count = len(written.content.runs)
    if not given.json:
        print(f"{written.path}: {said_runs(written.content)}, {written.size_bytes / 1e6:.2f} MB")
    place = log_report(written)
    if place is not None:
        print(f"in {place}", file=sys.stderr)
    if given.json:
        content = {
            "report": str(written.path),
            "runs": count,
            "bytes": written.size_bytes,
            "tracked": place,
        }
        print(json.dumps(content, indent=2))
    return 0


VERB = Verb(
    "report",
    usage=("<run> <run> ... [key=value ...]",),
    options=(
        RUNS,
        Option(
            "out",
            "the file to write",
            "<file>",
            Path,
            unset="report.html in the sweep's folder, else in <outputs>",
        ),
        track("the report", formerly="log"),
        URI,
        OUTPUTS,
        CONFIG_DIR,
        UNVERIFIED,
        JSON,
    ),
    run=_run,
    examples=(
        "medretrieval report 20260101-120000-000000",
        "medretrieval report outputs/runs/first outputs/runs/second out=two.html track=true",
    ),
)
