"""Everything that a run's figures folder holds, drawn in memory, so that its seconds can be told."""

from dataclasses import dataclass
from pathlib import Path

from medretrieval.cache.store import Cache
from medretrieval.config import Config
from medretrieval.evidence.by_class import class_scores
from medretrieval.evidence.by_depth import curves as curves_by_depth
from medretrieval.evidence.failures import Outcome
from medretrieval.evidence.pixel_baseline import BaselineScores, baseline
from medretrieval.figures import curves, embedding_map, galleries, per_class, reliability
from medretrieval.figures.examples import examples
from medretrieval.protocol.inputs import Inputs
from medretrieval.runs.folder import FIGURES, as_json
from medretrieval.runs.outputs import RunOutputs


@dataclass(frozen=True)
class Drawn:
    """What to put into a run's folder.

    Attributes:
        files: name -> content.
        links: name -> file in the cache.
    """

    files: dict[str, bytes]
    links: dict[str, Path]


def draw(settings: Config, inputs: Inputs, found: RunOutputs, title: str, cache: Cache) -> Drawn:
    """Draw what the configuration asks for; nothing where it is switched off.

    Lists are judged at the headline depth, the middle one of evaluation.ks, or at the saved one where that
    is less.

    Args:
        settings: the run's configuration.
        inputs: dataset and task.
        found: what the run found.
        title: the run in one line.
        cache: where the map and the baseline are kept.
    """
    if not settings.figures.enabled:
        return Drawn({}, {})
    task, classes, ks = inputs.task, inputs.dataset.classes, settings.evaluation.ks
    outcome = Outcome.from_evaluation(
        found.evaluation, task, min(ks[len(ks) // 2], found.evaluation.ranking.depth)
    )
    size, depth = inputs.dataset.size, found.evaluation.counts["depth"]
    line = baseline(settings, task, size, inputs.identity, depth, cache)
    files = _of_queries(settings, inputs, found, outcome, title)
    files |= _of_scores(settings, inputs, found, outcome, line, title)
    method, seed = settings.figures.projection, settings.seed
    page = embedding_map.kept_map(task, found.query, found.gallery, classes, method, seed, cache)
    return Drawn(
        {f"{FIGURES}/{name}": content for name, content in files.items()},
        {f"{FIGURES}/{embedding_map.FILE}": page},
    )


def _of_queries(
    settings: Config, inputs: Inputs, found: RunOutputs, outcome: Outcome, title: str
) -> dict[str, bytes]:
    """Single queries and results: galleries, confusion, and examples.json about both."""
    config = settings.figures
    wanted = config.queries, config.results
    shown = examples(inputs.dataset, inputs.task, found.evaluation, outcome, wanted, settings.seed)
    return {
        "examples.json": as_json(shown.document | {"thumbnails": shown.thumbnails}).encode(),
        "confusion.png": per_class.confusion_picture(shown.document["confusion"], title),
        **galleries.galleries(shown, title),
    }


def _of_scores(
    settings: Config,
    inputs: Inputs,
    found: RunOutputs,
    outcome: Outcome,
    line: BaselineScores | None,
    title: str,
) -> dict[str, bytes]:
    """Means over queries: by depth, by class, and those of the vote."""
    task, evaluation, confidence = inputs.task, found.evaluation, settings.evaluation.confidence
    name = line.name if line else None
    by_depth = curves_by_depth(settings, task, outcome.hits, line.scores if line else {})
    pixels = line.per_query.get(f"precision_at_{outcome.k}") if line else None
    classes = class_scores(settings, task, outcome, inputs.dataset.classes, pixels)
    files = {
        "curves.json": as_json(by_depth).encode(),
        "precision_recall.png": curves.picture(by_depth, name, confidence, title),
        "per_class.png": per_class.per_class_picture(classes, name, confidence, title),
    }
    if evaluation.abstention:
        vote_k = settings.evaluation.vote_k
        files["vote.png"] = reliability.picture(evaluation, task, evaluation.scores, vote_k, title)
    return files
