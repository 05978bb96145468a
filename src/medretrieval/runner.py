"""One run: embed, index, evaluate, judge, draw, write, track. What the command line does, as a function."""

import functools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import faiss
from omegaconf import DictConfig, OmegaConf

from medretrieval.adapt.stage import Adapted, adapt
from medretrieval.cache.store import Cache
from medretrieval.checks import check
from medretrieval.config import Config, EvaluationConfig, expand
from medretrieval.embed.sides import Sides, embed_sides
from medretrieval.errors import UserError
from medretrieval.evaluate.evaluate import Evaluation, Ints, Search, evaluate, objective_name, with_score
from medretrieval.evaluate.score_table import MAP_DEPTH
from medretrieval.evidence.ann_loss import measure
from medretrieval.evidence.breakdown import breakdown
from medretrieval.evidence.duplicate_audit import Audit, kept_audit, write_pairs
from medretrieval.evidence.evidence import Evidence, evidence, plain_task, with_exclusions
from medretrieval.evidence.stages.adaptation import adaptation_evidence
from medretrieval.evidence.stages.rerank_gain import Reranked, has_intervals, rerank_gain, without_intervals
from medretrieval.evidence.zero_shot import text_evidence
from medretrieval.explain import stage as explaining
from medretrieval.figures.draw import Drawn, draw
from medretrieval.figures.embedding_map import require_method
from medretrieval.figures.galleries import audit_picture
from medretrieval.figures.saliency import writers as saliency_writers
from medretrieval.index.autotune import Tuned, tune
from medretrieval.index.faiss_index import VectorIndex, build, search_depth, searched_as_wide_as
from medretrieval.index.speed import speed
from medretrieval.load import load
from medretrieval.private import each
from medretrieval.protocol.exclusions import active
from medretrieval.protocol.inputs import Inputs
from medretrieval.protocol.task import RetrievalTask
from medretrieval.rerank.base import NoReranking, Opened
from medretrieval.rerank.opening import changed_sides, nodes_of, ready, reranker_of
from medretrieval.rerank.search import as_search
from medretrieval.runs import folder as run_folder
from medretrieval.runs.identity import find_finished, fingerprint_of, mark_finished, slug
from medretrieval.runs.manifest import manifest
from medretrieval.runs.outputs import RunOutputs, report_of
from medretrieval.runs.report import RunReport, read_report
from medretrieval.runs.saved.seal import sealed
from medretrieval.runs.warnings import notes_of
from medretrieval.subgroups.by_value import Subgroups, subgroups
from medretrieval.subgroups.columns import columns_of, members_of
from medretrieval.track.run_description import dataset_inputs, describe_run, write_tracking
from medretrieval.track.tracker import recorded, tracker_from_config

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """What a run leaves behind.

    Attributes:
        folder: where everything is; of the earlier run where this one was skipped.
        report: what scores.json holds.
        skipped: the same configuration had finished before.
    """

    folder: Path
    report: RunReport
    skipped: bool

    @property
    def objective(self) -> float:
        """The one score that sweepers see."""
        return self.report.objective.value


