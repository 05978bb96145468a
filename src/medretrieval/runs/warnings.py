"""What a reader of the scores should know and might overlook, said with every run."""

import numpy as np

from medretrieval.config import Baseline, Config, FaissMetric, PromptUse
from medretrieval.datasets.base import FileFacts
from medretrieval.datasets.medmnist_npz import MedMNIST
from medretrieval.evaluate.evaluate import Evaluation
from medretrieval.evaluate.query_results import label_type
from medretrieval.evaluate.score_table import MAP_DEPTH, SCORES, Needs, is_headline, less_is_better
from medretrieval.evidence.duplicate_audit import Audit
from medretrieval.evidence.evidence import Evidence
from medretrieval.evidence.stages.rerank_gain import RerankGain
from medretrieval.evidence.zero_shot import TextEvidence
from medretrieval.explain.pairs import Explanations
from medretrieval.images.perceptual_hash import HASH_SIDE_PIXELS
from medretrieval.index.autotune import Tuned
from medretrieval.index.faiss_index import hnsw_of
from medretrieval.index.parameters import MIN_POINTS_PER_CENTROID
from medretrieval.index.speed import timed_alone
from medretrieval.index.transforms import changes_metric
from medretrieval.protocol.captions import Captions
from medretrieval.protocol.inputs import Inputs
from medretrieval.protocol.task import RetrievalTask
from medretrieval.runs.folder import AUDIT_PAIRS, AUDIT_PICTURE, EXPLANATIONS
from medretrieval.runs.identity import corruption_of
from medretrieval.runs.outputs import RunOutputs
from medretrieval.runs.stages.notes import adaptation_notes
from medretrieval.uncertainty.bootstrap import MIN_UNITS

MAX_CHECKED_VECTORS = 1000  # whose lengths are looked at
# How a score stands to a random ranking, where it is not shown to be better.
NOT_EXCLUDED = "Not shown to score better than a random ranking (chance lies within the interval): {}."
BELOW_CHANCE = "Scores worse than a random ranking (the whole interval is on the worse side of chance): {}."
NO_INTERVAL = "There is no interval to compare with a random ranking (chance): {}."
BESIDE_CHANCE = (BELOW_CHANCE, NOT_EXCLUDED, NO_INTERVAL)
MIN_GROUPS = 20  # of queries, below which intervals are unreliable
MIN_QUERIES = 30  # of a class, or of sentences, below which means are unreliable


def notes_of(settings: Config, inputs: Inputs, outputs: RunOutputs) -> list[str]:
    """Sentences about a run, none for a plain one.

    Args:
        settings: the run's configuration.
        inputs: dataset, encoder and task.
        outputs: what the stages of the run gave.
    """
    task = inputs.task
    return (
        _about_view(settings, outputs.gallery.unseen)
        + _about_overlap(inputs)
        + _about_depth_of_results(task, outputs)
        + _about_index(settings, outputs)
        + _about_tuning(outputs.tuned)
        + _about_speed(settings, outputs)
        + _about_baseline(settings, outputs.evidence)
        + _about_chance(outputs)
        + _about_corruption(settings, task)
        + _about_size(task)
        + _about_classes(outputs.evaluation)
        + _about_ks(settings, task)
        + _about_audit(settings, outputs.audit, len(task.queries))
        + _about_left_out(settings, outputs.evidence)
        + adaptation_notes(outputs.adaptation, outputs.index)
        + _about_files(inputs.dataset.facts())
        + _about_sentences(settings, task, outputs.text_evidence)
        + _about_captions(task)
        + _about_maps(outputs.explanations)
        + _about_rerank(settings, task, outputs.rerank)
    )


def _about_view(settings: Config, unseen: float | None) -> list[str]:
    """What of each image the model does not see."""
    has_view = "view" in settings.encoder
    what = "The checkpoint's transform" if has_view else "The encoder's preprocessing"
    if unseen is None:
        return [f"{what} has unknown steps, so what it cuts off of each image is not known."]
    if not unseen:
        return []
    return [
        f"{what} cuts the border off: the model does not see {100 * unseen:.0f} % of the area of each image"
        + ("; encoder.view=whole shows it all." if has_view else ".")
    ]


