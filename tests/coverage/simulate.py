"""Worlds with known truth, and what the project's intervals and p-values make of samples of them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tests.tasks import task_of

from medretrieval.datasets.base import Split
from medretrieval.evaluate.evaluate import DeepResults
from medretrieval.evaluate.score_table import MACRO, Needs, reported_scores
from medretrieval.protocol.ranking import class_members
from medretrieval.uncertainty.bootstrap import Resampling, bootstrap
from medretrieval.uncertainty.half_intervals import difference_interval, difference_p, share_interval
from medretrieval.uncertainty.half_samples import enough_results, half_samples
from medretrieval.uncertainty.sign_flips import sign_flips

CONFIDENCE = 0.95
RESAMPLES = 1000
SPLITS = 150  # fewer than a run takes: its degrees of freedom know of it


@dataclass(frozen=True)
class World:
    """Gaussian classes that two encoders see equally well.

    Attributes:
        images: of a sample (queries, where the gallery is another split).
        gallery: images of the gallery; 0 where queries are the gallery.
        score: name of the score.
        dimension: of the vectors.
        classes: probability of each class.
        apart: of the class means from the first one's, in standard deviations within a class.
        group: images of one patient, that share most of what is not class.
        new_gallery: whether each sample has another gallery (else all samples share one).
    """

    images: int
    gallery: int = 0
    score: str = "precision_at_5"
    dimension: int = 10
    classes: tuple[float, ...] = (0.5, 0.5)
    apart: float = 1.5
    group: int = 1
    new_gallery: bool = False

    def draw(self, rng, n):
        """Vectors [2 encoders, n, d], labels [n] and patients [n]."""
        patients = np.arange(n) // self.group
        labels = rng.choice(len(self.classes), patients[-1] + 1, p=self.classes)[patients]
        centers = np.zeros((len(self.classes), self.dimension))
        for i in range(1, len(centers)):
            centers[i, i % self.dimension] = self.apart * (1 + i // self.dimension)
        shared = rng.normal(size=(patients[-1] + 1, self.dimension))[patients]
        own = rng.normal(size=(n, self.dimension))
        within = np.sqrt(0.8) * shared + np.sqrt(0.2) * own if self.group > 1 else own
        noise = rng.normal(size=(2, n, self.dimension))
        return centers[labels] + np.sqrt(0.7) * within + np.sqrt(0.3) * noise, labels, patients

    @property
    def reported(self):
        name = self.score.removeprefix(MACRO)
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


def _split(labels, patients, group):
    images = np.zeros((len(labels), 1, 1), np.uint8)
    return Split("test", images, labels, groups=patients.astype(str) if group > 1 else None)


def one_set(world: World, rng) -> tuple[Answers, Answers]:
    """Queries that are the gallery: by halves of the images, and by a bootstrap of the queries."""
    vectors, labels, patients = world.draw(rng, world.images)
    only, reported = _split(labels, patients, world.group), world.reported
    task = task_of(only, only, exclude_same_group=world.group > 1)
    whole = reported.score.needs is not Needs.FIRST_K
    wanted = (
        world.images - 1 if whole else min(world.images - 1, enough_results(reported.k) + world.group - 1)
    )
    name = world.score.removeprefix(MACRO)
    values, drawn = [], []
    for side in vectors:
        full = np.zeros((world.images, 1), np.float32)
        ids = nearest(side, side, min(world.images, wanted + task.exclusions.overfetch), leave_out=False)
        ids, _ = task.exclusions.remove(ids, np.broadcast_to(full, ids.shape))
        hits = task.relevance.hits(ids, labels, labels)
        deep = DeepResults(ids, np.zeros(ids.shape, np.float32), ids.shape[1] >= task.max_depth)
        results = type("Results", (), {"hits": hits, "n_relevant": task.n_relevant})()
        values.append(reported.score.of_query(results, reported.k))
        drawn.append(half_samples(task, deep, [reported], 1, SPLITS))
        assert drawn[-1] is not None
        assert name in drawn[-1].scores
    values = np.where(task.n_relevant[:, None] > 0, np.stack(values, axis=1), np.nan)
    members = class_members(labels) if world.score.startswith(MACRO) else None
    resampled = bootstrap(values, Resampling(RESAMPLES, CONFIDENCE, 0), task.queries.groups, members)
    a, b = (one.scores[world.score] for one in drawn)
    sides, (value, other) = drawn[0].sides, resampled.means
    difference = difference_interval(value - other, a - b, sides, CONFIDENCE)
    ours = Answers(
        float(value), share_interval(float(value), a, sides, CONFIDENCE),
        None if difference is None else difference[1:], difference_p(value - other, a - b, sides),
    )  # fmt: skip
    flips = sign_flips(values, RESAMPLES - 1, 0, task.queries.groups, members)
    plain = Answers(float(value), resampled.interval(0), resampled.difference(0, 1)[1:], flips.p(0, 1))
    return ours, plain


def two_sets(world: World, rng, seed: int = 0) -> Answers:
    """Queries that search another split: a bootstrap of the queries, or of their patients."""
    fixed = rng if world.new_gallery else np.random.default_rng(seed)
    gallery, of_gallery, _ = World(
        1, dimension=world.dimension, classes=world.classes, apart=world.apart
    ).draw(fixed, world.gallery)
    queries, labels, patients = world.draw(rng, world.images)
    reported = world.reported
    relevant = (of_gallery == labels[:, None]).sum(axis=1)
    values = []
    for side, of in zip(queries, gallery, strict=True):
        hits = of_gallery[nearest(side, of, reported.k, leave_out=False)] == labels[:, None]
        results = type("Results", (), {"hits": hits, "n_relevant": relevant})()
        values.append(reported.score.of_query(results, reported.k))
    groups = patients if world.group > 1 else None
    members = class_members(labels) if world.score.startswith(MACRO) else None
    table = np.where(relevant[:, None] > 0, np.stack(values, axis=1), np.nan)
    drawn = bootstrap(table, Resampling(RESAMPLES, CONFIDENCE, 0), groups, members)
    flips = sign_flips(table, RESAMPLES - 1, 0, groups, members)
    return Answers(float(drawn.means[0]), drawn.interval(0), drawn.difference(0, 1)[1:], flips.p(0, 1))


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
