import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, roc_auc_score
from torchmetrics.functional.classification import multiclass_calibration_error

from medretrieval.evaluate.knn_vote import abstention_curve, calibration_error, vote
from medretrieval.evaluate.score_table import SCORES


def neighbors(q=200, k=7, classes=4, seed=0, missing=0.1):
    rng = np.random.default_rng(seed)
    results = rng.integers(0, classes, (q, k))
    distances = np.sort(rng.random((q, k)), axis=1)
    gone = np.sort(rng.random((q, k)) < missing, axis=1)
    gone[:, 0] = False
    results[gone], distances[gone] = -1, np.inf
    return results, distances, rng.integers(0, classes, q)


def vote_scores(cast, labels):
    """Every score of the votes of all queries together."""
    return {score.name: score.of_votes(cast, labels) for score in SCORES if score.of_votes}


def naive(results, distances, classes):
    found = [(c, d) for c, d in zip(results, distances, strict=True) if c >= 0]
    near, far = found[0][1], found[-1][1]
    shares = np.zeros(classes)
    for c, d in found:
        shares[c] += (far - d) / (far - near) if far > near else 1.0
    shares /= shares.sum()
    return shares, next(c for c, _ in found if np.isclose(shares[c], shares.max()))


def test_the_vote_agrees_with_dudanis_rule_query_by_query():
    results, distances, _ = neighbors()
    cast = vote(results, distances, 4)
    for i in range(len(results)):
        shares, predicted = naive(results[i], distances[i], 4)
        assert np.allclose(cast.probabilities[i], shares)
        assert cast.predicted[i] == predicted


@given(st.floats(0.01, 100), st.floats(-50, 50))
def test_shifted_and_scaled_distances_vote_alike(scale, shift):
    results, distances, _ = neighbors(q=20, missing=0)
    a, b = vote(results, distances, 4), vote(results, scale * distances + shift, 4)
    assert np.allclose(a.probabilities, b.probabilities, atol=1e-6)


def test_a_tie_goes_to_the_nearest():
    cast = vote(np.array([[1, 0, 0, 1], [0, 1, 1, 0]]), np.ones((2, 4)), 2)
    assert list(cast.predicted) == [1, 0]
    assert np.allclose(cast.probabilities, 0.5)


def test_one_neighbor_decides_alone_and_none_leaves_all_classes_alike():
    cast = vote(np.array([[2], [-1]]), np.array([[0.3], [np.inf]]), 3)
    assert list(cast.predicted) == [2, -1]
    assert np.allclose(cast.probabilities, [[0, 0, 1], [1 / 3] * 3])


@pytest.mark.parametrize("classes", [2, 4])
def test_scores_agree_with_scikit_learn_and_torchmetrics(classes):
    import torch

    results, distances, labels = neighbors(classes=classes)
    cast = vote(results, distances, classes)
    found = vote_scores(cast, labels)
    assert found["vote_balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, cast.predicted))
    p = cast.probabilities
    area = roc_auc_score(labels, p[:, 1] if classes == 2 else p, multi_class="ovr", average="macro")
    assert found["vote_auroc"] == pytest.approx(area)
    brier = brier_score_loss(labels, p, scale_by_half=False, labels=range(classes))
    assert found["vote_brier"] == pytest.approx(brier)
    # Theirs takes the first of equal classes, so equal shares are taken out.
    clear = np.sort(p, axis=1)[:, -1] > np.sort(p, axis=1)[:, -2] + 1e-9
    theirs = multiclass_calibration_error(torch.tensor(p[clear]), torch.tensor(labels[clear]), classes, 15)
    ours = calibration_error(cast.confidence[clear], (cast.predicted == labels)[clear].astype(float))
    assert ours == pytest.approx(float(theirs), abs=1e-6)


def test_an_ideal_vote_has_ideal_scores():
    labels = np.arange(30) % 3
    cast = vote(np.repeat(labels[:, None], 5, axis=1), np.tile(np.arange(5.0), (30, 1)), 3)
    assert vote_scores(cast, labels) == {
        "vote_balanced_accuracy": 1, "vote_brier": 0, "vote_calibration_error": 0, "vote_auroc": 1,
    }  # fmt: skip


def test_a_single_class_has_no_auroc():
    cast = vote(np.zeros((4, 3), int), np.ones((4, 3)), 2)
    assert vote_scores(cast, np.zeros(4, int))["vote_auroc"] is None


def test_the_abstention_curve_ends_at_the_accuracy_and_begins_with_the_sure():
    results, distances, labels = neighbors(q=500, classes=2)
    results[:250] = labels[:250, None]  # unanimous and right
    cast = vote(results, distances, 2)
    curve = abstention_curve(cast, labels)
    assert curve["answered"][-1] == 1.0
    assert curve["accuracy"][-1] == pytest.approx((cast.predicted == labels).mean())
    assert curve["accuracy"][0] > curve["accuracy"][-1]


def test_the_order_of_queries_has_no_part_in_the_abstention_curve():
    results, distances, labels = neighbors(k=3, classes=2)
    order = np.random.default_rng(1).permutation(len(labels))
    a = abstention_curve(vote(results, distances, 2), labels)
    b = abstention_curve(vote(results[order], distances[order], 2), labels[order])
    assert np.allclose(a["accuracy"], b["accuracy"])
