"""How far a run's scores can be trusted: their intervals, and what raw pixels score on the same task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medretrieval.baseline import baseline
from medretrieval.cache import Cache
from medretrieval.config import Config
from medretrieval.evaluate import Evaluation, Task
from medretrieval.ranking import class_members
from medretrieval.summary import is_headline
from medretrieval.uncertainty import intervals, paired_difference


@dataclass(frozen=True)
class Evidence:
    """What stands beside the scores.

    Attributes:
        intervals: headline score -> (low, high): bootstrap over queries, the gallery held fixed.
        baseline: name of the baseline encoder, None where there is none or where the run is the baseline.
        baseline_scores: its headline scores.
        difference: of the objective: this run minus the baseline, low, high (paired over queries).
    """

    intervals: Mapping[str, tuple[float, float]]
    baseline: str | None
    baseline_scores: Mapping[str, float]
    difference: tuple[float, float, float] | None

    def document(self) -> dict[str, Any]:
        """Its part of scores.json."""
        return {
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "baseline": {
                "encoder": self.baseline,
                "scores": dict(self.baseline_scores),
                "difference": list(self.difference) if self.difference else None,
            },
        }


def per_class(evaluation: Evaluation, classes: Sequence[str]) -> dict[str, dict[str, float]]:
    """Mean of every headline score over the queries of each class that has any with something to find.

    Args:
        evaluation: the scores; a query with several findings counts for each.
        classes: names, label i being classes[i].

    Returns:
        class -> {"queries": how many, score: mean}.
    """
    labels, per_query = evaluation.ranking.query_labels, evaluation.per_query
    names = [name for name in per_query if is_headline(name)]
    numbers = np.arange(labels.shape[1]) if labels.ndim == 2 else np.unique(labels)
    table = {}
    for number, members in zip(numbers, class_members(labels).T, strict=True):
        values = {name: per_query[name][members] for name in names}
        found = ~np.isnan(next(iter(values.values())))
        if found.any():
            means = {name: float(column[found].mean()) for name, column in values.items()}
            table[classes[number]] = {"queries": int(found.sum()), **means}
    return table


def evidence(
    settings: Config,
    task: Task,
    size: int,
    identity: Mapping[str, Any],
    evaluation: Evaluation,
    objective: str,
    cache: Cache,
) -> Evidence:
    """Intervals and baseline of a run.

    Args:
        settings: the run's configuration.
        task: who queries whom.
        size: the dataset's size.
        identity: of the run's encoder.
        evaluation: its scores.
        objective: the score whose difference to the baseline is taken.
        cache: where the baseline's scores are kept.
    """
    config, per_query = settings.evaluation, evaluation.per_query
    shown = {name: values for name, values in per_query.items() if is_headline(name) or name == objective}
    found = intervals(shown, config.resamples, config.confidence, settings.seed)
    line = baseline(settings, task, size, identity, cache)
    if line is None:
        return Evidence(found, None, {}, None)
    difference = None
    if objective in per_query and objective in line.per_query and len(found):
        pair = per_query[objective], line.per_query[objective]
        difference = paired_difference(*pair, config.resamples, config.confidence, settings.seed)
    scores = {name: line.scores[name] for name in shown if name in line.scores}
    return Evidence(found, line.name, scores, difference)
