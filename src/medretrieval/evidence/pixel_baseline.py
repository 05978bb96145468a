"""The baseline: what raw pixels score on the same task, kept in the cache."""

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

from medretrieval.cache.store import Cache
from medretrieval.config import Baseline, Config, FaissMetric, IndexConfig, MetricConfig, root
from medretrieval.embed.images import identify
from medretrieval.embed.sides import Sides, embed_sides
from medretrieval.encoders.base import Encoder
from medretrieval.evaluate.evaluate import Evaluation, evaluate
from medretrieval.evaluate.score_table import MAP_DEPTH
from medretrieval.evidence.stages.exact_line import read_line, task_parts, write_line
from medretrieval.index.faiss_index import FLAT, build
from medretrieval.instantiate import instantiate
from medretrieval.protocol.inputs import Inputs
from medretrieval.protocol.task import RetrievalTask
from medretrieval.uncertainty.half_samples import HalfSamples, halves_of

MAX_WHOLE_CELLS = 1_000_000_000  # queries times gallery items whose whole rankings are sorted
EXACT = IndexConfig(name="flat", factory=FLAT)


@dataclass(frozen=True)
class BaselineScores:
    """What the baseline encoder scores with exact search.

    Attributes:
        name: of the encoder, with its metric where that is not the run's: "pixels (cosine)".
        scores: as `Evaluation.scores`.
        per_query: as `Evaluation.per_query`, float64 [q] each.
        halves: the scores in halves of the images, where intervals come from these.
    """

    name: str
    scores: Mapping[str, float]
    per_query: Mapping[str, NDArray[np.float64]]
    halves: HalfSamples | None = None


def baseline(settings: Config, inputs: Inputs, depth: int, cache: Cache) -> BaselineScores | None:
    """Score the baseline encoder on a run's task: its queries, gallery, protocol and depths, by its metric.

    Inner products of vectors of different lengths rank by brightness more than by likeness, which no baseline
    should be held to: under them it is compared by cosine, and by the run's metric else.

    Args:
        settings: the run's configuration.
        inputs: what the run starts from.
        depth: of the run's ranking; the baseline's is as deep, and whole where that is a matter of seconds.
        cache: where embeddings and these scores are kept.

    Returns:
        None where evaluation.baseline is none, where the run itself is the baseline, and where sentences
        ask, which a baseline of images cannot read.
    """
    task, size = inputs.task, inputs.dataset.size
    name = settings.evaluation.baseline
    queries, encoder = task.queries.split, baseline_encoder(settings)
    if encoder is None or queries is None:
        return None
    identity = identify(encoder, cache)
    metric = _own_metric(settings.metric)
    if identity == inputs.identity and metric == settings.metric:
        return None
    label = str(name) if metric == settings.metric else f"{name} ({metric.name})"
    settings = dataclasses.replace(settings, metric=metric)
    whole = len(task.queries) * task.max_depth <= MAX_WHOLE_CELLS
    depth = task.max_depth if whole else min(task.max_depth, max(depth, MAP_DEPTH))
    parts = task_parts(settings, task) | {
        "depth": depth,
        "encoder": identity,
        "images": [queries.images_sha256, task.gallery.images_sha256],
        "metric": asdict(metric),
        "size": size,
    }

    def make(folder: Path) -> Mapping[str, Any]:
        sides = embed_sides(dataclasses.replace(inputs, encoder=encoder, identity=identity), cache)
        found = _evaluated(settings, task, sides, depth, cache)
        write_line(folder, found.per_query, halves_of(task, found, settings.evaluation))
        return {"scores": found.scores}

    entry = cache.get_or_make("baselines", parts, make)
    line = read_line(entry.folder, entry.facts["scores"])
    return BaselineScores(label, line.scores, line.per_query, line.halves)


def baseline_encoder(settings: Config) -> Encoder | None:
    """The encoder that evaluation.baseline names; None for none."""
    name = settings.evaluation.baseline
    if name == Baseline.none:
        return None
    node: Any = OmegaConf.to_container(OmegaConf.load(root() / "conf" / "encoder" / f"{name}.yaml"))
    return instantiate(node, Encoder, "encoder")  # type: ignore[type-abstract]


def _own_metric(metric: MetricConfig) -> MetricConfig:
    """The run's metric where it suits vectors of any length, else cosine."""
    if metric.faiss == FaissMetric.inner_product and not metric.normalize:
        return dataclasses.replace(metric, name="cosine", normalize=True)
    return metric


def _evaluated(settings: Config, task: RetrievalTask, sides: Sides, depth: int, cache: Cache) -> Evaluation:
    """The baseline's scores by exact search."""
    index = build(EXACT, settings.metric, sides.gallery, depth, settings.seed, cache)
    vectors = sides.query.vectors
    return evaluate(lambda rows, k: index.search(vectors[rows], k), task, depth, settings.evaluation)