def run(cfg: DictConfig, folder: Path | None = None, sweep: str | None = None) -> RunResult:
    """Embed, index, evaluate, judge, draw, write, track: one dataset, encoder, index, metric and protocol.

    Args:
        cfg: a composed configuration, from the command line or from `medretrieval.compose`.
        folder: where the results go; None for a new folder under paths.outputs.
        sweep: the id of the sweep this run is part of.

    Returns:
        The folder and the report.

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
    tracker, about = tracker_from_config(settings.tracking), describe_run(settings, sweep)
    with recorded(tracker, about), ExitStack() as held:
        with clock("load"):
            inputs = load(settings, cache)
            columns_of(settings.evaluation, inputs.task)  # what is refused of them is refused before any work
        fingerprint = fingerprint_of(settings, inputs)
        finished = None if settings.force else find_finished(outputs, fingerprint)
        if finished is not None:
            tracker.skip(about, finished)
            return _skip(finished, folder, said=sweep is None)
        explaining.require(settings, inputs.encoder)
        folder = folder or outputs / "runs" / f"{datetime.now():%Y%m%d-%H%M%S-%f}_{slug(settings)}"
        held.enter_context(run_folder.claimed(folder))
        with clock("adapt") if inputs.train_split is not None else nullcontext():
            adapted = adapt(settings, inputs, cache)
        if inputs.encoder.random_weights:
            about.name += " RANDOM WEIGHTS"
        about.inputs = dataset_inputs(settings, inputs)
        tracker.start(about)
        stages = Stages(settings, adapted.inputs, cache, clock, adapted)
        sides = stages.embed()
        searched = stages.index(sides)
        evaluation = stages.evaluate(searched.index, sides)
        reranked = stages.rerank(sides, searched, evaluation)
        outcome = stages.judge(sides, searched, evaluation, reranked)
        report = report_of(settings, inputs, outcome, notes_of(settings, inputs, outcome), fingerprint)
        drawn = stages.draw(outcome, report.title)
        report = replace(report, timings_s=clock.up_to_now())
        stages.write(Written(cfg, folder, report), inputs, outcome, drawn)
        mark_finished(outputs, fingerprint, folder)
        about.params |= {f"index.{k}": str(v) for k, v in searched.index.spec.parameters.items()}
        write_tracking(folder, about, tracker)
        tracker.finish(about, folder)
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

    def up_to_now(self) -> dict[str, float]:
        """The seconds of each stage, of what lies between them ("other"), and their sum ("total")."""
        total = time.perf_counter() - self.begin
        return self.seconds | {"other": total - sum(self.seconds.values()), "total": total}


@dataclass(frozen=True)
class Searched:
    """A gallery's index, and how its search parameters were chosen; None where they are configured."""

    index: VectorIndex
    tuned: Tuned | None


@dataclass(frozen=True)
class Written:
    """What is written of a run besides its outputs: its configuration, its folder, its scores.json."""

    cfg: DictConfig
    folder: Path
    report: RunReport


