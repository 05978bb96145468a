"""Worlds with known truth, and what the project's intervals and p-values make of samples of them."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from tests.tasks import task_of

from medretrieval.config import Resample
from medretrieval.datasets.base import Split
from medretrieval.evaluate.evaluate import DeepResults
from medretrieval.evaluate.score_table import MACRO, Needs, reported_scores
from medretrieval.protocol.ranking import class_members
from medretrieval.uncertainty.bootstrap import Resampling, bootstrap
from medretrieval.uncertainty.half_intervals import PairedHalves
from medretrieval.uncertainty.half_samples import enough_results, half_samples
from medretrieval.uncertainty.many_pairs import OfImages, OfQueries, corrected
from medretrieval.uncertainty.sign_flips import sign_flips

CONFIDENCE = 0.95
RESAMPLES = 1000
RAREST = "rarest class: "
SPLITS = 100  # fewer than a run takes: its degrees of freedom know of it


@dataclass(frozen=True)
class World:
    """Gaussian classes that several encoders see equally well.

    Attributes:
        images: of a sample (queries, where the gallery is another split).
        gallery: images of the gallery; 0 where queries are the gallery.
        score: name of the score; with macro_ before it the mean over classes, with RAREST that of the last
            class's queries.
        dimension: of the vectors.
        classes: probability of each class.
        apart: of the class means from the first one's, in standard deviations within a class.
        group: images of one patient, that share most of what is not class.
        new_gallery: whether each sample has another gallery (else all samples and encoders share one).
        encoders: how many.
        resample: what varies in the intervals of a gallery of its own.
        corrupted: of queries that are the gallery, noise on their vectors as queries alone, in standard
            deviations within a class.
        blind: share of the patients of whose images the last encoder sees nothing but noise.
    """

    images: int
    gallery: int = 0
    score: str = "precision_at_5"
    dimension: int = 10
    classes: tuple[float, ...] = (0.5, 0.5)
    apart: float = 1.5
    group: int = 1
    new_gallery: bool = False
    encoders: int = 2
    resample: Resample = Resample.queries
    corrupted: float = 0.0
    blind: float = 0.0

    def draw(self, rng, n):
        """Vectors [encoders, n, d], labels [n] and patients [n]."""
        patients = np.arange(n) // self.group
        labels = rng.choice(len(self.classes), patients[-1] + 1, p=self.classes)[patients]
        centers = np.zeros((len(self.classes), self.dimension))
        for i in range(1, len(centers)):
            centers[i, i % self.dimension] = self.apart * (1 + i // self.dimension)
        shared = rng.normal(size=(patients[-1] + 1, self.dimension))[patients]
        own = rng.normal(size=(n, self.dimension))
        within = np.sqrt(0.8) * shared + np.sqrt(0.2) * own if self.group > 1 else own
        noise = rng.normal(size=(self.encoders, n, self.dimension))
        vectors = centers[labels] + np.sqrt(0.7) * within + np.sqrt(0.3) * noise
        if self.blind:
            unseen = (rng.random(patients[-1] + 1) < self.blind)[patients]
            vectors[-1, unseen] = centers.mean(axis=0) + rng.normal(size=(int(unseen.sum()), self.dimension))
        return vectors, labels, patients

    @property
    def reported(self):
        name = self.score.removeprefix(MACRO).removeprefix(RAREST)
        k = int(name.rpartition("_")[2]) if name[-1].isdigit() else 1
        return next(one for one in reported_scores([k], "single") if one.name == name)


def nearest(queries, gallery, depth, leave_out):
    """Exact neighbors by squared distance: positions [q, depth]."""
    squared = (gallery**2).sum(axis=1) - 2 * queries @ gallery.T
    if leave_out:
        np.fill_diagonal(squared, np.inf)
    top = np.argpartition(squared, depth - 1, axis=1)[:, :depth] if depth < squared.shape[1] else None
    if top is None:
        return np.argsort(squared, axis=1)
    order = np.argsort(np.take_along_axis(squared, top, axis=1), axis=1)
    return np.take_along_axis(top, order, axis=1)


@dataclass(frozen=True)
class Answers:
    """What a procedure says of one sample: score, interval, difference of two equal encoders, its p."""

    value: float
    interval: tuple[float, float] | None
    difference: tuple[float, float] | None
    p: float


def _split(name, labels, patients, group):
    images = np.zeros((len(labels), 1, 1), np.uint8)
    return Split(name, images, labels, groups=patients.astype(str) if group > 1 else None)


def _searched(world: World, task, queries, gallery):
    """What one encoder gives: scores of the queries, and the score in halves (None where none are wanted)."""
    reported, halved = world.reported, task.in_halves(world.resample)
    wanted = reported.k
    if halved:
        deep_enough = enough_results(reported.k) + world.group - 1
        wanted = min(task.max_depth, deep_enough if reported.score.needs is Needs.FIRST_K else task.max_depth)
    depth = min(len(gallery), wanted + task.exclusions.overfetch)
    ids = nearest(queries, gallery, depth, leave_out=False)
    ids, _ = task.exclusions.remove(ids, np.broadcast_to(np.zeros((len(queries), 1), np.float32), ids.shape))
    hits = task.relevance.hits(ids, task.queries.labels, task.gallery.labels)
    results = type("Results", (), {"hits": hits, "n_relevant": task.n_relevant})()
    values = np.where(task.n_relevant > 0, reported.score.of_query(results, reported.k), np.nan)
    if not halved:
        return values, None
    deep = DeepResults(ids, np.zeros(ids.shape, np.float32), ids.shape[1] >= task.max_depth)
    return values, half_samples(task, deep, [reported], 1, SPLITS)


def _task(world: World, rng, seed: int):
    """A sample: the task, and the vectors of queries and gallery of every encoder."""
    if not world.gallery:
        vectors, labels, patients = world.draw(rng, world.images)
        only = _split("test", labels, patients, world.group)
        queries = vectors
        if world.corrupted:
            queries = vectors + world.corrupted * rng.normal(size=vectors.shape)
        return task_of(only, only, exclude_same_group=world.group > 1), queries, vectors
    source = rng if world.new_gallery else np.random.default_rng(seed)
    gallery, of_gallery, _ = replace(world, group=1).draw(source, world.gallery)
    vectors, labels, patients = world.draw(rng, world.images)
    queries = _split("test", labels, patients, world.group)
    # Encoders that share a gallery are equally good on it.
    shared = gallery if world.new_gallery else np.broadcast_to(gallery[:1], gallery.shape)
    return task_of(queries, _split("train", of_gallery, None, 1)), vectors, shared


def _column(world: World, halves):
    """The score in halves; None where it has no interval."""
    if not world.score.startswith(RAREST):
        return halves.scores.get(world.score)
    column = halves.by_class[world.reported.name][:, -1]
    return None if np.isnan(column).any() else column


def contrasts(world: World, rng, seed: int = 0):
    """What the project says of the encoders on a sample, and what queries alone would say."""
    task, queries, gallery = _task(world, rng, seed)
    found = [_searched(world, task, *sides) for sides in zip(queries, gallery, strict=True)]
    values = np.stack([side[0] for side in found], axis=1)
    members = class_members(task.queries.labels) if world.score.startswith(MACRO) else None
    if world.score.startswith(RAREST):
        values = np.where(task.queries.labels[:, None] == len(world.classes) - 1, values, np.nan)
    drawn = bootstrap(values, Resampling(RESAMPLES, CONFIDENCE, 0), task.queries.groups, members)
    plain = OfQueries(drawn, sign_flips(values, RESAMPLES - 1, 0, task.queries.groups, members))
    halves = [side[1] for side in found]
    if halves[0] is None:
        return plain, plain
    if any(_column(world, one) is None for one in halves):  # a class is very rare
        return None, plain
    columns = np.stack([_column(world, one) for one in halves], axis=1)
    paired = PairedHalves(drawn.means, columns, halves[0].sides, CONFIDENCE)
    return OfImages(paired, RESAMPLES, 0), plain


def answers(world: World, rng) -> tuple[Answers, Answers]:
    """Of two encoders: what the project says, and what a bootstrap of the queries alone would say."""
    both = []
    for one in (made := contrasts(world, rng)):
        if one is None:
            both.append(Answers(float(made[1].scores.means[0]), None, None, 1.0))
            continue
        apart = one.scores.difference(0, 1)
        both.append(
            Answers(
                float(one.scores.means[0]),
                one.scores.interval(0),
                None if apart is None else apart[1:],
                one.p(0, 1),
            )
        )
    return both[0], both[1]


def any_alarm(world: World, rng) -> bool:
    """Whether any pair of many equal encoders is called different after the correction."""
    pairs = list(itertools.combinations(range(world.encoders), 2))
    return min(corrected(contrasts(world, rng)[0], pairs, CONFIDENCE).p) < 1 - CONFIDENCE + 1e-12


@dataclass(frozen=True)
class Rates:
    """Over all samples: shares in percent, and how many samples had an interval."""

    samples: int
    truth: float
    covered: float
    difference_covered: float
    false_alarms: float
    without: float


def rates(answers: list[Answers], difference: float = 0.0) -> Rates:
    """How often intervals hold the mean of all samples, and differences the true one.

    Args:
        answers: of each sample.
        difference: the true one of the two encoders; false alarms are counted where it is 0.
    """
    truth = float(np.mean([a.value for a in answers]))
    given = [a.interval for a in answers if a.interval is not None]
    differences = [a.difference for a in answers if a.difference is not None]
    return Rates(
        len(answers),
        truth,
        100 * float(np.mean([low <= truth <= high for low, high in given])),
        100 * float(np.mean([low <= difference <= high for low, high in differences])),
        100 * float(np.mean([a.p < 1 - CONFIDENCE + 1e-12 for a in answers])),
        100 * (1 - len(given) / len(answers)),
    )


def simulate(procedure: Callable, world: World, samples: int, seed: int) -> list:
    """Answers to independent samples of a world."""
    streams = np.random.default_rng(seed).spawn(samples)
    return [procedure(world, stream) for stream in streams]
