"""The verb `remove`: runs and sweeps go, their folders and what MLflow has of them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medretrieval.commands.parts.named_runs import say_latest, uri_of
from medretrieval.commands.words import JSON, OUTPUTS, SHORT_IDS, URI, Given, Option, Verb

if TYPE_CHECKING:
    from medretrieval.runs.saved.removal import Removal
    from medretrieval.track.mlflow.removal import LoggedRun

SHOWN = 10  # MLflow runs that are listed by name


@dataclass(frozen=True)
class Plan:
    """What would go: folders, and runs in MLflow; and which skipped runs would lose their results."""

    removals: "list[Removal]"
    logged: "list[LoggedRun]"
    losing: list[Path]


def _run(given: Given) -> int:
    from medretrieval.runs.saved.removal import remove, remove_leftovers
    from medretrieval.track.mlflow.removal import delete

    plan = _plan(given)
    if given.yes:
        # MLflow first: were it the other way round, an interruption would leave runs there without a folder.
        delete(plan.logged)
        for removal in plan.removals:
            remove(removal, given.outputs)
        remove_leftovers(given.outputs)
    print(json.dumps(_document(given, plan), indent=2) if given.json else "\n".join(_lines(given, plan)))
    return 0


def _plan(given: Given) -> Plan:
    from medretrieval.runs.saved.names import local_folder
    from medretrieval.runs.saved.removal import removal_of, results_of
    from medretrieval.track.mlflow.removal import run_there, still_there

    say_latest(given)
    removals: dict[Path, Removal] = {}
    logged: list[LoggedRun] = []
    for word in given.run:
        folder = local_folder(word, given.outputs) or _folder_of_id(word, given.outputs)
        if folder is not None:
            removals.setdefault(folder.absolute(), removal_of(folder, unfinished=given.unfinished))
        elif _is_id(word) and given.track:
            logged.append(run_there(uri_of(given), word))
        else:
            raise VERB.refusal(f"{word}: no run or sweep in {given.outputs}; medretrieval list shows them")
    alone = [r for path, r in removals.items() if not any(other in path.parents for other in removals)]
    if given.track:
        logged += [run for removal in alone for run in _logged(given, removal)]
        logged = still_there(logged)
    return Plan(alone, logged, results_of(alone, given.outputs))


def _is_id(word: str) -> bool:
    from medretrieval.track.find_runs import RUN_ID

    return RUN_ID.fullmatch(word) is not None


def _folder_of_id(word: str, outputs: Path) -> Path | None:
    """The folder of the run that has this whole id in MLflow."""
    from medretrieval.runs.saved.listing import run_id_of, runs_in

    if not _is_id(word):
        return None
    return next((run.folder for run in runs_in(outputs) if run_id_of(run.folder) == word), None)


def _logged(given: Given, removal: "Removal") -> "list[LoggedRun]":
    """What MLflow has of a run or sweep."""
    from medretrieval.track.mlflow.removal import noted_run, runs_of_sweep

    found = [logged for run in removal.runs if (logged := noted_run(run.folder)) is not None]
    if removal.kind == "sweep":
        for uri in dict.fromkeys([run.uri for run in found] or [uri_of(given)]):
            found += runs_of_sweep(uri, removal.folder)
    return list({(run.uri, run.run_id): run for run in found}.values())


def _lines(given: Given, plan: Plan) -> list[str]:
    from medretrieval.commands.parts.amounts import bytes_text

    done = given.yes
    lines = ["removed:" if done else "would be removed:"]
    for removal in plan.removals:
        lines.append(f"  {removal.kind} {removal.folder}: {_said(removal)}")
        if removal.others:
            lines.append(f"    with it {', '.join(removal.others)}")
    lines += _logged_lines(plan.logged)
    if plan.losing:
        verb = "lost" if done else "would lose"
        lines.append(f"skipped runs that {verb} their results with it: {', '.join(map(str, plan.losing))}")
    size = bytes_text(sum(removal.size for removal in plan.removals))
    lines.append(f"{size} {'freed' if done else 'would be freed'}; embeddings and indexes in the cache stay")
    return lines if done else [*lines, "nothing is removed yet; the same command with --yes does it"]


def _logged_lines(logged: "list[LoggedRun]") -> list[str]:
    from medretrieval.commands.parts.amounts import count_text

    if not logged:
        return []
    where = ", ".join(dict.fromkeys(run.uri for run in logged))
    count = count_text(len(logged), "run")
    lines = [f"  in MLflow at {where}: {count}, marked as deleted (mlflow gc removes them for good)"]
    lines += [f"    {run.run_id} {run.name}" for run in logged[:SHOWN]]
    return [*lines, f"    and {len(logged) - SHOWN} more"] if len(logged) > SHOWN else lines


def _said(removal: "Removal") -> str:
    from medretrieval.commands.parts.amounts import bytes_text, count_text

    if removal.kind == "link":
        return "the link alone; what it leads to stays"
    if removal.kind == "run":
        return f"{removal.runs[0].state}, {bytes_text(removal.size)}"
    return f"{count_text(len(removal.runs), 'run')}, {bytes_text(removal.size)}"


def _document(given: Given, plan: Plan) -> dict[str, object]:
    """What went or would go, as JSON values.

    removed (whether it was done), folders (kind, folder, runs, bytes), mlflow (uri, run_id, name) and losing
    (folders of skipped runs whose results go with them).
    """
    return {
        "removed": given.yes,
        "folders": [
            {"kind": r.kind, "folder": str(r.folder), "runs": len(r.runs), "bytes": r.size}
            for r in plan.removals
        ],
        "mlflow": [{"uri": run.uri, "run_id": run.run_id, "name": run.name} for run in plan.logged],
        "losing": [str(folder) for folder in plan.losing],
    }


VERB = Verb(
    "remove",
    usage=("<run or sweep> ... [--yes] [key=value ...]",),
    options=(
        Option(
            "run",
            "a run or a sweep: its folder, its id or name in <outputs>, its MLflow run id, or latest (the "
            f"newest sweep or run). {SHORT_IDS}. May be given several times; the words alone, without run=, "
            "are enough",
            "<run or sweep>",
            needed=True,
            many=True,
        ),
        Option("--yes", "remove it", type=bool, unset="show what would be removed"),
        Option(
            "unfinished",
            "remove runs too that have neither finished nor failed: interrupted, or running still",
            "true|false",
            bool,
            default="false",
        ),
        Option("track", "mark them as deleted in MLflow too", "true|false", bool, default="true"),
        URI,
        OUTPUTS,
        JSON,
    ),
    run=_run,
    examples=(
        "medretrieval remove 20260101-120000-000000",
        "medretrieval remove 20260101-120000-000000 outputs/runs/first --yes",
    ),
)
