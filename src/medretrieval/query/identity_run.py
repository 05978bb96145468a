"""A finished run and its patients: does its ranking find like cases, or the same patient again?"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medretrieval.errors import UserError
from medretrieval.evaluate.evaluate import Evaluation, objective_name, require_depths
from medretrieval.evaluate.score_table import MACRO, is_headline
from medretrieval.evidence.evidence import paired
from medretrieval.protocol.ranking import class_members
from medretrieval.protocol.task import RetrievalTask
from medretrieval.query.confound_run import depth_of
from medretrieval.query.saved_task import SavedTask
from medretrieval.subgroups.identity import Recognition, own_candidates, recognition
from medretrieval.uncertainty.bootstrap import means
from medretrieval.uncertainty.half_samples import halves_of

Change = tuple[float, float, float]


@dataclass(frozen=True)
class Recognized:
    """What `identity` says of a run.

    Attributes:
        run: opened.
        first: how often the first result is of the query's own patient.
        within: the same of the first k results.
        with_own: score -> its value where queries can find their own patient, over the queries that have
            something to find both ways.
        without_own: where they cannot, over the same queries.
        changes: score -> without minus with, low, high, paired over the queries; those that have an interval.
        remarks: what a reader should know, a sentence each.
    """

    run: SavedTask
    first: Recognition
    within: Recognition
    with_own: dict[str, float]
    without_own: dict[str, float]
    changes: dict[str, Change]
    remarks: list[str]

    def document(self) -> dict[str, Any]:
        """As plain values, for --json."""
        return {
            "queries": self.first.queries,
            "of": len(self.run.queries),
            "confidence": self.run.settings.evaluation.confidence,
            "first_result": _plain(self.first),
            f"first_{self.within.k}_results": _plain(self.within),
            "scores": {
                name: {
                    "with_own_patient": value,
                    "without_own_patient": self.without_own[name],
                    "change": list(self.changes[name]) if name in self.changes else None,
                }
                for name, value in self.with_own.items()
            },
            "remarks": self.remarks,
        }


def _plain(found: Recognition) -> dict[str, Any]:
    ends = found.share.interval
    return {
        "share_of_own_patient": found.share.value,
        "interval": None if ends is None else list(ends),
        "chance": found.chance,
    }


def identity(folder: Path, k: int | None) -> Recognized:
    """How often a run's first results are of the query's own patient, and what they do to its scores.

    The saved index is searched again, once with and once without own patients among the results.

    Args:
        folder: of a finished run.
        k: first results of each query; None for the middle one of the run's depths.

    Raises:
        UserError: no such run, one without groups, of whose patients none has another image to find, whose
            copies are dropped, or whose embeddings or index are gone.
    """
    run = SavedTask.open(folder, "identity")
    if run.queries.groups is None or run.gallery.groups is None:
        raise UserError(
            f"identity: {folder}: it is not known which images are of one patient; choose a run of a dataset "
            "that names groups"
        )
    if run.settings.protocol.drop_duplicates:
        raise UserError(
            "identity: protocol.drop_duplicates=true: which images are copies only the images tell; choose a "
            "run with drop_duplicates=false"
        )
    _require_others(run)
    tasks = run.task(own_group=True), run.task(own_group=False)
    for task in tasks:
        require_depths(task, run.settings.evaluation)
    k = depth_of(run, tasks[0].max_depth, k)
    both = [run.evaluated(task, _depth(run, task, k)) for task in tasks]
    ids = both[0].ranking.ids
    first, within = (recognition(run.settings, tasks[0], ids, depth) for depth in (1, k))
    names = [n for n in both[0].scores if n in both[1].scores and _is_shown(run, tasks[0], n)]
    scores = {name: _both_ways(tasks[0], both, name) for name in names}
    changes = _changes(run, tasks, both, names)
    with_own, without = ({name: pair[side] for name, pair in scores.items()} for side in (0, 1))
    return Recognized(run, first, within, with_own, without, changes, _remarks(run, tasks))


def _both_ways(task: RetrievalTask, both: list[Evaluation], name: str) -> tuple[float, float]:
    """A score with and without own patients, over the queries that have something to find both ways."""
    base = name.removeprefix(MACRO)
    if any(base not in one.per_query for one in both):
        return both[0].scores[name], both[1].scores[name]
    values = np.stack([one.per_query[base] for one in both], axis=1)
    values[np.isnan(values).any(axis=1)] = np.nan
    members = class_members(task.queries.labels) if name.startswith(MACRO) else None
    own, without = means(values, members).tolist()
    return own, without


def _depth(run: SavedTask, task: RetrievalTask, k: int) -> int:
    """As deep as the run: all that a query can find where the run's ranking held that."""
    depth = run.report.counts.depth
    whole = depth >= run.task().max_depth
    return task.max_depth if whole else min(max(depth, k), task.max_depth)


def _require_others(run: SavedTask) -> None:
    """Refuse a run in which no query has an image of its patient to find."""
    if not run.settings.protocol.exclude_self and run.queries.name == run.gallery.name:
        raise UserError(
            "identity: protocol.exclude_self=false: every query finds itself first; choose a run with "
            "exclude_self=true"
        )
    if not (own_candidates(run.task(own_group=True)) > 0).any():
        raise UserError(
            f"identity: {run.folder}: no query has another image of its patient in the gallery, so there is "
            "nothing to recognize"
        )


def _is_shown(run: SavedTask, task: RetrievalTask, name: str) -> bool:
    return is_headline(name) or name == objective_name(run.settings.evaluation, task)


def _changes(
    run: SavedTask,
    tasks: tuple[RetrievalTask, RetrievalTask],
    both: list[Evaluation],
    names: list[str],
) -> dict[str, Change]:
    """Of each score without own patients minus that with them, where an interval is valid."""
    config = run.settings.evaluation
    there, gone = (halves_of(task, one, config) for task, one in zip(tasks, both, strict=True))
    found: dict[str, Change] = {}
    for name in names:
        base = name.removeprefix(MACRO)
        if base not in both[0].per_query or base not in both[1].per_query:
            continue
        sides = both[1].per_query[base], both[0].per_query[base]
        change = paired(run.settings, tasks[1], name, sides, (gone, there))
        if change is not None:
            found[name] = change
    return found


def _remarks(run: SavedTask, tasks: tuple[RetrievalTask, RetrievalTask]) -> list[str]:
    remarks = []
    if alone := int(((tasks[0].n_relevant > 0) & (tasks[1].n_relevant == 0)).sum()):
        remarks.append(
            f"Of {alone} queries only their own patient has relevant images; both columns leave them out."
        )
    if run.settings.protocol.exclude_same_group:
        remarks.append(
            "The run itself leaves own patients out (protocol.exclude_same_group=true); here its index was "
            "searched again with them."
        )
    if run.task().in_halves(run.settings.evaluation.resample):
        remarks.append(
            "The shares of own patients have no interval: where the gallery varies too, none was shown to "
            "hold the truth often enough."
        )
    if run.report.ann_loss is not None:
        remarks.append(
            f"index={run.report.index.name} is approximate: what it misses is missing in both searches."
        )
    return remarks
