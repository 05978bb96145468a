"""A question to a finished run: its saved index and embeddings are used, only the query is embedded."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medretrieval.cache.store import Cache
from medretrieval.checks import check
from medretrieval.config import Config, MetricConfig, expand
from medretrieval.datasets.base import Dataset, Split
from medretrieval.encoders.base import Encoder
from medretrieval.errors import UserError
from medretrieval.files import file_sha256
from medretrieval.index.distance import pair_distances
from medretrieval.index.faiss_index import VectorIndex
from medretrieval.instantiate import instantiate
from medretrieval.protocol.ranking import NONE, Ranking, class_name, findings
from medretrieval.query.novelty import Novelty, novelty
from medretrieval.rerank.base import Opened
from medretrieval.rerank.opening import require_serves_text, reranker_of
from medretrieval.rerank.search import as_search, nothing_left_out
from medretrieval.runs.manifest import read_manifest
from medretrieval.runs.reopen import (
    INDEX,
    require_links,
    require_not_centered,
    require_whole,
    saved_config,
    saved_encoder,
    saved_index,
    saved_ranking,
    saved_reranking,
    saved_vectors,
)
from medretrieval.runs.report import RunReport, read_report
from medretrieval.runs.saved.seal import require_as_written
from medretrieval.vectors import require_vectors, zero_rows

SPARE = 8  # results beyond k that are looked at, so that rounding does not decide which is the last
GALLERY = "embeddings_gallery.npy"


@dataclass(frozen=True)
class Query:
    """Something to ask.

    Attributes:
        name: the file, or the sentence.
        image: as the encoder gets it, uint8 [size, size] or [size, size, 3]; None for a sentence.
        shown: the whole picture, made smaller for drawing; None for a sentence.
        remarks: what was done to the picture.
    """

    name: str
    image: NDArray[np.uint8] | None = None
    shown: NDArray[np.uint8] | None = None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Neighbor:
    """A result.

    Attributes:
        position: in the gallery.
        id: there.
        label: its class in words; of several findings all, joined with ", ".
        split: of the gallery.
        distance: to the query, of the run's metric.
        findings: its class alone, or each finding it has; none where it has no finding.
    """

    position: int
    id: str
    label: str
    split: str
    distance: float
    findings: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What a run answers: neighbors, nearest first, and how near the query is (None for a sentence)."""

    query: Query
    neighbors: tuple[Neighbor, ...]
    novelty: Novelty | None

    @property
    def votes(self) -> dict[str, int]:
        """How many neighbors have each class or finding, or none of them ("none"); the most frequent first.

        Each neighbor counts once for each of its findings, whatever its distance; of equal counts the one
        of the nearer neighbor comes first.
        """
        counted = Counter(name for n in self.neighbors for name in n.findings or (NONE,))
        return dict(counted.most_common())


