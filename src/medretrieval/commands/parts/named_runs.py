"""What the words run=, outputs= and uri= of any verb mean: which runs, and where they are looked for."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from medretrieval.commands.words import Given

if TYPE_CHECKING:
    from medretrieval.track.best_run import Chosen


def uri_of(given: Given) -> str:
    """MLflow's store: the one that is given, else the usual one."""
    from medretrieval.track.find_runs import default_uri

    return given.uri or default_uri(given.outputs)


def chosen_run(given: Given, aside: Path) -> "Chosen":
    """The one run that is asked for; where it was chosen among several, a line on stderr says why.

    Args:
        given: with run, outputs and uri.
        aside: a folder for files from MLflow.

    Raises:
        UserError: no such run, or runs of which none is the best.
    """
    from medretrieval.track.best_run import choose

    chosen = choose(given.run, uri_of(given), given.outputs, aside)
    if chosen.why:
        print(chosen.why, file=sys.stderr)
    return chosen


def all_runs(given: Given, aside: Path) -> dict[Path, str]:
    """Folders of all runs that are asked for, each once, and what to call them in messages.

    Args:
        given: with run, outputs and uri.
        aside: a folder for files from MLflow.

    Raises:
        UserError: nothing of such a name, or MLflow cannot be reached.
    """
    from medretrieval.track.find_runs import find_all

    say_latest(given)
    return find_all(given.run, uri_of(given), given.outputs, aside)


def say_latest(given: Given) -> None:
    """Say on stderr which sweep or run `latest` is, where it is among the words of a verb that takes many."""
    from medretrieval.runs.saved.names import LATEST, local_folder

    if LATEST in given.run:
        print(f"{LATEST}: {local_folder(LATEST, given.outputs)}", file=sys.stderr)
