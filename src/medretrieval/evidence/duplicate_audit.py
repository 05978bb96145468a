"""Leaks and look-alikes: images that stand on both sides, and pictures that are all but the same.

Byte-identical images are found by hash; near-duplicates by the angle between embeddings and by a
perceptual hash (`images.perceptual_hash`). What they make of a score is for the reader to judge.

Which cosine is near is fitted to the encoder and the data: images of two classes are no copies of each
other, so it is the cosine that only a small share of the images (audit.near_quantile) exceeds with an image
of another class. The hash is held to the same share, and it needs images of the size that it averages to:
at 28 x 28 it pairs different images as often as alike ones.

For given embeddings the counts and the pairs do not depend on how the comparison is cut into chunks, nor on
the number of threads, nor on which BLAS kernel a CPU gets: a float32 product, whose last bits depend on all
three, only screens. Cosines that its rounding leaves undecided are computed again in float64 (there the
three matter by some 1e-15) and rounded to COSINE_DIGITS before they are compared with the threshold.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medretrieval.cache.store import Cache
from medretrieval.config import AuditConfig
from medretrieval.datasets.base import Split
from medretrieval.datasets.groups import common_codes, groups_sha256, identical_codes
from medretrieval.embed.images import Embeddings
from medretrieval.images.perceptual_hash import HASH_SIDE_PIXELS, image_hashes
from medretrieval.protocol.task import RetrievalTask
from medretrieval.vectors import l2_normalize, unit_rows

CHUNK_CELLS = 4_000_000  # of a chunk [queries, gallery], and of what is held of the embeddings
MAX_COMPARED_PAIRS = 4_000_000_000  # queries times gallery items
MAX_FITTED_QUERIES = 2000  # whose nearest image of another class gives the threshold
AUDIT_FORMAT = 4  # raised when the same images would be audited otherwise
COSINE_DIGITS = 9  # of a cosine that is compared with the threshold: far above the rounding of float64
SHOWN_DIGITS = 6  # of a cosine that orders the pairs and is written
IDENTICAL, NEAR_EMBEDDING, NEAR_HASH, GROUP = "identical", "near_embedding", "near_hash", "same_group"


@dataclass(frozen=True)
class Pair:
    """A query and a gallery image that are the same or look alike."""

    kind: str
    query: int
    gallery: int
    cosine: float
    hash_distance: int
    same_label: bool


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        counts: queries that were compared, a sample of them where there are very many (`audited_queries`);
            byte-identical copies of an earlier image within the queries (`identical_within_query`) and
            within the gallery (`identical_within_gallery`); query images with an identical image in the
            gallery (`identical_between`), with one of another label (`label_conflicts`), and with a
            near-duplicate there that is not identical (`near_embedding`, which depends on the encoder, and
            `near_hash`, None where the hash is not to be trusted). The query itself never counts. Where the
            dataset has groups: query images with another image of their group in the gallery
            (`same_group`), and groups that stand in both splits (`groups_on_both_sides`).
        pairs: at most max_pairs of a kind, the most alike first; where the queries are the gallery a pair
            stands here once.
        near_cosine: what the cosine of a near-duplicate exceeds; None where there is one class only.
        hash_collisions: share of the queries that the hash takes for a near-duplicate of an image of another
            class.
    """

    counts: dict[str, int | None]
    pairs: list[Pair]
    near_cosine: float | None = None
    hash_collisions: float = 0.0


def kept_audit(
    task: RetrievalTask, query: Embeddings, gallery: Embeddings, config: AuditConfig, cache: Cache
) -> Audit:
    """The audit of two embedded splits, from the cache or made now: one for all runs of a sweep over them."""
    parts = {
        "audit_format": AUDIT_FORMAT,
        "embeddings": [query.key, gallery.key],
        "labels": [split.labels_sha256 for split in (task.queries, task.gallery)],
        "groups": [groups_sha256(split.groups) for split in (task.queries, task.gallery)],
        "config": asdict(config),
    }

    def make(folder: Path) -> dict[str, Any]:
        return asdict(audit(task, query.vectors, gallery.vectors, config))

    facts = cache.get_or_make("audits", parts, make).facts
    return Audit(**{**facts, "pairs": [Pair(**pair) for pair in facts["pairs"]]})