@dataclass(frozen=True)
class Stages:
    """The stages of one run over what it starts from.

    Attributes:
        settings: the checked configuration.
        inputs: dataset, encoder (adapted, where the configuration says so) and task.
        cache: what is kept between runs.
        clock: where each stage's seconds go.
        adapted: what was fitted on train, and the encoder before it.
    """

    settings: Config
    inputs: Inputs
    cache: Cache
    clock: Clock
    adapted: Adapted

    def embed(self) -> Sides:
        """Vectors of the queries and of the gallery."""
        with self.clock("embed"):
            return embed_sides(self.inputs, self.cache)

    def index(self, sides: Sides) -> Searched:
        """The gallery's index, its search parameters tuned where the configuration asks for it."""
        settings, task = self.settings, self.inputs.task
        with self.clock("index"):
            depth = min(task.max_depth, _wanted_depth(settings.evaluation)) + task.exclusions.overfetch
            index = build(settings.index, settings.metric, sides.gallery, depth, settings.seed, self.cache)
        if settings.index.autotune is None:
            return Searched(index, None)
        with self.clock("autotune"):
            return Searched(*tune(settings, self.inputs, index, sides.gallery.vectors, self.cache))

    def evaluate(self, index: VectorIndex, sides: Sides) -> Evaluation:
        """Search, and score every query.

        Raises:
            UserError: the ranking is too short for the score that the command returns.
        """
        return self._scored(index, self._search(index, sides, None))

    def rerank(self, sides: Sides, searched: Searched, plain: Evaluation) -> Reranked | None:
        """The same run with re-ranking beside what it is without; None where the configuration has none.

        Raises:
            UserError: as `evaluate`, and an index that gives the method too few results.
        """
        method, cache = reranker_of(self.settings), self.cache
        if isinstance(method, NoReranking):
            return None
        indexed = sides
        with self.clock("rerank"):
            if method.changes_gallery:
                indexed = changed_sides(method, sides, self.settings.metric, cache)
        if method.changes_gallery:
            searched = self.index(indexed)
        with self.clock("rerank"):
            made = ready(method, nodes_of(method, sides), searched.index, cache)
        evaluation = self._scored(searched.index, self._search(searched.index, sides, made.opened))
        return Reranked(method, made, evaluation, plain, searched.index, searched.tuned, indexed)

    def _search(
        self, index: VectorIndex, sides: Sides, opened: Opened | None, task: RetrievalTask | None = None
    ) -> Search:
        """How queries are asked: the index alone, or through re-ranking."""
        queries, task = sides.query.vectors, task or self.inputs.task
        if opened is not None:
            return as_search(opened, queries, task.exclusions)
        return lambda rows, k: index.search(queries[rows], k)

    def _scored(self, index: VectorIndex, search: Search) -> Evaluation:
        config, task = self.settings.evaluation, self.inputs.task
        depth = search_depth(index, task.max_depth, _scored_depths(config), _wanted_depth(config))
        evaluation = evaluate(search, task, depth, config)
        if depth < (deep := min(MAP_DEPTH, task.max_depth)):  # a graph that is searched less wide than that
            with searched_as_wide_as(index.index, deep):
                wide = evaluate(search, task, deep, config)
            evaluation = with_score(evaluation, wide, f"map_at_{MAP_DEPTH}")
        for stage, seconds in (("search", evaluation.search_s), ("score", evaluation.score_s)):
            self.clock.seconds[stage] = self.clock.seconds.get(stage, 0.0) + seconds
        objective = objective_name(config, task)
        if objective not in evaluation.scores:
            raise UserError(
                f"evaluation.objective={objective}: index={self.settings.index.name} gives {depth} of "
                f"{task.max_depth} results, too few for it; use index=flat, or a score at a depth, such as "
                f"map_at_{MAP_DEPTH} or precision_at_{config.ks[-1]}"
            )
        return evaluation

    def judge(
        self, sides: Sides, searched: Searched, evaluation: Evaluation, reranked: Reranked | None
    ) -> RunOutputs:
        """Everything beside the scores: their evidence, what the index costs and loses, look-alikes, maps."""
        settings, task, plain = self.settings, self.inputs.task, evaluation
        indexed, gain = sides, None
        results: Ints | None = plain.ranking.ids
        if reranked is not None:
            searched, evaluation = Searched(reranked.index, reranked.tuned), reranked.evaluation
            indexed, results = reranked.indexed, None if reranked.method.changes_gallery else results
        index, query = searched.index, sides.query.vectors
        with self.clock("statistics"):
            trust = self._evidence(sides, index, evaluation, reranked)
            if reranked is not None:
                gain = rerank_gain(settings, task, reranked)
            of_values = self._subgroups(evaluation, trust)
            parts = None  # only the pictures want it
            if settings.figures.enabled:
                parts = breakdown(settings, self.inputs, evaluation, trust)
        with self.clock("ann_check"):
            loss = measure(settings, task, index, indexed, results)
            rate = speed(index, query, len(task.gallery), max(settings.evaluation.ks))
            words = text_evidence(settings, task, index, indexed, loss.recall if loss else None)
        leaks = explained = None
        if settings.audit.enabled and task.queries.split is not None:
            with self.clock("audit"):
                leaks = self._audit(sides)
        with self.clock("adapt") if self.adapted.fitted is not None else nullcontext():
            worth = adaptation_evidence(settings, self.adapted, sides, self.cache)
        if settings.explain.enabled:
            with self.clock("explain"):
                explained = explaining.explain(settings, self.inputs, evaluation)
        return RunOutputs(
            query=sides.query,
            gallery=sides.gallery,
            index=index,
            tuned=searched.tuned,
            evaluation=evaluation,
            evidence=trust,
            ann_loss=loss,
            speed=rate,
            audit=leaks,
            text_evidence=words,
            explanations=explained,
            breakdown=parts,
            subgroups=of_values,
            adaptation=worth,
            rerank=gain,
            plain=plain,
        )

    def _audit(self, sides: Sides) -> Audit:
        """Look-alikes among the images as they were before queries were corrupted: copies stay copies."""
        clean = self.adapted.before.clean  # copies of one picture are found by the encoder's own vectors
        if clean.task is not self.inputs.task or self.adapted.fitted is not None:
            sides = embed_sides(clean, self.cache)
        return kept_audit(clean.task, sides.query, sides.gallery, self.settings.audit, self.cache)

    def _evidence(
        self, sides: Sides, index: VectorIndex, evaluation: Evaluation, reranked: Reranked | None
    ) -> Evidence:
        settings, inputs = self.settings, self.inputs
        members = members_of(columns_of(settings.evaluation, inputs.task))
        trust = evidence(settings, inputs, evaluation, self.cache, members)
        if reranked is not None and not has_intervals(settings, inputs.task, reranked.method):
            trust = without_intervals(trust)
        if not active(settings.protocol):
            return trust
        plain = plain_task(settings.protocol, inputs.task)
        depth = min(evaluation.counts["depth"], plain.max_depth)
        opened = None if reranked is None else reranked.ready.opened
        without = evaluate(self._search(index, sides, opened, plain), plain, depth, settings.evaluation)
        return with_exclusions(settings, trust, evaluation, without, inputs.task)

    def _subgroups(self, evaluation: Evaluation, trust: Evidence) -> Subgroups | None:
        settings, task = self.settings, self.inputs.task
        columns = columns_of(settings.evaluation, task)
        return subgroups(settings, task, evaluation, trust.halves, columns) if columns else None

    def draw(self, outcome: RunOutputs, title: str) -> Drawn:
        """The pictures of the run's figures folder."""
        with self.clock("figures"):
            return draw(self.settings, self.inputs, outcome, title, self.cache)

    def write(self, run: Written, inputs: Inputs, outcome: RunOutputs, drawn: Drawn) -> None:
        """Fill the run's folder: whole, or not at all; `inputs` are those before anything was fitted."""
        sides = {"query": inputs.task.queries, "gallery": inputs.task.gallery}
        fitted_on = {"center": inputs.center_split, "train": inputs.train_split, "val": inputs.val_split}
        sides |= {role: split for role, split in fitted_on.items() if split is not None}
        config: Any = each(OmegaConf.to_container(run.cfg, resolve=True, enum_to_str=True))
        documents = {
            run_folder.SCORES: run.report.to_text(),
            run_folder.CONFIG: OmegaConf.to_yaml(OmegaConf.create(config)),
        }
        if (prompts := inputs.task.queries.prompts) is not None:
            documents[run_folder.PROMPTS] = run_folder.as_json(prompts.document())
        links = {
            "index.faiss": outcome.index.path,
            "embeddings_query.npy": outcome.query.path,
            "embeddings_gallery.npy": outcome.gallery.path,
            **self.adapted.files,
            **drawn.links,
        }
        writers: dict[str, Callable[[Path], None]] = {
            name: functools.partial(_write_bytes, content=content) for name, content in drawn.files.items()
        }
        if (rows := inputs.dataset.listing()) is not None:
            writers[run_folder.SPLITS] = functools.partial(run_folder.write_splits, rows=rows)
        if (halves := outcome.evidence.halves) is not None:
            writers[run_folder.HALVES] = halves.save
        if (leaks := outcome.audit) is not None and leaks.pairs:
            writers[run_folder.AUDIT_PAIRS] = lambda path: write_pairs(path, leaks, inputs.task)
            writers[run_folder.AUDIT_PICTURE] = functools.partial(
                audit_picture, audit=leaks, inputs=inputs.clean, run=run.report.title
            )
        if outcome.explanations is not None:
            writers |= saliency_writers(outcome.explanations, run.report.title)
        unsealed = manifest(inputs.dataset, sides, inputs.identity, config)
        content = run_folder.FolderContent(documents, links, writers, functools.partial(sealed, unsealed))
        run_folder.write(run.folder, outcome.evaluation, inputs.task, content)


def _scored_depths(config: EvaluationConfig) -> list[int]:
    """Depths that scores look at: those of ks and of the vote."""
    return [*config.ks, config.vote_k]


def _wanted_depth(config: EvaluationConfig) -> int:
    """How deep every index is asked: what is saved of it has no say."""
    return max(*_scored_depths(config), MAP_DEPTH)


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _skip(finished: Path, folder: Path | None, said: bool) -> RunResult:
    if said:  # a sweep has a line of its own for each run
        log.info("skipped: this configuration has finished in %s (force=true runs it again)", finished)
    if folder is not None and folder.resolve() != finished.resolve():
        with run_folder.claimed(folder):
            run_folder.mark_skipped(folder, finished)
    return RunResult(finished, read_report(finished), skipped=True)


def _set_threads(threads: int) -> None:
    import os
    import sys

    faiss.omp_set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for a torch that is imported later
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
