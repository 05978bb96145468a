"""A finished run's task without its images: from the ranking, images.parquet and the saved index."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medretrieval.checks import check
from medretrieval.config import Config
from medretrieval.datasets.base import Dataset, Split
from medretrieval.errors import UserError
from medretrieval.evaluate.evaluate import Evaluation, evaluate
from medretrieval.instantiate import instantiate
from medretrieval.protocol.exclusions import Exclusions
from medretrieval.protocol.ranking import Labels, Ranking
from medretrieval.protocol.relevance import Relevance
from medretrieval.protocol.task import RetrievalTask
from medretrieval.runs.reopen import (
    SavedImages,
    require_links,
    saved_config,
    saved_images,
    saved_ranking,
    saved_search,
)
from medretrieval.runs.report import RunReport, read_report
from medretrieval.runs.saved.seal import require_as_written

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class SavedTask:
    """A finished run whose queries are images, opened without its images.

    Attributes:
        folder: of the run.
        settings: its configuration.
        report: what it says of itself.
        ranking: what it has saved of it.
        classes: names, label i being classes[i].
        queries, gallery: both sides, with empty pictures.
    """

    folder: Path
    settings: Config
    report: RunReport
    ranking: Ranking
    classes: tuple[str, ...]
    queries: Split
    gallery: Split

    @classmethod
    def open(cls, folder: Path, verb: str) -> "SavedTask":
        """Open a run.

        Args:
            folder: of a finished run.
            verb: what asks, for refusals.

        Raises:
            UserError: no finished run, one whose queries are sentences, or files that are gone or damaged.
        """
        report, settings = read_report(folder), check(saved_config(folder, ()))
        require_as_written(folder)
        if settings.protocol.query is None:
            raise UserError(
                f"{verb}: the queries of {folder} are sentences; choose a run whose queries are images"
            )
        ranking = saved_ranking(folder)
        sides = {
            role: _side(name, labels, saved_images(folder, role))
            for role, name, labels in (
                ("query", settings.protocol.query.value, ranking.query_labels),
                ("gallery", settings.protocol.gallery.value, ranking.gallery_labels),
            )
        }
        return cls(
            folder,
            settings,
            report,
            ranking,
            _classes(settings, ranking.gallery_labels),
            sides["query"],
            sides["gallery"],
        )

    def task(self, own_group: bool | None = None) -> RetrievalTask:
        """Who queries whom; byte-identical copies, which only the images tell, are not left out.

        Args:
            own_group: whether a query finds images of its own group; None: as in the run.
        """
        protocol = dataclasses.replace(self.settings.protocol, drop_duplicates=False)
        if own_group is not None:
            protocol = dataclasses.replace(protocol, exclude_same_group=not own_group)
        out = Exclusions.from_protocol(self.queries, self.gallery, protocol)
        grades = len(self.classes) if self._ordinal else None
        relevance = Relevance(self.settings.evaluation.min_jaccard, grades)
        return RetrievalTask.from_sides(self.queries, self.gallery, out, relevance)

    @property
    def _ordinal(self) -> bool:
        return any(name.startswith("graded") for name in self.report.scores) and self.queries.labels.ndim == 1

    def results(self, task: RetrievalTask, depth: int) -> Ints:
        """The first results of each query, int64 [q, depth or more]: the saved ones where they are enough.

        Args:
            task: the run's own (`task()`).
            depth: results of each query.

        Raises:
            UserError: more are wanted than were saved, and the embeddings or the index are gone.
        """
        if depth <= self.ranking.depth:
            return self.ranking.ids
        return self.evaluated(task, depth).ranking.ids

    def evaluated(self, task: RetrievalTask, depth: int) -> Evaluation:
        """Search the saved index with the saved vectors of the queries, and score a task.

        Args:
            task: of this run's queries and gallery.
            depth: results of each query.

        Raises:
            UserError: embeddings or index are gone or damaged.
        """
        require_links(self.folder)
        search = saved_search(self.folder, self.settings, self.report, task.exclusions)
        config = dataclasses.replace(self.settings.evaluation, save_depth=None)
        return evaluate(search, task, depth, config)


def _classes(settings: Config, labels: Labels) -> tuple[str, ...]:
    """Names of the classes; their numbers where the dataset cannot be asked without its data."""
    count = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
    try:
        names = instantiate(settings.dataset, Dataset, "dataset").classes  # type: ignore[type-abstract]
    except UserError:
        names = ()
    return names if len(names) >= count else tuple(str(number) for number in range(count))


def _side(name: str, labels: Labels, saved: SavedImages | None) -> Split:
    images = np.zeros((len(labels), 0, 0), np.uint8)
    if saved is None:
        return Split(name, images, labels)
    return Split(name, images, labels, groups=saved.groups, metadata=saved.metadata)