def _about_overlap(inputs: Inputs) -> list[str]:
    """What the encoder may have been trained on of the data that it is scored on."""
    dataset, encoder = inputs.dataset, inputs.encoder
    if encoder.random_weights:
        return []
    seen = [c.overlap for c in encoder.cards() if c.overlaps(dataset.name, isinstance(dataset, MedMNIST))]
    return [f"{encoder.name} may have been trained on data of {dataset.name}: {words}" for words in seen]


def _about_rerank(settings: Config, task: RetrievalTask, gain: RerankGain | None) -> list[str]:
    """What re-ranked distances are, and queries that depend on each other."""
    if gain is None:
        return []
    said = f"The results are re-ranked ({gain.name}): distances are the method's (docs/reranking.md)"
    if not gain.transductive and task.in_halves(settings.evaluation.resample):
        return [
            f"{said}. No score has an interval: those of halves of the images were not tried with re-ranking."
        ]
    if not gain.transductive:
        return [f"{said}."]
    return [
        f"{said}, and a query's results depend on the other queries (rerank.transductive=true), so that no "
        "score has an interval."
    ]


def _about_depth_of_results(task: RetrievalTask, outputs: RunOutputs) -> list[str]:
    """Results that an index does not give, and queries that have none to find."""
    counts, notes = outputs.evaluation.counts, []
    mine = [score for score in SCORES if label_type(task) in score.label_types]
    deep = [score.name for score in mine if score.needs not in (Needs.FIRST_K, Needs.VOTERS)]
    if missing := [name for name in deep if name not in outputs.evaluation.scores]:
        notes.append(
            f"The index gives {counts['depth']} of {counts['gallery']} results; left out, because more of "
            f"the ranking is needed: {', '.join(missing)}."
        )
    if counts["missing_results"]:
        notes.append(
            f"{_count(counts['missing_results'], 'result is', 'results are')} missing within the depths of "
            "the scores (FAISS id -1) and counted as not relevant; raise index.nprobe."
        )
    if counts["queries_without_relevant"]:
        one = counts["queries_without_relevant"] == 1
        notes.append(
            f"{_count(counts['queries_without_relevant'], 'query', 'queries')} {'has' if one else 'have'} no "
            f"relevant image to find and {'is' if one else 'are'} left out of the means."
        )
    return notes


def _about_index(settings: Config, outputs: RunOutputs) -> list[str]:
    """Parameters of metric and index that do nothing, or that make the index find poorly."""
    index, vectors, notes = outputs.index, outputs.query.vectors, []
    unit = np.allclose(np.linalg.norm(vectors[:MAX_CHECKED_VECTORS], axis=1), 1, atol=1e-3)
    if unit and settings.metric.name != "cosine":
        notes.append("The vectors have length 1: cosine, l2 and ip rank them alike.")
    graph = hnsw_of(index.index)
    products = settings.metric.faiss == FaissMetric.inner_product and not settings.metric.normalize
    if graph is not None and products and not unit:
        notes.append(
            "HNSW with inner products of vectors of different lengths misses many neighbors; use "
            "metric=cosine or metric=l2."
        )
    if graph is not None and graph.hnsw.efSearch < max(settings.evaluation.ks):
        notes.append(
            f"index.ef_search={graph.hnsw.efSearch} is below k={max(settings.evaluation.ks)}; "
            "results beyond it are often not the nearest ones."
        )
    if graph is not None and graph.hnsw.efSearch < min(MAP_DEPTH, outputs.evaluation.counts["gallery"]):
        notes.append(
            f"map_at_{MAP_DEPTH} comes from a search of its own with efSearch={MAP_DEPTH}: "
            f"index.ef_search={graph.hnsw.efSearch} is less."
        )
    if changes_metric(index.index, settings.metric):
        notes.append(
            f"index.factory={index.spec.factory} changes the vectors before it compares them, and with them "
            "the metric: what it loses is measured against exact search of the changed vectors. Compare its "
            "scores with those of index=flat."
        )
    nlist, gallery = index.spec.parameters.get("nlist", 1), outputs.evaluation.counts["gallery"]
    if nlist > 1 and gallery < MIN_POINTS_PER_CENTROID * nlist:
        notes.append(
            f"index.nlist={nlist} leaves fewer than {MIN_POINTS_PER_CENTROID} vectors a cell "
            f"({gallery} in all); k-means needs more."
        )
    return notes


