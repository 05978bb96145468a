"""One run: embed, index, evaluate, track. Everything the command line does, as a plain function."""

import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from medretrieval.cache.store import Cache
from medretrieval.config import Config, EvaluationConfig, check, expand
from medretrieval.datasets.base import Split
from medretrieval.embed.images import Embeddings, embed
from medretrieval.embed.text import embed_prompts
from medretrieval.errors import UserError
from medretrieval.evaluate.evaluate import Evaluation, evaluate, objective_name
from medretrieval.evidence.ann_loss import measure
from medretrieval.evidence.breakdown import breakdown
from medretrieval.evidence.duplicate_audit import kept_audit, write_pairs
from medretrieval.evidence.evidence import Evidence, evidence, plain_task, with_exclusions
from medretrieval.evidence.zero_shot import text_evidence
from medretrieval.explain import stage as explaining
from medretrieval.figures.draw import Drawn, draw
from medretrieval.figures.embedding_map import require_method
from medretrieval.figures.galleries import audit_picture
from medretrieval.figures.saliency import writers as saliency_writers
from medretrieval.index.autotune import Tuned, tune
from medretrieval.index.faiss_index import VectorIndex, build, search_depth
from medretrieval.index.speed import speed
from medretrieval.load import load
from medretrieval.protocol.exclusions import active
from medretrieval.protocol.inputs import Inputs
from medretrieval.protocol.prompts import Prompts
from medretrieval.protocol.task import RetrievalTask
from medretrieval.runs import folder as run_folder
from medretrieval.runs.identity import fingerprint_of, slug
from medretrieval.runs.manifest import manifest
from medretrieval.runs.report import RunOutputs, document
from medretrieval.runs.warnings import notes_of
from medretrieval.track.mlflow_tracker import Tracker, add_to_sweep, tracked
from medretrieval.track.run_description import dataset_inputs, describe_run

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
    require_method(settings.figures)
    if settings.threads is not None:
        _set_threads(settings.threads)
    outputs = expand(settings.paths.outputs)
    cache = Cache(expand(settings.paths.cache))
    clock = Clock()
    with tracked(Tracker(settings.tracking, outputs, describe_run(settings, sweep))) as tracker:
        with clock("load"):
            inputs = load(settings, cache)
        fingerprint = fingerprint_of(settings, inputs.task, inputs.identity, inputs.center_split)
        finished = None if settings.force else run_folder.find_finished(outputs, fingerprint)
        if finished is not None:
            return _skip(finished, folder, sweep)
        explaining.require(settings, inputs.encoder)
        folder = folder or outputs / "runs" / f"{datetime.now():%Y%m%d-%H%M%S-%f}_{slug(settings)}"
        if inputs.encoder.random_weights:
            tracker.about.name += " RANDOM WEIGHTS"
        tracker.about.inputs = dataset_inputs(settings, inputs.dataset, inputs.task)
        tracker.start()
        query, gallery = _embed(inputs, cache, clock)
        index, tuned = _index(settings, inputs, gallery, cache, clock)
        evaluation = _evaluate(settings, inputs.task, index, query.vectors, clock)
        found = _judge(settings, inputs, (query, gallery), (index, tuned), evaluation, cache, clock)
        report = document(settings, inputs, found, notes_of(settings, inputs.task, found), fingerprint)
        with clock("figures"):
            drawn = draw(settings, inputs, found, report["title"], cache)
        report["timings_s"] = clock.seconds | {"total": time.perf_counter() - clock.begin}
        _write(cfg, folder, inputs, found, drawn, report)
        run_folder.mark_finished(outputs, fingerprint, folder)
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


def _embed(inputs: Inputs, cache: Cache, clock: Clock) -> tuple[Embeddings, Embeddings]:
    def vectors(split: Split) -> Embeddings:
        return embed(inputs.encoder, inputs.identity, split, inputs.dataset.size, cache)

    queries = inputs.task.queries
    with clock("embed"):
        if isinstance(queries, Prompts):
            return embed_prompts(inputs, queries, cache)
        assert isinstance(queries, Split)
        gallery = vectors(inputs.task.gallery)
        query = gallery if queries is inputs.task.gallery else vectors(queries)
    return query, gallery


def _index(
    settings: Config, inputs: Inputs, gallery: Embeddings, cache: Cache, clock: Clock
) -> tuple[VectorIndex, Tuned | None]:
    task, config = inputs.task, settings.evaluation
    wanted = min(task.max_depth, max(*_looked_at(config), config.save_depth or task.max_depth))
    with clock("index"):
        depth = wanted + task.exclusions.overfetch
        index = build(settings.index, settings.metric, gallery, depth, settings.seed, cache)
    if settings.index.autotune is None:
        return index, None
    with clock("autotune"):
        return tune(settings, inputs, index, gallery.vectors, cache)


def _evaluate(
    settings: Config, task: RetrievalTask, index: VectorIndex, queries: NDArray[np.float32], clock: Clock
) -> Evaluation:
    config = settings.evaluation
    depth = search_depth(index, task.max_depth, _looked_at(config), config.save_depth)
    evaluation = evaluate(lambda rows, k: index.search(queries[rows], k), task, depth, config)
    clock.seconds |= {"search": evaluation.search_s, "score": evaluation.score_s}
    return evaluation


