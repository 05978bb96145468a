"""The verb `list`: which runs and sweeps there are, and what they scored."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medretrieval.commands.words import JSON, OUTPUTS, Given, Option, Verb

if TYPE_CHECKING:
    from medretrieval.runs.saved.summaries import Summary


NAME = "run or sweep"  # heading of the column of names


def _run(given: Given) -> int:
    from medretrieval.runs.saved.summaries import summaries

    found = summaries(given.outputs, _sweep(given))
    wanted = [summary for summary in found if _contains(summary, given.of)]
    shown = wanted[: given.limit]
    if given.json:
        content = {"outputs": str(given.outputs), "count": len(wanted), "entries": [_entry(s) for s in shown]}
        print(json.dumps(content, indent=2))
    else:
        print(*_lines(given, shown, len(wanted)), sep="\n")
    return 0


def _sweep(given: Given) -> Path | None:
    """The folder of the sweep whose runs are asked for."""
    from medretrieval.runs.saved.names import local_folder

    if given.sweep is None:
        return None
    folder = local_folder(given.sweep, given.outputs)
    if folder is None:
        raise VERB.refusal(
            f"sweep={given.sweep}: no sweep in {given.outputs / 'sweeps'}; see medretrieval list"
        )
    return folder


def _contains(summary: "Summary", text: str | None) -> bool:
    """Whether what the table says of a run or sweep contains a text, in capitals or not."""
    return text is None or text.lower() in f"{summary.name} {summary.what} {summary.said}".lower()


def _lines(given: Given, shown: "list[Summary]", count: int) -> list[str]:
    from medretrieval.runs.saved.summaries import short_names
    from medretrieval.runs.tables import table

    where = given.outputs if given.sweep is None else _sweep(given)
    if not shown:
        of = "" if given.of is None else f" whose line contains {given.of!r}"
        return [f"no runs in {where}{of}"]
    ids = short_names(given.outputs)
    rows = [[_day(s.time), ids.get(s.folder, s.name), s.what, s.score_text, s.said] for s in shown]
    lines = table(["when", NAME, "what", "score", "results"], rows, words=("when", NAME))
    more = f"; limit={count} shows all" if count > len(shown) else ""
    return [*lines, f"{len(shown)} of {count}, the newest first, in {where}{more}"]


def _day(seconds: float) -> str:
    from datetime import datetime

    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M}"


def _entry(summary: "Summary") -> dict[str, Any]:
    """A run or sweep as JSON values.

    kind ("run" or "sweep"), name, folder, ended (UTC, ISO 8601), state, axes (dataset, encoder, index,
    metric, protocol, adapt and rerank, each a list of names), score (name and value of the objective, of a
    sweep that of its best run; or null), runs (of a sweep: how many in each state, or not started; else
    null), run_id (in MLflow, or null) and reason (of a failure, or where a skipped run has its results).
    """
    from datetime import UTC, datetime

    score = None if summary.score is None else {"name": summary.score, "value": summary.value}
    return {
        "kind": "run" if summary.counts is None else "sweep",
        "name": summary.name,
        "folder": str(summary.folder),
        "ended": datetime.fromtimestamp(summary.time, UTC).isoformat(timespec="seconds"),
        "state": summary.state.value,
        "axes": {axis: list(names) for axis, names in summary.axes.items()},
        "score": score,
        "runs": summary.counts,
        "run_id": summary.run_id,
        "reason": summary.reason,
    }


VERB = Verb(
    "list",
    usage=("[<text>] [key=value ...]",),
    options=(
        Option(
            "of",
            "only those whose line contains this text: a dataset, an encoder, a day such as 20260101, "
            "failed. The word alone, without of=, is enough",
            "<text>",
            unset="all",
        ),
        Option(
            "sweep",
            "the runs of this sweep: its id, the beginning of it, or latest",
            "<sweep>",
            unset="each sweep as one line",
        ),
        Option("limit", "how many are shown, the newest first", "<n>", int, least=1, default=20),
        OUTPUTS,
        JSON,
    ),
    run=_run,
    examples=(
        "medretrieval list",
        "medretrieval list pneumoniamnist limit=50",
        "medretrieval list sweep=latest",
    ),
    bare="of",
)
