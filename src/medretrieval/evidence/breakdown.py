"""Scores taken apart: by depth, by class, by the confidence of the vote, and where the run fails.

All that the pictures of a run show is computed here, so that drawing only draws.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import Config
from medretrieval.evaluate.evaluate import Evaluation
from medretrieval.evaluate.knn_vote import BINS
from medretrieval.evidence.by_class import ClassScores, class_scores
from medretrieval.evidence.by_depth import DepthCurves, depth_curves
from medretrieval.evidence.evidence import Evidence
from medretrieval.evidence.failures import Failures, Outcome, failures
from medretrieval.protocol.inputs import Inputs
from medretrieval.protocol.task import RetrievalTask


@dataclass(frozen=True)
class Reliability:
    """How often the vote is right at each confidence (reliability diagram, Guo et al. 2017).

    Attributes:
        queries: int64 [bins], votes in each of the equal bins of confidence from 0 to 1.
        accuracy: float64 [bins], share of them that are right; NaN for an empty bin.
        confidence: float64 [bins], their mean confidence; NaN likewise.
    """

    queries: NDArray[np.int64]
    accuracy: NDArray[np.float64]
    confidence: NDArray[np.float64]


@dataclass(frozen=True)
class Breakdown:
    """What the pictures of a run show.

    Attributes:
        outcome: the ranking judged at the headline depth, the middle one of evaluation.ks, or at the saved
            depth where that is less.
        by_depth: precision and recall at every depth.
        by_class: precision of each class.
        reliability: of the neighbors' vote, None where nobody votes.
        failures: which queries and gallery items are shown, and the confusion of classes.
    """

    outcome: Outcome
    by_depth: DepthCurves
    by_class: ClassScores
    reliability: Reliability | None
    failures: Failures


def breakdown(settings: Config, inputs: Inputs, evaluation: Evaluation, trust: Evidence) -> Breakdown:
    """Take a run's scores apart.

    Args:
        settings: the run's configuration.
        inputs: dataset and task.
        evaluation: the scores.
        trust: the evidence beside them: what the baseline encoder scores, and halves of the images.
    """
    line, halves = trust.pixel_line, trust.halves
    task, classes, ks = inputs.task, inputs.dataset.classes, settings.evaluation.ks
    outcome = Outcome.from_evaluation(evaluation, task, min(ks[len(ks) // 2], evaluation.ranking.depth))
    pixels = line.per_query.get(f"precision_at_{outcome.k}") if line else None
    return Breakdown(
        outcome=outcome,
        by_depth=depth_curves(settings, task, outcome.hits, line.scores if line else {}, halves),
        by_class=class_scores(settings, task, outcome, classes, pixels, halves),
        reliability=reliability(evaluation, task),
        failures=failures(inputs, evaluation, outcome, settings.figures.queries, settings.seed),
    )


def reliability(evaluation: Evaluation, task: RetrievalTask) -> Reliability | None:
    """Accuracy by confidence, over the queries that have something to find; None where nobody votes."""
    kept = task.n_relevant > 0
    if evaluation.vote is None or not kept.any():
        return None
    confidence = evaluation.vote.confidence[kept]
    right = (evaluation.vote.predicted == task.queries.labels)[kept]
    places = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    queries = np.bincount(places, minlength=BINS)
    sums = (np.bincount(places, values, minlength=BINS) for values in (right, confidence))
    empty = np.full(BINS, np.nan)
    accuracy, mean = (np.divide(s, queries, out=empty.copy(), where=queries > 0) for s in sums)
    return Reliability(queries, accuracy, mean)
