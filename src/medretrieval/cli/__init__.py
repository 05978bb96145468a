"""The command line: a run of Hydra, or a verb."""

from medretrieval.cli.command import main
from medretrieval.commands import VERBS

__all__ = ["VERBS", "main"]
