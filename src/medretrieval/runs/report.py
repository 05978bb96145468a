"""Everything a run found, and how scores.json says it."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from medretrieval.config import Config
from medretrieval.embed.images import Embeddings
from medretrieval.evaluate.evaluate import Evaluation, objective_name
from medretrieval.evidence.ann_loss import Approximation
from medretrieval.evidence.breakdown import Breakdown
from medretrieval.evidence.duplicate_audit import Audit
from medretrieval.evidence.evidence import Evidence, per_class
from medretrieval.evidence.zero_shot import TextEvidence
from medretrieval.explain.pairs import Explanations
from medretrieval.index.autotune import Tuned
from medretrieval.index.faiss_index import VectorIndex
from medretrieval.index.speed import Speed
from medretrieval.protocol.inputs import Inputs
from medretrieval.runs.folder import FORMAT
from medretrieval.runs.identity import title


@dataclass(frozen=True)
class RunOutputs:
    """What the stages of a run gave.

    Attributes:
        query, gallery: embeddings.
        index: the searched index.
        tuned: how its search parameters were chosen, None where the configuration says them.
        evaluation: the scores.
        trust: how far they can be trusted.
        loss: what the index loses against exact search, None for exact search itself.
        rate: how fast it answers.
        leaks: look-alikes between queries and gallery, None where the audit is off or sentences ask.
        text_evidence: zero-shot scores and modality gap, None where images ask.
        explained: which regions make some pairs similar, None where that is off.
        breakdown: what the pictures show, None where figures.enabled is false.
    """

    query: Embeddings
    gallery: Embeddings
    index: VectorIndex
    tuned: Tuned | None
    evaluation: Evaluation
    trust: Evidence
    loss: Approximation | None
    rate: Speed
    leaks: Audit | None
    text_evidence: TextEvidence | None
    explained: Explanations | None
    breakdown: Breakdown | None


def document(
    settings: Config, inputs: Inputs, found: RunOutputs, notes: list[str], fingerprint: str
) -> dict[str, Any]:
    """The content of scores.json, but for the seconds of the stages."""
    objective = objective_name(settings.evaluation, inputs.task)
    encoder, evaluation, index = inputs.encoder, found.evaluation, found.index
    return {
        "format": FORMAT,
        "title": title(settings, encoder),
        "dataset": inputs.dataset.name,
        "metric": settings.metric.name,
        "protocol": dataclasses.asdict(settings.protocol),
        "scores": evaluation.scores,
        "objective": {"name": objective, "value": evaluation.scores[objective]},
        **found.trust.document(),
        "per_class": per_class(evaluation, inputs.dataset.classes),
        "vote": {"k": settings.evaluation.vote_k, "abstention": evaluation.abstention},
        "counts": evaluation.counts,
        "encoder": {
            "name": encoder.name,
            "random_weights": encoder.random_weights,
            "dimension": int(found.query.vectors.shape[1]),
            "cached": found.query.cached and found.gallery.cached,
            "images_per_s": found.gallery.images_per_s,
            "fidelity": found.gallery.fidelity,
            **inputs.identity,
        },
        "index": {
            "name": settings.index.name,
            "factory": index.spec.factory,
            "build": index.spec.build,
            "search": index.spec.search,
            "exhaustive": index.exhaustive,
            "build_s": index.build_s,
            "cached": index.cached,
        },
        "speed": dataclasses.asdict(found.rate),
        "approximation": found.loss.document() if found.loss else None,
        "autotune": dataclasses.asdict(found.tuned) if found.tuned else None,
        "audit": found.leaks.counts if found.leaks else {},
        **(found.text_evidence.document() if found.text_evidence else {}),
        "explain": found.explained.document() if found.explained else None,
        "notes": notes,
        "fingerprint": fingerprint,
    }
