"""Worlds of patients and values with known truth, and what is said of their subgroups and results."""

import functools
from dataclasses import dataclass, replace

import numpy as np
from tests.coverage.simulate import CONFIDENCE, RESAMPLES, SPLITS, nearest

from medretrieval import compose
from medretrieval.checks import check
from medretrieval.datasets.base import Split
from medretrieval.evaluate.evaluate import evaluate
from medretrieval.evaluate.score_table import reported_scores
from medretrieval.protocol.exclusions import Exclusions
from medretrieval.protocol.task import RetrievalTask
from medretrieval.subgroups.by_value import subgroups
from medretrieval.subgroups.columns import columns_of, members_of, plain_column
from medretrieval.subgroups.confounding import Sides, confounding
from medretrieval.subgroups.identity import recognition
from medretrieval.uncertainty.half_samples import enough_results, half_samples

K = 5


@dataclass(frozen=True)
class Cohort:
    """Patients with several images, of two classes, and of values that change how an image looks.

    Attributes:
        patients: of a sample, on the side of the queries.
        gallery: patients of a gallery that all samples share; 0 where the queries are the gallery.
        images: most images of one patient, each number from 1 on as likely; with `more_of_first` only those
            of the first value have more than one.
        values: probability of each value.
        shift: of the first value's images along a dimension of its own, in standard deviations; the others'
            is the opposite one, so that two values are as hard.
        mixed: each image has a value of its own, as a view has (else each patient).
        columns: independent columns of values; the first one has the shift.
        grouped: the dataset names its patients (else each has one image).
        own: own patients can be found.
        apart: of the classes, in standard deviations.
    """

    patients: int
    gallery: int = 0
    images: int = 1
    values: tuple[float, ...] = (0.5, 0.5)
    shift: float = 0.0
    mixed: bool = False
    columns: int = 1
    grouped: bool = True
    own: bool = False
    apart: float = 1.5
    more_of_first: bool = False

    @property
    def protocol(self):
        return "query_gallery" if self.gallery else "leave_one_out"

    def draw(self, rng, patients, name, mirrored=False):
        """Vectors and a split of so many patients."""
        of_patient = rng.choice(len(self.values), (patients, self.columns), p=self.values)
        many = rng.integers(1, self.images + 1, patients)
        if self.more_of_first:
            many = np.where(of_patient[:, 0] == 0, self.images, 1)
        who = np.repeat(np.arange(patients), many)
        values = of_patient[who]
        if self.mixed:
            values = rng.choice(len(self.values), values.shape, p=self.values)
        labels = rng.integers(0, 2, patients)[who]
        shared = rng.normal(size=(patients, 10))[who]
        vectors = np.sqrt(0.8) * shared + np.sqrt(0.2) * rng.normal(size=shared.shape)
        vectors[:, 0] += self.apart * labels
        vectors[:, 1] += self.shift / 2 * np.where(values[:, 0] == 0, 1, -1)
        if mirrored:  # a gallery in which both values are as hard
            other = vectors * np.where(np.arange(10) == 1, -1, 1)
            turned = np.concatenate([values[:, :1], 1 - values[:, :1]]), np.tile(values[:, 1:], (2, 1))
            vectors, values = np.concatenate([vectors, other]), np.hstack(turned)
            labels, who = np.tile(labels, 2), np.concatenate([who, who + patients])
        metadata = {f"c{i}": column.astype(str) for i, column in enumerate(values.T)}
        groups = who.astype(str) if self.grouped else None
        images = np.zeros((len(labels), 1, 1), np.uint8)
        return vectors, Split(name, images, labels.astype(np.int64), groups=groups, metadata=metadata)


@functools.cache
def settings_of(protocol, names, same_group):
    return check(
        compose(
            f"protocol={protocol}",
            f"evaluation.ks=[{K}]",
            f"evaluation.resamples={RESAMPLES // 2}",
            f"evaluation.confidence={CONFIDENCE}",
            f"evaluation.subgroups=[{names}]",
            f"protocol.exclude_same_group={str(same_group).lower()}",
        )
    )


