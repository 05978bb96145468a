"""The verb `log`: log finished runs that MLflow does not have yet."""

import json
import logging
from pathlib import Path

from medretrieval.commands.parts.named_runs import say_latest
from medretrieval.commands.words import JSON, OUTPUTS, URI, Given, Option, Verb


def _run(given: Given) -> int:
    from medretrieval.track.mlflow.later import log_later

    say_latest(given)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folders = [_folder(word, given.outputs) for word in given.run]
    count = log_later(folders, given.uri, given.outputs, given.all)
    print(json.dumps({"logged": count}, indent=2) if given.json else f"{count} runs logged")
    return 0


def _folder(word: str, outputs: Path) -> Path:
    """The folder of a run, or of runs, that are on this machine."""
    from medretrieval.runs.saved.names import local_folder

    folder = local_folder(word, outputs)
    if folder is None:
        raise VERB.refusal(f"run={word}: no such folder, and no run or sweep in {outputs}")
    return folder


VERB = Verb(
    "log",
    usage=("<folder> ... [key=value ...]",),
    options=(
        Option(
            "run",
            "a run's folder or its manifest.json, a folder of runs, a sweep's id, a short id, or latest (the "
            "newest sweep or run). May be given several times; the words alone, without run=, are enough",
            "<folder>",
            needed=True,
            many=True,
        ),
        Option(
            "uri",
            f"{URI.meaning}, to which all of them are logged",
            URI.value,
            unset="the usual one (MLFLOW_TRACKING_URI, or sqlite:///<outputs>/mlflow.db), for the runs that "
            "were made for it, below <outputs> or named themselves",
        ),
        Option(
            "--all",
            "log each run to the store in its own configuration, wherever that is, and runs that were made "
            "without MLflow to the usual one",
            type=bool,
            unset="say which runs are left out, and why",
        ),
        OUTPUTS,
        JSON,
    ),
    run=_run,
    examples=(
        "medretrieval log outputs/runs",
        "medretrieval log outputs/runs/first --all",
        "medretrieval log 20260101-120000-000000 uri=https://mlflow.example.org",
    ),
)
