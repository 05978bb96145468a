"""What a reader of similar cases would conclude: the neighbors vote on the query's class.

The vote is Dudani's distance-weighted k-nearest-neighbor rule (1976, doi 10.1109/TSMC.1976.5408784):
the nearest neighbor weighs 1, the k-th 0, the others in between by distance. It does not change when
distances are shifted or scaled, so it serves every metric. Equal shares go to the nearest neighbor's
class among those that are equal. Single-label only.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
SHARES = tuple(round(0.1 * i, 1) for i in range(1, 11))  # of queries answered, for the abstention curve
BINS = 15  # of confidence, for the calibration error (Guo et al. 2017)


@dataclass(frozen=True)
class Vote:
    """The vote of every query's neighbors.

    Attributes:
        probabilities: float64 [q, classes], the share of each class; uniform where nobody votes.
        predicted: int64 [q], -1 where nobody votes.
    """

    probabilities: Floats
    predicted: Labels

    def of_rows(self, rows: slice) -> "Vote":
        """That of some of the queries."""
        return Vote(self.probabilities[rows], self.predicted[rows])

    def right(self, labels: Labels) -> Floats:
        """1 where the predicted class is the query's, else 0 (float64 [q])."""
        return (self.predicted == labels).astype(np.float64)

    @property
    def confidence(self) -> Floats:
        """Share of the predicted class, float64 [q]."""
        return np.asarray(self.probabilities.max(axis=1))


def vote(results: Labels, distances: NDArray[np.floating[Any]], classes: int) -> Vote:
    """Let the first k neighbors vote.

    Args:
        results: int64 [q, k], classes of the neighbors, nearest first; -1 for a missing one.
        distances: float [q, k], never decreasing along a row; inf with -1.
        classes: number of classes.

    >>> vote(np.array([[0, 1, 1, 0]]), np.array([[0.0, 1.0, 1.0, 4.0]]), 2).probabilities.round(2)
    array([[0.4, 0.6]])
    """
    weights = neighbor_weights(results, distances.astype(np.float64))
    sums = np.zeros((len(results), classes))
    rows = np.broadcast_to(np.arange(len(results))[:, None], results.shape)
    present = results >= 0
    np.add.at(sums, (rows[present], results[present]), weights[present])
    totals = sums.sum(axis=1, keepdims=True)
    uniform = np.full_like(sums, 1 / classes)
    shares = np.divide(sums, totals, out=uniform, where=totals > 0)
    return Vote(shares, predicted_classes(results, shares))


def neighbor_weights(results: Labels, distances: Floats) -> Floats:
    """Weight of each neighbor, 0 of a missing one (float64 [q, k]); arguments as `vote`."""
    present = results >= 0
    near = distances[:, :1]
    far = np.where(present, distances, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    # Nobody else to compare with, or all equally far: all weigh the same.
    equal = ~(far > near)
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = np.where(equal, 1.0, (far - distances) / (far - near))
    return np.where(present, weights, 0.0)


def predicted_classes(results: Labels, shares: Floats) -> Labels:
    """The class with the largest share, of equal ones the nearest neighbor's; -1 where nobody votes."""
    best = shares >= shares.max(axis=1, keepdims=True) - 1e-12
    padded = np.concatenate([best, np.zeros((len(best), 1), bool)], axis=1)  # for -1 to point at
    is_best = np.take_along_axis(padded, results, axis=1)
    first = is_best.argmax(axis=1)
    nearest = results[np.arange(len(results)), first]
    return np.where(is_best.any(axis=1), nearest, -1)


def balanced_accuracy(predicted: Labels, labels: Labels) -> float:
    """Mean recall over the classes that occur (sklearn balanced_accuracy_score).

    Args:
        predicted: int64 [q]; -1, no class, is wrong.
        labels: int64 [q].

    >>> balanced_accuracy(np.array([0, 1, -1]), np.array([0, 0, 1]))
    0.25
    """
    right = (predicted == labels).astype(np.float64)
    return float(np.mean([right[labels == c].mean() for c in np.unique(labels)]))


def brier_score(probabilities: Floats, labels: Labels) -> float:
    """Mean over queries of the squared errors summed over all classes (Brier 1950): 0 best, 2 worst.

    Args:
        probabilities: float64 [q, classes].
        labels: int64 [q].

    >>> brier_score(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([0, 1]))
    0.25
    """
    truth = np.zeros_like(probabilities)
    truth[np.arange(len(labels)), labels] = 1
    return float(((probabilities - truth) ** 2).sum(axis=1).mean())


def macro_auroc(probabilities: Floats, labels: Labels) -> float | None:
    """Area of each class against the rest, averaged over the classes that occur.

    With two classes: that of the second. None where only one class occurs.

    Args:
        probabilities: float64 [q, classes].
        labels: int64 [q].

    >>> macro_auroc(np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]]), np.array([0, 1, 0]))
    0.5
    """
    present = np.unique(labels)
    if len(present) < 2:
        return None
    sides = present[-1:] if probabilities.shape[1] == 2 else present
    return float(np.mean([auroc(probabilities[:, c], labels == c) for c in sides]))


def auroc(values: Floats, positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: how often a positive stands above a negative, ties half (Mann-Whitney).

    >>> auroc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True]))
    0.875
    """
    levels, back = np.unique(values, return_inverse=True)
    ours = np.bincount(back[positive], minlength=len(levels)).astype(np.float64)
    others = np.bincount(back[~positive], minlength=len(levels)).astype(np.float64)
    below = np.cumsum(others) - others
    return float((ours * (below + others / 2)).sum() / (ours.sum() * others.sum()))


def calibration_error(confidence: Floats, right: Floats) -> float:
    """Expected calibration error (Guo et al. 2017).

    Mean over equal bins of |accuracy - confidence|, by size of the bin.

    Args:
        confidence: float64 [q], share of the predicted class.
        right: float64 [q], 1 where the prediction is right, else 0.

    >>> round(calibration_error(np.array([0.9, 0.9]), np.array([1.0, 0.0])), 4)
    0.4
    """
    places = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(places, right - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def abstention_curve(cast: Vote, labels: Labels) -> dict[str, list[float]]:
    """Accuracy among the share of queries that are answered first, the most confident ones.

    Queries of equal confidence are answered in equal parts, so the order of the data has no part in it.

    Args:
        cast: the votes.
        labels: int64 [q].

    Returns:
        {"answered": shares, "accuracy": accuracies}, the last one being the accuracy over all.
    """
    right = cast.right(labels)
    levels, back = np.unique(-cast.confidence, return_inverse=True)
    counts = np.bincount(back, minlength=len(levels)).astype(np.float64)
    hits = np.bincount(back, right, minlength=len(levels))
    answered = np.concatenate([[0.0], np.cumsum(counts)])
    correct = np.concatenate([[0.0], np.cumsum(hits)])
    wanted = np.array(SHARES) * len(labels)
    accuracies = np.interp(wanted, answered, correct) / wanted
    return {"answered": list(SHARES), "accuracy": [float(a) for a in accuracies]}