def _about_tuning(tuned: Tuned | None) -> list[str]:
    if tuned is None or not tuned.on_queries:
        return []
    return [
        f"index.autotune chose {tuned.parameters} on the images that are scored (split {tuned.split}): the "
        "dataset has no other split to tune on."
    ]


def _about_speed(settings: Config, outputs: RunOutputs) -> list[str]:
    if not timed_alone():
        return ["Timed beside other jobs of the sweep: its speeds and seconds do not compare runs."]
    exact = outputs.ann_loss.exact_queries_per_s if outputs.ann_loss else None
    rate = outputs.speed.queries_per_s_batched
    if exact is None or exact <= rate:
        return []
    return [
        f"index={settings.index.name} answered {rate:.0f} queries/s here and exact search {exact:.0f}: for "
        "a gallery of this size index=flat was not slower, and it loses nothing."
    ]


def _about_baseline(settings: Config, evidence: Evidence) -> list[str]:
    if evidence.difference is None or evidence.difference[1] > 0:
        return []
    difference, low, high = evidence.difference
    says = "scores lower than" if high < 0 else "is not shown to score higher than"
    return [
        f"This encoder {says} {evidence.baseline}: difference {difference:+.4f} ({_percent(settings)}: "
        f"{low:+.4f} to {high:+.4f}), taken by itself; compare corrects for other runs."
    ]


def _about_chance(outputs: RunOutputs) -> list[str]:
    """Headline scores that are not better than a random ranking, by what the interval says of them."""
    names: dict[str, list[str]] = {said: [] for said in BESIDE_CHANCE}
    for name in outputs.evaluation.scores:
        if name in outputs.evidence.chance and (is_headline(name) or name in outputs.evidence.intervals):
            said = _beside_chance(outputs.evidence, name)
            if said is not None:
                names[said].append(name)
    if len(names[NO_INTERVAL]) > 1 and not outputs.evidence.intervals:
        return ["No score has an interval, so whether it is above a random ranking (chance) is not shown."]
    return [said.format(", ".join(scores)) for said, scores in names.items() if scores]


def _beside_chance(evidence: Evidence, name: str) -> str | None:
    """Which sentence says how a score stands to chance; None where its whole interval is better."""
    if name not in evidence.intervals:
        return NO_INTERVAL
    (low, high), chance = evidence.intervals[name], evidence.chance[name]
    if low <= chance <= high:
        return NOT_EXCLUDED
    return BELOW_CHANCE if (high < chance) != less_is_better(name) else None


def _about_corruption(settings: Config, task: RetrievalTask) -> list[str]:
    if task.clean is task:
        return []
    audited = " The audit compares the images as they were before." if settings.audit.enabled else ""
    return [f"The query images are corrupted ({corruption_of(settings)}), the gallery is not.{audited}"]


def _about_size(task: RetrievalTask) -> list[str]:
    """Few queries, or few groups of them; sentences have a note of their own."""
    if task.queries.split is None:
        return []
    kept = task.n_relevant > 0
    groups = task.queries.groups
    count, least, what = int(kept.sum()), MIN_QUERIES, ("query has", "queries have")
    if groups is not None:
        count, least, what = len(np.unique(groups[kept])), MIN_GROUPS, ("group has", "groups have")
    if count >= least:
        return []
    return [
        f"Only {_count(count, *what)} something to find: intervals over fewer than {least} are wide and "
        "unreliable, and of very few none are given."
    ]


