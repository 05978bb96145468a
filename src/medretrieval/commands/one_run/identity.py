"""The verb `identity`: how often does a finished run find the query's own patient?"""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

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
)

if TYPE_CHECKING:
    from medretrieval.query.identity_run import Recognized
    from medretrieval.subgroups.identity import Recognition


def _run(given: Given) -> int:
    from medretrieval.query.identity_run import identity
    from medretrieval.track.best_run import require_here

    with tempfile.TemporaryDirectory() as aside:
        folder = chosen_run(given, Path(aside)).folder
        require_here(folder, Path(aside), given.run)
        found = identity(folder, given.k)
    if given.json:
        print(json.dumps({"run": str(folder)} | found.document(), indent=2, allow_nan=False))
    else:
        print(*_lines(found), sep="\n")
    return 0


def _lines(answer: "Recognized") -> list[str]:
    from medretrieval.runs.tables import table

    report = answer.run.report
    within = (
        []
        if answer.within.k == 1
        else [f"among the first {answer.within.k} results: {_said(answer, answer.within)}"]
    )
    header = ["score", "with own patient", "without", "change", f"{report.percent} interval"]
    return [
        "",
        report.title,
        "",
        f"{answer.first.queries} of {len(answer.run.queries)} queries can find another image of their "
        "patient",
        f"the first result is of the same patient: {_said(answer, answer.first)}",
        *within,
        "",
        *table(header, [_row(answer, name) for name in answer.with_own]),
        *(f"note: {remark}" for remark in answer.remarks),
        "",
    ]


def _said(answer: "Recognized", found: "Recognition") -> str:
    ends, value = found.share.interval, found.share.value
    level = f"{answer.run.report.percent}: {ends[0]:.4f} .. {ends[1]:.4f}, " if ends else ""
    chance = "-" if found.chance is None else f"{found.chance:.4f}"
    return f"{'-' if value is None else f'{value:.4f}'} ({level}chance {chance})"


def _row(answer: "Recognized", name: str) -> list[str]:
    own, without = answer.with_own[name], answer.without_own[name]
    ends = answer.changes.get(name)
    interval = "-" if ends is None else f"{ends[1]:+.4f} .. {ends[2]:+.4f}"
    return [name, f"{own:.4f}", f"{without:.4f}", f"{without - own:+.4f}", interval]


VERB = Verb(
    "identity",
    usage=("<run> [k=<n>]",),
    options=(
        one_run(),
        Option(
            "k",
            "also of how many of the first k results, beside the first one",
            "<n>",
            int,
            least=1,
            unset="the middle one of evaluation.ks",
        ),
        URI,
        OUTPUTS,
        CONFIG_DIR,
        UNVERIFIED,
        JSON,
    ),
    run=_run,
    examples=("medretrieval identity outputs/runs/first", "medretrieval identity latest k=10 --json"),
)
