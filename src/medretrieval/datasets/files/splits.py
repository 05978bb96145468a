"""Splits for images that come without: seeded, stratified by class, and no group on two sides."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.datasets.base import SPLITS
from medretrieval.errors import UserError

Labels = NDArray[np.int64] | NDArray[np.bool_]


def read_shares(shares: Mapping[str, Any], key: str = "dataset.shares") -> NDArray[np.float64]:
    """The share of each split, in the order of SPLITS (float64 [3], sum 1).

    Raises:
        UserError: another split, no number from 0 to 1, or a sum that is not 1.
    """
    for name, share in shares.items():
        if name not in SPLITS:
            raise UserError(f"{key}.{name}: no such split; choose from: {', '.join(SPLITS)}")
        number = isinstance(share, int | float) and not isinstance(share, bool)
        if not number or not 0 <= share <= 1:
            raise UserError(f"{key}.{name}={share}: give a share from 0 to 1")
    found = np.array([float(shares[name]) if name in shares else 0.0 for name in SPLITS])
    if abs(found.sum() - 1) > 1e-6:
        said = ", ".join(f"{name} {share:g}" for name, share in zip(SPLITS, found, strict=True))
        raise UserError(f"{key}: the shares are {said}, together {found.sum():g}; they must add up to 1")
    return found


def assign(
    labels: Labels, groups: NDArray[np.str_] | None, shares: NDArray[np.float64], seed: int
) -> NDArray[np.str_]:
    """Draw splits: the images of a group stay together, and each class is shared out as all images are.

    Groups are taken in a random order, the largest first, and each goes where it brings the numbers of
    images of each class nearest to what the shares ask for of the groups of its size and larger ones
    (greedy, as StratifiedGroupKFold of scikit-learn). So groups of each size are shared out as all images
    are. The result depends on labels, groups, their order and the seed alone.

    Args:
        labels: int64 [n], or bool [n, classes].
        groups: str [n]; None where every image is a group of its own.
        shares: float64 [3], of train, val and test.
        seed: of the order.

    Returns:
        str [n].
    """
    if labels.ndim == 1:
        distinct, numbers = np.unique(labels, return_inverse=True)
        one_hot = np.eye(len(distinct))[numbers]
    else:
        one_hot = labels.astype(np.float64)
    # A last column for the number of images: of classes that overlap, or of no finding at all.
    counts = np.concatenate([one_hot, np.ones((len(labels), 1))], axis=1)
    group = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    totals = np.zeros((int(group.max()) + 1, counts.shape[1]))
    np.add.at(totals, group, counts)
    chosen = _greedy(totals, shares, np.random.default_rng(seed))
    return np.array(SPLITS)[chosen[group]]


def _greedy(
    totals: NDArray[np.float64], shares: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """The split of each group, int64 [groups]."""
    weight = 1 / np.maximum(totals.sum(axis=0), 1) ** 2
    order = rng.permutation(len(totals))
    order = order[np.argsort(-totals[order, -1], kind="stable")]
    sizes, so_far = totals[order, -1], totals[order].cumsum(axis=0)
    last_alike = np.searchsorted(-sizes, -sizes, side="right") - 1
    have = np.zeros((len(shares), totals.shape[1]))
    chosen = np.zeros(len(totals), np.int64)
    closed = np.where(shares > 0, 0.0, np.inf)  # a split without a share gets nothing
    for number, last in zip(order, last_alike, strict=True):
        # Of the groups of this size and larger ones: with the target of all images, the large groups would
        # go to the split with the largest share, and the others would get small ones.
        more, target = totals[number], shares[:, None] * so_far[last]
        # How much further from the target each split would be: (have + more - target)^2 - (have - target)^2.
        cost = ((2 * (have - target) + more) * more * weight).sum(axis=1) + closed
        best = int(np.argmin(cost))
        chosen[number] = best
        have[best] += more
    return chosen


def shared_groups(groups: NDArray[np.str_] | None, splits: NDArray[np.str_]) -> list[str]:
    """Groups that have images in more than one split, sorted."""
    if groups is None:
        return []
    pairs = np.unique(np.stack([groups.astype(np.str_), splits.astype(np.str_)]), axis=1)[0]
    names, sides = np.unique(pairs, return_counts=True)
    found: list[str] = names[sides > 1].tolist()
    return found
