"""Worlds in which vectors are adapted, or results re-ranked, and what the project says of the gain."""

import dataclasses
import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tests.coverage.simulate import SPLITS
from tests.rerank.worlds import opened

from medretrieval import compose
from medretrieval.adapt.fit import Fitting, fit_and_choose
from medretrieval.adapt.stage import adaptation_of
from medretrieval.cache.store import Cache
from medretrieval.checks import check
from medretrieval.datasets.base import Dataset, Split
from medretrieval.encoders.base import Encoder
from medretrieval.evaluate.evaluate import evaluate
from medretrieval.evaluate.score_table import reported_scores
from medretrieval.evidence.evidence import paired
from medretrieval.evidence.stages.adaptation import compared
from medretrieval.evidence.stages.exact_line import Line, depth_of
from medretrieval.index.exact_search import exact_search
from medretrieval.protocol.exclusions import Exclusions
from medretrieval.protocol.inputs import Inputs
from medretrieval.protocol.task import RetrievalTask
from medretrieval.rerank.opening import reranker_of
from medretrieval.rerank.search import as_search
from medretrieval.uncertainty.half_samples import half_samples

K = 5
DIMENSION = 10
FITS = 5  # trains of a line; each is asked with as many samples
MANY = 5000  # queries whose mean change is taken for the true one, where train is the gallery
FRESH = 100  # samples of test whose mean change is, where these are the gallery


