"""The content of scores.json as a type: everything that a run says of itself.

Written and read here alone. docs/results-format.md is made from the docstrings (`format_page`).
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from medretrieval.errors import UserError
from medretrieval.runs.folder import SCORES, as_json, read_json, read_typed
from medretrieval.runs.report_data import AdaptReport, RerankReport, StageGain, SubgroupsReport
from medretrieval.runs.report_parts import (
    AnnReport,
    AuditReport,
    AutotuneReport,
    Difference,
    EncoderReport,
    ExplainReport,
    IndexReport,
    ModalityGap,
    ScoreInterval,
    SpeedReport,
    ZeroShotReport,
)
from medretrieval.runs.typed_json import ContentError, from_json, to_json


@dataclass(frozen=True)
class Objective:
    """The one score by which runs are ranked, and which sweepers see.

    Attributes:
        name: of the score.
        value: of the score.
    """

    name: str
    value: float


@dataclass(frozen=True)
class ProtocolReport:
    """Who queries whom, and what a query may not find: the configuration's `protocol`.

    Attributes:
        name: of the protocol.
        query: the split whose images are the queries; null where sentences are.
        gallery: the split that is searched.
        exclude_self: a query does not find itself.
        exclude_same_group: a query does not find images of its own group.
        drop_duplicates: of byte-identical images of the gallery only the first can be found, and by a query
            no copy of itself.
        prompts: "each" (every sentence is a query), "ensemble" (one query a class) or "captions" (the caption
            of each image is a query); null where images are.
        hit: what a caption has to find: "image" (its own) or "group" (any of that image's group); null where
            a hit is of the query's class.
        center: the split whose mean image is subtracted from every image, as the mean of the prompts is from
            every prompt, or of the split's captions from every caption; null where nothing is subtracted.
    """

    name: str
    query: str | None
    gallery: str
    exclude_self: bool
    exclude_same_group: bool
    drop_duplicates: bool
    prompts: str | None
    hit: str | None
    center: str | None


@dataclass(frozen=True)
class LeftOut:
    """What `exclude_same_group` and `drop_duplicates` change.

    Attributes:
        options: those that are on.
        pairs: (query, gallery image) pairs that are left out.
        dropped: gallery images that no query can find.
        score: the objective.
        without: the objective with nothing left out but the query itself; null where it has none.
        change: the objective minus `without`, paired over the queries; null where fewer than two queries or
            groups tell.
    """

    options: list[str]
    pairs: int
    dropped: int
    score: str
    without: float | None
    change: Difference | None


@dataclass(frozen=True)
class BaselineReport:
    """The baseline: what its encoder scores on the same task with exact search.

    Attributes:
        encoder: its name, such as "pixels"; with its metric where that is another than the run's,
            "pixels (cosine)".
        scores: score -> its value, of the scores that have an interval.
        difference: the objective of this run minus the baseline's, paired over the queries; null where fewer
            than two queries or groups tell.
    """

    encoder: str
    scores: dict[str, float]
    difference: Difference | None


@dataclass(frozen=True)
class ClassReport:
    """The queries of one class that have something to find.

    Attributes:
        queries: how many.
        scores: headline score -> mean over them.
    """

    queries: int
    scores: dict[str, float]


@dataclass(frozen=True)
class AbstentionCurve:
    """Accuracy of the vote where only the most confident queries are answered.

    Attributes:
        answered: shares of the queries, ascending, the last one 1.
        accuracy: at each share; the last one is `vote_accuracy`.
    """

    answered: list[float]
    accuracy: list[float]


@dataclass(frozen=True)
class VoteReport:
    """The neighbors' vote on the query's class.

    Attributes:
        k: neighbors that vote.
        abstention: accuracy by the share of queries answered; null for multi-label data and where captions
            ask: none votes.
    """

    k: int
    abstention: AbstentionCurve | None


@dataclass(frozen=True)
class Counts:
    """Sizes of the task.

    Attributes:
        queries: all queries.
        gallery: images of the gallery.
        depth: results a query that were searched and scored.
        queries_without_relevant: queries with nothing relevant to find; no mean counts them.
        missing_results: results within the largest k that the index did not give (FAISS id -1), each a miss.
    """

    queries: int
    gallery: int
    depth: int
    queries_without_relevant: int
    missing_results: int


@dataclass(frozen=True)
class FilesReport:
    """The files of the user's own that images were read from.

    Attributes:
        files: of the splits that the run read.
        unreadable: of these, left out because they cannot be read (dataset.unreadable=skip).
        splits_made: the splits were drawn by dataset.shares and dataset.split_seed; splits.csv has them.
        shared_groups: groups with images in more than one split (dataset.shared_groups=report).
    """

    files: int
    unreadable: int
    splits_made: bool
    shared_groups: int


@dataclass(frozen=True)
class RunReport:
    """Everything a run says of itself.

    Attributes:
        format: of the run's folder, which all its files share; another version may read another one.
        title: the run in one line.
        dataset: its name.
        files: the files its images were read from; null where they have none of their own.
        corrupt: what was done to the query images, as in noise@3; null where they are as they were read.
        metric: name of the distance.
        protocol: who queries whom.
        scores: score -> mean over the queries with something to find; `macro_` scores are means over classes
            of the class means, and `median_rank` is a median over the queries.
        objective: the score by which runs are ranked.
        chance: score -> expectation of a random ranking of the same gallery.
        chance_errors: score -> standard error of its `chance`, where random rankings were drawn for it; the
            others are exact.
        lift: score -> `scores` over `chance`, where more is better and chance is above 0.
        intervals: score -> its interval, of the headline scores and the objective; those that have none that
            is valid, as of few queries, are left out.
        confidence: of all intervals, between 0 and 1.
        resampled: what varies in them: "queries" or "groups" (of queries) with the gallery held fixed;
            "images in both roles" or "groups in both roles" where the queries are the gallery; "queries and
            gallery" or "groups of queries and gallery" with evaluation.resample=both.
        left_out: what leaving out groups or copies changes; null where neither is left out.
        baseline: what the baseline scores; null where the run is the baseline, evaluation.baseline=none, or
            sentences are the queries.
        per_class: class -> its queries, of the classes that have any; a query with several findings counts
            for each.
        subgroups: scores by the values of metadata; null where evaluation.subgroups is empty.
        vote: what a reader of the nearest cases would conclude.
        counts: sizes of the task.
        encoder: the encoder and its embeddings.
        index: the index.
        speed: how fast the index answers.
        rerank: what re-ranking the index's results costs and changes; null where rerank=none.
        ann_loss: what an approximate index loses; null for exact search.
        autotune: how search parameters were chosen; null where index.autotune is not set.
        adapt: the adaptation; null for adapt=none.
        stages: what each stage between embed and evaluate changes, of those that change anything.
        audit: counts of look-alikes; null where audit.enabled=false or sentences are the queries.
        zero_shot: naming images by the nearest sentences; null where images or captions are the queries.
        modality_gap: how far sentences and images stand apart; null where images are the queries.
        explain: what the maps are worth; null where explain.enabled=false or no query has a result.
        notes: what a reader might overlook, a sentence each.
        timings_s: stage -> seconds, "other" for what lies between them, and "total", their sum. What is taken
            from the cache costs its reading.
        fingerprint: SHA-256 of configuration, data and weights; equal where two runs must come out equal.
    """

    format: int
    title: str
    dataset: str
    files: FilesReport | None
    corrupt: str | None
    metric: str
    protocol: ProtocolReport
    scores: dict[str, float]
    objective: Objective
    chance: dict[str, float]
    chance_errors: dict[str, float]
    lift: dict[str, float]
    intervals: dict[str, ScoreInterval]
    confidence: float
    resampled: str
    left_out: LeftOut | None
    baseline: BaselineReport | None
    per_class: dict[str, ClassReport]
    subgroups: SubgroupsReport | None
    vote: VoteReport
    counts: Counts
    encoder: EncoderReport
    index: IndexReport
    speed: SpeedReport
    rerank: RerankReport | None
    ann_loss: AnnReport | None
    autotune: AutotuneReport | None
    adapt: AdaptReport | None
    stages: list[StageGain]
    audit: AuditReport | None
    zero_shot: ZeroShotReport | None
    modality_gap: ModalityGap | None
    explain: ExplainReport | None
    notes: list[str]
    timings_s: dict[str, float]
    fingerprint: str

    @property
    def percent(self) -> str:
        """The confidence of the intervals, as headings say it: "95 %"."""
        return f"{100 * self.confidence:g} %"

    def baseline_score(self, name: str) -> float | None:
        """A score of the baseline, None where it has none."""
        return None if self.baseline is None else self.baseline.scores.get(name)

    def to_text(self) -> str:
        """The content of scores.json."""
        return as_json(to_json(self))


def read_report(folder: Path, source: str | None = None) -> RunReport:
    """What a finished run says of itself.

    Args:
        folder: the run's folder.
        source: what to call the run in messages; None for its folder.

    Raises:
        UserError: no finished run, one of another results format, or a file that is not as it should be.
    """
    return read_typed(RunReport, folder, SCORES, source)


def scores_of_any_format(folder: Path) -> dict[str, float]:
    """The scores of a run of this or an earlier results format: all of them have `scores` in scores.json.

    Raises:
        UserError: no finished run, or a damaged file.
    """
    scores = read_json(folder, SCORES).get("scores")
    try:
        return from_json(dict[str, float], scores, "scores")
    except ContentError as error:
        raise UserError(f"{folder / SCORES}: {error}") from error


def numbers(part: object) -> dict[str, float]:
    """The fields of a part of a report that are numbers, by name; those that are null are left out."""
    values = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}  # type: ignore[arg-type]
    return {n: v for n, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}
