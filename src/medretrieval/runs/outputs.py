"""What the stages of a run gave, and the report that is made of it."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medretrieval.config import Config, PromptSource
from medretrieval.datasets.base import FileFacts
from medretrieval.embed.images import Embeddings
from medretrieval.evaluate.evaluate import Evaluation, objective_name
from medretrieval.evidence.ann_loss import AnnLoss
from medretrieval.evidence.breakdown import Breakdown
from medretrieval.evidence.duplicate_audit import Audit
from medretrieval.evidence.evidence import Evidence, per_class
from medretrieval.evidence.stages.adaptation import AdaptationEvidence, Compared
from medretrieval.evidence.stages.rerank_gain import RerankGain
from medretrieval.evidence.zero_shot import TextEvidence
from medretrieval.explain.pairs import Explanations
from medretrieval.index.autotune import Tuned
from medretrieval.index.faiss_index import VectorIndex
from medretrieval.index.speed import Speed
from medretrieval.protocol.inputs import Inputs
from medretrieval.runs.folder import FORMAT
from medretrieval.runs.identity import title
from medretrieval.runs.report import (
    AbstentionCurve,
    BaselineReport,
    ClassReport,
    Counts,
    FilesReport,
    LeftOut,
    Objective,
    ProtocolReport,
    RunReport,
    VoteReport,
)
from medretrieval.runs.report_data import (
    AdaptReport,
    BesideReport,
    GapReport,
    RerankReport,
    ShapeReport,
    StageGain,
    SubgroupReport,
    SubgroupsReport,
    TriedReport,
)
from medretrieval.runs.report_parts import (
    AnnReport,
    AuditReport,
    AutotuneReport,
    ClassPointing,
    Confusion,
    DeletionReport,
    Difference,
    EncoderReport,
    ExplainReport,
    FidelityReport,
    IndexReport,
    Latency,
    ModalityGap,
    OperatingPoint,
    PointingControl,
    PointingReport,
    RecallOfSides,
    ScoreInterval,
    SpeedReport,
    ZeroShotReport,
)
from medretrieval.subgroups.by_value import Subgroups


@dataclass(frozen=True)
class RunOutputs:
    """What the stages of a run gave.

    Attributes:
        query, gallery: embeddings.
        index: the searched index.
        tuned: how its search parameters were chosen, None where the configuration says them.
        evaluation: the scores.
        evidence: how far they can be trusted.
        ann_loss: what the index loses against exact search, None for exact search itself.
        speed: how fast it answers.
        audit: look-alikes between queries and gallery, None where it is off or the queries are sentences.
        text_evidence: zero-shot scores and modality gap, None where the queries are images.
        explanations: which regions make some pairs similar, None where that is off.
        breakdown: what the pictures show, None where figures.enabled is false.
        subgroups: scores by the values of metadata, None where none are asked for.
        adaptation: what the adaptation is worth, None where there is none.
        rerank: what re-ranking costs and changes, None where there is none.
        plain: the scores without re-ranking; `evaluation` itself where there is none.
    """

    query: Embeddings
    gallery: Embeddings
    index: VectorIndex
    tuned: Tuned | None
    evaluation: Evaluation
    evidence: Evidence
    ann_loss: AnnLoss | None
    speed: Speed
    audit: Audit | None
    text_evidence: TextEvidence | None
    explanations: Explanations | None
    breakdown: Breakdown | None
    subgroups: Subgroups | None
    adaptation: AdaptationEvidence | None
    rerank: RerankGain | None
    plain: Evaluation


def report_of(
    settings: Config, inputs: Inputs, outputs: RunOutputs, notes: list[str], fingerprint: str
) -> RunReport:
    """The report of a run, but for the seconds of its stages.

    Args:
        settings: the run's configuration.
        inputs: dataset, encoder and task.
        outputs: what the stages gave.
        notes: what a reader might overlook.
        fingerprint: of configuration, data and weights.
    """
    evaluation, trust = outputs.evaluation, outputs.evidence
    objective = objective_name(settings.evaluation, inputs.task)
    words = outputs.text_evidence
    return RunReport(
        format=FORMAT,
        title=title(settings, inputs.encoder),
        dataset=inputs.dataset.name,
        files=_files(inputs.dataset.facts()),
        corrupt=None if inputs.dataset.corruption is None else str(inputs.dataset.corruption),
        metric=settings.metric.name,
        protocol=_protocol(settings),
        scores=evaluation.scores,
        objective=Objective(objective, evaluation.scores[objective]),
        chance=dict(trust.chance),
        chance_errors=dict(trust.chance_errors),
        lift=dict(trust.lift),
        intervals=_intervals(trust.intervals),
        confidence=settings.evaluation.confidence,
        resampled=trust.units,
        left_out=_left_out(trust.left_out),
        baseline=_baseline(trust),
        per_class=_classes(per_class(evaluation, inputs.dataset.classes)),
        subgroups=_subgroups(outputs.subgroups),
        vote=_vote(settings.evaluation.vote_k, evaluation.abstention),
        counts=Counts(**evaluation.counts),
        encoder=_encoder(inputs, outputs),
        index=_index(settings.index.name, outputs.index),
        speed=_speed(outputs.speed),
        rerank=_rerank(outputs.rerank),
        ann_loss=_ann_loss(outputs.ann_loss),
        autotune=_autotune(outputs.tuned),
        adapt=_adapt(outputs.adaptation),
        stages=_stages(settings, objective, outputs),
        audit=_audit(outputs.audit),
        zero_shot=None if words is None or words.zero_shot is None else _zero_shot(words.zero_shot),
        modality_gap=None if words is None else _gap(words.gap),
        explain=_explain(outputs.explanations),
        notes=notes,
        timings_s={},
        fingerprint=fingerprint,
    )


def _protocol(settings: Config) -> ProtocolReport:
    protocol, hit = settings.protocol, None if settings.prompts is None else settings.prompts.hit
    return ProtocolReport(
        name=protocol.name,
        query=_text(protocol.query),
        gallery=str(protocol.gallery),
        exclude_self=protocol.exclude_self,
        exclude_same_group=protocol.exclude_same_group,
        drop_duplicates=protocol.drop_duplicates,
        prompts=_text(protocol.prompts if hit is None else PromptSource.captions),
        hit=_text(hit),
        center=_text(protocol.center),
    )


def _files(facts: FileFacts | None) -> FilesReport | None:
    return None if facts is None else FilesReport(**dataclasses.asdict(facts))


def _text(choice: str | None) -> str | None:
    return None if choice is None else str(choice)


def _intervals(ends: Mapping[str, Sequence[float]]) -> dict[str, ScoreInterval]:
    return {name: ScoreInterval(*map(float, pair)) for name, pair in ends.items()}


def _difference(found: Sequence[float] | None) -> Difference | None:
    return None if found is None else Difference(*map(float, found))


def _left_out(found: Mapping[str, Any] | None) -> LeftOut | None:
    if found is None:
        return None
    return LeftOut(**{**found, "change": _difference(found["change"])})


def _baseline(trust: Evidence) -> BaselineReport | None:
    if trust.baseline is None:
        return None
    return BaselineReport(trust.baseline, dict(trust.baseline_scores), _difference(trust.difference))


def _classes(rows: Mapping[str, Mapping[str, float]]) -> dict[str, ClassReport]:
    return {
        name: ClassReport(int(row["queries"]), {n: value for n, value in row.items() if n != "queries"})
        for name, row in rows.items()
    }


def _subgroups(found: Subgroups | None) -> SubgroupsReport | None:
    if found is None:
        return None
    values = [
        SubgroupReport(
            column=row.column,
            value=row.value,
            queries=row.queries,
            patients=row.patients,
            too_small=row.too_small,
            scores=dict(row.scores),
            intervals=_intervals(row.intervals),
            chance=dict(row.chance),
            lift=dict(row.lift),
        )
        for row in found.values
    ]
    gaps = [GapReport(**dataclasses.asdict(gap)) for gap in found.gaps]
    return SubgroupsReport(found.score, values, gaps, found.test)


def _vote(k: int, curve: Mapping[str, list[float]]) -> VoteReport:
    return VoteReport(k, AbstentionCurve(**curve) if curve else None)


def _encoder(inputs: Inputs, outputs: RunOutputs) -> EncoderReport:
    query, gallery, encoder = outputs.query, outputs.gallery, inputs.encoder
    return EncoderReport(
        name=encoder.name,
        random_weights=encoder.random_weights,
        dimension=int(query.vectors.shape[1]),
        cached=query.cached and gallery.cached,
        images_per_s=gallery.images_per_s,
        fidelity=FidelityReport(**gallery.fidelity) if gallery.fidelity else None,
        unseen=gallery.unseen,
        identity=dict(inputs.identity),
    )


def _index(name: str, index: VectorIndex) -> IndexReport:
    return IndexReport(
        name=name,
        factory=index.spec.factory,
        build=index.spec.build,
        search=index.spec.search,
        exhaustive=index.exhaustive,
        build_s=index.build_s,
        cached=index.cached,
    )


def _speed(rate: Speed) -> SpeedReport:
    return SpeedReport(**{**dataclasses.asdict(rate), "latency_ms": Latency(**rate.latency_ms)})


def _rerank(gain: RerankGain | None) -> RerankReport | None:
    if gain is None:
        return None
    plain = {"parameters": dict(gain.parameters), "without": dict(gain.without)}
    changes = {name: Difference(*change) for name, change in gain.changes.items()}
    return RerankReport(**(vars(gain) | plain | {"changes": changes}))


def _ann_loss(loss: AnnLoss | None) -> AnnReport | None:
    if loss is None:
        return None
    return AnnReport(
        queries=loss.queries,
        recall=dict(loss.recall),
        changes={name: Difference(*change) for name, change in loss.changes.items()},
        missing=loss.missing,
        exact_queries_per_s=loss.exact_queries_per_s,
    )


def _autotune(tuned: Tuned | None) -> AutotuneReport | None:
    if tuned is None:
        return None
    curve = [OperatingPoint(**point) for point in tuned.curve]
    return AutotuneReport(tuned.parameters, tuned.recall, curve, tuned.split, tuned.on_queries)


def _adapt(found: AdaptationEvidence | None) -> AdaptReport | None:
    if found is None:
        return None
    fitted = found.fitted
    val = fitted.val_score
    return AdaptReport(
        name=fitted.adaptation.name,
        uses_labels=fitted.adaptation.uses_labels,
        choice=dict(fitted.choice),
        tried=[TriedReport(dict(one.choice), one.score) for one in fitted.tried],
        val_score=val,
        val_gap=None if val is None else val - found.gain.with_it,
        before=ShapeReport(**dataclasses.asdict(found.shape_before)),
        after=ShapeReport(**dataclasses.asdict(found.shape)),
        refits=list(found.refits),
        shuffled=_beside(found.shuffled),
        out_of_fold=_beside(found.out_of_fold),
        pixels=_beside(found.pixels),
        seconds=fitted.seconds,
    )


def _beside(found: Compared | None) -> BesideReport | None:
    if found is None:
        return None
    return BesideReport(found.without, found.with_it, Difference(*found.change) if found.change else None)


def _stages(settings: Config, objective: str, outputs: RunOutputs) -> list[StageGain]:
    """The stages that change the objective, in their order."""
    rows, found, loss = [], outputs.adaptation, outputs.ann_loss
    if found is not None and (gain := _beside(found.gain)) is not None:
        name = found.fitted.adaptation.name
        rows.append(StageGain("adapt", name, objective, gain.without, gain.with_it, gain.change))
    if loss is not None and objective in loss.changes:
        lost = Difference(*loss.changes[objective])
        rows.append(StageGain("index", settings.index.name, objective, None, None, lost))
    if (moved := outputs.rerank) is not None and objective in moved.without:
        change = Difference(*moved.changes[objective]) if objective in moved.changes else None
        scores = moved.without[objective], outputs.evaluation.scores[objective]
        rows.append(StageGain("rerank", moved.name, objective, *scores, change))
    return rows


def _audit(leaks: Audit | None) -> AuditReport | None:
    if leaks is None:
        return None
    without_groups: dict[str, Any] = {"same_group": None, "groups_on_both_sides": None}
    fitted = {"near_cosine": leaks.near_cosine, "hash_collisions": leaks.hash_collisions}
    return AuditReport(**(without_groups | leaks.counts | fitted))


def _zero_shot(found: Mapping[str, Any]) -> ZeroShotReport:
    named = Confusion(found["classes"], found["confusion"]) if "confusion" in found else None
    return ZeroShotReport(
        images=found["images"],
        accuracy=found.get("accuracy"),
        balanced_accuracy=found.get("balanced_accuracy"),
        majority=found.get("majority"),
        macro_auroc=found.get("macro_auroc"),
        auroc=found.get("auroc", {}),
        confusion=named,
    )


def _gap(found: Mapping[str, Any]) -> ModalityGap:
    recall = RecallOfSides(**found["recall"]) if "recall" in found else None
    return ModalityGap(**{**found, "recall": recall})


def _explain(explained: Explanations | None) -> ExplainReport | None:
    if explained is None:
        return None
    found, pointed = explained.numbers["deletion"], explained.numbers["pointing"]
    return ExplainReport(
        layer=explained.layer,
        deletion=DeletionReport(**{**found, "intervals": _intervals(found["intervals"])}),
        pointing=_pointing(pointed) if pointed else None,
    )


def _pointing(found: Mapping[str, Any]) -> PointingReport:
    controls = {
        name: PointingControl(**{**found[name], "intervals": _intervals(found[name]["intervals"])})
        if found[name]
        else None
        for name in ("other_class", "same_class")
    }
    kinds = {kind: ClassPointing(**numbers) for kind, numbers in found["by_class"].items()}
    ends = _intervals(found["intervals"])
    return PointingReport(**{**found, **controls, "by_class": kinds, "intervals": ends})
