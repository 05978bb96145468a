"""One run: embed, index, evaluate, track. Everything the command line does, as a plain function."""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import faiss
from omegaconf import DictConfig, OmegaConf

from medretrieval import results
from medretrieval.about import about, dataset_inputs, fingerprint_of, slug, title
from medretrieval.approximation import measure
from medretrieval.audit import Audit, audit, picture, write_pairs
from medretrieval.cache import Cache
from medretrieval.config import Config, check, expand
from medretrieval.datasets.base import Dataset, Split
from medretrieval.embed import Embeddings, embed, identify
from medretrieval.encoders.base import Encoder
from medretrieval.errors import UserError
from medretrieval.evaluate import Evaluation, Task, evaluate, objective_name, require_depths
from medretrieval.evidence import Evidence, evidence, per_class
from medretrieval.index import VectorIndex, build, require_parameters, search_depth
from medretrieval.instantiate import instantiate
from medretrieval.manifest import manifest
from medretrieval.notes import notes_of
from medretrieval.ranking import require_companions
from medretrieval.track import Tracker, add_to_sweep, tracked

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """What a run leaves behind.

    Attributes:
        folder: where everything is; of the earlier run where this one was skipped.
        report: the content of its scores.json.
        skipped: the same configuration had finished before.
    """

    folder: Path
    report: dict[str, Any]
    skipped: bool

    @property
    def objective(self) -> float:
        """The one score that sweepers see."""
        return float(self.report["objective"]["value"])


@dataclass(frozen=True)
class Inputs:
    """What a run starts from, before any vector is made."""

    dataset: Dataset
    encoder: Encoder
    identity: dict[str, Any]
    task: Task


def run(cfg: DictConfig, folder: Path | None = None, sweep: str | None = None) -> RunResult:
    """Embed, index, evaluate, track: one dataset, encoder, index, metric and protocol.

    Args:
        cfg: a composed configuration, from the command line or from `medretrieval.compose`.
        folder: where the results go; None for a new folder under paths.outputs.
        sweep: the id of the sweep this run is part of.

    Returns:
        The folder and the content of scores.json.

    Raises:
        UserError: anything the user can mend, in one line.
    """
    settings = check(cfg)
    if settings.threads is not None:
        _set_threads(settings.threads)
    outputs = expand(settings.paths.outputs)
    cache = Cache(expand(settings.paths.cache))
    clock = Clock()
    with tracked(Tracker(settings.tracking, outputs, about(settings, sweep))) as tracker:
        with clock("load"):
            inputs = _load(settings, cache)
        fingerprint = fingerprint_of(settings, inputs.task, inputs.identity)
        finished = None if settings.force else results.find_finished(outputs, fingerprint)
        if finished is not None:
            return _skip(finished, folder, sweep)
        folder = folder or outputs / "runs" / f"{datetime.now():%Y%m%d-%H%M%S-%f}_{slug(settings)}"
        if inputs.encoder.random_weights:
            tracker.about.name += " RANDOM WEIGHTS"
        tracker.about.inputs = dataset_inputs(settings, inputs.dataset, inputs.task)
        tracker.start()
        query, gallery = _embed(inputs, cache, clock)
        index, evaluation = _search_and_score(settings, inputs, query, gallery, cache, clock)
        with clock("evidence"):
            trust = _trust(settings, inputs, index, evaluation, cache)
        with clock("approximation"):
            loss = measure(settings, inputs.task, index, query, gallery, cache)
        with clock("audit"):
            leaks = _audit(settings, inputs.task, query, gallery)
        embeddings = query, gallery
        report = _report(settings, inputs, index, evaluation, trust, leaks, embeddings, clock, fingerprint)
        report["approximation"] = loss.document() if loss else None
        links = {
            "index.faiss": index.path,
            "embeddings_query.npy": query.path,
            "embeddings_gallery.npy": gallery.path,
        }
        documents, writers = _documents(cfg, inputs, report), _audit_writers(inputs.task, leaks)
        results.write(folder, evaluation, inputs.task.relevant, documents, links, writers)
        results.mark_finished(outputs, fingerprint, folder)
        tracker.about.params |= {f"index.{k}": str(v) for k, v in index.spec.parameters.items()}
        tracker.finish(folder)
    return RunResult(folder, report, skipped=False)


class Clock:
    """Seconds of each stage, in the order they were first entered."""

    def __init__(self) -> None:
        self.begin = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the block's seconds to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def load_task(settings: Config) -> tuple[Dataset, Task]:
    """Read the splits that a run's protocol names, and check them against the rest of the configuration.

    Raises:
        UserError: data, protocol, depths or index parameters that do not fit each other.
    """
    dataset = instantiate(settings.dataset, Dataset, "dataset")  # type: ignore[type-abstract]
    protocol = settings.protocol
    queries = _load_split(dataset, protocol.query)
    gallery = queries if protocol.gallery == protocol.query else _load_split(dataset, protocol.gallery)
    if protocol.name == "leave_one_out" and protocol.exclude_self:
        require_companions(queries.labels, dataset.classes, f"{dataset.name}, split {protocol.query}")
    task = Task.of(queries, gallery, protocol.exclude_self)
    require_depths(task, settings.evaluation)
    require_parameters(settings.index, len(gallery))
    objective_name(settings.evaluation, queries.labels.ndim == 2)
    if not (task.relevant > 0).any():
        raise UserError(
            f"dataset={dataset.name}: no query of split {queries.name!r} has a relevant image in split "
            f"{gallery.name!r}; the two splits share no class"
        )
    return dataset, task


def _load(settings: Config, cache: Cache) -> Inputs:
    encoder = instantiate(settings.encoder, Encoder, "encoder")  # type: ignore[type-abstract]
    dataset, task = load_task(settings)
    return Inputs(dataset, encoder, identify(encoder, cache), task)