def _about_classes(evaluation: Evaluation) -> list[str]:
    labels = evaluation.ranking.query_labels
    sizes = labels.sum(axis=0) if labels.ndim == 2 else np.unique(labels, return_counts=True)[1]
    few = sizes[(sizes > 0) & (sizes < MIN_QUERIES)]
    if not len(few):
        return []
    return [
        f"{_count(len(few), 'class has', 'classes have')} fewer than {MIN_QUERIES} queries (the smallest "
        f"{few.min()}): macro scores are unreliable."
    ]


def _about_ks(settings: Config, task: RetrievalTask) -> list[str]:
    """A k that some queries cannot fill with relevant results."""
    deepest, relevant = max(settings.evaluation.ks), task.n_relevant[task.n_relevant > 0]
    short = int((relevant < deepest).sum())
    if not short:
        return []
    return [
        f"{_count(short, 'query has', 'queries have')} fewer than k={deepest} relevant images to find (the "
        f"fewest: {int(relevant.min())}): their precision_at_{deepest} cannot reach 1."
    ]


def _about_audit(settings: Config, audit: Audit | None, queries: int) -> list[str]:
    if audit is None:
        return []
    protocol, notes = settings.protocol, list[str]()
    counts = {name: count or 0 for name, count in audit.counts.items()}
    if counts["audited_queries"] < queries:
        notes.append(
            f"Look-alikes were searched for {counts['audited_queries']} of {queries} queries, a drawn sample."
        )
    if counts.get("groups_on_both_sides") and not protocol.exclude_same_group:
        notes.append(
            f"{_count(counts['groups_on_both_sides'], 'group has', 'groups have')} images on both sides, so "
            f"{_count(counts['same_group'], 'query', 'queries')} can find their own patient or lesion; "
            "protocol.exclude_same_group=true leaves these out."
        )
    if counts["identical_between"] and not protocol.drop_duplicates:
        other = (
            f", {counts['label_conflicts']} of them with another label" if counts["label_conflicts"] else ""
        )
        notes.append(
            f"{_count(counts['identical_between'], 'query image has', 'query images have')} a byte-identical "
            f"copy in the gallery{other}: see {AUDIT_PICTURE} and {AUDIT_PAIRS}; "
            "protocol.drop_duplicates=true leaves them out."
        )
    return notes + _about_look_alikes(settings, audit)


def _about_look_alikes(settings: Config, audit: Audit) -> list[str]:
    """Which encoder calls images near, and what a hash is worth here."""
    share, notes = 100 * settings.audit.near_quantile, []
    if near := audit.counts["near_embedding"]:
        notes.append(
            f"{_count(near, 'query image has', 'query images have')} a near-duplicate in the gallery by "
            f"{settings.encoder['name']}: a cosine above {audit.near_cosine:.4f}, which {share:g} % of the "
            "images exceed with an image of another class."
        )
    if audit.counts["near_hash"] is None:
        collisions = 100 * audit.hash_collisions
        notes.append(
            "No near-duplicates by perceptual hash: it pairs "
            + (
                f"{collisions:.2g} % of the query images with an image of another class."
                if audit.hash_collisions > settings.audit.near_quantile
                else f"different images where they are smaller than {HASH_SIDE_PIXELS} x {HASH_SIDE_PIXELS}."
            )
        )
    return notes


def _about_left_out(settings: Config, evidence: Evidence) -> list[str]:
    left_out = evidence.left_out
    if left_out is None or left_out["change"] is None:
        return []
    change, low, high = left_out["change"]
    what = " and ".join(option.split("_", 1)[1].replace("_", " ") for option in left_out["options"])
    return [
        f"Leaving out {what} changes {left_out['score']} by {change:+.4f} ({_percent(settings)}: {low:+.4f} "
        f"to {high:+.4f}) from "
        f"{left_out['without']:.4f}."
    ]


