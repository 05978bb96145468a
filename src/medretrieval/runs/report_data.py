"""The parts of scores.json about metadata of the images, and about what was done to results, as types.

Frozen dataclasses without behavior; `report` holds the whole. docs/results-format.md is made from their
docstrings.
"""

from dataclasses import dataclass
from typing import Any

from medretrieval.runs.report_parts import Difference, ScoreInterval


@dataclass(frozen=True)
class SubgroupReport:
    """The queries of one value of a metadata column that have something to find.

    Attributes:
        column: its name.
        value: of the column, or of a bin of its numbers; "" for the queries whose value is not known.
        queries: how many.
        patients: how many groups they are of; null where the dataset names none.
        too_small: fewer than 10 patients (queries, where the dataset names no groups): the four below are
            empty.
        scores: headline score -> mean over the queries; the objective too, without its mean over classes.
        intervals: score -> its interval, of those that have one that is valid.
        chance: score -> expectation of a random ranking for these queries, of those with a closed form.
        lift: score -> `scores` over `chance`, where more is better and chance is above 0.
    """

    column: str
    value: str
    queries: int
    patients: int | None
    too_small: bool
    scores: dict[str, float]
    intervals: dict[str, ScoreInterval]
    chance: dict[str, float]
    lift: dict[str, float]

    @property
    def said(self) -> str:
        """The value as tables say it."""
        return self.value or "unknown"


@dataclass(frozen=True)
class GapReport:
    """The two values of a column whose scores lie farthest apart; unknown and too small ones do not count.

    Attributes:
        column: its name.
        higher: the value with the higher score; null where fewer than two values can be compared.
        lower: the value with the lower score; null likewise.
        difference: score of the one minus that of the other; null likewise.
        p: of the difference, corrected for all pairs of values of all columns; null where no test is valid.
        why: there is no p; "" where there is one.
    """

    column: str
    higher: str | None
    lower: str | None
    difference: float | None
    p: float | None
    why: str


@dataclass(frozen=True)
class SubgroupsReport:
    """Scores by the values of metadata columns (evaluation.subgroups).

    Attributes:
        score: by which gaps are taken: the objective, without its mean over classes.
        values: column by column, value by value.
        gaps: one for each column.
        test: how the p of gaps is made.
    """

    score: str
    values: list[SubgroupReport]
    gaps: list[GapReport]
    test: str


@dataclass(frozen=True)
class RerankReport:
    """A re-ranking method, what it costs, and what it changes.

    Attributes:
        name: of the method.
        parameters: of the method, by the names of its file in conf/rerank/.
        transductive: whether a query's results depend on the other queries; then no score has an interval.
        seconds_per_query: of searching and re-ranking, in the batches of the run.
        lists_s: seconds that making the gallery's neighbor lists, and what is made of them, took.
        lists_bytes: bytes that these take.
        without: the objective and map_at_100 of the same run without re-ranking.
        changes: score -> with re-ranking minus without, paired over the queries; empty where transductive,
            and where fewer than two queries or groups tell.
    """

    name: str
    parameters: dict[str, Any]
    transductive: bool
    seconds_per_query: float
    lists_s: float
    lists_bytes: int
    without: dict[str, float]
    changes: dict[str, Difference]

    @property
    def said(self) -> str:
        """The method's name, and whether it is transductive."""
        return self.name + (" (transductive)" if self.transductive else "")
