"""What re-ranking changes: a run's scores against those of the same run without it."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medretrieval.config import Config
from medretrieval.embed.sides import Sides
from medretrieval.evaluate.evaluate import Evaluation, objective_name
from medretrieval.evaluate.score_table import MACRO, MAP_DEPTH
from medretrieval.evidence.evidence import Evidence, paired
from medretrieval.index.autotune import Tuned
from medretrieval.index.faiss_index import VectorIndex
from medretrieval.protocol.task import RetrievalTask
from medretrieval.rerank.base import Reranker
from medretrieval.rerank.opening import Ready


@dataclass(frozen=True)
class RerankGain:
    """A method, what it costs, and what it changes.

    Attributes:
        name: of the method.
        parameters: of the method.
        transductive: whether a query's results depend on the other queries.
        seconds_per_query: of searching and re-ranking, in the batches of the run.
        lists_s: seconds that the gallery's lists, and what is made of them, took when they were made.
        lists_bytes: their bytes.
        without: the objective and map_at_100 of the same run without re-ranking.
        changes: score -> (with minus without, low, high), paired over the queries; none where no interval
            would mean what it says (`has_intervals`), nor where fewer than two queries or groups tell.
    """

    name: str
    parameters: Mapping[str, Any]
    transductive: bool
    seconds_per_query: float
    lists_s: float
    lists_bytes: int
    without: Mapping[str, float]
    changes: Mapping[str, tuple[float, float, float]]


@dataclass(frozen=True)
class Reranked:
    """A run's results with re-ranking, beside those without.

    Attributes:
        method: of re-ranking.
        ready: the method over the gallery.
        evaluation: the scores with it.
        plain: the scores of the same run without it.
        index: that is searched; of a method that changes the gallery, of the changed vectors.
        tuned: how its search parameters were chosen, None where they are configured.
        indexed: the queries, and the vectors that are indexed.
    """

    method: Reranker
    ready: Ready
    evaluation: Evaluation
    plain: Evaluation
    index: VectorIndex
    tuned: Tuned | None
    indexed: Sides


def has_intervals(settings: Config, task: RetrievalTask, method: Reranker) -> bool:
    """Whether intervals of a re-ranked run mean what they say.

    No interval here allows for queries that depend on each other, as those of a transductive method do. And
    halves of the images would want a re-ranking of their own in each half: halves of the re-ranked results
    covered 98 to 100 % where 95 was said (docs/trust.md).
    """
    return not method.transductive and not task.in_halves(settings.evaluation.resample)


def without_intervals(evidence: Evidence) -> Evidence:
    """Evidence of a re-ranked run whose intervals would not mean what they say (`has_intervals`)."""
    return dataclasses.replace(evidence, intervals={}, difference=None, halves=None)


def rerank_gain(settings: Config, task: RetrievalTask, found: Reranked) -> RerankGain:
    """What a run's re-ranking costs and changes.

    Args:
        settings: the run's configuration.
        task: who queries whom.
        found: the scores of both sides.
    """
    method, ours, plain = found.method, found.evaluation, found.plain
    names = [objective_name(settings.evaluation, task), f"map_at_{MAP_DEPTH}"]
    names = [name for name in dict.fromkeys(names) if name in ours.scores and name in plain.scores]
    changes = {}
    if has_intervals(settings, task, method):
        for name in names:
            column = name.removeprefix(MACRO)
            sides = ours.per_query[column], plain.per_query[column]
            if (change := paired(settings, task, name, sides, (None, None))) is not None:
                changes[name] = change
    return RerankGain(
        name=method.name,
        parameters=method.parameters,
        transductive=method.transductive,
        seconds_per_query=ours.search_s / len(task.queries),
        lists_s=found.ready.lists_s,
        lists_bytes=found.ready.lists_bytes,
        without={name: plain.scores[name] for name in names},
        changes=changes,
    )
