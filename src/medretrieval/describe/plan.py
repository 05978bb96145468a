"""What difference of a score the queries of a run or a dataset can show, by the test that `compare` makes."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from medretrieval.config import Config, leaves
from medretrieval.errors import UserError
from medretrieval.evaluate.closed_forms import share_of_relevant
from medretrieval.evaluate.evaluate import objective_name
from medretrieval.evaluate.score_table import MACRO
from medretrieval.load import load_task
from medretrieval.protocol.ranking import class_members
from medretrieval.protocol.task import BY_HALVES, RetrievalTask
from medretrieval.report.compare import paired_halves
from medretrieval.report.matched_runs import MatchedRuns, matched, require_comparable, scored
from medretrieval.track.find_runs import Run
from medretrieval.uncertainty.bootstrap import MIN_UNITS, means
from medretrieval.uncertainty.distributions import student_quantile
from medretrieval.uncertainty.half_intervals import PairedHalves, spread
from medretrieval.uncertainty.power import (
    HIT_CORRELATION,
    PATIENT_CORRELATION,
    Model,
    Spread,
    correlated,
    of_one,
    of_pair,
)

CORRELATIONS = (0.3, 0.5, 0.7)  # of two runs' scores of a query, assumed where only one run is known
# Keys of a configuration that say where things are, not what they are.
PLACES = ("root",)


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        delta: the difference that is to be shown; None where only the smallest one is asked for.
        power: with which it is to be shown.
        comparisons: that are made and corrected together.
        score: its name; None for the objective.
        assumed: mean score that a simulation assumes; None for halfway between chance and 1.
    """

    delta: float | None
    power: float
    comparisons: int
    score: str | None
    assumed: float | None


@dataclass(frozen=True)
class Case:
    """An answer under one assumption, or from a measurement.

    Attributes:
        about: what it stands on, in words.
        measured: whether the spread of the difference was measured on finished runs.
        correlation: of the two runs' scores.
        error: standard error of the difference.
        smallest: difference that is shown with the wanted power.
        power_at_delta: with which `delta` is shown; null without a delta.
        units_for_delta: queries, groups or images that `delta` needs; null without a delta.
    """

    about: str
    measured: bool
    correlation: float | None
    error: float
    smallest: float
    power_at_delta: float | None
    units_for_delta: int | None


@dataclass(frozen=True)
class Plan:
    """What can be shown.

    Attributes:
        dataset: its name.
        score: the score that differs.
        value: what the run scores; the assumed score of a simulation.
        units: how many queries, groups or images vary.
        kind: "queries", "groups" or "images".
        varies: what varies, as a run says it (`resampled`).
        alpha: of the two-sided test, before the correction.
        comparisons: that are corrected together.
        power: that is wanted.
        delta: that is to be shown; null where none is asked for.
        simulated: whether there was no run, so that all of it rests on assumptions.
        cases: the answers.
        notes: what they rest on, a sentence each.
    """

    dataset: str
    score: str
    value: float
    units: int
    kind: str
    varies: str
    alpha: float
    comparisons: int
    power: float
    delta: float | None
    simulated: bool
    cases: list[Case]
    notes: list[str]


def from_runs(runs: Sequence[Run], question: Question) -> Plan:
    """From one finished run, or from two, whose paired difference is measured.

    Raises:
        UserError: runs over other queries, or without the score; fewer than two queries.
    """
    first = runs[0]
    score = question.score or first.report.objective.name
    try:
        require_comparable(list(runs), score)
        same = matched(list(runs), score) if len(runs) > 1 else scored(first, score)
    except UserError as error:
        raise UserError(str(error).replace("compare: ", "plan: ", 1)) from error
    if (same.n_relevant > 0).sum() < 2:
        raise UserError(f"plan: {first.source}: fewer than two queries have a relevant image; nothing varies")
    found = _measured(same, score) if len(runs) > 1 else _assumed(same, score)
    one = next(iter(found.values()))[0]
    varies = first.report.resampled
    plan = Plan(
        dataset=first.report.dataset,
        score=score,
        value=_mean(same, score),
        units=one.units,
        kind=_kind(varies),
        varies=varies,
        alpha=round(1 - first.report.confidence, 12),
        comparisons=question.comparisons,
        power=question.power,
        delta=question.delta,
        simulated=False,
        cases=[],
        notes=[],
    )
    return _answered(plan, found, len(runs) > 1)


