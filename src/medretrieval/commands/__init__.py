"""The verbs of the command line: each module reads the words of one and prints what others computed.

A verb is a module of its name in one of the folders here, which holds a `VERB` (see `words`), and an entry in
`ROOMS`.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medretrieval.commands.words import Verb

# Folder -> verb -> what it does.
ROOMS = {
    "many_runs": {
        "list": "show the runs and sweeps of a folder, what each scored, and whether it has results",
        "compare": "which run is best, and whether the difference is more than chance",
        "report": "write the results of runs as one HTML file to send to a colleague",
        "log": "log finished runs that MLflow does not have yet",
        "remove": "remove runs and sweeps: their folders, and what MLflow has of them",
    },
    "one_run": {
        "query": "search a run's gallery with an image or a sentence",
        "verify": "recompute a run's scores and ranking from its files and compare them",
        "again": "repeat a run and report what differs",
        "explain": "draw which regions make a query and its results similar",
        "confound": "does a run's ranking go by the class, or by a column of metadata that comes with it?",
        "identity": "does a run's ranking find like cases, or the same patient again?",
    },
    "inputs": {
        "data": "describe a dataset: counts, copies, what is missing, and pictures of each class",
        "encoders": "list the encoders: license, training data, and what is here to run them offline",
        "plan": "say what size of difference the queries can show, from a finished run or a simulation",
        "cache": "list, check and prune what is kept between runs",
    },
}
VERBS = {name: meaning for verbs in ROOMS.values() for name, meaning in verbs.items()}


def verb(name: str) -> "Verb":
    """The verb of a name in `VERBS`."""
    room = next(room for room, verbs in ROOMS.items() if name in verbs)
    found: Verb = importlib.import_module(f"medretrieval.commands.{room}.{name}").VERB
    return found
