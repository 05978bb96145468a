"""Copies and look-alikes against a comparison of all pairs."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medretrieval.config import AuditConfig
from medretrieval.describe import copies
from medretrieval.describe.copies import Images, identical, near, near_pairs

ALL = AuditConfig(enabled=True, near_quantile=0.999, near_hash=2, max_pairs=10)


def all_near_pairs(hashes, bits):
    """By comparing every pair: (one, other) -> bits that differ."""
    pairs = itertools.combinations(range(len(hashes)), 2)
    apart = {(i, j): (int(hashes[i]) ^ int(hashes[j])).bit_count() for i, j in pairs}
    return {pair: count for pair, count in apart.items() if count <= bits}


def of_pairs(hashes, bits):
    found = [row for chunk in near_pairs(hashes, bits) for row in zip(*chunk, strict=True)]
    assert len(found) == len({(i, j) for i, j, _ in found})  # each once
    return {(int(i), int(j)): int(count) for i, j, count in found}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 8), st.integers(1, 40))
def test_near_pairs_are_those_of_all_pairs(seed, bits, count):
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 2**64 - 1, 3, dtype=np.uint64)
    flips = [sum(1 << int(bit) for bit in rng.choice(64, rng.integers(0, 6), False)) for _ in range(count)]
    hashes = np.unique(first[rng.integers(0, 3, count)] ^ np.array(flips, dtype=np.uint64))
    assert of_pairs(hashes, bits) == all_near_pairs(hashes, bits)


@pytest.mark.parametrize("bits", [0, 3, 63, 64])
def test_chunks_and_any_number_of_bits_change_nothing(monkeypatch, bits):
    hashes = np.unique(np.random.default_rng(0).integers(0, 2**64 - 1, 30, dtype=np.uint64))
    hashes = np.unique(np.concatenate([hashes, hashes ^ np.uint64(5)]))
    monkeypatch.setattr(copies, "CHUNK_CELLS", 7)
    assert of_pairs(hashes, bits) == all_near_pairs(hashes, bits)


def drawn(rng):
    """A few images whose bytes, hashes, labels and splits often coincide."""
    n = int(rng.integers(2, 14))
    codes = rng.integers(0, 6, n)
    hash_of = rng.integers(0, 6, 6).astype(np.uint64) * np.uint64(3)  # equal bytes have equal hashes
    return Images(
        ["train", "val", "test"],
        np.sort(rng.integers(0, 3, n)),
        rng.integers(0, 2, n),
        codes,
        hash_of[codes],
        np.array([f"x/{i}" for i in range(n)]),
    )


def counted(images, alike):
    """Likenesses by comparing every image with every other."""
    n, found = len(images.codes), {}
    for a, b in itertools.combinations_with_replacement(range(3), 2):

        def with_copy(of, among, alike=alike):
            return [
                i for i in range(n)
                if images.split[i] == of
                and any(j != i and images.split[j] == among and alike(i, j) for j in range(n))
            ]  # fmt: skip

        def other_label(i, j, alike=alike):
            return alike(i, j) and images.label[i] != images.label[j]

        counts = len(with_copy(a, b)), len(with_copy(b, a)), len(with_copy(a, b, other_label))
        if counts[0]:
            found[images.names[a], images.names[b]] = counts
    return found


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_counts_are_those_of_all_pairs(seed):
    images = drawn(np.random.default_rng(seed))
    found, pairs = identical(images, images.codes, "image")
    assert {(o.split, o.other): (o.images, o.other_images, o.conflicts) for o in found} == counted(
        images, lambda i, j: images.codes[i] == images.codes[j]
    )
    assert all(pair.image != pair.other for pair in pairs)

    def looks_alike(i, j):
        apart = (int(images.hashes[i]) ^ int(images.hashes[j])).bit_count()
        return apart <= 2 and images.codes[i] != images.codes[j]

    n = range(len(images.codes))
    wrong = [any(looks_alike(i, j) and images.label[i] != images.label[j] for j in n) for i in n]
    near_found, near_examples, check = near(images, 32, ALL)
    assert check.collisions == pytest.approx(np.mean(wrong))
    if check.trusted:
        wanted = {key: counts[:2] for key, counts in counted(images, looks_alike).items()}
        assert {(o.split, o.other): (o.images, o.other_images) for o in near_found} == wanted
        assert bool(near_examples) == bool(wanted)


def test_a_hash_that_does_not_tell_images_apart_counts_nothing():
    images = Images(
        ["train"],
        np.zeros(4, np.int64),
        np.array([0, 1, 0, 1]),
        np.arange(4),
        np.zeros(4, np.uint64),
        np.array([f"train/{i}" for i in range(4)]),
    )
    strict = AuditConfig(enabled=True, near_quantile=0.01, near_hash=2, max_pairs=10)
    for found, pairs, check in (near(images, 64, strict), near(images, 28, ALL)):
        assert (found, pairs, check.trusted, check.collisions) == ([], [], False, 1.0)


def test_pairs_of_other_labels_are_shown_first():
    images = Images(
        ["train", "test"],
        np.array([0, 0, 0, 1]),
        np.array([0, 0, 1, 1]),
        np.array([0, 0, 1, 1]),
        np.zeros(4, np.uint64),
        np.array(["train/0", "train/1", "train/2", "test/0"]),
    )
    images.label[3] = 0
    _, pairs = identical(images, images.codes, "image")
    assert [(p.image, p.other, p.same_label) for p in pairs] == [
        ("train/2", "test/0", False),
        ("train/0", "train/1", True),
    ]