def from_settings(settings: Config, question: Question) -> Plan:
    """From a dataset's labels and groups, where nothing has been run: a simulation.

    Raises:
        UserError: as `load_task`; a score or a protocol that is not simulated.
    """
    dataset, task = load_task(settings, None)
    score = question.score or objective_name(settings.evaluation, task)
    depth = re.fullmatch(r"precision_at_(\d+)", score)
    varies = task.what_varies(settings.evaluation.resample)
    if depth is None:
        raise UserError(
            f"plan: {score} is not simulated without a run, only precision_at_<k> is; make a run and give "
            "run=<run>, or score=precision_at_5"
        )
    if task.queries.prompts is not None:
        raise UserError(
            f"plan: protocol={settings.protocol.name}: its queries are {len(task.queries)} sentences, which "
            "are not simulated; make a run and give run=<run>"
        )
    if varies in BY_HALVES:
        raise UserError(
            f"plan: protocol={settings.protocol.name}: what varies are {varies}, and scores of two queries "
            "then depend on each other, which no simulation of single queries has; make one run "
            "(encoder=pixels takes seconds) and give run=<run>"
        )
    model, least, value = _model(task, int(depth[1]), question.assumed)
    spreads = {f"correlation {c:g}, assumed": (model.spread(c, settings.seed), c) for c in CORRELATIONS}
    plan = Plan(
        dataset=dataset.name,
        score=score,
        value=value,
        units=next(iter(spreads.values()))[0].units,
        kind=_kind(varies),
        varies=varies,
        alpha=round(1 - settings.evaluation.confidence, 12),
        comparisons=question.comparisons,
        power=question.power,
        delta=question.delta,
        simulated=True,
        cases=[],
        notes=[
            f"Nothing has been run: scores are simulated from the labels of {dataset.name}, as hits of "
            f"{len(model.precision)} queries around a mean of {value:.4f} (assumed; a random ranking scores "
            f"{least:.4f}), the hits of a query correlated by {HIT_CORRELATION:g}"
            + (f", the images of a patient by {PATIENT_CORRELATION:g}" if model.groups is not None else "")
            + ". Give run=<finished run> to measure instead of assuming."
        ],
    )
    return _answered(plan, spreads, False)


def _model(task: RetrievalTask, k: int, assumed: float | None) -> tuple[Model, float, float]:
    """How scores come about, what a random ranking scores, and the mean score that is assumed.

    Raises:
        UserError: a score is assumed that is below that of a random ranking.
    """
    kept = task.n_relevant > 0
    chance = np.array(
        [
            share_of_relevant(int(r), int(n), 1)
            for r, n in zip(task.n_relevant[kept], task.n_candidates[kept], strict=True)
        ]
    )
    least = float(chance.mean())
    value = (1 + least) / 2 if assumed is None else assumed
    if not least <= value < 1:
        raise UserError(
            f"plan: assumed={value:g}: a random ranking scores {least:.4f} on these queries; assume a score "
            "from there to below 1"
        )
    groups = None if task.queries.groups is None else task.queries.groups[kept]
    precision = chance + (1 - chance) * (value - least) / max(1 - least, 1e-12)
    return Model(precision, k, groups), least, value


def require_same(run: Run, settings: Config) -> None:
    """Refuse a configuration of another dataset or protocol than that of a run.

    Raises:
        UserError: naming the first key that differs.
    """
    here = leaves({"dataset": dict(settings.dataset), "protocol": vars(settings.protocol)})
    kept = {part: run.manifest.config[part] for part in ("dataset", "protocol")}
    there = leaves(kept)
    for key in dict.fromkeys([*here, *there]):
        if key.rpartition(".")[2] in PLACES:
            continue
        now, was = (str(values.get(key)) for values in (here, there))
        if now != was:
            raise UserError(
                f"plan: {key} is {now} here and {was} in {run.source}; give that run's words, or run= alone"
            )


def _mean(same: MatchedRuns, score: str) -> float:
    return float(means(same.values, _members(same, score))[0])


def _members(same: MatchedRuns, score: str) -> "np.ndarray | None":
    return class_members(same.labels) if score.startswith(MACRO) else None


def _halves(same: MatchedRuns, score: str) -> PairedHalves | None:
    """The runs' scores in halves of their images; None where the gallery is held fixed."""
    if same.runs[0].report.resampled not in BY_HALVES:
        return None
    found = np.array([_mean(replace(same, values=same.values[:, i:]), score) for i in range(len(same.runs))])
    try:
        return paired_halves(same.runs, score, found, same.runs[0].report.confidence)
    except UserError as error:
        raise UserError(str(error).replace("compare: ", "plan: ", 1)) from error


def _of_halves(halves: PairedHalves, weights: Sequence[float]) -> Spread:
    """Of a weighted sum of the runs' scores."""
    error, freedom = spread(halves.deviations @ np.array(weights), halves.sides)
    return Spread(error, freedom, halves.sides.shape[1])


Found = Mapping[str, tuple[Spread, float | None]]


def _measured(same: MatchedRuns, score: str) -> Found:
    """The spread of the paired difference of two runs."""
    halves, members = _halves(same, score), _members(same, score)
    if halves is not None:
        apart, each = _of_halves(halves, (1, -1)), [_of_halves(halves, w) for w in ((1, 0), (0, 1))]
    else:
        apart = of_pair(same.values, same.groups, members)
        each = [of_one(same.values[:, i], same.groups, members) for i in (0, 1)]
    both = 2 * each[0].error * each[1].error
    correlation = (each[0].error ** 2 + each[1].error ** 2 - apart.error**2) / both if both > 0 else None
    return {"the two runs, measured": (apart, correlation)}


