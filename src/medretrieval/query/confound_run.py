"""A finished run beside a column of metadata: does its ranking go by the class or by the column?"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medretrieval.errors import UserError
from medretrieval.query.saved_task import SavedTask
from medretrieval.subgroups.columns import known_column, plain_column
from medretrieval.subgroups.confounding import KINDS, Confounding, Sides, confounding
from medretrieval.uncertainty.half_samples import enough_results

MAX_VALUES = 200  # of a column: a table has a column for each


@dataclass(frozen=True)
class Confounded:
    """What `confound` says of a run.

    Attributes:
        run: opened.
        by: the column.
        found: what the first results have in common with their queries.
        remarks: what a reader should know, a sentence each.
    """

    run: SavedTask
    by: str
    found: Confounding
    remarks: list[str]

    def document(self) -> dict[str, Any]:
        """As plain values, for --json."""
        found, ids = self.found, self.run.queries.ids
        ends = found.index.interval
        return {
            "by": self.by,
            "k": found.k,
            "queries": found.queries,
            "unknown_queries": found.unknown_queries,
            "unknown_results": found.unknown_results,
            "robustness_index": found.index.value,
            "interval": None if ends is None else list(ends),
            "confidence": self.run.settings.evaluation.confidence,
            "chance": found.chance,
            "mean_shares": self.mean_shares,
            "cramers_v": found.association.cramers_v,
            "gallery": {
                "classes": found.association.classes,
                "values": found.association.values,
                "counts": found.association.counts.tolist(),
            },
            "remarks": self.remarks,
            "per_query": {
                str(name): [round(float(share), 6) for share in row]
                for name, row in zip(ids, found.shares, strict=True)
                if not np.isnan(row).any()
            },
        }

    @property
    def mean_shares(self) -> dict[str, float] | None:
        """The mean over queries of each share; None where no query has any."""
        rows = self.found.shares[~np.isnan(self.found.shares).any(axis=1)]
        return dict(zip(KINDS, rows.mean(axis=0).tolist(), strict=True)) if len(rows) else None


def confound(folder: Path, by: str, k: int | None) -> Confounded:
    """How far a run's ranking goes by a column of metadata.

    Args:
        folder: of a finished run.
        by: the column.
        k: first results of each query; None for the middle one of the run's depths.

    Raises:
        UserError: no such run or column, a column of one value or too many, or a k that is too large.
    """
    run = SavedTask.open(folder, "confound")
    task = run.task()
    k = depth_of(run, task.max_depth, k)
    columns = [
        known_column(side.metadata, by, f"confound: by={by}")
        for side in (task.queries.split, task.gallery)
        if side
    ]
    column = plain_column(by, np.concatenate(columns))
    if not 2 <= len(column.values) <= MAX_VALUES:
        raise UserError(
            f"confound: by={by}: the column has {len(column.values)} known values; name one of 2 to "
            f"{MAX_VALUES}"
        )
    halved = task.in_halves(run.settings.evaluation.resample)
    wanted = min(task.max_depth, enough_results(k)) if halved else k
    if run.settings.protocol.drop_duplicates:
        wanted = min(wanted, run.ranking.depth)  # a new search would find the copies
        if k > wanted:
            raise UserError(
                f"confound: k={k}: the run kept {wanted} results of each query, and "
                "protocol.drop_duplicates=true "
                f"needs the images for more; give k={wanted} or less"
            )
    sides = Sides.from_column(column, len(task.queries))
    found = confounding(run.settings, task, run.results(task, wanted), sides, k, run.classes)
    return Confounded(run, by, found, _remarks(run, found))


def depth_of(run: SavedTask, most: int, k: int | None) -> int:
    """A depth that every query can fill.

    Raises:
        UserError: k is larger.
    """
    if k is None:
        ks = run.settings.evaluation.ks
        return ks[len(ks) // 2]
    if k > most:
        raise UserError(f"k={k}: a query of this run can find {most} images; give {most} or less")
    return k


def _remarks(run: SavedTask, found: Confounding) -> list[str]:
    remarks = []
    if run.queries.groups is not None and not run.settings.protocol.exclude_same_group:
        remarks.append(
            "Results of the query's own patient count, and they mostly have its class and its value; a run "
            "with "
            "protocol.exclude_same_group=true leaves them out."
        )
    if run.settings.protocol.drop_duplicates:
        remarks.append("No chance: which images are copies (protocol.drop_duplicates) only the images tell.")
    if found.unknown_queries or found.unknown_results:
        remarks.append(
            f"The value of {found.unknown_queries} queries and of {found.unknown_results} results of the "
            "others is "
            "not known; they are left out."
        )
    if found.index.value is None:
        remarks.append("No result has the class alone or the value alone: there is no index.")
    elif found.index.interval is None:
        remarks.append("No interval: too few queries or patients with such a result, or nothing varies.")
    if (v := found.association.cramers_v) is not None and v > 0.9:
        remarks.append(
            f"Class and value go together almost always in the gallery (Cramer's V {v:.2f}): the index "
            "cannot "
            "tell them apart."
        )
    return remarks
