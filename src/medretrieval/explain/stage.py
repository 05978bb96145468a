"""Explanations as a stage of a run: which pairs, and the files they leave."""

from collections.abc import Callable
from pathlib import Path

from medretrieval.config import Config
from medretrieval.datasets.base import Split
from medretrieval.encoders.base import Encoder
from medretrieval.evaluate import Evaluation
from medretrieval.explain import pictures
from medretrieval.explain.maps import Explainer
from medretrieval.explain.pairs import Explanations, explain_nearest
from medretrieval.load import Inputs
from medretrieval.results import DELETION, EXPLAINED, EXPLANATIONS, as_json


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
    assert isinstance(task.queries, Split)  # the configuration is refused where sentences ask
    return explain_nearest(
        Explainer(inputs.encoder),
        task.queries,
        task.gallery,
        evaluation.ranking.ids[:, 0],
        inputs.dataset.classes,
        pairs=settings.explain.pairs,
        steps=settings.explain.steps,
        resamples=config.resamples,
        confidence=config.confidence,
        seed=settings.seed,
    )


def writers(found: Explanations, title: str) -> dict[str, Callable[[Path], None]]:
    """What goes into a run's folder: name -> what writes it."""
    return {
        EXPLANATIONS: lambda path: pictures.explanations(path, found.pairs, title),
        DELETION: lambda path: pictures.deletion_curves(path, found.pairs, title),
        EXPLAINED: lambda path: _write(path, as_json(found.details())),
    }


def _write(path: Path, text: str) -> None:
    path.write_text(text)
