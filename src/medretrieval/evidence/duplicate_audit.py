"""Leaks and look-alikes: images that stand on both sides, and pictures that are all but the same.

Byte-identical images are found by hash; near-duplicates by the angle between embeddings and by a
perceptual hash (pHash: discrete cosine transform of a 32 x 32 average, signs of its 8 x 8 low
frequencies against their median; Zauner 2010). What they make of a score is for the reader to judge.

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
from medretrieval.protocol.task import RetrievalTask
from medretrieval.vectors import l2_normalize, unit_rows

CHUNK_CELLS = 4_000_000  # of a chunk [queries, gallery], and of what is held of the embeddings
MAX_COMPARED_PAIRS = 4_000_000_000  # queries times gallery items
AUDIT_FORMAT = 3  # raised when the same images would be audited otherwise
COSINE_DIGITS = 9  # of a cosine that is compared with the threshold: far above the rounding of float64
SHOWN_DIGITS = 6  # of a cosine that orders the pairs and is written
HASH_SIDE_PIXELS, HASH_FREQUENCIES = 32, 8
HASH_BATCH_IMAGES = 4096
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
            near-duplicate there that is not identical (`near_embedding`, which depends on the encoder,
            and `near_hash`). The query itself never counts. Where the dataset has groups: query images with
            another image of their group in the gallery (`same_group`), and groups that stand in both splits
            (`groups_on_both_sides`).
        pairs: at most max_pairs of a kind, the most alike first.
    """

    counts: dict[str, int]
    pairs: list[Pair]


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
    return Audit(dict(facts["counts"]), [Pair(**pair) for pair in facts["pairs"]])


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
    sides = _Sides.from_task(task, query, gallery)
    kinds = (IDENTICAL, NEAR_EMBEDDING, NEAR_HASH, *([GROUP] if sides.groups else []))
    tallies = {kind: _Tally(kind, config.max_pairs, sides) for kind in kinds}
    audited = _sample(len(task.queries), len(task.gallery))
    for chunk in _chunks(sides, audited):
        masks = {
            IDENTICAL: chunk.identical,
            NEAR_EMBEDDING: _near(sides, chunk, config.near_cosine) & chunk.other & ~chunk.identical,
            NEAR_HASH: (chunk.hash_distance <= config.near_hash) & chunk.other & ~chunk.identical,
        }
        if sides.groups:
            masks[GROUP] = (sides.groups[0][chunk.rows, None] == sides.groups[1]) & chunk.other
        for kind, mask in masks.items():
            tallies[kind].add(chunk, mask)
    return Audit(
        {
            "audited_queries": len(audited),
            "identical_within_query": _copies(sides.codes[0]),
            "identical_within_gallery": _copies(sides.codes[1]),
            "identical_between": tallies[IDENTICAL].queries,
            "label_conflicts": tallies[IDENTICAL].conflicts,
            NEAR_EMBEDDING: tallies[NEAR_EMBEDDING].queries,
            NEAR_HASH: tallies[NEAR_HASH].queries,
        }
        | _group_counts(sides, tallies),
        [pair for tally in tallies.values() for pair in tally.pairs],
    )


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
    """

    task: RetrievalTask
    query: NDArray[np.float32]
    gallery: NDArray[np.float32]
    itself: NDArray[np.int64]
    codes: tuple[NDArray[np.int64], NDArray[np.int64]]
    hashes: tuple[NDArray[np.uint64], NDArray[np.uint64]]
    groups: tuple[NDArray[np.int64], NDArray[np.int64]] | None

    @classmethod
    def from_task(cls, task: RetrievalTask, query: NDArray[np.float32], gallery: NDArray[np.float32]) -> Self:
        """Hash the images of both sides, the same ones once."""
        queries, count, same = _asking(task), len(task.queries), task.queries_are_gallery
        codes = identical_codes(queries.images, task.gallery.images)
        return cls(
            task,
            query,
            gallery,
            itself=np.arange(count) if same else np.full(count, -1),
            codes=(codes[0], codes[1]),
            hashes=(image_hashes(queries), image_hashes(task.gallery)),
            groups=_groups(task),
        )

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
    """

    rows: NDArray[np.int64]
    cosine: NDArray[np.float32]
    hash_distance: NDArray[np.uint8]
    other: NDArray[np.bool_]
    identical: NDArray[np.bool_]


def _near(sides: _Sides, chunk: _Chunk, threshold: float) -> NDArray[np.bool_]:
    """Which pairs have a cosine of at least the threshold: where float32 cannot tell, by float64."""
    near = chunk.cosine >= threshold
    i, j = np.nonzero(np.abs(chunk.cosine - threshold) <= sides.rounding)
    if len(i):
        near[i, j] = sides.cosines(chunk.rows[i], j).round(COSINE_DIGITS) >= threshold
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
        if not len(i):
            return
        labels, others = self.sides.task.queries.labels, self.sides.task.gallery.labels
        agree = labels[chunk.rows[i]] == others[j]
        agree = agree.all(axis=1) if agree.ndim == 2 else agree
        self.conflicts += len(np.unique(i[~agree]))
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


def _group_counts(sides: _Sides, tallies: dict[str, _Tally]) -> dict[str, int]:
    if sides.groups is None:
        return {}
    same = sides.task.queries_are_gallery
    both = 0 if same else len(np.intersect1d(*sides.groups))
    return {GROUP: tallies[GROUP].queries, "groups_on_both_sides": both}


def image_hashes(split: Split) -> NDArray[np.uint64]:
    """Perceptual hashes, 64 bits each (uint64 [n])."""
    step = HASH_BATCH_IMAGES
    return np.concatenate([_hashes(split.images[b : b + step]) for b in range(0, len(split), step)])


def _hashes(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    from PIL import Image

    side = HASH_SIDE_PIXELS

    def shrunk(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        gray = Image.fromarray(image).convert("L")
        return np.asarray(gray.resize((side, side), Image.Resampling.BILINEAR), np.float32)

    small = np.stack([shrunk(image) for image in images])
    # The low rows of the cosine transform (type II) as a product: importing scipy would cost more.
    waves = np.cos(np.pi / side * np.outer(np.arange(HASH_FREQUENCIES), np.arange(side) + 0.5))
    low = (waves @ small @ waves.T).reshape(len(small), -1)
    # The first coefficient is the mean brightness, which says nothing of the picture.
    bits = low > np.median(low[:, 1:], axis=1, keepdims=True)
    words: NDArray[np.uint64] = np.packbits(bits, axis=1).view(np.uint64).ravel()
    return words


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