@dataclass(frozen=True)
class Sample:
    """One sample of a cohort, searched.

    Attributes:
        settings, task: of the run.
        evaluation: its scores.
    """

    settings: object
    task: RetrievalTask
    evaluation: object


def sample(world: Cohort, rng) -> Sample:
    """A sample of a cohort, with every result that can be found."""
    vectors, queries = world.draw(rng, world.patients, "test")
    gallery, of_gallery = queries, vectors
    if world.gallery:
        of_gallery, gallery = world.draw(np.random.default_rng(0), world.gallery, "train", mirrored=True)
    if world.gallery and world.own:
        (vectors, queries), (of_gallery, gallery) = _divided((vectors, queries), (of_gallery, gallery))
    names = ",".join(queries.metadata)
    settings = settings_of(world.protocol, names, world.grouped and not world.gallery and not world.own)
    task = RetrievalTask.from_sides(
        queries, gallery, Exclusions.from_protocol(queries, gallery, settings.protocol)
    )

    def search(rows, k):
        ids = nearest(vectors[rows], of_gallery, k, leave_out=False)
        return ids, np.broadcast_to(np.zeros((len(ids), 1), np.float32), ids.shape)

    depth = min(task.max_depth, enough_results(K) + (world.images if world.own else 0))
    return Sample(settings, task, evaluate(search, task, depth, settings.evaluation))


def _divided(queries, gallery):
    """Each patient's first image added to a gallery of others, and the rest as queries."""
    (vectors, split), (of_gallery, others) = queries, gallery
    firsts = np.unique(split.groups, return_index=True)[1]
    rest = np.setdiff1d(np.arange(len(split)), firsts)
    strangers = np.char.add("x", others.groups)
    both = {n: np.concatenate([c, split.metadata[n][firsts]]) for n, c in others.metadata.items()}
    added = Split(
        "train",
        np.zeros((len(others) + len(firsts), 1, 1), np.uint8),
        np.concatenate([others.labels, split.labels[firsts]]),
        groups=np.concatenate([strangers, split.groups[firsts]]),
        metadata=both,
    )
    asking = replace(
        split,
        images=split.images[rest],
        labels=split.labels[rest],
        groups=split.groups[rest],
        metadata={n: c[rest] for n, c in split.metadata.items()},
    )
    return (vectors[rest], asking), (np.concatenate([of_gallery, vectors[firsts]]), added)


@dataclass(frozen=True)
class Said:
    """What is said of one sample: a number, its interval, and the smallest p of a gap (None for no test)."""

    value: float
    interval: tuple[float, float] | None
    p: float | None


SCORE = f"precision_at_{K}"


def of_subgroups(world: Cohort, rng) -> Said:
    """The last value of the first column, and the gaps of all columns."""
    drawn = sample(world, rng)
    columns = columns_of(drawn.settings.evaluation, drawn.task)
    halves = None
    if drawn.evaluation.deep is not None:
        wanted = [one for one in reported_scores([K], "single") if one.name == SCORE]
        halves = half_samples(drawn.task, drawn.evaluation.deep, wanted, 1, SPLITS, members_of(columns))
    found = subgroups(drawn.settings, drawn.task, drawn.evaluation, halves, columns)
    rarest = [row for row in found.values if row.column == "c0"][-1]
    known = [gap.p for gap in found.gaps if gap.p is not None]
    mean = rarest.scores.get(SCORE, np.nan)
    return Said(mean, rarest.intervals.get(SCORE), min(known) if known else None)


def of_index(world: Cohort, rng) -> Said:
    """The robustness index of the first column."""
    drawn = sample(world, rng)
    task = drawn.task
    values = np.concatenate([task.queries.metadata["c0"], task.gallery.metadata["c0"]])
    sides = Sides.from_column(plain_column("c0", values), len(task.queries))
    found = confounding(drawn.settings, task, drawn.evaluation.ranking.ids, sides, K, ("a", "b"))
    return Said(found.index.value, found.index.interval, None)


def of_identity(world: Cohort, rng) -> Said:
    """How often the first result is of the query's own patient."""
    drawn = sample(world, rng)
    found = recognition(drawn.settings, drawn.task, drawn.evaluation.ranking.ids, 1)
    return Said(found.share.value, found.share.interval, None)
