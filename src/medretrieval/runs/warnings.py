"""What a reader of the scores should know and might overlook, said with every run."""

import numpy as np

from medretrieval.config import Baseline, Config, FaissMetric, PromptUse, ProtocolConfig
from medretrieval.evaluate.evaluate import Evaluation
from medretrieval.evaluate.score_table import less_is_better
from medretrieval.evidence.duplicate_audit import Audit
from medretrieval.evidence.evidence import Evidence
from medretrieval.explain.pairs import Explanations
from medretrieval.index.faiss_index import POINTS_A_CENTROID, hnsw_of
from medretrieval.protocol.task import RetrievalTask
from medretrieval.runs.folder import AUDIT_PAIRS, AUDIT_PICTURE, EXPLANATIONS
from medretrieval.runs.report import RunOutputs

SAMPLE = 1000
FEW = 30  # queries of a class


def notes_of(settings: Config, task: RetrievalTask, found: RunOutputs) -> list[str]:
    """Sentences about a run, none for a plain one.

    Args:
        settings: the run's configuration.
        task: who queries whom.
        found: what the run found.
    """
    return (
        _about_index(settings, found)
        + _about_speed(settings, found)
        + _about_baseline(found.trust)
        + _about_chance(found)
        + _about_classes(found.evaluation)
        + _about_depth(settings, task)
        + _about_leaks(settings.protocol, found.leaks, len(task.queries))
        + _about_left_out(found.trust)
        + _about_words(settings, found)
        + _about_maps(found.explained)
    )


def _about_index(settings: Config, run: RunOutputs) -> list[str]:
    index, vectors, counts = run.index, run.query.vectors, run.evaluation.counts
    found: list[str] = []
    unit = np.allclose(np.linalg.norm(vectors[:SAMPLE], axis=1), 1, atol=1e-3)
    if not index.exhaustive and counts["depth"] < counts["gallery"] - 1:
        found.append(
            f"The index gives {counts['depth']} of {counts['gallery']} results: scores that need the whole "
            "ranking (map and its kin) are left out."
        )
    if counts["missing_results"]:
        found.append(
            f"{counts['missing_results']} results within the score depths are missing (FAISS id -1) and "
            "count as misses; raise index.nprobe."
        )
    if counts["queries_without_relevant"]:
        found.append(
            f"{counts['queries_without_relevant']} queries have nothing relevant to find and are left out."
        )
    if unit and settings.metric.name != "cosine":
        found.append("The vectors have length 1: cosine, l2 and ip rank them alike.")
    graph = hnsw_of(index.index)
    products = settings.metric.faiss == FaissMetric.inner_product and not settings.metric.normalize
    if graph is not None and products and not unit:
        found.append(
            "HNSW over inner products of vectors of different lengths finds poorly; use cosine or l2."
        )
    if graph is not None and graph.hnsw.efSearch < max(settings.evaluation.ks):
        found.append(
            f"index.ef_search={graph.hnsw.efSearch} is below k={max(settings.evaluation.ks)}; "
            "results beyond it are found poorly."
        )
    nlist = index.spec.parameters.get("nlist", 1)
    if nlist > 1 and counts["gallery"] < POINTS_A_CENTROID * nlist:
        found.append(
            f"index.nlist={nlist} leaves fewer than {POINTS_A_CENTROID} vectors a cell "
            f"({counts['gallery']} in all); k-means wants more."
        )
    return found


def _about_speed(settings: Config, run: RunOutputs) -> list[str]:
    exact = run.loss.exact_queries_per_s if run.loss else None
    rate = run.rate.queries_per_s_batched
    if exact is None or exact <= rate:
        return []
    return [
        f"index={settings.index.name} answers {rate:.0f} queries/s here and exact search {exact:.0f}: for "
        "this gallery index=flat is faster and loses nothing."
    ]


def _about_chance(run: RunOutputs) -> list[str]:
    trust = run.trust
    reached = [name for name in trust.intervals if name in trust.chance and _is_reached(run, name)]
    if not reached:
        return []
    return [f"A random ranking does as well, within the interval, in: {', '.join(reached)}."]


def _is_reached(run: RunOutputs, name: str) -> bool:
    """Whether chance is as good as the worse end of the interval, and the score is not perfect."""
    (low, high), chance, value = (
        run.trust.intervals[name],
        run.trust.chance[name],
        run.evaluation.scores[name],
    )
    return chance <= high and value > 0 if less_is_better(name) else chance >= low and value < 1


def _about_depth(settings: Config, task: RetrievalTask) -> list[str]:
    """A k that some queries cannot fill with relevant results."""
    deepest, relevant = max(settings.evaluation.ks), task.n_relevant[task.n_relevant > 0]
    short = int((relevant < deepest).sum())
    if not short:
        return []
    return [
        f"k={deepest} is more than the relevant images there are for {short} queries (the fewest: "
        f"{int(relevant.min())}): their precision_at_{deepest} cannot reach 1."
    ]


