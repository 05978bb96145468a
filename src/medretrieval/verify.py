"""A run recomputed: are its numbers what its files say, and do they come out again?"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medretrieval.cache.store import Cache
from medretrieval.checks import check
from medretrieval.config import Config, Hit, expand
from medretrieval.datasets.groups import groups_sha256
from medretrieval.evaluate.evaluate import Evaluation, evaluate
from medretrieval.load import load_task
from medretrieval.protocol.captions import Captions
from medretrieval.protocol.prompts import PROMPT
from medretrieval.protocol.queries import Queries
from medretrieval.protocol.ranking import Ranking
from medretrieval.protocol.task import RetrievalTask
from medretrieval.runner import run
from medretrieval.runs import folder as run_folder
from medretrieval.runs import manifest
from medretrieval.runs.manifest import read_manifest
from medretrieval.runs.reopen import (
    config_of_any_format,
    require_links,
    saved_config,
    saved_search,
)
from medretrieval.runs.report import RunReport, read_report, scores_of_any_format


def verify(folder: Path, overrides: tuple[str, ...] = ()) -> list[str]:
    """Recompute a run's scores from its ranking, and its ranking from its embeddings and index.

    Args:
        folder: a finished run's folder.
        overrides: of its configuration, such as "paths.data=...".

    Returns:
        What differs, a sentence each; empty where everything is as saved.

    Raises:
        UserError: no finished run, or files of it are gone.
    """
    report = read_report(folder)
    settings = check(saved_config(folder, overrides))
    ranking = Ranking.load(folder / run_folder.RANKING)
    require_links(folder)
    _, task = load_task(settings, Cache(expand(settings.paths.cache)))
    found = _about_data(folder, task)
    return (
        found
        + _about_scores(folder, report, ranking, _hits(ranking, task))
        + _about_ranking(folder, settings, report, task, ranking)
    )


def _about_data(folder: Path, task: RetrievalTask) -> list[str]:
    data = read_manifest(folder).data
    splits: dict[str, Queries] = {"query": task.queries, "gallery": task.gallery}
    hashes = [
        (role, what, getattr(split, what), getattr(data[role], what))
        for role, split in splits.items()
        for what in ("content_sha256", "labels_sha256")
    ]
    return [
        f"{role}: {what} is {now[:12]}, was {was[:12]}: other data"
        for role, what, now, was in hashes
        if was != now
    ] + [
        f"{role}: the groups are not those of dataset.groups any more"
        for role, split in splits.items()
        if data[role].groups_sha256 != groups_sha256(split.groups)
    ]


def _about_scores(
    folder: Path, report: RunReport, ranking: Ranking, relevant_results: NDArray[np.bool_]
) -> list[str]:
    """Means against the saved scores of queries, and precision against the saved ranking."""
    from pyarrow import parquet

    table = parquet.read_table(folder / run_folder.PER_QUERY).to_pydict()
    relevant = np.array(table[run_folder.N_RELEVANT])
    differing = []
    for name, saved in report.scores.items():
        if name in table:
            column = np.array(table[name], dtype=np.float64)
            differing += _difference(f"scores.json: {name}", saved, float(column[relevant > 0].mean()))
    for k in (k for k in _depths(report) if k <= ranking.depth):
        hits = relevant_results[:, :k].sum(axis=1)[relevant > 0] / k
        name = f"precision_at_{k}"
        differing += _difference(f"ranking.npz: {name}", report.scores[name], float(hits.mean()))
    return differing


def _depths(report: RunReport) -> list[int]:
    prefix = "precision_at_"
    return [int(name.removeprefix(prefix)) for name in report.scores if name.startswith(prefix)]


def _hits(ranking: Ranking, task: RetrievalTask) -> NDArray[np.bool_]:
    """Relevance by a second route than `Relevance.hits`: row by row from labels, or from ids and groups."""
    if isinstance(task.queries, Captions):
        return _of_captions(ranking, task.queries)
    min_jaccard = task.relevance.min_jaccard
    query, gallery = ranking.query_labels, ranking.gallery_labels
    if query.ndim == 1:
        return np.stack([(gallery[i] == q) & (i >= 0) for i, q in zip(ranking.ids, query, strict=True)])
    rows = []
    for ids, labels in zip(ranking.ids, query, strict=True):
        shared = (gallery[ids] & labels).sum(axis=1)
        enough = shared >= ((min_jaccard or 0) * (gallery[ids] | labels).sum(axis=1) - 1e-9)
        rows.append((shared > 0) & enough & (ids >= 0))
    return np.stack(rows)


def _of_captions(ranking: Ranking, asked: Captions) -> NDArray[np.bool_]:
    """Whether a result is the image that the query's id names, or of that image's group."""
    names, groups = ranking.gallery_ids, asked.gallery.groups
    own = [query.removeprefix(PROMPT) for query in ranking.query_ids.tolist()]
    if asked.hit == Hit.image or groups is None:
        rows = [(names[ids] == name) & (ids >= 0) for ids, name in zip(ranking.ids, own, strict=True)]
    else:
        group_of = dict(zip(names.tolist(), groups.tolist(), strict=True))
        found = zip(ranking.ids, own, strict=True)
        rows = [(groups[ids] == group_of[name]) & (ids >= 0) for ids, name in found]
    return np.stack(rows)


def _about_ranking(
    folder: Path, settings: Config, report: RunReport, task: RetrievalTask, ranking: Ranking
) -> list[str]:
    again = _search_again(folder, settings, report, task)
    found, saved = again.ranking, ranking
    if found.ids.shape != saved.ids.shape:
        return [f"ranking.npz: {list(saved.ids.shape)} results, {list(found.ids.shape)} when searched again"]
    rows = (found.ids != saved.ids).any(axis=1)
    finite = np.isfinite(saved.distances) & np.isfinite(found.distances)
    apart = np.abs(found.distances[finite] - saved.distances[finite]).max(initial=0.0)
    differing = []
    if rows.any():
        first = saved.query_ids[rows.argmax()]
        differing.append(
            f"ranking.npz: {int(rows.sum())} of {len(rows)} queries have other results when searched again "
            f"(first {first}); distances differ by at most {apart:.2g}"
        )
    for name, value in report.scores.items():
        if name in again.scores:
            differing += _difference(f"searched again: {name}", value, again.scores[name])
    return differing


def _search_again(folder: Path, settings: Config, report: RunReport, task: RetrievalTask) -> Evaluation:
    search = saved_search(folder, settings, report, task.exclusions)
    return evaluate(search, task, report.counts.depth, settings.evaluation)


def _difference(what: str, saved: float, found: float) -> list[str]:
    # Means of the same numbers may be summed in another order.
    if abs(saved - found) <= 1e-12:
        return []
    return [f"{what} is {saved:.6f} in the file and {found:.6f} recomputed (by {found - saved:+.2g})"]


@dataclass(frozen=True)
class DoneAgain:
    """A run beside the one it was done again from.

    Attributes:
        folder: of the new run.
        results: what differs in ranking and scores, a sentence each.
        surroundings: what else differs: data, weights, libraries, threads, last bits of distances.
    """

    folder: Path
    results: list[str]
    surroundings: list[str]


def again(folder: Path, overrides: tuple[str, ...] = ()) -> DoneAgain:
    """Do a run again from its saved configuration, and compare.

    Args:
        folder: a finished run's folder, of this or an earlier results format.
        overrides: of its configuration, such as "paths.outputs=...".
    """
    done = run(config_of_any_format(folder, (*overrides, "force=true")))
    results: list[str] = []
    for name, value in scores_of_any_format(folder).items():
        if name not in done.report.scores:
            results.append(f"{name} is missing now")
        else:
            results += _difference(name, value, done.report.scores[name])
    surroundings = manifest.differing(folder, done.folder)
    old, new = (Ranking.load(f / run_folder.RANKING) for f in (folder, done.folder))
    if not np.array_equal(old.ids, new.ids):
        results.append("the rankings differ")
    elif not np.array_equal(old.distances, new.distances):
        finite = np.isfinite(old.distances) & np.isfinite(new.distances)
        apart = np.abs(new.distances[finite] - old.distances[finite]).max(initial=0.0)
        surroundings.append(f"distances differ by at most {apart:.2g}, which changes no rank")
    return DoneAgain(done.folder, results, surroundings)
