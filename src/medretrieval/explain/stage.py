"""Explanations as a stage of a run: which pairs, and the files they leave."""

from medretrieval.config import Config
from medretrieval.encoders.base import Encoder
from medretrieval.evaluate.evaluate import Evaluation
from medretrieval.explain.pairs import Explanations, explain_nearest
from medretrieval.explain.saliency import Explainer
from medretrieval.protocol.inputs import Inputs
from medretrieval.uncertainty.bootstrap import Resampling


def require(settings: Config, encoder: Encoder) -> None:
    """Refuse an encoder that cannot be explained before anything is embedded.

    Raises:
        UserError: as `Explainer` and `find_layer`.
    """
    if settings.explain.enabled:
        _ = Explainer(encoder).layer


def explain(settings: Config, inputs: Inputs, evaluation: Evaluation) -> Explanations | None:
    """Explain a sample of queries and the nearest result of each; None where no query has a result."""
    nearest, resampling = evaluation.ranking.ids[:, 0], Resampling.from_settings(settings)
    return explain_nearest(Explainer(inputs.encoder), inputs, nearest, settings.explain, resampling)