def _looked_at(config: EvaluationConfig) -> list[int]:
    """Depths that scores look at: those of ks and of the vote."""
    return [*config.ks, config.vote_k]


def _judge(
    settings: Config,
    inputs: Inputs,
    embeddings: tuple[Embeddings, Embeddings],
    indexed: tuple[VectorIndex, Tuned | None],
    evaluation: Evaluation,
    cache: Cache,
    clock: Clock,
) -> RunOutputs:
    """Everything beside the scores: their evidence, what the index costs and gives, look-alikes."""
    (query, gallery), (index, tuned), task = embeddings, indexed, inputs.task
    with clock("evidence"):
        trust = _trust(settings, inputs, index, query.vectors, evaluation, cache)
        parts = None  # only the pictures want it
        if settings.figures.enabled:
            parts = breakdown(settings, inputs, evaluation, trust.pixel_line)
    with clock("approximation"):
        ids = evaluation.ranking.ids
        loss = measure(settings, task, index, query.vectors, gallery.vectors, ids)
        rate = speed(index, query.vectors, len(task.gallery), max(settings.evaluation.ks))
        recall = loss.recall if loss else None
        words = text_evidence(settings, task, index, query.vectors, gallery.vectors, recall)
    with clock("audit"):
        config = settings.audit
        images_ask = isinstance(task.queries, Split)
        leaks = kept_audit(task, query, gallery, config, cache) if config.enabled and images_ask else None
    explained = None
    if settings.explain.enabled:
        with clock("explain"):
            explained = explaining.explain(settings, inputs, evaluation)
    return RunOutputs(
        query, gallery, index, tuned, evaluation, trust, loss, rate, leaks, words, explained, parts
    )


def _trust(
    settings: Config,
    inputs: Inputs,
    index: VectorIndex,
    queries: NDArray[np.float32],
    evaluation: Evaluation,
    cache: Cache,
) -> Evidence:
    objective = objective_name(settings.evaluation, inputs.task)
    if objective not in evaluation.scores:
        raise UserError(
            f"evaluation.objective={objective}: index={settings.index.name} gives "
            f"{evaluation.counts['depth']} of {inputs.task.max_depth} results, too few for it; use "
            f"index=flat, evaluation.save_depth=null, or a score at a depth, such as "
            f"precision_at_{settings.evaluation.ks[-1]}"
        )
    size, identity = inputs.dataset.size, inputs.identity
    found = evidence(settings, inputs.task, size, identity, evaluation, objective, cache)
    if not active(settings.protocol):
        return found
    plain = plain_task(settings.protocol, inputs.task)
    depth = min(evaluation.counts["depth"], plain.max_depth)
    without = evaluate(lambda rows, k: index.search(queries[rows], k), plain, depth, settings.evaluation)
    return with_exclusions(settings, found, evaluation, without, objective, inputs.task)


def _write(
    cfg: DictConfig, folder: Path, inputs: Inputs, found: RunOutputs, drawn: Drawn, report: Mapping[str, Any]
) -> None:
    queries = inputs.task.queries
    sides = {"query": queries, "gallery": inputs.task.gallery}
    if inputs.center_split is not None:
        sides["center"] = inputs.center_split
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    documents = {
        run_folder.SCORES: run_folder.as_json(report),
        run_folder.MANIFEST: run_folder.as_json(manifest(inputs.dataset, sides, inputs.identity, config)),
        run_folder.CONFIG: OmegaConf.to_yaml(cfg, resolve=True),
    }
    if isinstance(queries, Prompts):
        documents[run_folder.PROMPTS] = run_folder.as_json(queries.document())
    links = {
        "index.faiss": found.index.path,
        "embeddings_query.npy": found.query.path,
        "embeddings_gallery.npy": found.gallery.path,
        **drawn.links,
    }
    writers: dict[str, Callable[[Path], None]] = {
        name: functools.partial(_write_bytes, content=content) for name, content in drawn.files.items()
    }
    if (leaks := found.leaks) is not None and leaks.pairs:
        writers[run_folder.AUDIT_PAIRS] = lambda path: write_pairs(path, leaks, inputs.task)
        writers[run_folder.AUDIT_PICTURE] = lambda path: audit_picture(path, leaks, inputs.task)
    if found.explained is not None:
        writers |= saliency_writers(found.explained, report["title"])
    run_folder.write(folder, found.evaluation, inputs.task, documents, links, writers)


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _skip(finished: Path, folder: Path | None, sweep: str | None) -> RunResult:
    log.info("skipped: this configuration has finished in %s (force=true runs it again)", finished)
    if folder is not None:
        run_folder.mark_skipped(folder, finished)
    if sweep is not None:
        add_to_sweep(finished, sweep)
    return RunResult(finished, run_folder.read_scores(finished), skipped=True)


def _set_threads(threads: int) -> None:
    import os
    import sys

    faiss.omp_set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for a torch that is imported later
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
