"""What an adaptation is worth, and what would show that it is not: gain, spread, controls.

All lines are scored by exact search, so that they are the same whatever the index. Every fit that is made for
them is kept in the cache, beside the adaptation itself.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from medretrieval.adapt.base import VectorAdaptation
from medretrieval.adapt.fit import Fitted, Fitting, fit_and_choose, fit_variant
from medretrieval.adapt.saved import SavedAdaptation
from medretrieval.adapt.stage import Adapted
from medretrieval.adapt.tuning.captions import shuffled_captions
from medretrieval.cache.store import Cache
from medretrieval.config import Config
from medretrieval.datasets.base import Split
from medretrieval.embed.images import identify
from medretrieval.embed.sides import Sides, embed_sides
from medretrieval.encoders.base import Encoder
from medretrieval.evaluate.evaluate import objective_name
from medretrieval.evaluate.score_table import MACRO
from medretrieval.evidence.evidence import paired
from medretrieval.evidence.pixel_baseline import baseline_encoder
from medretrieval.evidence.stages.exact_line import Line, exact_line, line_of
from medretrieval.evidence.stages.hubs import HUB_K, effective_dimension, hub_skewness
from medretrieval.evidence.stages.out_of_fold import out_of_fold
from medretrieval.index.exact_search import exact_search
from medretrieval.protocol.inputs import Inputs
from medretrieval.protocol.task import RetrievalTask

Change = tuple[float, float, float]
MAX_HUB_QUERIES = 10_000  # whose results are counted


@dataclass(frozen=True)
class Compared:
    """A score without something, with it, and the paired difference.

    Attributes:
        without: the objective without it.
        with_it: the objective with it.
        change: the second minus the first, low, high; None where too few queries tell.
    """

    without: float
    with_it: float
    change: Change | None


@dataclass(frozen=True)
class Shape:
    """What a gallery's vectors look like.

    Attributes:
        dimension: numbers a vector.
        effective_dimension: see `hubs.effective_dimension`.
        hub_skewness: see `hubs.hub_skewness`, over the queries' first HUB_K results.
    """

    dimension: int
    effective_dimension: float
    hub_skewness: float


@dataclass(frozen=True)
class AdaptationEvidence:
    """What an adaptation is worth.

    Attributes:
        fitted: what was fitted and chosen.
        gain: the objective of the vectors before and after, by exact search.
        shape_before, shape: of the gallery before and after.
        refits: the objective of each further fit, from another sample of train or another seed.
        shuffled: the same adaptation fitted to shuffled labels of train, beside what it does without labels
            (or beside no adaptation), or to captions of other groups; None where it reads neither.
        out_of_fold: the objective with the gallery in place as it is ("without"), and with each gallery
            vector changed by a fit that has not seen it; None where the gallery is not what was
            fitted on.
        pixels: the pixel baseline, adapted the same way, and this run's vectors; None where there is none.
    """

    fitted: Fitted
    gain: Compared
    shape_before: Shape
    shape: Shape
    refits: tuple[float, ...]
    shuffled: Compared | None
    out_of_fold: Compared | None
    pixels: Compared | None


def adaptation_evidence(
    settings: Config, adapted: Adapted, sides: Sides, cache: Cache
) -> AdaptationEvidence | None:
    """Score an adapted run's vectors beside what they are to be held against.

    Args:
        settings: the run's configuration.
        adapted: the run's encoder before and after the adaptation.
        sides: embeddings after it.
        cache: where fits, embeddings and scores are kept.

    Returns:
        None where nothing is adapted.
    """
    fitted = adapted.fitted
    if fitted is None:
        return None
    lines = _Lines(settings, adapted, fitted, cache)
    before = embed_sides(adapted.before, cache)
    plain, ours = lines.of(before), lines.of(sides)
    saved = isinstance(fitted.adaptation, SavedAdaptation)
    return AdaptationEvidence(
        fitted=fitted,
        gain=lines.compared(plain, ours),
        shape_before=_shape(settings, adapted.inputs.task, before),
        shape=_shape(settings, adapted.inputs.task, sides),
        refits=lines.refits(),
        shuffled=None if saved else lines.shuffled(plain),
        out_of_fold=None if saved else lines.out_of_fold(ours, before),
        pixels=None if saved else lines.pixels(ours),
    )


def compared(settings: Config, task: RetrievalTask, without: Line, with_it: Line) -> Compared:
    """The objective of two lines of one task, and their paired difference."""
    name = objective_name(settings.evaluation, task)
    base = name.removeprefix(MACRO)
    values = with_it.per_query[base], without.per_query[base]
    change = paired(settings, task, name, values, (with_it.halves, without.halves))
    return Compared(without.scores[name], with_it.scores[name], change)


@dataclass(frozen=True)
class _Lines:
    """The lines of one run."""

    settings: Config
    adapted: Adapted
    fitted: Fitted
    cache: Cache

    @cached_property
    def fitting(self) -> Fitting:
        return Fitting(self.settings, self.adapted.before, self.cache)

    @property
    def task(self) -> RetrievalTask:
        return self.adapted.inputs.task

    @property
    def objective(self) -> str:
        return objective_name(self.settings.evaluation, self.task)

    def of(self, sides: Sides) -> Line:
        return line_of(self.settings, self.task, sides, self.cache)

    def of_fit(self, fit: Fitted, before: Inputs) -> Line:
        """What a run would score with another fit; adapted vectors are not kept."""
        adaptation = fit.adaptation
        if not isinstance(adaptation, VectorAdaptation):
            encoder: Encoder = fit.encoder(before.encoder)
            after = before.with_encoder(encoder, identify(encoder, self.cache))
            return self.of(embed_sides(after, self.cache))
        sides = embed_sides(before, self.cache)
        key = {"fit": fit.digest, "before": [sides.query.key, sides.gallery.key]}

        def vectors() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            query = adaptation.apply(fit.tensors, np.asarray(sides.query.vectors))
            if sides.gallery is sides.query:
                return query, query
            return query, adaptation.apply(fit.tensors, np.asarray(sides.gallery.vectors))

        return exact_line(self.settings, self.task, key, vectors, self.cache)

    def compared(self, without: Line, with_it: Line) -> Compared:
        return compared(self.settings, self.task, without, with_it)

    def refits(self) -> tuple[float, ...]:
        """The objective after fits on bootstrap samples of train (of its groups), or from other seeds."""
        adaptation, fitting = self.fitted.adaptation, self.fitting
        scores = []
        for number in range(1, adaptation.refits + 1):
            data, seed = fitting.data(adaptation), adaptation.seed + number
            if adaptation.resamples:
                data = data.of_rows(_resampled(data.split, seed))
            fit = fit_variant(fitting, adaptation, self.fitted.choice, f"refit {seed}", data, seed)
            scores.append(self.of_fit(fit, self.adapted.before).scores[self.objective])
        return tuple(scores)

    def shuffled(self, plain: Line) -> Compared | None:
        """The same adaptation fitted to shuffled labels or captions, beside what it does without any."""
        adaptation, fitting = self.fitted.adaptation, self.fitting
        if not adaptation.uses_labels and not adaptation.uses_captions:
            return None
        data = fitting.data(adaptation)
        if adaptation.uses_captions:
            other = data.with_captions(shuffled_captions(data.split, adaptation.seed))
            name = f"shuffled captions {adaptation.seed}"
            made = fit_variant(fitting, adaptation, self.fitted.choice, name, other, adaptation.seed)
            return self.compared(plain, self.of_fit(made, self.adapted.before))
        labels = np.random.default_rng(adaptation.seed).permutation(data.split.labels)
        name = f"shuffled labels {adaptation.seed}"
        fit = fit_variant(
            fitting, adaptation, self.fitted.choice, name, data.with_labels(labels), adaptation.seed
        )
        reference = plain
        if (plainer := adaptation.without_labels()) is not None:
            shared = {key: value for key, value in self.fitted.choice.items() if key in plainer.options}
            same = fit_variant(
                fitting, plainer, shared, "without labels", fitting.data(plainer), adaptation.seed
            )
            reference = self.of_fit(same, self.adapted.before)
        return self.compared(reference, self.of_fit(fit, self.adapted.before))

    def out_of_fold(self, ours: Line, before: Sides) -> Compared | None:
        """With each gallery vector changed by a fit that has not seen its image."""
        if self.task.gallery.name != self.fitting.train.name or self.fitted.adaptation.share < 1:
            return None
        line = out_of_fold(self.fitting, self.fitted, before)
        return None if line is None else self.compared(ours, line)

    def pixels(self, ours: Line) -> Compared | None:
        """The adapted pixel baseline, its settings chosen on val for itself."""
        encoder = baseline_encoder(self.settings)
        if encoder is None or not isinstance(self.fitted.adaptation, VectorAdaptation):
            return None
        before = self.adapted.before.with_encoder(encoder, identify(encoder, self.cache))
        if before.identity == self.adapted.before.identity:
            return None
        fit = fit_and_choose(Fitting(self.settings, before, self.cache), self.fitted.adaptation)
        return self.compared(self.of_fit(fit, before), ours)


def _resampled(split: Split, seed: int) -> NDArray[np.int64]:
    """Positions of a bootstrap sample of a split: whole groups where these are known, else by class."""
    rng = np.random.default_rng(seed)
    if split.groups is not None:
        names, codes = np.unique(split.groups, return_inverse=True)
        members = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
        drawn = rng.integers(len(names), size=len(names))
        return np.sort(np.concatenate([members[group] for group in drawn]))
    if split.labels.ndim == 2:
        return np.sort(rng.integers(len(split), size=len(split)))
    rows = [np.flatnonzero(split.labels == number) for number in np.unique(split.labels)]
    return np.sort(np.concatenate([rng.choice(some, len(some)) for some in rows]))


def _shape(settings: Config, task: RetrievalTask, sides: Sides) -> Shape:
    gallery, out = sides.gallery.vectors, task.exclusions
    rows = slice(0, MAX_HUB_QUERIES)
    k = min(HUB_K, task.max_depth)
    found = exact_search(sides.query.vectors[rows], gallery, settings.metric, k + out.overfetch)
    ids = out.remove(*found, rows)[0]
    return Shape(int(gallery.shape[1]), effective_dimension(gallery), hub_skewness(ids, len(gallery)))
