"""Explanations as a stage of a run: which pairs, and the files they leave."""

from medretrieval.config import Config
from medretrieval.encoders.base import Encoder
from medretrieval.evaluate.evaluate import Evaluation
from medretrieval.explain.pairs import Explanations, explain_nearest
from medretrieval.explain.saliency import Explainer
from medretrieval.protocol.inputs import Inputs


def require(settings: Config, encoder: Encoder) -> None:
    """Refuse an encoder that cannot be explained before anything is embedded.

    Raises:
        UserError: as `Explainer` and `find_layer`.
    """
    if settings.explain.enabled:
        _ = Explainer(encoder).layer


def explain(settings: Config, inputs: Inputs, evaluation: Evaluation) -> Explanations | None:
    """Explain a sample of queries and the nearest result of each; None where no query has a result."""
    task, config = inputs.task, settings.evaluation
    images = task.queries.split
    assert images is not None  # the configuration is refused where sentences ask
    return explain_nearest(
        Explainer(inputs.encoder),
        images,
        task.gallery,
        evaluation.ranking.ids[:, 0],
        inputs.dataset.classes,
        pairs=settings.explain.pairs,
        steps=settings.explain.steps,
        resamples=config.resamples,
        confidence=config.confidence,
        seed=settings.seed,
    )