def _about_files(facts: FileFacts | None) -> list[str]:
    """Files that are left out, and patients on two sides."""
    notes = []
    if facts is not None and facts.unreadable:
        notes.append(
            f"{_count(facts.unreadable, 'file', 'files')} of {facts.files} cannot be read and "
            f"{'is' if facts.unreadable == 1 else 'are'} left out; medretrieval data lists them."
        )
    if facts is not None and facts.shared_groups:
        notes.append(
            f"{_count(facts.shared_groups, 'group has', 'groups have')} images in more than one split: a "
            "query may find its own patient, and scores flatter; protocol.exclude_same_group=true leaves "
            "these out."
        )
    return notes


def _about_sentences(settings: Config, task: RetrievalTask, text: TextEvidence | None) -> list[str]:
    if text is None:
        return []
    queries = len(task.queries)
    notes = [_modality_gap(settings, text)]
    if queries < MIN_QUERIES:
        notes.append(
            f"There are only {queries} sentences: "
            + ("intervals over so few say little" if queries >= MIN_UNITS else "too few for intervals")
            + ("; per_class and zero_shot say more." if text.zero_shot is not None else ".")
        )
    if settings.protocol.prompts == PromptUse.each and task.by_class:
        notes.append("Sentences of one class are not independent queries: the intervals are too narrow.")
    if settings.evaluation.baseline != Baseline.none:
        notes.append(
            f"No {settings.evaluation.baseline} baseline: raw {settings.evaluation.baseline} cannot answer "
            "sentences. Compare with a random ranking (chance)."
        )
    return notes


def _about_captions(task: RetrievalTask) -> list[str]:
    """Images that ask nothing, and captions that no encoder can tell apart."""
    asked = task.queries.prompts
    if not isinstance(asked, Captions):
        return []
    notes, queries = [], len(asked)
    if asked.left_out:
        notes.append(
            f"{_count(asked.left_out, 'image has', 'images have')} no caption: searched like all others, but "
            "no query."
        )
    if asked.cut:
        notes.append(
            f"{_count(asked.cut, 'caption is', 'captions are')} longer than prompts.max_words and cut to it."
        )
    shared, at_most = asked.shared
    if at_most < shared:
        best = queries - shared + at_most
        notes.append(
            f"{shared} of {queries} captions are worded like another image's: the same words find the same "
            f"images, so no encoder has a hit at rank 1 for more than {best} of them (hit_rate_at_1 at most "
            f"{best / queries:.4f})."
        )
    return notes


def _modality_gap(settings: Config, text: TextEvidence) -> str:
    gap = text.gap
    image = gap["cosine_image_image"]
    line = (
        f"Modality gap: the mean sentence and the mean image are {gap['distance']:.3f} apart, the "
        f"mean cosine of a sentence and an image is {gap['cosine_text_image']:.3f}"
        + ("" if image is None else f", of two images {image:.3f}")
    )
    if "recall" in gap:
        recall = gap["recall"]
        line += (
            f"; index={settings.index.name} finds {recall['sentences']:.3f} of the exact {recall['k']} "
            f"nearest images of a sentence and {recall['images']:.3f} of those of an image"
        )
    return f"{line}."


def _about_maps(explanations: Explanations | None) -> list[str]:
    """What the maps are worth; without an interval above 0, that they are not to be trusted."""
    if explanations is None:
        return []
    deletion = explanations.numbers["deletion"]
    interval = deletion["intervals"].get("advantage")  # one pair has none
    worth = (
        "lowers the cosine faster than removing random regions"
        if interval is not None and interval[0] > 0
        else "is not shown to lower the cosine faster than removing random regions, so do not trust the maps"
    )
    return [
        f"{EXPLANATIONS}: in {_count(deletion['pairs'], 'pair', 'pairs')}, removing what the maps mark "
        f"{worth} (area under the curve {deletion['area_marked']:.3f} against {deletion['area_random']:.3f}, "
        f"difference {deletion['advantage']:+.3f}"
        + (f", {interval[0]:+.3f} to {interval[1]:+.3f})." if interval else ").")
    ]


def _percent(settings: Config) -> str:
    return f"{100 * settings.evaluation.confidence:g} %"


def _count(number: int, one: str, many: str) -> str:
    """A number with its noun (and verb) in singular or plural."""
    return f"{number} {one if number == 1 else many}"
