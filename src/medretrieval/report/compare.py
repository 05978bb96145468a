"""The verb `compare`: which of several runs is best, and is that more than luck of the queries?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from medretrieval.errors import UserError
from medretrieval.evaluate.score_table import MACRO, highest_values
from medretrieval.protocol.ranking import class_members
from medretrieval.protocol.task import BY_HALVES
from medretrieval.report.compare_tables import Comparison, Pair
from medretrieval.report.matched_runs import MatchedRuns, matched, require_comparable
from medretrieval.runs.folder import HALVES
from medretrieval.runs.tables import AXES, best_first, differing
from medretrieval.track.find_runs import Run, config_of
from medretrieval.uncertainty.bootstrap import MIN_UNITS as MIN_QUERIES
from medretrieval.uncertainty.bootstrap import Resampling, bootstrap, means
from medretrieval.uncertainty.half_intervals import PairedHalves
from medretrieval.uncertainty.half_samples import MIN_UNITS, HalfSamples
from medretrieval.uncertainty.many_pairs import Contrasts, Ends, OfImages, OfQueries, corrected
from medretrieval.uncertainty.sign_flips import sign_flips

# How intervals are made where runs made theirs in different ways.
USUAL = Resampling(resamples=10_000, confidence=0.95, seed=0)
MAX_LISTED_PAIRS = 5
CHOSEN_BY_NUMBER = (
    "The baseline was given by its number in the table, so it was chosen after the scores were seen"
)
RANDOM_WEIGHTS = "* RANDOM WEIGHTS: says nothing about the model"
PLACES = ("paths.", "tracking.", "force", "verbose", "dataset.root")


class Family(StrEnum):
    """Comparisons that are made and corrected together: see the verb `compare`."""

    best = "best"
    all = "all"
    encoders = "encoders"


@dataclass(frozen=True)
class Options:
    """What runs are compared by, and how the differences are tested.

    Attributes:
        score: None for the objective of the first run.
        baseline: a run's name, a part of it or its number; None for the best run.
        family: which comparisons are made and corrected together.
        resamples: of the bootstrap.
        permutations: of the sign-flip test.
        confidence: of the intervals.
        seed: of both.
    """

    score: str | None
    baseline: str | None
    family: str
    resamples: int
    permutations: int
    confidence: float
    seed: int

    @property
    def alpha(self) -> float:
        """What counts as significant; 0.05 and not 0.050000000000000044."""
        return round(1 - self.confidence, 12)

    @property
    def chosen_afterwards(self) -> bool:
        """Whether what runs are compared with is known only once the scores are."""
        return self.baseline is None or self.baseline.isdecimal()

    @property
    def resampling(self) -> Resampling:
        """How intervals are made."""
        return Resampling(self.resamples, self.confidence, self.seed)


def resampling_of(runs: Sequence[Run]) -> Resampling:
    """How the runs made their own intervals, which a comparison repeats; the usual where they differ."""
    how = [
        Resampling(r.manifest.evaluation.resamples, r.manifest.evaluation.confidence, r.manifest.seed)
        for r in runs
    ]
    agreed = {
        field.name: values.pop()
        for field in fields(Resampling)
        if len(values := {getattr(one, field.name) for one in how}) == 1
    }
    return replace(USUAL, **agreed)


def compare(runs: list[Run], options: Options) -> Comparison:
    """Test the differences between runs over the same queries.

    Args:
        runs: finished runs, in any order.
        options: score, baseline, and how to test.

    Raises:
        UserError: runs that cannot be compared, saying in what they differ; no such score or baseline.
    """
    score = options.score or runs[0].report.objective.name
    left_out: list[Run] = []
    if options.family == Family.encoders:
        runs, left_out = _of_exact_search(runs)
    require_comparable(runs, score)
    same = matched(runs, score)
    members = class_members(same.labels) if score.startswith(MACRO) else None
    order = best_first([r.report for r in same.runs], [float(mean) for mean in means(same.values, members)])
    same = replace(same, runs=[same.runs[i] for i in order], values=same.values[:, order])
    runs, values = same.runs, same.values
    names = names_of(runs)
    reference = _baseline(options.baseline, names)
    drawn = _contrasts(same, score, members, options)
    tested = _family(options, reference, len(runs))
    right = corrected(drawn, tested, options.confidence)
    pairs = [
        _pair(drawn, pair, p, ends, options)
        for pair, p, ends in zip(tested, right.p, right.ends, strict=True)
    ]
    comparison = Comparison(
        score,
        options.confidence,
        names,
        [r.source for r in runs],
        [(float(mean), drawn.scores.interval(i)) for i, mean in enumerate(drawn.scores.means)],
        reference,
        pairs if options.family == Family.all else pairs[: len(runs) - 1],
        [],
    )
    without = int(np.isnan(values[:, 0]).sum())
    units = _units(runs[0].report.resampled, same.groups)
    notes = _notes(comparison, options, _Tested(len(values) - without, without, units, len(pairs)))
    if left_out:
        notes.insert(0, f"family=encoders: exact search only; {len(left_out)} approximate runs left out.")
    if any(run.report.encoder.random_weights for run in runs):
        notes.append(RANDOM_WEIGHTS)
    return replace(comparison, notes=notes)


def _of_exact_search(runs: list[Run]) -> tuple[list[Run], list[Run]]:
    """Runs whose index is exact, which differ by their encoder (or metric) alone, and the others."""
    exact = [run for run in runs if run.report.ann_loss is None]
    if len(exact) < 2:
        raise UserError(
            f"compare: family=encoders: {len(exact)} of {len(runs)} runs searched exactly, and two are "
            "needed; run them with index=flat, or give family=best"
        )
    return exact, [run for run in runs if run.report.ann_loss is not None]


def _contrasts(
    same: MatchedRuns, score: str, members: NDArray[np.bool_] | None, options: Options
) -> Contrasts:
    """What the differences are tested by, as the runs' own intervals were made."""
    runs, values, groups = same.runs, same.values, same.groups
    varies = {run.report.resampled for run in runs}
    if len(varies) > 1:
        raise UserError(
            f"compare: the intervals of these runs are of different kinds ({'; '.join(sorted(varies))}); "
            "compare runs with one evaluation.resample"
        )
    if varies <= set(BY_HALVES):
        halves = paired_halves(runs, score, means(values, members), options.confidence)
        return OfImages(halves, options.permutations, options.seed)
    flips = sign_flips(values, options.permutations, options.seed, groups, members)
    highest = highest_values([score.removeprefix(MACRO)] * len(runs), same.n_relevant)
    return OfQueries(bootstrap(values, options.resampling, groups, members, highest), flips)


