"""Does a ranking find the case, or the patient? How often results are of the query's own patient."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import Config
from medretrieval.datasets.groups import common_codes
from medretrieval.protocol.task import RetrievalTask
from medretrieval.subgroups.shares import NOT_COUNTED, Share, share

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Recognition:
    """How often results are of the query's own patient, among the queries that can find one.

    Attributes:
        k: results of each query.
        share: of the first k results that are of the query's own patient; an interval for k = 1 with
            the gallery held fixed alone, where a simulation has shown that it covers.
        chance: the same of a random ranking.
        queries: that can find an image of their own patient.
    """

    k: int
    share: Share
    chance: float | None
    queries: int


def recognition(settings: Config, task: RetrievalTask, ids: Ints, k: int) -> Recognition:
    """How often the first k results are of the query's own patient.

    Args:
        settings: the run's configuration.
        task: who queries whom, own patients being among what can be found; both sides with groups.
        ids: int64 [q, depth], results of each query.
        k: results of each query, at most depth.
    """
    queries, gallery = patients_of(task)
    own = own_candidates(task)
    can = own > 0
    marks = (np.append(gallery, -1)[ids] == queries[:, None]).astype(np.int8)
    marks[(ids < 0) | ~can[:, None]] = NOT_COUNTED
    chance = float((own[can] / task.n_candidates[can]).mean()) if can.any() else None
    found = share(settings, task, marks, ids, k)
    if k > 1 or task.in_halves(settings.evaluation.resample):
        # Deeper than the first result no simulation has shown what an interval covers; and half of a gallery
        # has half of the other patients, so its share is higher and varies less.
        found = replace(found, interval=None)
    return Recognition(k, found, chance, int(can.sum()))


def patients_of(task: RetrievalTask) -> tuple[Ints, Ints]:
    """Numbers of the patients, the same on both sides (int64 [q], int64 [n])."""
    queries, gallery = task.queries.groups, task.gallery.groups
    assert queries is not None
    assert gallery is not None
    return common_codes(queries, gallery)


def own_candidates(task: RetrievalTask) -> Ints:
    """Images of its own patient that each query can find (int64 [q])."""
    queries, gallery = patients_of(task)
    sizes = np.bincount(
        gallery[~task.exclusions.dropped], minlength=int(max(queries.max(), gallery.max())) + 1
    )
    rows, places = task.exclusions.pairs
    same = queries[rows] == gallery[places]
    return np.asarray(sizes[queries] - np.bincount(rows[same], minlength=len(queries)))
