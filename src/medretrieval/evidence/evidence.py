"""How far a run's scores can be trusted: their intervals, and what raw pixels score on the same task."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.cache.store import Cache
from medretrieval.config import Config, ProtocolConfig
from medretrieval.evaluate import chance
from medretrieval.evaluate.evaluate import Evaluation
from medretrieval.evaluate.score_table import is_headline, less_is_better
from medretrieval.evidence.bootstrap import enough, intervals, paired_difference
from medretrieval.evidence.pixel_baseline import baseline
from medretrieval.protocol.exclusions import Exclusions, active
from medretrieval.protocol.ranking import class_members
from medretrieval.protocol.task import RetrievalTask


@dataclass(frozen=True)
class Evidence:
    """What stands beside the scores.

    Attributes:
        intervals: headline score -> (low, high): bootstrap over queries, the gallery held fixed.
        baseline: name of the baseline encoder, None where there is none or where the run is the baseline.
        baseline_scores: its headline scores.
        difference: of the objective: this run minus the baseline, low, high (paired over queries).
        chance: expectation of a random ranking, under the names of the scores.
        lift: score over chance, where more is better.
        units: what is drawn again: "queries", or "groups" where the dataset has them.
        left_out: what protocol.exclude_same_group and drop_duplicates change (`with_exclusions`).
    """

    intervals: Mapping[str, tuple[float, float]]
    baseline: str | None
    baseline_scores: Mapping[str, float]
    difference: tuple[float, float, float] | None
    chance: Mapping[str, float]
    lift: Mapping[str, float]
    units: str
    left_out: Mapping[str, Any] | None = None

    def document(self) -> dict[str, Any]:
        """Its part of scores.json."""
        return {
            "chance": dict(self.chance),
            "lift": dict(self.lift),
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "resampled": self.units,
            "left_out": self.left_out,
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
    task: RetrievalTask,
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
    base = objective.removeprefix("macro_")
    shown = {name: values for name, values in per_query.items() if is_headline(name) or name == base}
    labels = task.queries.labels if objective.startswith("macro_") else None
    drawn = intervals(shown, config.resamples, config.confidence, settings.seed, task.queries.groups, labels)
    found = {name: ends for name, ends in drawn.items() if is_headline(name) or name == objective}
    random = evaluation.chance | chance.by_drawing(task, evaluation.vote_distances, config, settings.seed)
    units = "queries" if task.queries.groups is None else "groups"
    plain = Evidence(found, None, {}, None, random, _lift(evaluation.scores, random), units)
    line = baseline(settings, task, size, identity, evaluation.counts["depth"], cache)
    if line is None:
        return plain
    difference = None
    if base in per_query and base in line.per_query:
        difference = _paired(settings, task, objective, per_query[base], line.per_query[base])
    scores = {name: line.scores[name] for name in found if name in line.scores}
    return dataclasses.replace(plain, baseline=line.name, baseline_scores=scores, difference=difference)


def _paired(
    settings: Config, task: RetrievalTask, objective: str, a: NDArray[np.float64], b: NDArray[np.float64]
) -> tuple[float, float, float] | None:
    """Mean (over classes, for a macro score) of a minus that of b, over the queries that both have."""
    config, groups, missing = settings.evaluation, task.queries.groups, np.isnan(a) | np.isnan(b)
    a, b = (np.where(missing, np.nan, side) for side in (a, b))
    if not enough(a, groups):
        return None
    members = class_members(task.queries.labels) if objective.startswith("macro_") else None
    return paired_difference(a, b, config.resamples, config.confidence, settings.seed, groups, members)


def _lift(found: Mapping[str, float], random: Mapping[str, float]) -> dict[str, float]:
    return {
        name: found[name] / value
        for name, value in random.items()
        if name in found and value > 0 and not less_is_better(name)
    }


def plain_task(protocol: ProtocolConfig, task: RetrievalTask) -> RetrievalTask:
    """The same task with nothing left out but the query itself."""
    plain = dataclasses.replace(protocol, exclude_same_group=False, drop_duplicates=False)
    out = Exclusions.from_protocol(task.queries, task.gallery, plain)
    return RetrievalTask.from_sides(task.queries, task.gallery, out, task.relevance)


def with_exclusions(
    settings: Config,
    found: Evidence,
    ours: Evaluation,
    plain: Evaluation,
    objective: str,
    task: RetrievalTask,
) -> Evidence:
    """Add what leaving out groups and copies does to the headline score.

    Args:
        settings: the run's configuration.
        found: the evidence so far.
        ours: the run's scores.
        plain: the scores with nothing left out but the query itself.
        objective: the headline score.
        task: who queries whom.
    """
    base = objective.removeprefix("macro_")
    change = None
    if base in ours.per_query and base in plain.per_query:
        change = _paired(settings, task, objective, ours.per_query[base], plain.per_query[base])
    rows, _ = task.exclusions.pairs
    document = {
        "options": list(active(settings.protocol)),
        "pairs": len(rows),
        "dropped": int(task.exclusions.dropped.sum()),
        "score": objective,
        "without": plain.scores.get(objective),
        "change": list(change) if change else None,
    }
    return dataclasses.replace(found, left_out=document)
