"""Everything that a run's figures folder holds, drawn in memory, so that its seconds can be told."""

from dataclasses import asdict, dataclass
from pathlib import Path

from medretrieval.cache.store import Cache
from medretrieval.config import Config
from medretrieval.evidence.breakdown import Breakdown
from medretrieval.figures import curves, embedding_map, galleries, per_class
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


def draw(settings: Config, inputs: Inputs, outputs: RunOutputs, title: str, cache: Cache) -> Drawn:
    """Draw what a run has taken apart for its pictures; nothing where it was told not to.

    Args:
        settings: the run's configuration.
        inputs: dataset and task.
        outputs: what the stages gave.
        title: the run in one line.
        cache: where the map is kept.
    """
    parts = outputs.breakdown
    if parts is None:
        return Drawn({}, {})
    files = _of_queries(settings, inputs, outputs, parts, title)
    files |= _of_scores(settings, outputs, parts, title)
    page = embedding_map.kept_map(settings, inputs, outputs.query, outputs.gallery, cache)
    return Drawn(
        {f"{FIGURES}/{name}": content for name, content in files.items()},
        {f"{FIGURES}/{embedding_map.FILE}": page},
    )


def _of_queries(
    settings: Config, inputs: Inputs, outputs: RunOutputs, parts: Breakdown, title: str
) -> dict[str, bytes]:
    """Single queries and results: galleries, confusion, and examples.json about both."""
    shown = examples(inputs, outputs.evaluation, parts, settings.figures.results)
    return {
        "examples.json": as_json(shown.document | {"thumbnails": shown.thumbnails}).encode(),
        "confusion.png": per_class.confusion_picture(shown.document["confusion"], title),
        **galleries.galleries(shown, title),
    }


def _of_scores(settings: Config, outputs: RunOutputs, parts: Breakdown, title: str) -> dict[str, bytes]:
    """Means over queries: by depth, by class, and those of the vote."""
    name, config = outputs.evidence.baseline, settings.evaluation
    files = {
        "curves.json": as_json(asdict(parts.by_depth)).encode(),
        "precision_recall_by_k.png": curves.depth_picture(parts.by_depth, name, config.confidence, title),
        "per_class.png": per_class.per_class_picture(parts.by_class, name, config.confidence, title),
    }
    if (found := outputs.subgroups) is not None and not all(row.too_small for row in found.values):
        files["subgroups.png"] = per_class.subgroup_picture(found, config.confidence, title)
    if parts.reliability is not None:
        files["vote.png"] = curves.vote_picture(
            parts.reliability, outputs.evaluation, outputs.evidence, config, title
        )
    return files
