"""The verbs of the command line: each module reads the words of one and prints what others computed.

A verb is a module of its name here, which holds a `VERB` (see `words`), and an entry in `VERBS`.
"""

VERBS = {
    "list": "show the runs and sweeps of a folder, what each scored, and whether it has results",
    "compare": "which run is best, and whether the difference is more than chance",
    "query": "search a run's gallery with an image or a sentence",
    "report": "write the results of runs as one HTML file to send to a colleague",
    "verify": "recompute a run's scores and ranking from its files and compare them",
    "again": "repeat a run and report what differs",
    "explain": "draw which regions make a query and its results similar",
    "log": "log finished runs that MLflow does not have yet",
    "remove": "remove runs and sweeps: their folders, and what MLflow has of them",
    "cache": "list, check and prune what is kept between runs",
}
