"""The verb `compare` with published=: runs beside the rows of a published table."""

from collections.abc import Sequence
from dataclasses import dataclass

from medretrieval.errors import UserError
from medretrieval.evaluate.score_table import find
from medretrieval.protocol.task import BY_HALVES
from medretrieval.report.compare import RANDOM_WEIGHTS, names_of, resampling_of
from medretrieval.report.matched_runs import scored
from medretrieval.report.published.differences import differences
from medretrieval.report.published.rows import Published, PublishedProtocol
from medretrieval.runs.folder import HALVES
from medretrieval.track.find_runs import Run
from medretrieval.uncertainty.bootstrap import intervals
from medretrieval.uncertainty.half_samples import HalfSamples

ROUNDING = 0.005  # of values in percent that have two decimals


@dataclass(frozen=True)
class OwnScore:
    """A run's score, in percent; low and high are None where no interval is valid."""

    value: float
    low: float | None
    high: float | None

    def distance(self, published: float) -> float | None:
        """How far a published value (percent) lies outside the interval, in percentage points.

        0 inside, positive above, negative below; None where there is no interval.
        """
        if self.low is None or self.high is None:
            return None
        beyond = max(published - self.high, 0.0) or min(published - self.low, 0.0)
        return beyond if abs(beyond) > ROUNDING else 0.0


@dataclass(frozen=True)
class OwnRun:
    """A run beside published rows.

    Attributes:
        name: what tells it from the other runs.
        source: where it is.
        scores: score -> of the run.
        differences: in which points it was made in another way, a line each.
        varies: what its intervals say the luck of.
        confidence: of its intervals.
        random_weights: its model is untrained.
    """

    name: str
    source: str
    scores: dict[str, OwnScore]
    differences: list[str]
    varies: str
    confidence: float
    random_weights: bool


@dataclass(frozen=True)
class Beside:
    """Runs beside the rows of a published table."""

    published: Published
    runs: list[OwnRun]

    @property
    def notes(self) -> list[str]:
        """What is to be said of the tables, a line each."""
        table = self.published
        named = ", ".join(f"{theirs} is {ours}" for ours, theirs in table.scores.items())
        how = {f"{100 * run.confidence:g} %, what varies: {run.varies}" for run in self.runs}
        lines = [
            f"Published rows: {table.citation}, doi {table.doi}. In percent; {named}.",
            f"In brackets the interval of a run ({'; '.join(sorted(how))}). Above and below: by how many "
            "percentage points a published value lies outside it; inside says nothing of the published "
            "value's own spread.",
            "No difference is tested: scores of single queries were not published.",
        ]
        for run in self.runs:
            lines += [f"{run.name} differs in {line}" for line in run.differences]
        same = [run.name for run in self.runs if not run.differences]
        if same:
            points = ", ".join(point.replace("_", " ") for point in PublishedProtocol.__annotations__)
            lines.append(f"No difference in {points} or number of queries: {', '.join(same)}.")
        if any(run.random_weights for run in self.runs):
            lines.append(RANDOM_WEIGHTS)
        return lines


def beside(runs: Sequence[Run], published: Published) -> Beside:
    """Put runs beside the rows of a published table.

    Args:
        runs: finished ones, at least one.
        published: the table.

    Raises:
        UserError: a run over another dataset, or without one of the table's scores.
    """
    for run in runs:
        _require_same_dataset(run, published)
        _require_scores(run, published)
    return Beside(
        published,
        [
            OwnRun(
                name=name,
                source=run.source,
                scores={score: _own(run, score) for score in published.scores},
                differences=differences(run, published),
                varies=run.report.resampled,
                confidence=run.report.confidence,
                random_weights=run.report.encoder.random_weights,
            )
            for run, name in zip(runs, names_of(list(runs)), strict=True)
        ],
    )


def _require_same_dataset(run: Run, published: Published) -> None:
    if run.report.dataset != published.dataset:
        raise UserError(
            f"compare: published={published.name}: its rows are of dataset={published.dataset}, and "
            + f"{run.source} is of {run.report.dataset}; give runs of {published.dataset}"
        )


def _require_scores(run: Run, published: Published) -> None:
    """Refuse a run that lacks a score, with the option by which it would have it."""
    lacking = [score for score in published.scores if score not in run.report.scores]
    if not lacking:
        return
    depths = {int(score.split("_at_")[1].split("_")[0]) for score in published.scores if find(score)}
    wanted = ",".join(str(k) for k in sorted(depths | set(run.manifest.evaluation.ks)))
    raise UserError(
        f"compare: published={published.name}: {run.source} has no {', '.join(lacking)}; run it with "
        f"evaluation.ks=[{wanted}]"
    )


def _own(run: Run, score: str) -> OwnScore:
    """A run's score with the interval that the run has, or would have if the score were one it shows."""
    value = run.report.scores[score]
    ends = _ends(run, score, value) or (None, None)
    low, high = (None if end is None else 100 * end for end in ends)
    return OwnScore(100 * value, low, high)


def _ends(run: Run, score: str, value: float) -> tuple[float, float] | None:
    shown = run.report.intervals.get(score)
    if shown is not None:
        return shown.low, shown.high
    if run.report.resampled in BY_HALVES:
        path = run.folder / HALVES
        halves = HalfSamples.load(path) if path.exists() else None
        return None if halves is None else halves.interval(score, value, run.report.confidence)
    same = scored(run, score)
    drawn = intervals(
        {score: same.values[:, 0]}, resampling_of([run]), same.groups, n_relevant=same.n_relevant
    )
    return drawn.get(score)