def _assumed(same: MatchedRuns, score: str) -> Found:
    """The spread of a difference of one run from another like it, for what is known of the correlation."""
    halves = _halves(same, score)
    if halves is not None:
        one = _of_halves(halves, (1,))
    else:
        one = of_one(same.values[:, 0], same.groups, _members(same, score))
    found: dict[str, tuple[Spread, float | None]] = {}
    report = same.runs[0].report
    baseline = report.baseline
    if baseline is not None and baseline.difference is not None and score == report.objective.name:
        wide = baseline.difference.high - baseline.difference.low
        # The interval of halves is by Student's t, that of the bootstrap by its quantiles, as good as normal.
        normal = NormalDist().inv_cdf((1 + report.confidence) / 2)
        error = wide / 2 / (normal if halves is None else student_quantile(report.confidence, one.freedom))
        correlation = 1 - error**2 / (2 * one.error**2) if one.error > 0 else None
        about = f"the run against {baseline.encoder}, measured"
        found[about] = replace(one, error=error), correlation
    assumed = {f"correlation {c:g}, assumed": (correlated(one, c), c) for c in CORRELATIONS}
    return found | assumed


def _answered(plan: Plan, found: Found, measured: bool) -> Plan:
    if plan.units < MIN_UNITS:
        raise UserError(
            f"plan: {plan.dataset}: {plan.units} {plan.kind} vary, and below {MIN_UNITS} no test can be "
            "relied on; take a split with more"
        )
    alpha = plan.alpha / plan.comparisons
    cases = [
        Case(
            about,
            measured or about.endswith("measured"),
            None if correlation is None else float(correlation),
            spread.error,
            spread.smallest(alpha, plan.power),
            None if plan.delta is None else spread.power(plan.delta, alpha),
            None if plan.delta is None else spread.units_for(plan.delta, alpha, plan.power),
        )
        for about, (spread, correlation) in found.items()
    ]
    notes = [*plan.notes, *_notes(plan, measured)]
    if not plan.simulated:
        one = next(iter(found.values()))[0]
        sure = 100 / math.sqrt(2 * min(one.freedom, max(one.units - 1, 1)))
        notes.append(
            f"The standard error of {plan.units:,} {plan.kind} is itself known to about {sure:.0f} %."
        )
    return replace(plan, cases=cases, notes=notes)


def _notes(plan: Plan, measured: bool) -> list[str]:
    halves = plan.varies in BY_HALVES
    test = "Student's t over halves of the images" if halves else "a sign-flip test, the gallery held fixed"
    notes = [
        f"Two-sided at {plan.alpha:g}, by the test of `medretrieval compare`: {test}. What varies: "
        f"{plan.varies}."
    ]
    if plan.comparisons > 1:
        notes.append(
            f"Corrected for {plan.comparisons} comparisons as if they had nothing in common (Bonferroni); "
            "compare corrects no more than that, and less where runs resemble each other."
        )
    if not measured:
        notes.append(
            "How much the scores of two runs correlate is not known beforehand: the less, the larger the "
            "difference must be. With versus=<another run> it is measured."
        )
    if plan.delta is not None:
        of = "queries and gallery growing together" if halves else "the gallery as it is"
        notes.append(
            f"How many {plan.kind} are needed: more of the same kind ({of}), as the standard error falls "
            "with the square root of their number."
        )
    return notes


def _kind(varies: str) -> str:
    """What varies, in one word."""
    return "groups" if varies.startswith("groups") else "images" if varies in BY_HALVES else "queries"


def verdict(plan: Plan) -> str:
    """Whether the difference can be shown, in a sentence."""
    ends = sorted(case.smallest for case in plan.cases)
    reach = f"{ends[0]:.4f}"
    if len(ends) > 1:
        reach += f" to {ends[-1]:.4f}, depending on the correlation"
    said = (
        f"The smallest difference that {plan.units:,} {plan.kind} show in {100 * plan.power:g} % of studies: "
        f"{reach}."
    )
    if plan.delta is None:
        return said
    able = [case.smallest <= plan.delta for case in plan.cases]
    needed = sorted(case.units_for_delta or 0 for case in plan.cases)
    count = f"{needed[0]:,}" if needed[0] == needed[-1] else f"{needed[0]:,} to {needed[-1]:,}"
    if all(able):
        answer = f"delta={plan.delta:g} can be shown; {count} {plan.kind} would be enough."
    elif any(able):
        answer = (
            f"delta={plan.delta:g} can be shown only where the scores correlate enough: it needs {count} "
            f"{plan.kind}."
        )
    else:
        answer = f"delta={plan.delta:g} cannot be shown so surely: it needs {count} {plan.kind}."
    return f"{said} {answer}"