def _family(options: Options, reference: int, runs: int) -> list[tuple[int, int]]:
    """The pairs that are corrected together, those with the reference first.

    The best was chosen on these same queries, and a number of the table can only be given after it was
    seen: so their pairs are corrected as part of all.
    """
    others = [i for i in range(runs) if i != reference]
    pairs = [(i, reference) for i in others]
    if options.family == Family.all or options.chosen_afterwards:
        pairs += [(a, b) for b in others for a in others if a > b]
    return pairs


def _pair(drawn: Contrasts, pair: tuple[int, int], adjusted: float, ends: Ends, options: Options) -> Pair:
    a, b = pair
    alone = drawn.scores.difference(a, b)
    return Pair(
        a,
        b,
        difference=float(drawn.scores.means[a] - drawn.scores.means[b]),
        ends=None if alone is None else alone[1:],
        p=drawn.p(a, b),
        adjusted=adjusted,
        corrected=ends,
        alike=adjusted >= options.alpha,
    )


@dataclass(frozen=True)
class _Tested:
    """What the tests rest on: queries with something to find and without, what varies, comparisons."""

    queries: int
    without: int
    units: str
    comparisons: int


def paired_halves(
    runs: Sequence[Run], score: str, found: NDArray[np.float64], confidence: float
) -> PairedHalves:
    """The runs' scores in halves of their images.

    Args:
        runs: over the same images.
        score: its name, also with macro_ before it.
        found: the runs' scores, float64 [runs].
        confidence: of the intervals.

    Raises:
        UserError: a run has no halves of this score, or other halves.
    """
    columns, sides = [], None
    for run in runs:
        path = run.folder / HALVES
        halves = HalfSamples.load(path) if path.exists() else None
        if halves is None or score not in halves.scores:
            raise UserError(
                f"compare: {run.source}: {score} cannot be tested: it is tested in halves of the images, and "
                f"{HALVES} does not have it (fewer than {MIN_UNITS} images or groups, a class of very few, "
                "too many images for it, or a graded score); give another score=, or compare runs of "
                "protocol=query_gallery with evaluation.resample=queries"
            )
        if sides is not None and not np.array_equal(sides, halves.sides):
            raise UserError(
                f"compare: {runs[0].source} and {run.source} have other halves in {HALVES}; run "
                "both with force=true"
            )
        sides = halves.sides
        columns.append(halves.scores[score])
    assert sides is not None
    return PairedHalves(found, np.stack(columns, axis=1), sides, confidence)