@dataclass(frozen=True)
class SearchableRun:
    """A finished run, open for questions.

    Attributes:
        folder: of the run.
        settings: its configuration, with overrides.
        report: what it says of itself.
        ranking: for ids and labels of the gallery.
        dataset: for names of classes; its images are read for drawing only.
        index: the saved one.
    """

    folder: Path
    settings: Config
    report: RunReport
    ranking: Ranking
    dataset: Dataset
    index: VectorIndex
    cache: Cache = field(repr=False)

    @classmethod
    def open(cls, folder: Path, overrides: tuple[str, ...] = ()) -> "SearchableRun":
        """Open a run, no more of it than questions need.

        Raises:
            UserError: no finished run, of another format, or files of it that are gone, damaged or changed.
        """
        report = read_report(folder)
        settings = check(saved_config(folder, overrides))
        require_as_written(folder)
        require_not_centered(folder, settings)
        require_links(folder, (INDEX, GALLERY))
        require_whole(folder, GALLERY)
        ranking = saved_ranking(folder)
        index = saved_index(folder, settings, report)
        if index.index.ntotal != len(ranking.gallery_ids):
            raise UserError(
                f"{folder / INDEX}: has {index.index.ntotal} vectors, the run's gallery "
                f"{len(ranking.gallery_ids)} images; repeat the run with: medretrieval again {folder}"
            )
        dataset = instantiate(settings.dataset, Dataset, "dataset")  # type: ignore[type-abstract]
        return cls(folder, settings, report, ranking, dataset, index, Cache(expand(settings.paths.cache)))

    def channels(self) -> int:
        """Channels of the gallery's images: 1 or 3.

        Raises:
            UserError: the dataset does not say, and its data cannot be read.
        """
        if self.dataset.channels is not None:
            return self.dataset.channels
        return 1 if self.dataset.load(self._gallery_split()).images.ndim == 3 else 3

    def gallery(self) -> Split:
        """The gallery's images, for drawing.

        Raises:
            UserError: the data is not there (nothing is downloaded), or is other data than the run's.
        """
        if not self.dataset.is_here():
            raise UserError(
                f"dataset={self.dataset.name} is not there any more; paths.data= says where it is"
            )
        split = self.dataset.load(self._gallery_split())
        if split.images_sha256 != read_manifest(self.folder).data["gallery"].content_sha256:
            raise UserError(f"dataset={self.dataset.name} is other data than the run's")
        return split

    def _gallery_split(self) -> str:
        return self.settings.protocol.gallery.value

    def require_k(self, k: int) -> None:
        """Refuse more results than the gallery has images.

        Raises:
            UserError: naming how many it has.
        """
        n = len(self.ranking.gallery_ids)
        if k > n:
            raise UserError(f"k={k}: the gallery of this run has {n} images; at most {n}")

    def encoder(self) -> tuple[Encoder, list[str]]:
        """The run's encoder, and what about it is not as it was.

        Raises:
            UserError: its vectors would be of another space than the gallery's.
        """
        return saved_encoder(self.folder, self.settings, self.cache)

    @cached_property
    def reranking(self) -> Opened | None:
        """The run's re-ranking; None where it has none.

        Raises:
            UserError: it is transductive, and a new query was not among the run's.
        """
        if reranker_of(self.settings).transductive:
            raise UserError(
                f"{self.folder}: its queries were re-ranked in one graph with each other "
                "(rerank.transductive=true), which a new query is no part of; ask a run with "
                "rerank.transductive=false"
            )
        return saved_reranking(self.folder, self.settings, self.index)

    def answer(self, queries: Sequence[Query], encoder: Encoder, k: int) -> list[Answer]:
        """Embed queries, all pictures or all sentences, in one go, and search the run's index.

        The index says which images are near; how near, and in what order, the saved embeddings say. A run
        with re-ranking answers with its re-ranking.

        Args:
            queries: at least one.
            encoder: the run's.
            k: results a query; an approximate index may give fewer.

        Raises:
            UserError: what the encoder refuses, or vectors that cannot be compared.
        """
        self.require_k(k)
        if queries[0].image is None:
            require_serves_text(reranker_of(self.settings))
        vectors, gallery = (
            _embed(queries, encoder, self.index.index.d, self.settings.metric),
            saved_vectors(self.folder, "gallery"),
        )
        ids, distances = self._search(vectors, gallery, k)
        near: Sequence[Novelty | None] = [None] * len(queries)
        if queries[0].image is not None:
            digest = file_sha256(self.folder / GALLERY)
            near = novelty(vectors, gallery, digest, self.settings.metric, self.cache) or near
        return [
            Answer(query, self._neighbors(i, d), how_near)
            for query, i, d, how_near in zip(queries, ids, distances, near, strict=True)
        ]

    def _search(
        self, vectors: NDArray[np.float32], gallery: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Positions int64 [q, k], -1 where the index found no more, and distances float64 [q, k]."""
        if self.reranking is not None:
            reranked = as_search(self.reranking, vectors, nothing_left_out(len(gallery)))
            found, apart = reranked(slice(0, len(vectors)), k)
            return found, apart.astype(np.float64)
        ids, _ = self.index.search(vectors, min(k + SPARE, len(gallery)))
        distances = pair_distances(vectors, gallery, ids, self.settings.metric)
        order = np.lexsort((ids, distances), axis=1)[:, :k]
        return np.take_along_axis(ids, order, 1), np.take_along_axis(distances, order, 1)

    def _neighbors(self, ids: NDArray[np.int64], distances: NDArray[np.float64]) -> tuple[Neighbor, ...]:
        names, labels = self.ranking.gallery_ids, self.ranking.gallery_labels
        return tuple(
            Neighbor(
                int(i),
                str(names[i]),
                class_name(labels, int(i), self.dataset.classes),
                self._gallery_split(),
                float(d),
                findings(labels, int(i), self.dataset.classes),
            )
            for i, d in zip(ids, distances, strict=True)
            if i >= 0
        )


def _embed(
    queries: Sequence[Query], encoder: Encoder, dimension: int, metric: MetricConfig
) -> NDArray[np.float32]:
    """Vectors of pictures or sentences, as the encoder gives them (float32 [q, d])."""
    images = [query.image for query in queries if query.image is not None]
    if images:
        vectors = np.concatenate(list(encoder.stream(np.stack(images))))
    else:
        vectors = encoder.encode_text([query.name for query in queries])
    vectors = require_vectors(
        vectors, (len(queries), dimension), encoder.name, "query", lambda row: queries[row].name
    )
    if metric.normalize and len(zero := zero_rows(vectors)):
        raise UserError(
            f"{queries[int(zero[0])].name}: encoder={encoder.name} sees nothing in it (its vector is "
            f"all 0, as of a black picture), so it has no {metric.name} distance to anything; leave it out"
        )
    return vectors
