"""The parts of scores.json about metadata of the images and about adaptation and re-ranking, as types.

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
class StageGain:
    """What one stage between embed and evaluate changes.

    Attributes:
        stage: "adapt", "index" or "rerank".
        choice: what is used there.
        score: name of the score.
        without: the score without the stage: of the encoder's own vectors, by exact search, or without
            re-ranking; null where it was measured on a sample of the queries alone.
        with_it: the score with it; null likewise.
        change: the second minus the first, paired over the queries; null where too few of them tell, or where
            no interval would mean what it says.
    """

    stage: str
    choice: str
    score: str
    without: float | None
    with_it: float | None
    change: Difference | None


@dataclass(frozen=True)
class TriedReport:
    """A choice of an adaptation's options.

    Attributes:
        choice: option -> value.
        score: the objective on val.
    """

    choice: dict[str, Any]
    score: float


@dataclass(frozen=True)
class BesideReport:
    """The objective of one side and of another, by exact search of the same queries.

    Attributes:
        without: of the first side.
        with_it: of the second side.
        change: the second minus the first, paired over the queries; null where too few of them tell.
    """

    without: float
    with_it: float
    change: Difference | None


@dataclass(frozen=True)
class ShapeReport:
    """What the vectors of the gallery look like.

    Attributes:
        dimension: numbers a vector.
        effective_dimension: (sum l)^2 / sum l^2 over the eigenvalues l of their covariance: how many
            directions they use.
        hub_skewness: skewness of how often each gallery image is among the first 10 results of a query; 0
            where all are found alike.
    """

    dimension: int
    effective_dimension: float
    hub_skewness: float


@dataclass(frozen=True)
class AdaptReport:
    """The adaptation: fitted on train, chosen on val. All its scores are the objective, by exact search.

    Attributes:
        name: of the adaptation.
        uses_labels: whether it reads the labels of train.
        choice: option -> the value that was used.
        tried: every choice, and its score on val.
        val_score: the objective on val of what was chosen.
        val_gap: `val_score` minus the objective of this run's queries: how far choosing on val is optimistic.
        before: the gallery's vectors before it.
        after: the gallery's vectors after it.
        refits: the objective of each fit from another random sample of train, or another seed.
        shuffled: the same fitted to shuffled labels (`with_it`), beside what it does without labels, or
            beside the encoder's own vectors (`without`); where captions are read, the same fitted to those of
            other groups; null where neither is read.
        out_of_fold: the run's vectors (`without`), and with each gallery vector changed by a fit on the other
            four of five folds of train (`with_it`); null where the gallery is not train,
            or a share of it was fitted on.
        pixels: the pixel baseline adapted the same way (`without`), and the run's vectors (`with_it`); null
            where the run is of pixels or has no such baseline.
        seconds: that fitting and choosing took when it was done.
    """

    name: str
    uses_labels: bool
    choice: dict[str, Any]
    tried: list[TriedReport]
    val_score: float | None
    val_gap: float | None
    before: ShapeReport
    after: ShapeReport
    refits: list[float]
    shuffled: BesideReport | None
    out_of_fold: BesideReport | None
    pixels: BesideReport | None
    seconds: float


@dataclass(frozen=True)
class RerankReport:
    """A re-ranking method, what it costs, and what it changes.

    Attributes:
        name: of the method.
        parameters: of the method, by the names of its file in conf/rerank/.
        transductive: whether a query's results depend on the other queries. Then no score has an interval,
            nor where the queries are the gallery: halves of the images were not simulated with re-ranking.
        seconds_per_query: of searching and re-ranking, in the batches of the run.
        lists_s: seconds that making the gallery's neighbor lists, and what is made of them, took.
        lists_bytes: bytes that these take.
        without: the objective and map_at_100 of the same run without re-ranking.
        changes: score -> with re-ranking minus without, paired over the queries; empty where no score has an
            interval, and where fewer than two queries or groups tell.
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