def _units(varies: str, groups: NDArray[np.str_] | None) -> str:
    return varies if groups is None else f"{varies} ({len(np.unique(groups))} groups)"


def names_of(runs: Sequence[Run], but: tuple[str, ...] = ()) -> list[str]:
    """What differs between the runs; where reports do not tell, what differs in their configuration.

    Args:
        runs: at least one.
        but: keys of the configuration in which they may differ without a word, such as "dataset.corrupt".
    """
    unsaid = {key.rpartition(".")[2] for key in but}
    shown = [axis for name, axis in differing([run.report for run in runs]).items() if name not in unsaid]
    shown = shown or [AXES["encoder"]]
    names = [" ".join(text for axis in shown if (text := axis(run.report))) for run in runs]
    for name in {name for name in names if names.count(name) > 1}:
        twins = [i for i, other in enumerate(names) if other == name]
        configs = [config_of(runs[i]) for i in twins]
        known = {key for config in configs for key in config if not key.startswith((*PLACES, *but))}
        # One key of those that differ in the same way: the shortest, the others are filled in from it.
        telling: dict[tuple[str, ...], str] = {}
        for key in sorted(known, key=lambda key: (len(key), key)):
            telling.setdefault(tuple(str(config.get(key)) for config in configs), key)
        keys = [key for values, key in telling.items() if len(set(values)) > 1]
        for i, config in zip(twins, configs, strict=True):
            names[i] = " ".join([name, *(f"{k}={config[k]}" for k in keys if k in config)])
    return [
        f"{n} ({run.folder.name})" if names.count(n) > 1 else n for n, run in zip(names, runs, strict=True)
    ]


def _baseline(wanted: str | None, names: list[str]) -> int:
    if wanted is None:
        return 0
    if wanted.isdecimal() and 1 <= int(wanted) <= len(names):
        return int(wanted) - 1
    if wanted in names:
        return names.index(wanted)
    found = [i for i, name in enumerate(names) if wanted in name]
    if len(found) != 1:
        known = "; ".join(f"{i} {name}" for i, name in enumerate(names, 1))
        raise UserError(f"compare: baseline={wanted}: fits {len(found)} runs; choose one of: {known}")
    return found[0]


def _notes(comparison: Comparison, options: Options, tested: _Tested) -> list[str]:
    names, reference, pairs = comparison.names, comparison.reference, tested.comparisons
    left_out = f" ({tested.without} without a relevant image left out)" if tested.without else ""
    alpha, least = options.alpha, 1 / (options.permutations + 1)
    role = "the best" if options.baseline is None else "the baseline"
    if tested.units.startswith(BY_HALVES):
        how = f"What varies: {tested.units}, by random halves of the images."
        test = "Student's t over the same halves"
        least = 0.0
    else:
        how = (
            f"What varies: {tested.units}, the gallery held fixed; BCa bootstrap, {options.resamples} "
            f"resamples, seed {options.seed}."
        )
        test = f"sign-flip test, {options.permutations} permutations"
    together = f"corrected for {pairs} comparisons by their largest statistic (step-down max-T)"
    lines = [
        f"{comparison.score} over {tested.queries} queries{left_out}. {how}",
        f"Differences are paired: run minus {role} (number {reference + 1}, {names[reference]}). p: {test}"
        + (f", and {together}." if pairs > 1 else "; one comparison needs no correction."),
        f"Not significantly different: corrected p >= {alpha:.3g}. That is no proof that two runs are equal.",
    ]
    if options.chosen_afterwards and len(names) > 2:
        chosen = "The best was chosen on these same queries" if options.baseline is None else CHOSEN_BY_NUMBER
        lines.append(
            f"{chosen}, so p is corrected for all pairs of runs; with a baseline=<name> chosen beforehand "
            "there are fewer comparisons to correct for."
        )
    if (alone := [pair for pair in comparison.pairs if pair.p < alpha <= pair.adjusted]) and pairs > 1:
        listed = ", ".join(f"{pair.a + 1} minus {pair.b + 1}" for pair in alone[:MAX_LISTED_PAIRS])
        lines.append(
            f"Below {alpha:.3g} only without the correction, as a single planned comparison: {listed}"
            + (" and others." if len(alone) > MAX_LISTED_PAIRS else ".")
        )
    if least >= alpha:
        lines.append(f"note: no p can be below {least:.3g}; give permutations={math.ceil(1 / alpha)} or more")
    if tested.queries < MIN_QUERIES:
        lines.append(f"note: fewer than {MIN_QUERIES} queries: no intervals are given")
    return lines
