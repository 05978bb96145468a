"""Leaks and look-alikes: images that stand on both sides, and pictures that are all but the same.

Byte-identical images are found by hash; near-duplicates by the angle between embeddings and by a
perceptual hash (pHash: discrete cosine transform of a 32 x 32 average, signs of its 8 x 8 low
frequencies against their median; Zauner 2010). What they make of a score is for the reader to judge.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.cache.store import Cache
from medretrieval.config import AuditConfig
from medretrieval.datasets.base import Split
from medretrieval.datasets.groups import common_codes, groups_sha256, identical_codes
from medretrieval.embed.images import Embeddings
from medretrieval.protocol.task import RetrievalTask
from medretrieval.vectors import l2_normalize

CELLS = 4_000_000  # of a chunk [queries, gallery]
MOST_CELLS = 4_000_000_000  # queries times gallery items that are compared
AUDIT_FORMAT = 2  # raised when the same images would be audited otherwise
HASH_SIDE, LOW = 32, 8
HASHED = 4096  # images at a time
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
        "format": AUDIT_FORMAT,
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
    count, n = len(task.queries), len(task.gallery)
    same = task.queries.name == task.gallery.name
    itself = np.arange(count) if same else np.full(count, -1)
    codes = identical_codes(_asking(task).images, task.gallery.images)
    groups = _groups(task)
    kinds = (IDENTICAL, NEAR_EMBEDDING, NEAR_HASH, *([GROUP] if groups else []))
    found = {kind: _Found(config.max_pairs) for kind in kinds}
    asked = _sample(count, n)
    for rows, cosine, distance, identical, other in _chunks(task, asked, codes, itself, query, gallery):
        masks = {
            IDENTICAL: identical,
            NEAR_EMBEDDING: (cosine >= config.near_cosine) & other & ~identical,
            NEAR_HASH: (distance <= config.near_hash) & other & ~identical,
        }
        if groups:
            masks[GROUP] = (groups[0][rows, None] == groups[1]) & other
        for kind, mask in masks.items():
            found[kind].add(kind, rows, mask, cosine, distance, task)
    return Audit(
        {
            "audited_queries": len(asked),
            "identical_within_query": _copies(codes[0]),
            "identical_within_gallery": _copies(codes[1]),
            "identical_between": found[IDENTICAL].queries,
            "label_conflicts": found[IDENTICAL].conflicts,
            NEAR_EMBEDDING: found[NEAR_EMBEDDING].queries,
            NEAR_HASH: found[NEAR_HASH].queries,
        }
        | _group_counts(task, groups, found),
        [pair for kept in found.values() for pair in kept.pairs],
    )


def _asking(task: RetrievalTask) -> Split:
    """The queries, which are images: sentences have no look-alikes and are not audited."""
    assert isinstance(task.queries, Split)
    return task.queries


def _sample(queries: int, gallery: int) -> NDArray[np.int64]:
    """The queries that are compared: all, or as many as a minute or two allows, always the same ones."""
    most = max(1, MOST_CELLS // gallery)
    if queries <= most:
        return np.arange(queries)
    return np.sort(np.random.default_rng(0).choice(queries, most, replace=False))


class _Found:
    """Counts of one kind, and its worst pairs so far."""

    def __init__(self, max_pairs: int) -> None:
        self.max_pairs = max_pairs
        self.queries = self.conflicts = 0
        self.pairs: list[Pair] = []

    def add(
        self,
        kind: str,
        rows: NDArray[np.int64],
        mask: NDArray[np.bool_],
        cosine: NDArray[np.float32],
        distance: NDArray[np.uint8],
        task: RetrievalTask,
    ) -> None:
        i, j = np.nonzero(mask)
        cosines = cosine[i, j].round(6)  # the last bits depend on the chunk
        hashes = distance[i, j]
        agree = task.queries.labels[rows[i]] == task.gallery.labels[j]
        agree = agree.all(axis=1) if agree.ndim == 2 else agree
        self.queries += int(mask.any(axis=1).sum())
        self.conflicts += len(np.unique(i[~agree]))
        worst = np.lexsort((j, i, -cosines, hashes, agree))[: self.max_pairs]
        self.pairs += [
            Pair(kind, int(rows[i[w]]), int(j[w]), float(cosines[w]), int(hashes[w]), bool(agree[w]))
            for w in worst
        ]
        self.pairs.sort(key=lambda p: (p.same_label, p.hash_distance, -p.cosine, p.query, p.gallery))
        del self.pairs[self.max_pairs :]


def _copies(codes: NDArray[np.int64]) -> int:
    return len(codes) - len(np.unique(codes))


def _groups(task: RetrievalTask) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Numbers of the groups of both sides, None where nobody says them (int64 [q] and [n])."""
    if task.queries.groups is None or task.gallery.groups is None:
        return None
    return common_codes(task.queries.groups, task.gallery.groups)


