"""What votes of a random ranking are expected to score, exactly: nothing is drawn.

The neighbors of a random ranking are a choice without replacement from the images that a query can find, so
the numbers of neighbors of each class have a multivariate hypergeometric distribution.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medretrieval.evaluate.knn_vote import neighbor_weights, predicted_classes
from medretrieval.protocol.task import RetrievalTask

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
MAX_PRODUCTS = 100_000  # of polynomials, for majority votes: seconds
MAX_OUTCOMES = 2_000_000  # queries times classes ** votes, for weighted votes: seconds


def class_counts(task: RetrievalTask, rows: Ints) -> Ints:
    """Images of each class that queries can find (int64 [r, classes])."""
    of_gallery = task.gallery.labels.astype(np.int64)
    classes = int(max(task.queries.labels.max(), of_gallery.max())) + 1
    all_of_them = np.bincount(of_gallery[~task.exclusions.dropped], minlength=classes)
    counts = np.tile(all_of_them, (len(task.queries), 1))
    queries, positions = task.exclusions.pairs
    np.subtract.at(counts, (queries, of_gallery[positions]), 1)
    return counts[rows]


def majority_votes(counts: Ints, own: Ints, ks: Sequence[int]) -> dict[int, Floats] | None:
    """Chance that each query's class is (one of) the most frequent among the first k.

    Args:
        counts: as `class_counts`, int64 [q, classes].
        own: class of each query, int64 [q].
        ks: depths.

    Returns:
        k -> float64 [q]; None where that would take too long.

    >>> majority_votes(np.array([[2, 1, 1]]), np.array([0]), [2])[2].round(4)
    array([0.8333])
    >>> majority_votes(np.array([[2, 1, 1]]), np.array([1]), [2])[2].round(4)
    array([0.5])
    """
    kinds, back = np.unique(np.column_stack([counts, own]), axis=0, return_inverse=True)
    if len(kinds) * sum(ks) * counts.shape[1] > MAX_PRODUCTS:
        return None
    return {k: np.array([_mode(kind[:-1], int(kind[-1]), k) for kind in kinds])[back.ravel()] for k in ks}


def _mode(counts: Ints, own: int, k: int) -> float:
    """Chance that among k of so many items of each class no class is more frequent than one of them."""
    size = int(counts.sum())
    k = min(k, size)
    # Binomial terms stand for binomial coefficients: the same up to a factor, and they do not overflow.
    share = (k + 0.5) / (size + 1)
    terms = [_binomial(int(count), k, share) for count in counts]
    total = 0.0
    for most in range(1, min(k, int(counts[own])) + 1):
        others = np.ones(1)
        for number, term in enumerate(terms):
            if number != own:
                others = np.convolve(others, term[: most + 1])[: k + 1]
        if k - most < len(others):
            total += terms[own][most] * float(others[k - most])
    return total / float(_binomial(size, k, share)[k])


def _binomial(count: int, k: int, share: float) -> Floats:
    """Probabilities of 0 to min(k, count) successes of so many (float64)."""
    i = np.arange(min(k, count))
    ways = np.concatenate([[0.0], np.cumsum(np.log((count - i) / (i + 1)))])
    hits = np.arange(len(ways))
    return np.asarray(np.exp(ways + hits * np.log(share) + (count - hits) * np.log1p(-share)))


def weighted_votes(counts: Ints, own: Ints, distances: NDArray[np.float32]) -> Floats | None:
    """Chance that the distance-weighted vote names each query's class, over all outcomes of the vote.

    Args:
        counts: as `class_counts`, int64 [q, classes].
        own: class of each query, int64 [q].
        distances: float32 [q, k], at which the real neighbors stand; inf for a missing one.

    Returns:
        float64 [q]; None where there are too many outcomes.
    """
    (queries, classes), k = counts.shape, distances.shape[1]
    if float(queries) * float(classes) ** k > MAX_OUTCOMES:
        return None
    outcomes = np.array(list(itertools.product(range(classes), repeat=k)), np.int64).reshape(-1, k)
    tallies = (outcomes[:, :, None] == np.arange(classes)).sum(axis=1)
    kinds, back = np.unique(counts, axis=0, return_inverse=True)
    chances = np.stack([_outcome_chances(kind, tallies) for kind in kinds])
    found = np.empty(queries)
    for row, kind in enumerate(back.ravel()):
        results = np.where(np.isinf(distances[row]), -1, outcomes)
        weights = neighbor_weights(results[:1], distances[row : row + 1].astype(np.float64))[0]
        shares = np.stack([(results == c) @ weights for c in range(classes)], axis=1)
        named = predicted_classes(results, shares / max(float(weights.sum()), 1e-300))
        found[row] = chances[kind] @ (named == own[row])
    return found


def _outcome_chances(counts: Ints, tallies: Ints) -> Floats:
    """Chance of each sequence of classes, by how often it holds each class (int64 [o, classes])."""
    k = int(tallies[0].sum())
    falls = [np.concatenate([[1.0], np.cumprod(np.maximum(c - np.arange(k), 0.0))]) for c in counts]
    ways = np.prod([fall[tallies[:, c]] for c, fall in enumerate(falls)], axis=0)
    return np.asarray(ways / np.prod(counts.sum() - np.arange(k, dtype=np.float64)))


def brier_scores(counts: Ints, own: Ints, distances: NDArray[np.float32]) -> Floats:
    """Expected squared error of each query's vote, summed over classes; arguments as `weighted_votes`.

    Two neighbors are of class c with chance N_c (N_c - 1) / (N (N - 1)); the rest is linearity.
    """
    size = counts.sum(axis=1, keepdims=True).astype(np.float64)
    voters = np.where(np.isinf(distances), -1, 0)
    weights = neighbor_weights(voters, distances.astype(np.float64))
    totals = weights.sum(axis=1, keepdims=True)
    parts = np.divide(weights, totals, out=np.zeros_like(weights), where=totals > 0)
    alone = (parts**2).sum(axis=1, keepdims=True)
    share = counts / size
    squares = share * (alone + (1 - alone) * (counts - 1) / np.maximum(size - 1, 1))
    right = share[np.arange(len(own)), own]
    nobody = 1 - 1 / counts.shape[1]  # all classes have the same share
    return np.where(totals[:, 0] > 0, squares.sum(axis=1) - 2 * right + 1, nobody)