def audit(
    task: RetrievalTask, query: NDArray[np.float32], gallery: NDArray[np.float32], config: AuditConfig
) -> Audit:
    """Compare every query image with every gallery image.

    Args:
        task: who queries whom.
        query: embeddings of the queries, float32 [q, d].
        gallery: embeddings of the gallery, float32 [n, d].
        config: thresholds.
    """
    audited = _sample(len(task.queries), len(task.gallery))
    sides = _Sides.from_task(task, query, gallery, audited)
    kinds = (IDENTICAL, NEAR_EMBEDDING, NEAR_HASH, *([GROUP] if sides.groups else []))
    tallies = {kind: _Tally(kind, config.max_pairs, sides) for kind in kinds}
    near_cosine, collisions = _fitted_cosine(sides, audited, config.near_quantile), 0
    for chunk in _chunks(sides, audited):
        different = chunk.other & ~chunk.identical
        masks = {
            IDENTICAL: chunk.identical,
            NEAR_EMBEDDING: _near(sides, chunk, near_cosine) & different,
            NEAR_HASH: (chunk.hash_distance <= config.near_hash) & different,
        }
        collisions += int((masks[NEAR_HASH] & chunk.other_class).any(axis=1).sum())
        if sides.groups:
            masks[GROUP] = (sides.groups[0][chunk.rows, None] == sides.groups[1]) & chunk.other
        for kind, mask in masks.items():
            tallies[kind].add(chunk, mask)
    share = collisions / max(1, len(audited))
    trusted = hash_is_trusted(_smallest_side(task), share, config)
    counts: dict[str, int | None] = {
        "audited_queries": len(audited),
        "identical_within_query": _copies(sides.codes[0]),
        "identical_within_gallery": _copies(sides.codes[1]),
        "identical_between": tallies[IDENTICAL].queries,
        "label_conflicts": tallies[IDENTICAL].conflicts,
        NEAR_EMBEDDING: tallies[NEAR_EMBEDDING].queries,
        NEAR_HASH: tallies[NEAR_HASH].queries if trusted else None,
    }
    pairs = [p for tally in tallies.values() for p in tally.pairs if trusted or p.kind != NEAR_HASH]
    return Audit(counts | _group_counts(sides, tallies), pairs, near_cosine, share)


def hash_is_trusted(side: int, collisions: float, config: AuditConfig) -> bool:
    """Whether the perceptual hash tells images apart: whether what it calls near may be counted.

    Args:
        side: of the smallest image, in pixels.
        collisions: share of the images that it takes for a near-duplicate of an image of another class.
        config: the share that may be.
    """
    return side >= HASH_SIDE_PIXELS and collisions <= config.near_quantile


def _smallest_side(task: RetrievalTask) -> int:
    """Of the images of both sides, in pixels."""
    return min(size for split in (_asking(task), task.gallery) for size in split.images.shape[1:3])


def _fitted_cosine(sides: "_Sides", audited: NDArray[np.int64], quantile: float) -> float | None:
    """The cosine that a share of the queries exceeds with its nearest image of another class.

    None where no query has an image of another class to compare with.
    """
    rows = audited
    if len(rows) > MAX_FITTED_QUERIES:
        rows = np.sort(np.random.default_rng(0).choice(rows, MAX_FITTED_QUERIES, replace=False))
    nearest = []
    for chunk in _chunks(sides, rows):
        cosine = np.where(chunk.other_class & ~chunk.identical, chunk.cosine, -np.inf)
        best = cosine.max(axis=1, keepdims=True)
        # All that float32 cannot tell from the best one; the best one by float64 is among them.
        i, j = np.nonzero((cosine >= best - 2 * sides.rounding) & np.isfinite(cosine))
        exact = np.full(len(cosine), -np.inf)
        np.maximum.at(exact, i, sides.cosines(chunk.rows[i], j).round(COSINE_DIGITS))
        nearest.append(exact[np.isfinite(exact)])
    values = np.concatenate(nearest)
    return float(np.quantile(values, 1 - quantile, method="higher")) if len(values) else None


def _asking(task: RetrievalTask) -> Split:
    """The queries, which are images: sentences have no look-alikes and are not audited."""
    assert task.queries.split is not None
    return task.queries.split


