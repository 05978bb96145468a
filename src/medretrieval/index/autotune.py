"""The cheapest search parameters of an index that reach a target recall, found on a validation sample.

What can be set and in which steps comes from FAISS's ParameterSpace (https://github.com/facebookresearch/
faiss/wiki/Index-IO,-cloning-and-hyper-parameter-tuning). Its `explore` is not used: its criteria cannot
leave a query out of its own results, and they count a tie at the k-th place as a miss.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

import faiss
import numpy as np
from numpy.typing import NDArray

from medretrieval.cache.store import Cache
from medretrieval.config import Config
from medretrieval.datasets.base import Split
from medretrieval.datasets.groups import load_split
from medretrieval.embed.images import embed
from medretrieval.errors import UserError
from medretrieval.index.distance import pair_distances
from medretrieval.index.exact_search import exact_search
from medretrieval.index.faiss_index import VectorIndex, is_exhaustive
from medretrieval.index.parameters import set_parameters
from medretrieval.index.recall import neighbor_recall
from medretrieval.index.transforms import as_compared
from medretrieval.protocol.exclusions import Exclusions
from medretrieval.protocol.inputs import Inputs

KEY = "index.autotune"
SPARE_SPLITS = ("val", "train")  # to tune on, in this order; never test
MAX_SAMPLED_VECTORS = 500  # validation vectors
MAX_EF_SEARCH = 1024  # efSearch beyond which a graph is no faster than exact search
NOT_TUNED = ("ht",)  # polysemous filtering: wants a training that the indexes here leave out


class Setting(TypedDict):
    """A point of the operating curve: a ParameterSpace string, its recall, and milliseconds a query."""

    parameters: str
    recall: float
    ms: float


@dataclass(frozen=True)
class ValidationSample:
    """Vectors that recall is measured on; never those of the test queries.

    Attributes:
        vectors: float32 [v, d], as the encoder gives them.
        positions: where they are in the gallery, -1 where they are not in it (int64 [v]); no vector finds
            itself.
    """

    vectors: NDArray[np.float32]
    positions: NDArray[np.int64]


@dataclass(frozen=True)
class Tuned:
    """Search parameters that reach a target.

    Attributes:
        parameters: the chosen ParameterSpace string, as "nprobe=8".
        recall: what it reached on the validation sample.
        curve: every setting that was tried, from the cheapest on.
        split: name of the split that the sample is of; "" where `autotune` was called with any.
        on_queries: the sample was drawn from the images that are scored.
    """

    parameters: str
    recall: float
    curve: list[Setting]
    split: str = ""
    on_queries: bool = False


def tune(
    settings: Config, inputs: Inputs, index: VectorIndex, gallery: NDArray[np.float32], cache: Cache
) -> tuple[VectorIndex, Tuned]:
    """Choose the search parameters of a run's index for the recall that index.autotune asks for.

    The sample comes from the first of SPARE_SPLITS that holds neither queries nor gallery. Where the dataset
    has none, it is drawn from the gallery; where the queries are that gallery, `Tuned.on_queries` says so.

    Args:
        settings: the run's configuration.
        inputs: dataset, encoder and task.
        index: the built index.
        gallery: its vectors, float32 [n, d].
        cache: where the val split's embeddings are kept.

    Returns:
        The index with the chosen parameters, and what was tried.

    Raises:
        UserError: as `autotune`.
    """
    task, target = inputs.task, settings.index.autotune
    assert target is not None
    split = validation_split(inputs)
    if split is None:
        sample = sample_gallery(gallery, MAX_SAMPLED_VECTORS, settings.seed)
    else:
        vectors = embed(inputs.encoder, inputs.identity, split, inputs.dataset.size, cache).vectors
        if len(vectors) > MAX_SAMPLED_VECTORS:
            rng = np.random.default_rng(settings.seed)
            vectors = vectors[np.sort(rng.choice(len(vectors), MAX_SAMPLED_VECTORS, replace=False))]
        sample = ValidationSample(vectors, np.full(len(vectors), -1))
    tuned = autotune(index, gallery, sample, max(settings.evaluation.ks), target)
    chosen = dict(part.split("=") for part in tuned.parameters.split(","))
    names = {"nprobe": "nprobe", "efSearch": "ef_search"}
    parameters = dict(index.spec.parameters) | {names[n]: int(v) for n, v in chosen.items() if n in names}
    spec = dataclasses.replace(index.spec, search=tuned.parameters, parameters=parameters)
    name = task.gallery.name if split is None else split.name
    tuned = dataclasses.replace(tuned, split=name, on_queries=split is None and task.queries_are_gallery)
    return dataclasses.replace(index, spec=spec, exhaustive=is_exhaustive(index.index)), tuned


def validation_split(inputs: Inputs) -> Split | None:
    """A split that is neither queried nor asked; None where the dataset has none."""
    for name in SPARE_SPLITS:
        if name in (inputs.task.queries.name, inputs.task.gallery.name):
            continue
        try:
            return load_split(inputs.dataset, name)
        except UserError:  # it is empty, or not there
            continue
    return None


def sample_gallery(gallery: NDArray[np.float32], size: int, seed: int) -> ValidationSample:
    """Draw a validation sample from the gallery itself, so that no test query has a say in the tuning.

    For a dataset without a split to spare. Where there is one, prefer it with
    positions of -1: a graph finds the neighbors of its own members more easily than those of strangers
    (HNSW32 on 4208 chest X-rays, efSearch=11: recall at 10 is 0.98 for members, 0.91 for images held out).

    Args:
        gallery: float32 [n, d].
        size: vectors wanted; all of the gallery where it has no more.
        seed: the same seed draws the same sample.
    """
    drawn = np.random.default_rng(seed).choice(len(gallery), min(size, len(gallery)), replace=False)
    positions = np.sort(drawn).astype(np.int64)
    return ValidationSample(np.ascontiguousarray(gallery[positions]), positions)


def autotune(
    index: VectorIndex, gallery: NDArray[np.float32], sample: ValidationSample, k: int, target: float
) -> Tuned:
    """Set an index to the cheapest search parameters that reach a target recall.

    Settings are tried from the cheapest on, up to the first that finds everything. The choice goes by
    recall and by the parameters themselves, never by the clock: the smallest value that reaches the target
    (of several parameters, the fewest steps up their ranges in all), because measured times change from run
    to run and a choice by them would too. Recall is tie-aware (`recall.neighbor_recall`).

    Args:
        index: the index to tune; left with the chosen parameters.
        gallery: its vectors, float32 [n, d], as the encoder gives them.
        sample: what recall is measured on.
        k: neighbors a query whose recall is meant.
        target: recall to reach, above 0 and at most 1.

    Raises:
        UserError: a target that no setting reaches, an index without search parameters,
            no validation vectors, or fewer than k neighbors to find.
    """
    where, validation = f"{KEY}={target}", sample.vectors
    if len(validation) == 0:
        raise UserError(f"{where}: there are no validation vectors to tune on")
    out = Exclusions(((sample.positions, np.arange(len(gallery))),), np.zeros(len(gallery), np.bool_))
    if not 1 <= k <= len(gallery) - out.overfetch:
        reach = len(gallery) - out.overfetch
        raise UserError(f"{where}: recall at k={k} needs {k} images, and a query can find {reach}")
    ranges = _ranges(index.index, k + out.overfetch)
    if not ranges:
        raise UserError(
            f"{where}: the index has no search parameters to tune (exact search already finds "
            "everything it can); use index=ivf or index=hnsw, or leave the target out"
        )
    queries, metric = as_compared(validation, index.index, index.metric)
    vectors, _ = as_compared(gallery, index.index, index.metric)
    nearest = out.remove(*exact_search(queries, vectors, metric, k + out.overfetch))[0]
    exact = pair_distances(queries, vectors, nearest, metric)

    def ask() -> NDArray[np.int64]:
        return out.remove(*index.search(validation, k + out.overfetch))[0]

    def recall(ids: NDArray[np.int64]) -> float:
        return neighbor_recall(pair_distances(queries, vectors, ids, metric), exact, k)

    curve, steps = _explore(index.index, ask, recall, len(validation), ranges)
    chosen = _choose(curve, steps, k, target)
    set_parameters(index.index, chosen["parameters"], KEY)
    return Tuned(chosen["parameters"], chosen["recall"], curve)


def _choose(curve: list[Setting], steps: list[int], k: int, target: float) -> Setting:
    reached = [i for i, setting in enumerate(curve) if setting["recall"] >= target]
    if not reached:
        best = max(curve, key=lambda setting: setting["recall"])
        raise UserError(
            f"{KEY}={target}: no search parameters reach this recall at k={k}; the best are "
            f"{best['parameters']} with {best['recall']:.4f}; lower the target or build a finer index"
        )
    return curve[min(reached, key=lambda i: (steps[i], i))]


def _ranges(index: faiss.Index, depth: int) -> dict[str, list[int]]:
    """The values of each search parameter, from cheap to thorough.

    FAISS's own, but two steps an octave, up to all cells of an IVF, and from where a graph's width matters:
    FAISS searches a graph at least as wide as it is asked deep.
    """
    space = faiss.ParameterSpace()
    space.initialize(index)
    ranges = {}
    for i in range(space.parameter_ranges.size()):
        one = space.parameter_ranges.at(i)
        # The values belong to the range: reading them needs both names alive.
        values = one.values
        ranges[one.name] = faiss.vector_to_array(values).astype(int).tolist()
    for name in NOT_TUNED:
        ranges.pop(name, None)
    if "nprobe" in ranges:
        ranges["nprobe"] = _steps(1, faiss.extract_index_ivf(index).nlist)
    if "efSearch" in ranges:
        ranges["efSearch"] = _steps(depth, max(depth, min(index.ntotal, MAX_EF_SEARCH)))
    return ranges


def _steps(least: int, most: int) -> list[int]:
    """Whole numbers from least to most, two an octave.

    >>> _steps(1, 20)
    [1, 2, 3, 4, 6, 8, 11, 16, 20]
    """
    octaves = np.arange(0, np.log2(most / least), 0.5)
    return sorted({*np.rint(least * 2**octaves).astype(int).tolist(), most})


def _explore(
    index: faiss.Index,
    ask: Callable[[], NDArray[np.int64]],
    recall: Callable[[NDArray[np.int64]], float],
    queries: int,
    ranges: Mapping[str, list[int]],
) -> tuple[list[Setting], list[int]]:
    """Try the settings, but none that is in every parameter at least as wide as one that found everything.

    Returns:
        The operating curve, and of each of its settings the steps up the ranges.
    """
    space: Any = faiss.ParameterSpace()
    for name, values in ranges.items():
        faiss.copy_array_to_vector(np.array(values, np.float64), space.add_range(name).values)
    # Combination numbers count up the first range first.
    sizes = [len(values) for values in ranges.values()]
    places = [np.unravel_index(c, sizes, "F") for c in range(space.n_combinations())]
    perfect: list[int] = []
    curve: list[Setting] = []
    steps: list[int] = []
    for c, place in enumerate(places):
        if any(space.combination_ge(c, whole) for whole in perfect):
            continue
        space.set_index_parameters(index, c)
        start = time.perf_counter()
        ids = ask()
        ms = (time.perf_counter() - start) * 1000 / queries
        reached = recall(ids)
        curve.append({"parameters": space.combination_name(c), "recall": reached, "ms": ms})
        steps.append(int(sum(place)))
        if reached == 1:
            perfect.append(c)
    return curve, steps