@dataclass(frozen=True)
class Stages:
    """Gaussian classes with directions in which images of one class differ much.

    Attributes:
        images: of test.
        words: of the stage, as on the command line.
        gallery: whether test asks train (else test asks itself).
        train: images of train.
        val: images of val.
        group: images of one patient, that share most of what is not class; of all splits.
        apart: of the classes, in standard deviations; 0: labels mean nothing, and no stage can gain.
        spread: standard deviation of the directions that hide the classes, the other ones having 1.
    """

    images: int
    words: tuple[str, ...]
    gallery: bool = True
    train: int = 300
    val: int = 120
    group: int = 1
    apart: float = 2.0
    spread: float = 3.0

    @property
    def protocol(self):
        return "query_gallery" if self.gallery else "leave_one_out"

    def draw(self, rng, name):
        """Vectors float32 [n, d], and a split whose images are their bytes."""
        n = {"train": self.train, "val": self.val}.get(name, self.images)
        patients = np.arange(n) // self.group
        labels = rng.integers(0, 2, patients[-1] + 1)[patients]
        shared = rng.normal(size=(patients[-1] + 1, DIMENSION))[patients]
        own = rng.normal(size=(n, DIMENSION))
        within = np.sqrt(0.8) * shared + np.sqrt(0.2) * own if self.group > 1 else own
        within[:, DIMENSION // 2 :] *= self.spread
        within[:, 0] += self.apart * labels
        vectors = within.astype(np.float32)
        groups = np.char.add(f"{name}/", patients.astype(str)) if self.group > 1 else None
        images = vectors.view(np.uint8).reshape(n, 1, -1)
        return vectors, Split(name, images, labels.astype(np.int64), groups=groups)


class Bytes(Encoder):
    """Gives the vectors whose bytes the images are."""

    def signature(self):
        return {"kind": "bytes"}

    def encode(self, images):
        return np.ascontiguousarray(images).reshape(len(images), -1).view(np.float32)


class Drawn(Dataset):
    """Nothing but its classes: splits are drawn."""

    def load(self, split):
        raise AssertionError(split)


@functools.cache
def settings_of(world: Stages):
    words = (
        f"protocol={world.protocol}",
        f"evaluation.ks=[{K}]",
        "evaluation.vote_k=5",
        "evaluation.resamples=1000",
        f"protocol.exclude_same_group={str(world.group > 1 and not world.gallery).lower()}",
        "metric=l2",
    )
    return check(compose("dataset=pneumoniamnist", *words, *world.words))


def task_of(world: Stages, test: Split, train: Split) -> RetrievalTask:
    """Test asks train, or itself."""
    gallery = train if world.gallery else test
    out = Exclusions.from_protocol(test, gallery, settings_of(world).protocol)
    return RetrievalTask.from_sides(test, gallery, out)


class Adapting:
    """A train and a val, and what was fitted to them; asked with many samples of test."""

    scores = (f"precision_at_{K}",)  # whose change such a run tells

    def __init__(self, world: Stages, rng, folder: Path) -> None:
        self.world, self.settings = world, settings_of(world)
        (self.vectors, self.train), (_, val) = (world.draw(rng, name) for name in ("train", "val"))
        encoder, dataset = Bytes("bytes", 1000), Drawn("drawn", "single", ("a", "b"), 1)
        task = task_of(world, world.draw(rng, "test")[1], self.train)
        inputs = Inputs(dataset, encoder, encoder.identity(), task, None, self.train, val)
        fitting = Fitting(self.settings, inputs, Cache(folder))
        self.fitted = fit_and_choose(fitting, adaptation_of(self.settings))

    def searches(self, vectors, task):
        """Without the stage, and with it."""
        adapted = self.fitted.adaptation.apply(self.fitted.tensors, vectors)
        if not self.world.gallery:
            return [_exact(self.settings, one, one) for one in (vectors, adapted)]
        gallery = self.fitted.adaptation.apply(self.fitted.tensors, self.vectors)
        return [_exact(self.settings, vectors, self.vectors), _exact(self.settings, adapted, gallery)]

    def said(self, task, without, with_it):
        """Score -> its change with its interval; None where it has none."""
        return {self.scores[0]: compared(self.settings, task, without, with_it).change}


class Reranking:
    """A gallery that is opened once; where test asks itself, each sample is one."""

    scores = (f"precision_at_{K}", "map_at_100")

    def __init__(self, world: Stages, rng, folder: Path) -> None:
        self.world, self.settings, self.folder = world, settings_of(world), folder
        self.vectors, self.train = world.draw(rng, "train")
        self.kept = self._opened(self.vectors) if world.gallery else None

    def searches(self, vectors, task):
        """Without the stage, and with it."""
        ready, gallery = self.kept or self._opened(vectors), self.vectors if self.world.gallery else vectors
        return [_exact(self.settings, vectors, gallery), as_search(ready, vectors, task.exclusions)]

    def said(self, task, without, with_it):
        """Score -> its change with its interval; None where it has none."""
        halves = with_it.halves, without.halves
        sides = {name: (with_it.per_query[name], without.per_query[name]) for name in self.scores}
        return {name: paired(self.settings, task, name, sides[name], halves) for name in self.scores}

    def _opened(self, gallery):
        return opened(self.folder, reranker_of(self.settings), gallery, "l2")


def _exact(settings, query, gallery):
    return lambda rows, k: exact_search(query[rows], gallery, settings.metric, k)


@dataclass(frozen=True)
class Gained:
    """What is said of one sample.

    Attributes:
        interval: of the change; None where none is given.
        truth: the mean change over other samples of test of the same train.
    """

    interval: tuple[float, float] | None
    truth: float


def gained(world: Stages, samples: int, seed: int) -> dict[str, list[Gained]]:
    """Score -> what is said of each sample, of FITS trains in turn."""
    kind = Adapting if world.words[0].startswith("adapt=") else Reranking
    found: dict[str, list[Gained]] = {name: [] for name in kind.scores}
    for stream in np.random.default_rng(seed).spawn(FITS):
        with tempfile.TemporaryDirectory() as folder:
            stage = kind(world, stream, Path(folder))
            truth = _truth(stage, stream)
            if world.apart == 0:  # known: a result is a hit in half of the cases, whatever the ranking
                truth[kind.scores[0]] = 0.0
            for _ in range(max(1, samples // FITS)):
                task, searches = _sample(stage, stream)
                said = stage.said(task, *(_line(stage, task, one) for one in searches))
                for name, change in said.items():
                    found[name].append(Gained(change and change[1:], truth[name]))
    return found


def _line(stage, task, search) -> Line:
    """As `exact_line.scored`, with fewer splits and of the scores that are asked for alone."""
    found = _evaluated(stage, task, search)
    wanted = [one for one in reported_scores([K], "single") if one.name in stage.scores]
    halves = None if found.deep is None else half_samples(task, found.deep, wanted, K, SPLITS)
    return Line(found.scores, found.per_query, halves)


def _evaluated(stage, task, search):
    config = dataclasses.replace(stage.settings.evaluation, save_depth=1)
    return evaluate(search, task, depth_of(stage.settings, task), config)


def _sample(stage, rng, images=0):
    vectors, test = dataclasses.replace(stage.world, images=images or stage.world.images).draw(rng, "test")
    task = task_of(stage.world, test, stage.train)
    return task, stage.searches(vectors, task)


def _truth(stage, rng):
    """Score -> the mean change over MANY queries, or over FRESH samples where the images are the gallery."""
    changes = []
    for _ in range(1 if stage.world.gallery else FRESH):
        task, searches = _sample(stage, rng, MANY if stage.world.gallery else 0)
        without, with_it = (_evaluated(stage, task, one).scores for one in searches)
        changes.append([with_it[name] - without[name] for name in stage.scores])
    return dict(zip(stage.scores, np.mean(changes, axis=0).tolist(), strict=True))
