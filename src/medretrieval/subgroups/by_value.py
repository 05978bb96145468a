"""Scores of the queries of each value of metadata, and how far apart the values of a column are."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import Config
from medretrieval.evaluate import chance
from medretrieval.evaluate.evaluate import Evaluation, objective_name
from medretrieval.evaluate.query_results import ideal_gains, label_type
from medretrieval.evaluate.score_table import MACRO, is_headline, less_is_better, reported_scores
from medretrieval.protocol.task import RetrievalTask
from medretrieval.subgroups.columns import UNKNOWN, Column
from medretrieval.subgroups.permutations import Labeled, corrected_p
from medretrieval.uncertainty.bootstrap import MIN_UNITS, Resampling, intervals
from medretrieval.uncertainty.half_intervals import PairedHalves, share_interval
from medretrieval.uncertainty.half_samples import MIN_UNITS as MIN_HALVED_UNITS
from medretrieval.uncertainty.half_samples import HalfSamples
from medretrieval.uncertainty.many_pairs import OfImages, corrected

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ends = tuple[float, float]


@dataclass(frozen=True)
class Subgroup:
    """The queries of one value of a column that have something to find.

    Attributes:
        column: its name.
        value: of the column, or of a bin; UNKNOWN for the queries whose value is not known.
        queries: how many.
        patients: how many groups they are of; None where the dataset names none.
        too_small: fewer than MIN_UNITS patients, or queries where nobody knows patients: nothing below is
            given.
        scores: headline score -> mean over the queries.
        intervals: score -> (low, high), of those that have one.
        chance: score -> what a random ranking scores for these queries, of those with a closed form.
        lift: score -> mean over chance, where more is better.
    """

    column: str
    value: str
    queries: int
    patients: int | None
    too_small: bool
    scores: Mapping[str, float]
    intervals: Mapping[str, Ends]
    chance: Mapping[str, float]
    lift: Mapping[str, float]


@dataclass(frozen=True)
class Gap:
    """The two values of a column whose scores lie farthest apart.

    Attributes:
        column: its name.
        higher: the value with the higher score; None where fewer than two values can be compared.
        lower: the other one.
        difference: of their scores.
        p: of the difference, corrected for all pairs of all columns; None where no test is valid.
        why: there is no p, or no pair; "" where there are both.
    """

    column: str
    higher: str | None
    lower: str | None
    difference: float | None
    p: float | None
    why: str = ""


@dataclass(frozen=True)
class Subgroups:
    """Subgroups of a run.

    Attributes:
        score: by which gaps are taken: the objective, without its mean over classes.
        values: column by column, value by value.
        gaps: one a column.
        test: how p is made.
    """

    score: str
    values: list[Subgroup]
    gaps: list[Gap]
    test: str


BY_PATIENTS = "permutation of patients, largest statistic of all pairs"
BY_QUERIES = "permutation of queries, largest statistic of all pairs"
BY_HALVES = "random halves of the images, largest statistic of all pairs"


def subgroups(
    settings: Config,
    task: RetrievalTask,
    evaluation: Evaluation,
    halves: HalfSamples | None,
    columns: Sequence[Column],
) -> Subgroups:
    """Scores of each value of each column, and the worst gap of each column.

    Args:
        settings: the run's configuration.
        task: who queries whom.
        evaluation: the scores.
        halves: these in halves of the images, with `members_of(columns)` as sets; None where the gallery is
            fixed or images are too few.
        columns: of the queries.
    """
    found = _Scored(settings, task, evaluation, halves)
    values: list[Subgroup] = []
    for column in columns:
        for name, members in zip(column.named, column.members.T, strict=True):
            values.append(found.row(column.name, name, members, len(values)))
    return Subgroups(found.score, values, found.gaps(columns, values), found.test)


class _Scored:
    """What a run scored, asked for the queries of one subgroup or another."""

    def __init__(
        self, settings: Config, task: RetrievalTask, evaluation: Evaluation, halves: HalfSamples | None
    ) -> None:
        self.settings, self.task, self.halves = settings, task, halves
        self.score = objective_name(settings.evaluation, task).removeprefix(MACRO)
        self.per_query = {
            name: values
            for name, values in evaluation.per_query.items()
            if is_headline(name) or name == self.score
        }
        self.kept = task.n_relevant > 0
        self.halved = task.in_halves(settings.evaluation.resample)
        ks = settings.evaluation.ks
        wanted = [one for one in reported_scores(ks, label_type(task)) if one.name in self.per_query]
        self.chance = chance.expected(wanted, chance.random_ranking(task, ideal_gains(task, ks)))

    @property
    def test(self) -> str:
        if self.halved:
            return BY_HALVES
        return BY_QUERIES if self.task.queries.groups is None else BY_PATIENTS

    def units(self, members: Bools) -> int:
        """Patients among some queries, or these queries where nobody knows patients."""
        groups = self.task.queries.groups
        return int(members.sum()) if groups is None else len(np.unique(groups[members]))

    def row(self, column: str, value: str, members: Bools, number: int) -> Subgroup:
        members = members & self.kept
        units = self.units(members)
        patients = None if self.task.queries.groups is None else units
        plain = (column, value, int(members.sum()), patients)
        if units < MIN_UNITS:
            return Subgroup(*plain, True, {}, {}, {}, {})
        means = {name: float(values[members].mean()) for name, values in self.per_query.items()}
        random = {name: float(values[members].mean()) for name, values in self.chance.items()}
        lift = {n: means[n] / v for n, v in random.items() if v > 0 and not less_is_better(n)}
        return Subgroup(*plain, False, means, self._intervals(members, means, number), random, lift)

    def _intervals(self, members: Bools, means: Mapping[str, float], number: int) -> dict[str, Ends]:
        confidence = self.settings.evaluation.confidence
        if not self.halved:
            masked = {name: np.where(members, values, np.nan) for name, values in self.per_query.items()}
            resampling = Resampling.from_settings(self.settings)
            return intervals(masked, resampling, self.task.queries.groups, None, self.task.n_relevant)
        if self.halves is None or self.units(members) < MIN_HALVED_UNITS:
            return {}
        sets, sides = self.halves.by_member, self.halves.sides
        ends = {
            name: share_interval(mean, sets[name][:, number], sides, confidence)
            for name, mean in means.items()
            if name in sets
        }
        return {name: pair for name, pair in ends.items() if pair is not None}

    def gaps(self, columns: Sequence[Column], rows: Sequence[Subgroup]) -> list[Gap]:
        found = []
        for column in columns:
            mine = [row for row in rows if row.column == column.name and row.value != UNKNOWN]
            there = [row for row in mine if not row.too_small]
            if len(there) < 2:
                why = f"fewer than two values with {MIN_UNITS} {self._unit} or more"
                found.append(Gap(column.name, None, None, None, None, why))
                continue
            high = max(there, key=lambda row: row.scores[self.score])
            low = min(there, key=lambda row: row.scores[self.score])
            apart = high.scores[self.score] - low.scores[self.score]
            found.append(Gap(column.name, high.value, low.value, apart, None))
        known = self._of_halves(rows) if self.halved else self._permuted(columns, rows)
        return [_with_p(gap, known, self._untested) for gap in found]

    @property
    def _unit(self) -> str:
        return "queries" if self.task.queries.groups is None else "patients"

    @property
    def _untested(self) -> str:
        least = MIN_HALVED_UNITS if self.halved else MIN_UNITS
        return (
            f"no test: fewer than {least} {self._unit} of one of the two values, a score of 0 or 1, or too "
            "shallow "
            "a ranking"
        )

    def _permuted(
        self, columns: Sequence[Column], rows: Sequence[Subgroup]
    ) -> dict[tuple[str, str, str], float]:
        labeled, names = [], []
        for column in columns:
            pairs = _pairs(column, rows)
            if not pairs:
                continue
            mine = self.kept & (column.codes >= 0)
            groups = self.task.queries.groups
            patients = (
                np.arange(mine.sum()) if groups is None else np.unique(groups[mine], return_inverse=True)[1]
            )
            labeled.append(Labeled(self.per_query[self.score][mine], patients, column.codes[mine], pairs))
            names.append([(column.name, column.values[a], column.values[b]) for a, b in pairs])
        draws = self.settings.evaluation.resamples - 1
        p = corrected_p(labeled, draws, self.settings.seed)
        return {name: float(one) for i, ps in enumerate(p) for name, one in zip(names[i], ps, strict=True)}

    def _of_halves(self, rows: Sequence[Subgroup]) -> dict[tuple[str, str, str], float]:
        if self.halves is None or self.score not in self.halves.by_member:
            return {}
        sets = self.halves.by_member[self.score]
        fit = [
            i
            for i, row in enumerate(rows)
            if not row.too_small and row.value != UNKNOWN and self.score in row.intervals
        ]
        pairs = [(a, b) for a, b in itertools.combinations(fit, 2) if rows[a].column == rows[b].column]
        if not pairs:
            return {}
        means = np.array([row.scores.get(self.score, np.nan) for row in rows])
        paired = PairedHalves(means, sets, self.halves.sides, self.settings.evaluation.confidence)
        usable = PairedHalves(
            np.nan_to_num(means), np.nan_to_num(sets), paired.sides, paired.confidence
        )  # what is not compared has no say
        draws, seed = self.settings.evaluation.resamples, self.settings.seed
        p = corrected(OfImages(usable, draws, seed), pairs, paired.confidence).p
        return {
            (rows[a].column, rows[a].value, rows[b].value): one for (a, b), one in zip(pairs, p, strict=True)
        }


def _pairs(column: Column, rows: Sequence[Subgroup]) -> list[tuple[int, int]]:
    """Of the values of a column that are not too small."""
    large = {row.value for row in rows if row.column == column.name and not row.too_small}
    codes = [i for i, value in enumerate(column.values) if value in large]
    return list(itertools.combinations(codes, 2))


def _with_p(gap: Gap, known: Mapping[tuple[str, str, str], float], why: str) -> Gap:
    if gap.higher is None or gap.lower is None:
        return gap
    p = known.get((gap.column, gap.higher, gap.lower), known.get((gap.column, gap.lower, gap.higher)))
    return Gap(gap.column, gap.higher, gap.lower, gap.difference, p, "" if p is not None else why)
