import dataclasses

import numpy as np
import pytest
from tests.refusals import refusal

from medretrieval.cache.store import Cache
from medretrieval.datasets.corrupted import corrupted
from medretrieval.datasets.corruptions import Corruption, corrupt
from medretrieval.datasets.phantom import ChestPhantom

KEPT = ("ids", "labels", "captions", "groups", "metadata", "labels_sha256", "name")


@pytest.fixture(scope="module")
def split():
    drawn = ChestPhantom(
        name="chest_phantom", size=32, n_train=0, n_val=0, n_test=20, difficulty=0.5, seed=0
    ).load("test")
    known = {"view": np.array(["AP", "PA"] * 10)}
    return dataclasses.replace(drawn, groups=np.arange(20).astype(np.str_), metadata=known)


@pytest.mark.parametrize("name", ["noise", "rotation", "jpeg"])
def test_images_alone_change_and_are_memory_mapped(split, cache, name):
    corruption = Corruption(name, 3)
    found = corrupted(split, corruption, cache)
    assert isinstance(found.images, np.memmap)
    assert np.array_equal(found.images, corrupt(split.images, corruption))
    assert found.images_sha256 != split.images_sha256
    assert found.clean is split
    for what in KEPT:
        assert np.array_equal(getattr(found, what), getattr(split, what)), what
    in_memory = corrupted(split, corruption, None)
    assert np.array_equal(in_memory.images, found.images)
    assert np.array_equal(in_memory.masks, found.masks)


def test_masks_move_with_a_rotation_and_stay_under_noise(split, cache):
    assert corrupted(split, Corruption("noise", 5), cache).masks is split.masks
    turned = corrupted(split, Corruption("rotation", 5), cache)
    assert turned.masks.dtype == np.bool_
    marked = split.masks.any(axis=(1, 2))
    assert (turned.masks != split.masks).any(axis=(1, 2))[marked].all()
    # What is bright in a mask's place is bright in the turned one's place.
    inside = [image[mask].mean() for image, mask in zip(split.images, split.masks, strict=True) if mask.any()]
    after = [
        image[mask].mean() for image, mask in zip(turned.images, turned.masks, strict=True) if mask.any()
    ]
    assert np.allclose(inside, after, atol=12)


def test_they_are_made_once(split, cache, monkeypatch):
    first = corrupted(split, Corruption("blur", 2), cache).images
    monkeypatch.setattr("medretrieval.datasets.corrupted.corrupt_chunks", lambda *a: pytest.fail("again"))
    assert np.array_equal(corrupted(split, Corruption("blur", 2), Cache(cache.root)).images, first)


def test_a_full_disk_is_one_line_that_says_how_much_is_wanted(split, cache, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medretrieval.datasets.corrupted._write", full)
    line = refusal(corrupted, split, Corruption("blur", 2), cache)
    assert "No space left on device" in line
    assert "medretrieval cache prune" in line
