"""The parts of scores.json about embeddings, index, look-alikes, sentences and maps, as types.

Frozen dataclasses without behavior; `report` holds the whole. docs/results-format.md is made from their
docstrings.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ScoreInterval:
    """An interval of `evaluation.confidence`: BCa bootstrap, or random halves where queries are the gallery.

    Attributes:
        low: its lower end.
        high: its upper end.
    """

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A paired difference with its interval, made as that of a score.

    Attributes:
        value: the difference.
        low: lower end of its interval.
        high: upper end of its interval.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class FidelityReport:
    """How far vectors of another runtime or precision are from the model's own in torch fp32.

    Attributes:
        against: what they are compared with.
        images: how many are compared.
        cosine_min: smallest cosine between the two vectors of an image.
        cosine_mean: mean cosine between them.
        neighbors: k of `neighbors_in_common`.
        neighbors_in_common: mean share of an image's k nearest others that stay among them; null for one
            image.
    """

    against: str
    images: int
    cosine_min: float
    cosine_mean: float
    neighbors: int
    neighbors_in_common: float | None


@dataclass(frozen=True)
class EncoderReport:
    """The encoder and its embeddings.

    Attributes:
        name: of the encoder.
        random_weights: no pretrained weights were loaded: the scores say nothing about the model.
        dimension: numbers a vector.
        cached: all embeddings were in the cache already.
        images_per_s: rate at which the gallery was embedded, images a second.
        fidelity: how far its vectors are from those of torch fp32; null where they are these.
        unseen: share of the area of each image that its preprocessing cuts off, 0 to 1; null where that is
            not known.
        identity: what changes its vectors (weights' hash, preprocessing, precision, ...); its keys are those
            of the encoder's class.
    """

    name: str
    random_weights: bool
    dimension: int
    cached: bool
    images_per_s: float
    fidelity: FidelityReport | None
    unseen: float | None
    identity: dict[str, Any]

    @property
    def view(self) -> str | None:
        """What of an image the model is shown, "checkpoint" or "whole"; None where there is no choice."""
        return self.identity.get("view")

    @property
    def computed_by(self) -> str | None:
        """Runtime and precision, such as "torch fp32"; None for an encoder that has no choice of them."""
        identity = self.identity
        if len(parts := identity.get("parts", ())) == 1:  # made of one other
            identity = parts[0]
        if "runtime" not in identity:
            return None
        return f"{identity['runtime']} {identity['precision']}"


@dataclass(frozen=True)
class IndexReport:
    """The index.

    Attributes:
        name: of the configuration.
        factory: FAISS's index_factory string.
        build: FAISS's ParameterSpace string for the build, "" where there is none.
        search: FAISS's ParameterSpace string for the search, "" where there is none.
        exhaustive: the search can give the whole gallery.
        build_s: seconds that the build took when it was made.
        cached: the index was in the cache already.
    """

    name: str
    factory: str
    build: str
    search: str
    exhaustive: bool
    build_s: float
    cached: bool


@dataclass(frozen=True)
class Latency:
    """Quantiles of the milliseconds that one query takes, asked alone.

    Attributes:
        p50: median, ms.
        p95: 95 % of the queries take no longer, ms.
        p99: 99 % of the queries take no longer, ms.
    """

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class SpeedReport:
    """How fast the index answers, and how large it is.

    Attributes:
        queries_per_s_single: queries a second, asked one by one.
        queries_per_s_batched: queries a second, asked many at once.
        latency_ms: milliseconds of single queries.
        bytes_per_vector: size of the index's file over the size of the gallery.
    """

    queries_per_s_single: float
    queries_per_s_batched: float
    latency_ms: Latency
    bytes_per_vector: float


@dataclass(frozen=True)
class AnnReport:
    """An approximate index beside exact search of the same embeddings, over a seeded sample of the queries.

    An index that changes the vectors (PCA) is measured against exact search of the changed ones.

    Attributes:
        queries: size of the sample.
        recall: k -> share of the exact k nearest that the index found; ties count (Aumüller et al. 2020).
        changes: score -> this index minus exact search, paired over the sample, of precision, recall and map
            at each k; empty where fewer than two queries or groups tell.
        missing: results within the largest k that the index did not give (FAISS id -1).
        exact_queries_per_s: of exact search, asked at once; null where the gallery is too large to tell, or
            the index changes the vectors.
    """

    queries: int
    recall: dict[int, float]
    changes: dict[str, Difference]
    missing: int
    exact_queries_per_s: float | None


@dataclass(frozen=True)
class OperatingPoint:
    """Search parameters that were tried.

    Attributes:
        parameters: FAISS's ParameterSpace string.
        recall: share of the exact nearest that were found on the validation sample.
        ms: milliseconds a query.
    """

    parameters: str
    recall: float
    ms: float


@dataclass(frozen=True)
class AutotuneReport:
    """Search parameters chosen for `index.autotune`, on images that are not scored where there are any.

    Attributes:
        parameters: the chosen ParameterSpace string.
        recall: what it reached on the validation sample.
        curve: every setting that was tried, from the cheapest on.
        split: name of the split that the sample is of.
        on_queries: the sample is of the images that are scored, because the dataset has no other split.
    """

    parameters: str
    recall: float
    curve: list[OperatingPoint]
    split: str
    on_queries: bool


@dataclass(frozen=True)
class AuditReport:
    """Look-alikes within and between queries and gallery; a query itself never counts.

    Attributes:
        audited_queries: queries that were compared, a sample where there are very many.
        identical_within_query: byte-identical copies of an earlier image within the queries.
        identical_within_gallery: byte-identical copies of an earlier image within the gallery.
        identical_between: query images with a byte-identical other image in the gallery.
        label_conflicts: of these, those with one of another label.
        near_embedding: query images with a near-duplicate by this run's encoder, not identical: a cosine
            above `near_cosine`.
        near_cosine: cosine that only the share `audit.near_quantile` of the query images exceeds with an
            image of another class, which is no copy; null where there is one class only.
        near_hash: query images with a near-duplicate by perceptual hash (pHash), not identical; null where
            the hash pairs different images: below 32 pixels, or where `hash_collisions` is above
            `audit.near_quantile`.
        hash_collisions: share of the query images that the hash pairs with an image of another class.
        same_group: query images with another image of their group in the gallery; null without groups.
        groups_on_both_sides: groups that are in both splits; null without groups.
    """

    audited_queries: int
    identical_within_query: int
    identical_within_gallery: int
    identical_between: int
    label_conflicts: int
    near_embedding: int
    near_cosine: float | None
    near_hash: int | None
    hash_collisions: float
    same_group: int | None
    groups_on_both_sides: int | None


@dataclass(frozen=True)
class Confusion:
    """Images by class and by the class that was named.

    Attributes:
        classes: their names.
        counts: images, a row for each class, a column for each class named, of shape [classes, classes].
    """

    classes: list[str]
    counts: list[list[int]]


@dataclass(frozen=True)
class ZeroShotReport:
    """Naming the gallery's images by the nearest class of sentences (Radford et al. 2021).

    Attributes:
        images: of the gallery.
        accuracy: share of images that are named right; null for multi-label data.
        balanced_accuracy: mean recall over the classes that occur; null for multi-label data.
        majority: accuracy of always naming the most frequent class; null for multi-label data.
        macro_auroc: mean of `auroc`; null where that is empty.
        auroc: class -> area under the ROC curve, of the classes that some images have and some have not.
        confusion: what was named what; null for multi-label data.
    """

    images: int
    accuracy: float | None
    balanced_accuracy: float | None
    majority: float | None
    macro_auroc: float | None
    auroc: dict[str, float]
    confusion: Confusion | None


@dataclass(frozen=True)
class RecallOfSides:
    """What an approximate index finds of the exact nearest, for sentences and for images as queries.

    Attributes:
        k: results looked at.
        sentences: share found for the sentences.
        images: share found for as many images of the gallery, themselves left out.
        queries: how many sentences, and how many images.
    """

    k: int
    sentences: float
    images: float
    queries: int


@dataclass(frozen=True)
class ModalityGap:
    """How far sentences and images stand apart, of vectors scaled to length 1 (Liang et al. 2022).

    Attributes:
        distance: Euclidean, between the two means.
        cosine_text_image: mean cosine of a sentence and an image.
        cosine_image_image: mean cosine of two different images; null where there is one only.
        cosine_text_text: mean cosine of two different sentences; null where there is one only.
        recall: what the index finds for each of the two; null for exact search.
    """

    distance: float
    cosine_text_image: float
    cosine_image_image: float | None
    cosine_text_text: float | None
    recall: RecallOfSides | None


@dataclass(frozen=True)
class DeletionReport:
    """How the cosine of a pair falls while regions are removed (Petsiuk et al. 2018), means over pairs.

    Attributes:
        pairs: how many.
        area_marked: area under the curve where the regions that the maps mark are removed first.
        area_random: area under the curve where regions of the same shape elsewhere are removed first.
        advantage: `area_random` minus `area_marked`; above 0 where the maps mark what matters.
        wins: share of pairs with an advantage above 0.
        intervals: of `advantage`; empty for fewer than two pairs.
    """

    pairs: int
    area_marked: float
    area_random: float
    advantage: float
    wins: float
    intervals: dict[str, ScoreInterval]


@dataclass(frozen=True)
class PointingControl:
    """What the maps of other queries get on a query's finding: what is got without looking at its image.

    Attributes:
        queries: how many have such other queries in the sample; the means are over these.
        hits: share of the other queries' maps whose largest value lies on the query's finding.
        mass: share of what these maps add to the similarity that lies on it.
        hits_gain: `hits` of the queries' own maps minus this `hits`.
        mass_gain: `mass` of the queries' own maps minus this `mass`.
        intervals: of these means, by name.
    """

    queries: int
    hits: float
    mass: float
    hits_gain: float
    mass_gain: float
    intervals: dict[str, ScoreInterval]


@dataclass(frozen=True)
class ClassPointing:
    """The pointing game on the queries of one class.

    Attributes:
        queries: how many.
        hits: share of maps whose largest value lies on the finding.
        hits_other_class: the same of the maps of queries of other classes; null where there are none.
        hits_same_class: the same of the maps of other queries of this class; null where there are none.
    """

    queries: int
    hits: float
    hits_other_class: float | None
    hits_same_class: float | None


@dataclass(frozen=True)
class PointingReport:
    """Whether maps point at known findings (Zhang et al. 2016), means over queries with a finding.

    Attributes:
        queries: how many.
        hits: share of maps whose largest value lies on the finding.
        mass: share of what a map adds to the similarity that lies on the finding.
        area: share of what the encoder sees that is the finding: what a uniform map gets in both.
        other_class: the maps of queries of other classes, as a control: what is got by always marking the
            same places; null where the sample has no other class.
        same_class: the maps of other queries of the same class, as the stricter control: what is got by
            marking where findings of this class usually lie; null where no class has two queries.
        by_class: class -> its queries.
        intervals: of `hits`, `mass` and `area`.
    """

    queries: int
    hits: float
    mass: float
    area: float
    other_class: PointingControl | None
    same_class: PointingControl | None
    by_class: dict[str, ClassPointing]
    intervals: dict[str, ScoreInterval]


@dataclass(frozen=True)
class ExplainReport:
    """What the maps of a sample of queries and their nearest results are worth.

    Attributes:
        layer: the module of the encoder that they were taken at.
        deletion: removing what they mark against removing anything else.
        pointing: whether they point at known findings; null where no query has one.
    """

    layer: str
    deletion: DeletionReport
    pointing: PointingReport | None