def _load_split(dataset: Dataset, name: str) -> Split:
    split = dataset.load(name)
    if len(split) == 0:
        raise UserError(
            f"dataset={dataset.name}: split {name!r} is empty; choose another split or a larger n"
        )
    return split


def _embed(inputs: Inputs, cache: Cache, clock: Clock) -> tuple[Embeddings, Embeddings]:
    def vectors(split: Split) -> Embeddings:
        return embed(inputs.encoder, inputs.identity, split, inputs.dataset.size, cache)

    with clock("embed"):
        gallery = vectors(inputs.task.gallery)
        query = gallery if inputs.task.queries is inputs.task.gallery else vectors(inputs.task.queries)
    return query, gallery


def _search_and_score(
    settings: Config, inputs: Inputs, query: Embeddings, gallery: Embeddings, cache: Cache, clock: Clock
) -> tuple[VectorIndex, Evaluation]:
    task, config = inputs.task, settings.evaluation
    wanted = min(task.reach, max(max(config.ks), config.save_depth or task.reach))
    with clock("index"):
        index = build(settings.index, settings.metric, gallery, wanted, settings.seed, cache)
    depth = search_depth(index, task.reach, config.ks, config.save_depth)
    deeper = depth + 1 if task.excludes else depth
    evaluation = evaluate(lambda b, e: index.search(query.vectors[b:e], deeper), task, depth, config)
    clock.seconds |= {"search": evaluation.search_s, "score": evaluation.score_s}
    return index, evaluation


def _objective(settings: Config, inputs: Inputs) -> str:
    return objective_name(settings.evaluation, inputs.task.queries.labels.ndim == 2)


def _trust(
    settings: Config, inputs: Inputs, index: VectorIndex, evaluation: Evaluation, cache: Cache
) -> Evidence:
    objective = _objective(settings, inputs)
    if objective not in evaluation.scores:
        raise UserError(
            f"evaluation.objective={objective}: index={settings.index.name} gives "
            f"{evaluation.counts['depth']} of {inputs.task.reach} results, too few for it; use index=flat, "
            f"evaluation.save_depth=null, or a score at a depth: precision_at_{settings.evaluation.ks[-1]}"
        )
    size, identity = inputs.dataset.size, inputs.identity
    return evidence(settings, inputs.task, size, identity, evaluation, objective, cache)


def _audit(settings: Config, task: Task, query: Embeddings, gallery: Embeddings) -> Audit | None:
    return audit(task, query.vectors, gallery.vectors, settings.audit) if settings.audit.enabled else None


def _audit_writers(task: Task, leaks: Audit | None) -> dict[str, Callable[[Path], None]]:
    if leaks is None or not leaks.pairs:
        return {}
    return {
        results.AUDIT_PAIRS: lambda path: write_pairs(path, leaks, task),
        results.AUDIT_PICTURE: lambda path: picture(path, leaks, task),
    }


def _report(
    settings: Config,
    inputs: Inputs,
    index: VectorIndex,
    evaluation: Evaluation,
    trust: Evidence,
    leaks: Audit | None,
    embeddings: tuple[Embeddings, Embeddings],
    clock: Clock,
    fingerprint: str,
) -> dict[str, Any]:
    objective = _objective(settings, inputs)
    encoder, (query, gallery) = inputs.encoder, embeddings
    return {
        "title": title(settings, encoder),
        "dataset": inputs.dataset.name,
        "metric": settings.metric.name,
        "protocol": dataclasses.asdict(settings.protocol),
        "scores": evaluation.scores,
        "chance": evaluation.chance,
        "objective": {"name": objective, "value": evaluation.scores[objective]},
        **trust.document(),
        "per_class": per_class(evaluation, inputs.dataset.classes),
        "vote": {"k": settings.evaluation.vote_k, "abstention": evaluation.abstention},
        "timings_s": clock.seconds | {"total": time.perf_counter() - clock.begin},
        "counts": evaluation.counts,
        "encoder": {
            "name": encoder.name,
            "random_weights": encoder.random_weights,
            "dimension": int(query.vectors.shape[1]),
            "cached": query.cached and gallery.cached,
            "images_per_s": query.images_per_s,
            **inputs.identity,
        },
        "index": {
            "name": settings.index.name,
            "factory": index.spec.factory,
            "build": index.spec.build,
            "search": index.spec.search,
            "exhaustive": index.exhaustive,
            "build_s": index.build_s,
            "cached": index.cached,
        },
        "audit": leaks.counts if leaks else {},
        "notes": notes_of(settings, index, query.vectors, evaluation, trust, leaks),
        "fingerprint": fingerprint,
    }


def _documents(cfg: DictConfig, inputs: Inputs, report: Mapping[str, Any]) -> dict[str, str]:
    splits = {"query": inputs.task.queries, "gallery": inputs.task.gallery}
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    facts = manifest(inputs.dataset, splits, inputs.identity, config)
    return {
        results.SCORES: results.as_json(report),
        results.MANIFEST: results.as_json(facts),
        results.CONFIG: OmegaConf.to_yaml(cfg, resolve=True),
    }


def _skip(finished: Path, folder: Path | None, sweep: str | None) -> RunResult:
    log.info("skipped: this configuration has finished in %s (force=true runs it again)", finished)
    if folder is not None:
        results.write_json(folder / results.SKIPPED, {"run": str(finished)})
    if sweep is not None:
        add_to_sweep(finished, sweep)
    return RunResult(finished, results.read_scores(finished), skipped=True)


def _set_threads(threads: int) -> None:
    import os
    import sys

    faiss.omp_set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for a torch that is imported later
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