def _sample(queries: int, gallery: int) -> NDArray[np.int64]:
    """The queries that are compared: all, or as many as a minute or two allows, always the same ones."""
    most = max(1, MAX_COMPARED_PAIRS // gallery)
    if queries <= most:
        return np.arange(queries)
    return np.sort(np.random.default_rng(0).choice(queries, most, replace=False))


@dataclass(frozen=True)
class _Sides:
    """Queries and gallery as they are compared.

    Attributes:
        task: who queries whom.
        query: embeddings, float32 [q, d].
        gallery: embeddings, float32 [n, d].
        itself: each query's own position in the gallery, -1 where it is not there (int64 [q]).
        codes: equal for byte-identical images, int64 [q] and [n].
        hashes: perceptual hashes, uint64 [q] and [n].
        groups: numbers of the groups, int64 [q] and [n]; None where nobody says them.
        labels: equal for images of one class, or of exactly the same findings, int64 [q] and [n].
        audited: which queries are compared, bool [q].
    """

    task: RetrievalTask
    query: NDArray[np.float32]
    gallery: NDArray[np.float32]
    itself: NDArray[np.int64]
    codes: tuple[NDArray[np.int64], NDArray[np.int64]]
    hashes: tuple[NDArray[np.uint64], NDArray[np.uint64]]
    groups: tuple[NDArray[np.int64], NDArray[np.int64]] | None
    labels: tuple[NDArray[np.int64], NDArray[np.int64]]
    audited: NDArray[np.bool_]

    @classmethod
    def from_task(
        cls,
        task: RetrievalTask,
        query: NDArray[np.float32],
        gallery: NDArray[np.float32],
        audited: NDArray[np.int64],
    ) -> Self:
        """Hash the images of both sides, the same ones once."""
        queries, count, same = _asking(task), len(task.queries), task.queries_are_gallery
        codes = identical_codes(queries.images, task.gallery.images)
        return cls(
            task,
            query,
            gallery,
            itself=np.arange(count) if same else np.full(count, -1),
            codes=(codes[0], codes[1]),
            hashes=(image_hashes(queries.images), image_hashes(task.gallery.images)),
            groups=_groups(task),
            labels=_label_codes(task),
            audited=np.isin(np.arange(count), audited),
        )

    def is_listed(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Of the pairs (a, b) and (b, a) of one split one, unless only one of them is compared (bool [p])."""
        if not self.task.queries_are_gallery:
            return np.ones(len(rows), np.bool_)
        return np.asarray((rows < columns) | ~self.audited[columns])

    @property
    def rounding(self) -> float:
        """How far a float32 product of d terms may be from the cosine: twice the bound of Higham 2002."""
        return float((self.gallery.shape[1] + 8) * np.finfo(np.float32).eps)

    def cosines(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Cosines of chosen pairs in float64 (int64 [p] each; float64 [p]).

        As a product of all rows with all columns: where pairs are many this costs less than one by one,
        and at most twice the float32 product of their chunk.
        """
        places, row = np.unique(rows, return_inverse=True)
        others, column = np.unique(columns, return_inverse=True)
        unit = unit_rows(self.query[places])
        product = np.empty((len(places), len(others)))
        step = max(1, CHUNK_CELLS // unit.shape[1])
        for begin in range(0, len(others), step):
            product[:, begin : begin + step] = unit @ unit_rows(self.gallery[others[begin : begin + step]]).T
        return product[row, column]


@dataclass(frozen=True)
class _Chunk:
    """Some queries against the whole gallery; all but `rows` are [rows, n].

    Attributes:
        rows: positions of the queries, int64.
        cosine: float32, within `_Sides.rounding`.
        hash_distance: bits that differ, uint8.
        other: false where the query meets itself.
        identical: byte-identical, and another one.
        other_class: of another class, or of other findings.
    """

    rows: NDArray[np.int64]
    cosine: NDArray[np.float32]
    hash_distance: NDArray[np.uint8]
    other: NDArray[np.bool_]
    identical: NDArray[np.bool_]
    other_class: NDArray[np.bool_]


def _near(sides: _Sides, chunk: _Chunk, threshold: float | None) -> NDArray[np.bool_]:
    """Which pairs have a cosine above the threshold: where float32 cannot tell, by float64."""
    if threshold is None:
        return np.zeros(chunk.cosine.shape, np.bool_)
    near = chunk.cosine > threshold
    i, j = np.nonzero(np.abs(chunk.cosine - threshold) <= sides.rounding)
    if len(i):
        near[i, j] = sides.cosines(chunk.rows[i], j).round(COSINE_DIGITS) > threshold
    return near


class _Tally:
    """Counts of one kind, and its worst pairs so far."""

    def __init__(self, kind: str, max_pairs: int, sides: _Sides) -> None:
        self.kind = kind
        self.max_pairs = max_pairs
        self.sides = sides
        self.queries = self.conflicts = 0
        self.pairs: list[Pair] = []

    def add(self, chunk: _Chunk, mask: NDArray[np.bool_]) -> None:
        """Count the pairs of a chunk, and keep the worst of them and of those before."""
        i, j = np.nonzero(mask)
        self.queries += int(mask.any(axis=1).sum())
        agree = ~chunk.other_class[i, j]
        self.conflicts += len(np.unique(i[~agree]))
        listed = self.sides.is_listed(chunk.rows[i], j)
        i, j, agree = i[listed], j[listed], agree[listed]
        if not len(i):
            return
        hashes = chunk.hash_distance[i, j]
        some = self._candidates(agree, hashes, chunk.cosine[i, j])
        rows, columns = chunk.rows[i[some]], j[some]
        cosines = self.sides.cosines(rows, columns).round(SHOWN_DIGITS)
        self.pairs += [
            Pair(self.kind, int(row), int(column), float(cosine), int(distance), bool(same))
            for row, column, cosine, distance, same in zip(
                rows, columns, cosines, hashes[some], agree[some], strict=True
            )
        ]
        self.pairs.sort(key=lambda p: (p.same_label, p.hash_distance, -p.cosine, p.query, p.gallery))
        del self.pairs[self.max_pairs :]

    def _candidates(
        self, agree: NDArray[np.bool_], hashes: NDArray[np.uint8], cosines: NDArray[np.float32]
    ) -> NDArray[np.int64]:
        """Pairs among which the worst max_pairs are for certain, by cosines that are as good as float32."""
        order = np.lexsort((-cosines, hashes, agree))
        if len(order) <= self.max_pairs:
            return order
        last = order[self.max_pairs - 1]
        slack = 2 * self.sides.rounding + 10.0**-SHOWN_DIGITS
        level = (agree[order] == agree[last]) & (hashes[order] == hashes[last])
        close = level & (cosines[order] >= cosines[last] - slack)
        close[: self.max_pairs] = True
        return order[close]


def _copies(codes: NDArray[np.int64]) -> int:
    return len(codes) - len(np.unique(codes))


def _groups(task: RetrievalTask) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Numbers of the groups of both sides, None where nobody says them (int64 [q] and [n])."""
    if task.queries.groups is None or task.gallery.groups is None:
        return None
    return common_codes(task.queries.groups, task.gallery.groups)


def _label_codes(task: RetrievalTask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the classes, or of the sets of findings (int64 [q] and [n])."""
    both = np.concatenate([task.queries.labels, task.gallery.labels])
    codes = np.unique(both, axis=0, return_inverse=True)[1].ravel()
    return codes[: len(task.queries)], codes[len(task.queries) :]


def _group_counts(sides: _Sides, tallies: dict[str, _Tally]) -> dict[str, int | None]:
    if sides.groups is None:
        return {}
    same = sides.task.queries_are_gallery
    both = 0 if same else len(np.intersect1d(*sides.groups))
    return {GROUP: tallies[GROUP].queries, "groups_on_both_sides": both}


def _chunks(sides: _Sides, audited: NDArray[np.int64]) -> Iterator[_Chunk]:
    """The audited queries, in chunks that fit the memory."""
    lengths: NDArray[np.float32] = np.linalg.norm(sides.gallery, axis=1)
    lengths[lengths == 0] = 1
    places = np.arange(len(lengths))
    step = max(1, CHUNK_CELLS // max(sides.gallery.shape))
    for begin in range(0, len(audited), step):
        rows = audited[begin : begin + step]
        other = places != sides.itself[rows, None]
        yield _Chunk(
            rows,
            cosine=l2_normalize(sides.query[rows]) @ sides.gallery.T / lengths,
            hash_distance=np.bitwise_count(sides.hashes[0][rows, None] ^ sides.hashes[1][None, :]),
            other=other,
            identical=(sides.codes[0][rows, None] == sides.codes[1][None, :]) & other,
            other_class=sides.labels[0][rows, None] != sides.labels[1],
        )


def write_pairs(path: Path, result: Audit, task: RetrievalTask) -> None:
    """Write the pairs as Parquet: kind, query_id, gallery_id, cosine, hash_distance, same_label."""
    import pyarrow as pa
    from pyarrow import parquet

    query_ids, gallery_ids = task.queries.ids, task.gallery.ids
    columns: dict[str, Any] = {
        "kind": pa.array([p.kind for p in result.pairs], pa.string()),
        "query_id": pa.array([str(query_ids[p.query]) for p in result.pairs], pa.string()),
        "gallery_id": pa.array([str(gallery_ids[p.gallery]) for p in result.pairs], pa.string()),
        "cosine": pa.array([p.cosine for p in result.pairs], pa.float64()),
        "hash_distance": pa.array([p.hash_distance for p in result.pairs], pa.int64()),
        "same_label": pa.array([p.same_label for p in result.pairs], pa.bool_()),
    }
    parquet.write_table(pa.table(columns), path)