def _group_counts(
    task: RetrievalTask, groups: tuple[NDArray[np.int64], NDArray[np.int64]] | None, found: dict[str, _Found]
) -> dict[str, int]:
    if groups is None:
        return {}
    both = 0 if task.queries.name == task.gallery.name else len(np.intersect1d(*groups))
    return {GROUP: found[GROUP].queries, "groups_on_both_sides": both}


def image_hashes(split: Split) -> NDArray[np.uint64]:
    """Perceptual hashes, 64 bits each (uint64 [n])."""
    parts = [_hashes(split.images[begin : begin + HASHED]) for begin in range(0, len(split), HASHED)]
    return np.concatenate(parts)


def _hashes(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    from PIL import Image

    def shrunk(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        gray = Image.fromarray(image).convert("L")
        return np.asarray(gray.resize((HASH_SIDE, HASH_SIDE), Image.Resampling.BILINEAR), np.float32)

    small = np.stack([shrunk(image) for image in images])
    # The low rows of the cosine transform (type II) as a product: importing scipy would cost more.
    waves = np.cos(np.pi / HASH_SIDE * np.outer(np.arange(LOW), np.arange(HASH_SIDE) + 0.5))
    low = (waves @ small @ waves.T).reshape(len(small), -1)
    # The first coefficient is the mean brightness, which says nothing of the picture.
    bits = low > np.median(low[:, 1:], axis=1, keepdims=True)
    words: NDArray[np.uint64] = np.packbits(bits, axis=1).view(np.uint64).ravel()
    return words


Chunk = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]]


def _chunks(
    task: RetrievalTask,
    asked: NDArray[np.int64],
    codes: Sequence[NDArray[np.int64]],
    itself: NDArray[np.int64],
    query: NDArray[np.float32],
    gallery: NDArray[np.float32],
) -> Iterator[Chunk]:
    """Queries, then [queries, gallery]: cosine, hash distance, identical, another than itself."""
    hashes = image_hashes(_asking(task)), image_hashes(task.gallery)
    lengths: NDArray[np.float32] = np.linalg.norm(gallery, axis=1)
    lengths[lengths == 0] = 1
    places = np.arange(len(task.gallery))
    step = max(1, CELLS // len(places))
    for begin in range(0, len(asked), step):
        rows = asked[begin : begin + step]
        other = places != itself[rows, None]
        yield (
            rows,
            l2_normalize(query[rows]) @ gallery.T / lengths,
            np.bitwise_count(hashes[0][rows, None] ^ hashes[1][None, :]),
            (codes[0][rows, None] == codes[1][None, :]) & other,
            other,
        )


def write_pairs(path: Path, found: Audit, task: RetrievalTask) -> None:
    """Write the pairs as Parquet: kind, query_id, gallery_id, cosine, hash_distance, same_label."""
    import pyarrow as pa
    from pyarrow import parquet

    query_ids, gallery_ids = task.queries.ids, task.gallery.ids
    columns: dict[str, Any] = {
        "kind": pa.array([p.kind for p in found.pairs], pa.string()),
        "query_id": pa.array([str(query_ids[p.query]) for p in found.pairs], pa.string()),
        "gallery_id": pa.array([str(gallery_ids[p.gallery]) for p in found.pairs], pa.string()),
        "cosine": pa.array([p.cosine for p in found.pairs], pa.float64()),
        "hash_distance": pa.array([p.hash_distance for p in found.pairs], pa.int64()),
        "same_label": pa.array([p.same_label for p in found.pairs], pa.bool_()),
    }
    parquet.write_table(pa.table(columns), path)