def _about_left_out(trust: Evidence) -> list[str]:
    found = trust.left_out
    if found is None or found["change"] is None:
        return []
    change, low, high = found["change"]
    return [
        f"Leaving out {' and '.join(o.split('_', 1)[1].replace('_', ' ') for o in found['options'])} changes "
        f"{found['score']} by {change:+.4f} ({low:+.4f} to {high:+.4f}) from {found['without']:.4f}."
    ]


def _about_leaks(protocol: ProtocolConfig, leaks: Audit | None, queries: int) -> list[str]:
    if leaks is None:
        return []
    counts, found = leaks.counts, []
    if counts["audited_queries"] < queries:
        found.append(
            f"Look-alikes were searched for {counts['audited_queries']} of {queries} queries, a drawn sample."
        )
    if counts.get("groups_on_both_sides") and not protocol.exclude_same_group:
        found.append(
            f"{counts['groups_on_both_sides']} groups have images on both sides, so {counts['same_group']} "
            "queries can find their own patient or lesion; protocol.exclude_same_group=true leaves these out."
        )
    if counts["identical_between"] and not protocol.drop_duplicates:
        other = (
            f", {counts['label_conflicts']} of them with another label" if counts["label_conflicts"] else ""
        )
        found.append(
            f"{counts['identical_between']} query images have a byte-identical other image in the gallery"
            f"{other}: see {AUDIT_PICTURE} and {AUDIT_PAIRS}; protocol.drop_duplicates=true leaves them out."
        )
    return found


def _about_maps(found: Explanations | None) -> list[str]:
    """What the maps are worth; without an interval above 0, that they are not to be trusted."""
    if found is None:
        return []
    numbers = found.numbers["deletion"]
    interval = numbers["intervals"].get("advantage")  # one pair has none
    worth = (
        "lowers the cosine faster than removing random regions"
        if interval is not None and interval[0] > 0
        else "is not shown to lower the cosine faster than removing random regions, so do not trust the maps"
    )
    return [
        f"{EXPLANATIONS}: in {numbers['pairs']} pairs, removing what the maps mark {worth} (area under "
        f"the curve {numbers['area_marked']:.3f} against {numbers['area_random']:.3f}, difference "
        f"{numbers['advantage']:+.3f}"
        + (f", {interval[0]:+.3f} to {interval[1]:+.3f})." if interval else ").")
    ]


def _about_baseline(trust: Evidence) -> list[str]:
    if trust.difference is None or trust.difference[1] > 0:
        return []
    difference, low, high = trust.difference
    finding = "scores lower than" if high < 0 else "is not shown to beat"
    return [
        f"This encoder {finding} {trust.baseline}: difference {difference:+.4f} ({low:+.4f} to {high:+.4f})."
    ]


def _about_words(settings: Config, found: RunOutputs) -> list[str]:
    if found.text_evidence is None:
        return []
    gap, queries = found.text_evidence.gap, found.evaluation.counts["queries"]
    image = gap["cosine_image_image"]
    line = (
        f"Modality gap: the means of sentences and of images are {gap['distance']:.3f} apart, the "
        f"mean cosine of a sentence and an image is {gap['cosine_text_image']:.3f}"
        + ("" if image is None else f", of two images {image:.3f}")
    )
    if "recall" in gap:
        recall = gap["recall"]
        line += (
            f"; index={settings.index.name} finds {recall['sentences']:.3f} of the exact {recall['k']} "
            f"nearest of sentences and {recall['images']:.3f} of those of as many images"
        )
    notes = [f"{line}."]
    if queries < FEW:
        notes.append(
            f"{queries} sentences ask: intervals over so few say little; per_class and zero_shot say more."
        )
    if settings.protocol.prompts == PromptUse.each:
        notes.append("Sentences of one class are no independent queries: the intervals are too narrow.")
    if settings.evaluation.baseline != Baseline.none:
        notes.append(
            f"No line of {settings.evaluation.baseline}: they cannot be asked in words; the line to beat is "
            "a random ranking (chance)."
        )
    return notes


def _about_classes(evaluation: Evaluation) -> list[str]:
    labels = evaluation.ranking.query_labels
    sizes = labels.sum(axis=0) if labels.ndim == 2 else np.unique(labels, return_counts=True)[1]
    few = sizes[(sizes > 0) & (sizes < FEW)]
    if not len(few):
        return []
    return [
        f"{len(few)} classes have fewer than {FEW} queries (the smallest {few.min()}): "
        "macro scores are shaky."
    ]
