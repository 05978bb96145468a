"""How far a run's scores can be trusted: their intervals, and what raw pixels score on the same task."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.cache.store import Cache
from medretrieval.config import Config, ProtocolConfig
from medretrieval.evaluate import chance
from medretrieval.evaluate.evaluate import Evaluation, objective_name
from medretrieval.evaluate.score_table import MACRO, highest_values, is_headline, less_is_better
from medretrieval.evidence.pixel_baseline import BaselineScores, baseline
from medretrieval.protocol.exclusions import Exclusions, active
from medretrieval.protocol.inputs import Inputs
from medretrieval.protocol.ranking import class_members
from medretrieval.protocol.task import RetrievalTask
from medretrieval.uncertainty.bootstrap import Resampling, enough, intervals, means, paired_difference
from medretrieval.uncertainty.half_intervals import difference_interval
from medretrieval.uncertainty.half_samples import HalfSamples, halves_of


@dataclass(frozen=True)
class Evidence:
    """What stands beside the scores.

    Attributes:
        intervals: headline score -> (low, high): bootstrap over queries with the gallery held fixed, or
            random halves of the images where these vary in both roles, or on both sides.
        baseline: name of the baseline encoder, None where there is none or where the run is the baseline.
        baseline_scores: its headline scores.
        difference: of the objective: this run minus the baseline, low, high (paired over queries).
        chance: expectation of a random ranking, under the names of the scores.
        lift: score over chance, where more is better.
        units: what varies (see `RetrievalTask.what_varies`).
        chance_errors: standard errors of the chances that were drawn; the others are exact.
        left_out: what protocol.exclude_same_group and drop_duplicates change (`with_exclusions`).
        halves: the scores in halves of the images; None where the gallery is fixed, or images are too few.
        pixel_line: all that the baseline encoder scores, of each query too; None where `baseline` is.
    """

    intervals: Mapping[str, tuple[float, float]]
    baseline: str | None
    baseline_scores: Mapping[str, float]
    difference: tuple[float, float, float] | None
    chance: Mapping[str, float]
    lift: Mapping[str, float]
    units: str
    chance_errors: Mapping[str, float] = field(default_factory=dict)
    left_out: Mapping[str, Any] | None = None
    halves: HalfSamples | None = None
    pixel_line: BaselineScores | None = None


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
    inputs: Inputs,
    evaluation: Evaluation,
    cache: Cache,
    members: NDArray[np.bool_] | None = None,
) -> Evidence:
    """Intervals and baseline of a run.

    Args:
        settings: the run's configuration.
        inputs: encoder, dataset and task.
        evaluation: its scores.
        cache: where the baseline's scores are kept.
        members: bool [q, m], sets of queries whose scores are wanted in halves too; None for none.
    """
    task, per_query = inputs.task, evaluation.per_query
    objective = objective_name(settings.evaluation, task)
    base = objective.removeprefix("macro_")
    halves = halves_of(task, evaluation, settings.evaluation, members)
    found = _intervals(settings, task, evaluation, halves)
    votes = chance.without_closed_form(task, evaluation.vote_distances, settings.evaluation, settings.seed)
    votes = {name: found for name, found in votes.items() if name in evaluation.scores}
    random = evaluation.chance | {name: found.value for name, found in votes.items()}
    errors = {name: found.error for name, found in votes.items() if found.error > 0}
    units = task.what_varies(settings.evaluation.resample)
    plain = Evidence(found, None, {}, None, random, _lift(evaluation.scores, random), units, halves=halves)
    plain = dataclasses.replace(plain, chance_errors=errors)
    line = baseline(settings, inputs, evaluation.counts["depth"], cache)
    if line is None:
        return plain
    difference = None
    if base in per_query and base in line.per_query:
        sides = per_query[base], line.per_query[base]
        difference = paired(settings, task, objective, sides, (halves, line.halves))
    shown = [name for name in evaluation.scores if is_headline(name) or name == objective]
    scores = {name: line.scores[name] for name in shown if name in line.scores}
    return dataclasses.replace(
        plain, baseline=line.name, baseline_scores=scores, difference=difference, pixel_line=line
    )


def _intervals(
    settings: Config, task: RetrievalTask, evaluation: Evaluation, halves: HalfSamples | None
) -> dict[str, tuple[float, float]]:
    """Of the headline scores and the objective."""
    objective, per_query = objective_name(settings.evaluation, task), evaluation.per_query
    base = objective.removeprefix(MACRO)
    shown = {name: values for name, values in per_query.items() if is_headline(name) or name == base}
    names = [name for name in [*shown, objective] if is_headline(name) or name == objective]
    if task.in_halves(settings.evaluation.resample):
        confidence = settings.evaluation.confidence
        pairs = {n: halves.interval(n, evaluation.scores[n], confidence) for n in names} if halves else {}
        return {name: ends for name, ends in pairs.items() if ends is not None}
    labels = task.queries.labels if objective.startswith(MACRO) else None
    drawn = intervals(shown, Resampling.from_settings(settings), task.queries.groups, labels, task.n_relevant)
    return {name: drawn[name] for name in drawn if name in names}


def paired(
    settings: Config,
    task: RetrievalTask,
    name: str,
    sides: tuple[NDArray[np.float64], NDArray[np.float64]],
    halves: tuple[HalfSamples | None, HalfSamples | None],
) -> tuple[float, float, float] | None:
    """A score of one side minus the other's, over the queries that both have; None where too few tell.

    Args:
        settings: the run's configuration.
        task: who queries whom.
        name: of the score.
        sides: the score of each query, float64 [q] each.
        halves: of both sides, where intervals come from halves of the images.
    """
    groups, missing = task.queries.groups, np.isnan(sides[0]) | np.isnan(sides[1])
    a, b = (np.where(missing, np.nan, side) for side in sides)
    if not enough(a, groups):
        return None
    members = class_members(task.queries.labels) if name.startswith(MACRO) else None
    if not task.in_halves(settings.evaluation.resample):
        highest = highest_values([name.removeprefix(MACRO)], task.n_relevant)[:, 0]
        return paired_difference(a, b, Resampling.from_settings(settings), groups, members, highest)
    if any(half is None or name not in half.scores for half in halves):
        return None
    one, two = (half.scores[name] for half in halves if half is not None)
    found = means(np.stack([a, b], axis=1), members)
    all_sides = next(half.sides for half in halves if half is not None)
    apart, confidence = float(found[0] - found[1]), settings.evaluation.confidence
    return difference_interval(apart, one - two, all_sides, confidence)


def _lift(scores: Mapping[str, float], random: Mapping[str, float]) -> dict[str, float]:
    return {
        name: scores[name] / value
        for name, value in random.items()
        if name in scores and value > 0 and not less_is_better(name)
    }


def plain_task(protocol: ProtocolConfig, task: RetrievalTask) -> RetrievalTask:
    """The same task with nothing left out but the query itself."""
    plain = dataclasses.replace(protocol, exclude_same_group=False, drop_duplicates=False)
    out = Exclusions.from_protocol(task.queries, task.gallery, plain)
    return RetrievalTask.from_sides(task.queries, task.gallery, out, task.relevance)


def with_exclusions(
    settings: Config, evidence: Evidence, ours: Evaluation, plain: Evaluation, task: RetrievalTask
) -> Evidence:
    """Add what leaving out groups and copies does to the headline score.

    Args:
        settings: the run's configuration.
        evidence: so far.
        ours: the run's scores.
        plain: the scores with nothing left out but the query itself.
        task: who queries whom.
    """
    objective = objective_name(settings.evaluation, task)
    base = objective.removeprefix("macro_")
    change = None
    if base in ours.per_query and base in plain.per_query:
        without = halves_of(plain_task(settings.protocol, task), plain, settings.evaluation)
        sides = ours.per_query[base], plain.per_query[base]
        change = paired(settings, task, objective, sides, (evidence.halves, without))
    rows, _ = task.exclusions.pairs
    document = {
        "options": list(active(settings.protocol)),
        "pairs": len(rows),
        "dropped": int(task.exclusions.dropped.sum()),
        "score": objective,
        "without": plain.scores.get(objective),
        "change": list(change) if change else None,
    }
    return dataclasses.replace(evidence, left_out=document)
