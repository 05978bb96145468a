"""What the pictures show, against the scores of the same run."""

import numpy as np
import pytest
from tests.evidence.test_failures import judged

from medretrieval.evaluate.knn_vote import BINS
from medretrieval.evidence.breakdown import reliability


@pytest.mark.parametrize("kind", ["single", "ordinal"])
@pytest.mark.parametrize("seed", range(3))
def test_the_bins_of_the_vote_give_its_scores(kind, seed):
    task, evaluation, _ = judged(kind, seed)
    found, kept = reliability(evaluation, task), task.n_relevant > 0
    shares = found.queries / kept.sum()
    assert found.queries.sum() == kept.sum()
    assert len(found.queries) == BINS
    assert (np.isnan(found.accuracy) == (found.queries == 0)).all()
    right = np.nansum(shares * found.accuracy)
    assert right == pytest.approx(np.nanmean(evaluation.per_query["vote_accuracy"]))
    error = np.nansum(shares * np.abs(found.accuracy - found.confidence))
    assert error == pytest.approx(evaluation.scores["vote_calibration_error"])


def test_nobody_votes_on_images_of_several_findings():
    task, evaluation, _ = judged("multi")
    assert evaluation.vote is None
    assert reliability(evaluation, task) is None
