"""Copies and look-alikes within and across splits, counted without comparing all pairs in memory.

Images of equal bytes have one number, so they are counted by sorting. Perceptual hashes that differ in at
most b bits agree in at least one of b + 1 blocks of bits, so only hashes that share a block are compared, in
chunks: no near-duplicate is missed. Time grows with the squares of the numbers of hashes that share a block:
with the usual b = 2 seconds for 100,000 images, with b above 5 or so hours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import AuditConfig
from medretrieval.describe.description import HashCheck, Likeness, Pair
from medretrieval.evidence.duplicate_audit import hash_is_trusted

CHUNK_CELLS = 4_000_000
MOST_HASH_PAIRS = 10_000  # that examples are chosen from
MOST_EXAMPLES = 20  # of each kind
HASH_BITS = 64
FILE, IMAGE, NEAR = "file", "image", "near"

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
HashPairs = tuple[Ints, Ints, Ints]  # one, other, bits that differ


@dataclass(frozen=True)
class Images:
    """All images of a dataset, split after split.

    Attributes:
        names: of the splits.
        split: number of each image's split, int64 [n].
        label: equal for equal labels, int64 [n].
        codes: equal for equal bytes, int64 [n].
        hashes: perceptual hashes, uint64 [n].
        ids: str [n].
    """

    names: Sequence[str]
    split: Ints
    label: Ints
    codes: Ints
    hashes: NDArray[np.uint64]
    ids: NDArray[np.str_]


def identical(images: Images, codes: Ints, kind: str) -> tuple[list[Likeness], list[Pair]]:
    """Images of equal bytes.

    Args:
        images: all.
        codes: equal where bytes are equal, int64 [n].
        kind: what the bytes are of: FILE or IMAGE.
    """
    of_code = _counts(codes, images)
    of_both = _counts(_joint(codes, images.label), images)
    itself = images.split[:, None] == np.arange(len(images.names))
    found = _likenesses(images, kind, of_code - itself > 0, of_code - of_both > 0)
    order = np.argsort(codes, kind="stable")
    firsts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    sizes = np.diff(firsts, append=len(order))
    one = np.repeat(order[firsts], sizes)
    different = one != order
    pairs = one[different], order[different], np.zeros(int(different.sum()), np.int64)
    return found, _examples(images, kind, pairs)


def near(images: Images, side: int, config: AuditConfig) -> tuple[list[Likeness], list[Pair], HashCheck]:
    """Images that look alike by perceptual hash and are not of equal bytes.

    Nothing is counted where the hash does not tell the images apart.

    Args:
        images: all.
        side: of the smallest one, in pixels.
        config: bits that may differ, and the share of the images that may be taken for another class.
    """
    bits = min(config.near_hash, HASH_BITS)
    unique, first, of_hash = np.unique(images.hashes, return_index=True, return_inverse=True)
    of_hash = of_hash.astype(np.int64)
    splits = len(images.names)
    there = np.zeros((len(unique), splits), np.bool_)
    there[of_hash, images.split] = True
    around = np.zeros_like(there)  # whether a hash nearby has images in a split
    least, most = _ends(of_hash, images.label, len(unique))
    low, high = np.full(len(unique), np.iinfo(np.int64).max), np.full(len(unique), -1)
    kept: HashPairs = (np.zeros(0, np.int64),) * 3
    for one, other, apart in near_pairs(unique, bits):
        for a, b in ((one, other), (other, one)):
            np.logical_or.at(around, a, there[b])
            np.minimum.at(low, a, least[b])
            np.maximum.at(high, a, most[b])
        kept = _nearest(kept, (one, other, apart))
    same_hash = _counts(of_hash, images) - _counts(images.codes, images) > 0
    other_label = (low[of_hash] < images.label) | (high[of_hash] > images.label)
    collisions = float((other_label | _other_within(of_hash, images)).mean())
    check = HashCheck(hash_is_trusted(side, collisions, config), bits, collisions, side)
    if not check.trusted:
        return [], [], check
    found = _likenesses(images, NEAR, around[of_hash] | same_hash, None)
    pairs = first[kept[0]], first[kept[1]], kept[2]
    within = _pairs_within(of_hash, images)
    joined = [np.concatenate(parts) for parts in zip(within, pairs, strict=True)]
    return found, _examples(images, NEAR, (joined[0], joined[1], joined[2])), check


def near_pairs(hashes: NDArray[np.uint64], bits: int) -> Iterator[HashPairs]:
    """Pairs of different hashes that differ in at most so many bits, each once, in chunks.

    Args:
        hashes: uint64 [u], each once.
        bits: 0 to 64.

    Yields:
        Positions of the one and of the other, and bits that differ, int64 each.
    """
    blocks = [
        np.uint64(sum(1 << int(bit) for bit in block)) for block in np.array_split(np.arange(64), bits + 1)
    ]
    for number, block in enumerate(blocks):
        keys = hashes & block
        order = np.argsort(keys, kind="stable")
        firsts = np.flatnonzero(np.diff(keys[order], prepend=~keys[order[0]]))
        ends = np.append(firsts[1:], len(order))
        for begin, end in zip(firsts[ends - firsts > 1], ends[ends - firsts > 1], strict=True):
            members = order[begin:end]
            step = max(1, CHUNK_CELLS // len(members))
            for row in range(0, len(members), step):
                found = _compared(hashes, (members[row : row + step], members), blocks[:number], bits)
                if len(found[0]):
                    yield found


def _compared(
    hashes: NDArray[np.uint64], sides: tuple[Ints, Ints], before: Sequence[np.uint64], bits: int
) -> HashPairs:
    """Near pairs of some hashes, without those that share one of the blocks before."""
    differing = hashes[sides[0]][:, None] ^ hashes[sides[1]][None, :]
    apart = np.bitwise_count(differing)
    wanted = (apart <= bits) & (sides[0][:, None] < sides[1][None, :])
    i, j = np.nonzero(wanted)
    fresh = np.ones(len(i), np.bool_)
    for block in before:
        fresh &= (differing[i, j] & block) != 0
    i, j = i[fresh], j[fresh]
    return sides[0][i], sides[1][j], apart[i, j].astype(np.int64)


def _likenesses(images: Images, kind: str, alike: Bools, conflict: Bools | None) -> list[Likeness]:
    """Counts for each pair of splits that has any.

    Args:
        images: all.
        kind: of the copies.
        alike: bool [n, splits], whether an image has a copy in a split.
        conflict: the same for copies of another label; None where these are not counted.
    """
    found = []
    for a, b in combinations_with_replacement(range(len(images.names)), 2):
        of_a, of_b = images.split == a, images.split == b
        count, other = int(alike[of_a, b].sum()), int(alike[of_b, a].sum())
        conflicts = None if conflict is None else int(conflict[of_a, b].sum())
        if count:
            found.append(Likeness(kind, images.names[a], images.names[b], count, other, conflicts))
    return found


def _examples(images: Images, kind: str, pairs: HashPairs) -> list[Pair]:
    """Some pairs: those of different labels first, then those of two splits, then the most alike."""
    one, other, apart = pairs
    same = images.label[one] == images.label[other]
    within = images.split[one] == images.split[other]
    order = np.lexsort((other, one, apart, within, same))[:MOST_EXAMPLES]
    return [
        Pair(kind, str(images.ids[one[i]]), str(images.ids[other[i]]), int(apart[i]), bool(same[i]))
        for i in order.tolist()
    ]


def _counts(codes: Ints, images: Images) -> Ints:
    """Of each image the images of its code in each split: int64 [n, splits]."""
    numbers = np.unique(codes, return_inverse=True)[1]
    table = np.zeros((int(numbers.max()) + 1, len(images.names)), np.int64)
    np.add.at(table, (numbers, images.split), 1)
    return table[numbers]


def _joint(*columns: Ints) -> Ints:
    """A number for each combination of codes, int64 [n]."""
    return np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)[1].ravel().astype(np.int64)


def _ends(of_hash: Ints, label: Ints, count: int) -> tuple[Ints, Ints]:
    """Least and greatest label of the images of each hash, int64 [count] each."""
    least, most = np.full(count, np.iinfo(np.int64).max), np.full(count, -1)
    np.minimum.at(least, of_hash, label)
    np.maximum.at(most, of_hash, label)
    return least, most


def _other_within(of_hash: Ints, images: Images) -> Bools:
    """Whether an image has one of the same hash, of other bytes and of another label (bool [n])."""

    def sizes(*columns: Ints) -> Ints:
        codes = _joint(*columns)
        return np.bincount(codes)[codes]

    codes, label = images.codes, images.label
    both = sizes(of_hash, codes) + sizes(of_hash, label) - sizes(of_hash, codes, label)
    return np.asarray(sizes(of_hash) > both)


def _pairs_within(of_hash: Ints, images: Images) -> HashPairs:
    """Pairs of one hash and other bytes: the first image of each hash with the first of each other code."""
    first = np.sort(np.unique(images.codes, return_index=True)[1])
    order = first[np.argsort(of_hash[first], kind="stable")]
    begins = np.flatnonzero(np.diff(of_hash[order], prepend=-1))
    one = np.repeat(order[begins], np.diff(begins, append=len(order)))
    different = one != order
    return one[different], order[different], np.zeros(int(different.sum()), np.int64)


def _nearest(kept: HashPairs, more: HashPairs) -> HashPairs:
    """The nearest of both, at most MOST_HASH_PAIRS."""
    one, other, apart = (np.concatenate(parts) for parts in zip(kept, more, strict=True))
    order = np.lexsort((other, one, apart))[:MOST_HASH_PAIRS]
    return one[order], other[order], apart[order]
