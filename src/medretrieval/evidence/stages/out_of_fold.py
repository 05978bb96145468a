"""A gallery whose vectors were changed by fits that have not seen them.

Where the gallery is train, an adaptation has seen the gallery's images with their labels, and not the
queries'. So each fold of the gallery gets a fit on the other folds. Every fit has a space of its own: a query
is compared with the items of a fold in the space of that fold's fit, and the results are merged by distance.
"""

import numpy as np
from numpy.typing import NDArray

from medretrieval.adapt.base import VectorAdaptation
from medretrieval.adapt.fit import Fitted, Fitting, fit_variant
from medretrieval.embed.sides import Sides
from medretrieval.evidence.stages.exact_line import Line, scored
from medretrieval.index.distance import order_ties
from medretrieval.index.exact_search import exact_search

FOLDS = 5
Ints = NDArray[np.int64]


def out_of_fold(fitting: Fitting, fitted: Fitted, before: Sides) -> Line | None:
    """What a run scores with a gallery of out-of-fold vectors.

    Args:
        fitting: train (the gallery), val and configuration.
        fitted: the run's adaptation.
        before: embeddings before it.

    Returns:
        None for an adaptation of the encoder itself, which would have to embed everything anew for each fold,
        and where a fold would leave a class out.
    """
    settings, adaptation, task = fitting.settings, fitted.adaptation, fitting.inputs.task
    if not isinstance(adaptation, VectorAdaptation):
        return None
    folds, data = folds_of(fitting, adaptation.seed), fitting.data(adaptation)
    fits = []
    for number in range(FOLDS):
        rows = np.flatnonzero(folds != number)
        if adaptation.uses_labels and len(np.unique(data.split.labels[rows])) < len(data.classes):
            return None
        name = f"fold {number} of {FOLDS}"
        fits.append(
            fit_variant(fitting, adaptation, fitted.choice, name, data.of_rows(rows), adaptation.seed)
        )
    queries, gallery = before.query.vectors, before.gallery.vectors
    places = [np.flatnonzero(folds == number) for number in range(FOLDS)]
    sides = [
        (adaptation.apply(fit.tensors, queries), adaptation.apply(fit.tensors, np.asarray(gallery[rows])))
        for fit, rows in zip(fits, places, strict=True)
    ]

    def search(rows: slice, k: int) -> tuple[Ints, NDArray[np.float32]]:
        ids, distances = [], []
        for (asked, there), place in zip(sides, places, strict=True):
            found, apart = exact_search(asked[rows], there, settings.metric, min(k, len(there)))
            ids.append(place[found])
            distances.append(apart)
        all_ids, all_distances = np.concatenate(ids, axis=1), np.concatenate(distances, axis=1)
        order = np.argsort(all_distances, axis=1, kind="stable")[:, :k]
        return order_ties(np.take_along_axis(all_ids, order, 1), np.take_along_axis(all_distances, order, 1))

    return scored(settings, task, search)


def folds_of(fitting: Fitting, seed: int) -> Ints:
    """The fold of each train image (int64 [n]): whole groups where these are known, else class by class."""
    split, rng = fitting.train, np.random.default_rng(seed)
    if split.groups is not None:
        names, codes = np.unique(split.groups, return_inverse=True)
        return np.asarray((rng.permutation(len(names)) % FOLDS)[codes])
    folds = np.zeros(len(split), np.int64)
    labels = split.labels if split.labels.ndim == 1 else np.zeros(len(split), np.int64)
    for number in np.unique(labels):
        members = np.flatnonzero(labels == number)
        folds[members] = rng.permutation(len(members)) % FOLDS
    return folds
