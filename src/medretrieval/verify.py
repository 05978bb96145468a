"""A run recomputed: are its numbers what its files say, and do they come out again?"""

import math
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from medretrieval.cache.store import Cache
from medretrieval.checks import check
from medretrieval.config import Config, Hit, compose, expand, leaves
from medretrieval.datasets.groups import groups_sha256
from medretrieval.errors import UserError
from medretrieval.evaluate.evaluate import Evaluation, evaluate
from medretrieval.load import load, load_task
from medretrieval.protocol.captions import Captions
from medretrieval.protocol.prompts import PROMPT
from medretrieval.protocol.queries import Queries
from medretrieval.protocol.ranking import Ranking
from medretrieval.protocol.task import RetrievalTask
from medretrieval.runner import run
from medretrieval.runs import folder as run_folder
from medretrieval.runs import manifest
from medretrieval.runs.folder import read_json
from medretrieval.runs.identity import fingerprint_of
from medretrieval.runs.manifest import read_manifest
from medretrieval.runs.reopen import (
    config_of_any_format,
    require_links,
    saved_columns,
    saved_config,
    saved_ranking,
    saved_search,
)
from medretrieval.runs.report import RunReport, read_report, scores_of_any_format
from medretrieval.runs.saved.seal import problems

# Keys of scores.json whose values a clock, the cache or a picture gave.
MEASURED = re.compile(
    r"^(timings_s|speed|explain|fingerprint|autotune\.curve)\b|(^|\.)(build_s|cached|images_per_s|seconds.*|ms|mib|.*_ms|.*_s|.*queries_per_s)$"
)
ARRAYS = (
    run_folder.RANKING, run_folder.PER_QUERY, run_folder.IMAGES, run_folder.HALVES, run_folder.AUDIT_PAIRS,
)  # fmt: skip
SAME_SCORE = 1e-9
SAME_NUMBER = 1e-6  # relative or absolute, below which two numbers are rounding


def verify(folder: Path, overrides: tuple[str, ...] = ()) -> list[str]:
    """Recompute a run's scores from its ranking, and its ranking from its embeddings and index.

    Args:
        folder: a finished run's folder.
        overrides: of its configuration, such as "paths.data=...".

    Returns:
        What differs, a sentence each; empty where everything is as saved. First the files that are not those
        that the run wrote; then what is not what comes out when it is computed again, from other data never.

    Raises:
        UserError: no finished run, or files of it are gone.
    """
    report = read_report(folder)
    settings = check(saved_config(folder, overrides))
    require_links(folder)
    changed = problems(folder, links=True)
    try:
        return changed + _recomputed(folder, settings, report, overrides)
    except UserError as error:
        if not changed:
            raise
        return [*changed, str(error)]  # what has been changed cannot be read


def _recomputed(folder: Path, settings: Config, report: RunReport, overrides: tuple[str, ...]) -> list[str]:
    ranking = saved_ranking(folder)
    _, task = load_task(settings, Cache(expand(settings.paths.cache)))
    found = _about_data(folder, task)
    of_data = bool(found)
    found += _about_scores(folder, report, ranking, _hits(ranking, task))
    found += _about_ranking(folder, settings, report, task, ranking)
    if of_data:
        return found
    found += done_again(folder, saved_config(folder, overrides))
    # That of the run itself: what is done again has no pictures.
    now = fingerprint_of(settings, load(settings, Cache(expand(settings.paths.cache))))
    if now != report.fingerprint:
        found.append(
            f"scores.json: fingerprint is {report.fingerprint[:12]}, of its configuration {now[:12]}"
        )
    return found


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
    table = saved_columns(folder / run_folder.PER_QUERY)
    relevant = np.array(table.get(run_folder.N_RELEVANT, []))
    if len(relevant) != len(relevant_results):
        return [f"{run_folder.PER_QUERY}: has {len(relevant)} rows, the run {len(relevant_results)} queries"]
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


def done_again(folder: Path, cfg: DictConfig) -> list[str]:
    """What comes out otherwise when the run is done again from the cache: every number that no clock gave.

    Args:
        folder: of the run.
        cfg: its configuration.
    """
    cfg.force, cfg.figures.enabled, cfg.explain.enabled = True, False, False
    cfg.tracking = compose("tracking=none").tracking
    with tempfile.TemporaryDirectory() as aside:
        cfg.paths.outputs = aside
        new = run(cfg, Path(aside) / "again").folder
        found = _about_documents(folder, new)
        for name in ARRAYS:
            if (folder / name).exists() or (new / name).exists():
                found += _about_arrays(name, _arrays(folder / name), _arrays(new / name))
    return found


def _about_documents(folder: Path, new: Path) -> list[str]:
    """Values of scores.json, but for those of a clock and of what is not done again."""
    was, now = (leaves(read_json(f, run_folder.SCORES)) for f in (folder, new))
    for document in (was, now):  # a clock has a say in these
        document["notes"] = [note for note in document.get("notes") or [] if "queries/s" not in str(note)]
    if any(key.split(".")[0] == "explain" and value is not None for key, value in was.items()):
        now["notes"] = was["notes"]  # some of them are of the maps, which are not made again
    return [
        f"{run_folder.SCORES}: {key} is {was.get(key)} in the file and {now.get(key)} recomputed"
        for key in dict.fromkeys([*was, *now])
        if not MEASURED.search(key) and not _same(was.get(key), now.get(key))
    ]


def _same(saved: Any, found: Any) -> bool:
    """Whether two values are equal, numbers up to rounding."""
    if isinstance(saved, list) and isinstance(found, list):
        return len(saved) == len(found) and all(map(_same, saved, found))
    if isinstance(saved, dict) and isinstance(found, dict):
        return saved.keys() == found.keys() and all(_same(saved[key], found[key]) for key in saved)
    if isinstance(saved, float) and isinstance(found, float):
        return math.isclose(saved, found, rel_tol=SAME_NUMBER, abs_tol=SAME_NUMBER)
    return bool(saved == found)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The columns of a Parquet file, or the arrays of an npz; none where there is no such file."""
    if not path.exists():
        return {}
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as npz:
            return {name: npz[name] for name in npz.files}
    return {name: np.array(column, dtype=object) for name, column in saved_columns(path).items()}


def _about_arrays(file: str, was: Mapping[str, NDArray[Any]], now: Mapping[str, NDArray[Any]]) -> list[str]:
    return [
        f"{file}: {name} is not what comes out again"
        for name in dict.fromkeys([*was, *now])
        if name not in was or name not in now or not _same(was[name].tolist(), now[name].tolist())
    ]


def _difference(what: str, saved: float, found: float) -> list[str]:
    # Means may be summed in another order, and other threads may put near ties in another one.
    if abs(saved - found) <= SAME_SCORE:
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
    old, new = (saved_ranking(f) for f in (folder, done.folder))
    if not np.array_equal(old.ids, new.ids):
        results.append("the rankings differ")
    elif not np.array_equal(old.distances, new.distances):
        finite = np.isfinite(old.distances) & np.isfinite(new.distances)
        apart = np.abs(new.distances[finite] - old.distances[finite]).max(initial=0.0)
        surroundings.append(f"distances differ by at most {apart:.2g}, which changes no rank")
    return DoneAgain(done.folder, results, surroundings)
