"""The verb `confound`: does a finished run's ranking go by the class, or by a column of metadata?"""

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

SHOWN_VALUES = 8  # columns of the table of class and value; --json has all

if TYPE_CHECKING:
    from medretrieval.query.confound_run import Confounded


def _run(given: Given) -> int:
    from medretrieval.query.confound_run import confound
    from medretrieval.track.best_run import require_here

    with tempfile.TemporaryDirectory() as aside:
        folder = chosen_run(given, Path(aside)).folder
        require_here(folder, Path(aside), given.run)
        found = confound(folder, given.by, given.k)
    if given.json:
        print(json.dumps({"run": str(folder)} | found.document(), indent=2, allow_nan=False))
    else:
        print(*_lines(found), sep="\n")
    return 0


def _lines(answer: "Confounded") -> list[str]:
    from medretrieval.runs.tables import table

    found, run = answer.found, answer.run
    lines = ["", run.report.title, "", f"first {found.k} results of {found.queries} queries, by {answer.by}:"]
    if (shares := answer.mean_shares) is not None:
        lines += table(
            ["results of", "mean share"], [[name, f"{share:.4f}"] for name, share in shares.items()]
        )
    index, chance = found.index, "-" if found.chance is None else f"{found.chance:.4f}"
    value = "-" if index.value is None else f"{index.value:.4f}"
    level = (
        f"{run.report.percent}: {index.interval[0]:.4f} .. {index.interval[1]:.4f}, "
        if index.interval
        else ""
    )
    lines += [
        "",
        f"robustness index {value} ({level}chance {chance}): of the results that agree with their query in "
        f"one of class and {answer.by} alone, the share that agrees in the class",
        "",
        f"the gallery, class by {answer.by}:",
        *_gallery(answer),
        *(f"note: {remark}" for remark in answer.remarks),
        "",
    ]
    return lines


def _gallery(answer: "Confounded") -> list[str]:
    import numpy as np

    from medretrieval.runs.tables import table

    seen = answer.found.association
    largest = np.argsort(-seen.counts.sum(axis=0), kind="stable")
    shown, others = np.sort(largest[:SHOWN_VALUES]), largest[SHOWN_VALUES:]
    values = [seen.values[i] for i in shown] + ([f"{len(others)} others"] if len(others) else [])
    counts = seen.counts[:, shown]
    if len(others):
        counts = np.concatenate([counts, seen.counts[:, others].sum(axis=1, keepdims=True)], axis=1)
    rows = [[name, *map(str, row)] for name, row in zip(seen.classes, counts.tolist(), strict=True)]
    v = "one class or one value" if seen.cramers_v is None else f"{seen.cramers_v:.4f}"
    said = "0: they have nothing to do with each other, 1: the one tells the other"
    return [*table(["class", *values], rows, ["class"]), f"Cramer's V {v} ({said})"]


VERB = Verb(
    "confound",
    usage=("<run> by=<column> [k=<n>]",),
    options=(
        one_run(),
        Option("by", "a column of the dataset's metadata, such as site", "<column>", needed=True),
        Option(
            "k", "first results of each query", "<n>", int, least=1, unset="the middle one of evaluation.ks"
        ),
        URI,
        OUTPUTS,
        CONFIG_DIR,
        UNVERIFIED,
        JSON,
    ),
    run=_run,
    examples=(
        "medretrieval confound outputs/runs/first by=site",
        "medretrieval confound latest by=view k=10 --json",
    ),
)
