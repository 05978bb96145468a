"""The verbs of the command line: each module parses the words of one and prints what the other rooms found.

A verb is a module of its name here, which holds a `VERB` (see `words`), and an entry in `VERBS`.
"""

VERBS = {
    "compare": "which run is best, and is that more than luck of the queries",
    "query": "what in a run's gallery is like a picture, or fits a sentence",
    "report": "what runs found, as one HTML file to send to a colleague",
    "verify": "recompute a run's scores and ranking from its files",
    "again": "do a run again and say what differs",
    "explain": "draw which regions make a query and its results similar",
    "log": "log finished runs that MLflow does not have yet",
    "cache": "what is kept between runs, whether it is whole, and making room",
}
