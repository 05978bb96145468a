import numpy as np
import pytest

from medretrieval.datasets.phantom import ChestPhantom
from medretrieval.datasets.phantom_drawing import CARDIOMEGALY, CLASSES, CLEAR, DIFFUSE, EFFUSION, FOCAL
from medretrieval.errors import UserError

DEFAULTS = {
    "name": "p", "size": 32, "n_train": 100, "n_val": 10, "n_test": 50, "difficulty": 0.5, "seed": 0
}  # fmt: skip


def phantom(**changes):
    return ChestPhantom(**(DEFAULTS | changes))


def same(a, b):
    return (
        np.array_equal(a.images, b.images)
        and np.array_equal(a.labels, b.labels)
        and np.array_equal(a.masks, b.masks)
        and a.captions == b.captions
    )


def pixel_precision(train, test):
    """Share of the five nearest training images (Euclidean, raw pixels) with the query's class."""
    a, b = (s.images.reshape(len(s), -1).astype(np.float64) for s in (test, train))
    distances = (a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)
    nearest = np.argsort(distances, axis=1)[:, :5]
    return (train.labels[nearest] == test.labels[:, None]).mean()


def test_a_seed_gives_the_same_images_and_another_seed_others():
    assert same(phantom().load("test"), phantom().load("test"))
    assert not np.array_equal(phantom().load("test").images, phantom(seed=1).load("test").images)


def test_a_larger_split_begins_with_the_smaller_one():
    small, large = phantom(n_test=13).load("test"), phantom(n_test=50).load("test")
    assert np.array_equal(large.images[:13], small.images)
    assert np.array_equal(large.labels[:13], small.labels)
    assert large.captions[:13] == small.captions


def test_splits_share_no_image():
    images = [image.tobytes() for name in ("train", "val", "test") for image in phantom().load(name).images]
    assert len(set(images)) == len(images)


def test_size_changes_the_resolution_and_not_the_patient():
    small, large = phantom(size=32).load("test"), phantom(size=96).load("test")
    assert np.array_equal(small.labels, large.labels)
    assert small.captions == large.captions
    shrunk = large.images.reshape(50, 32, 3, 32, 3).mean(axis=(2, 4))
    for a, b in zip(shrunk, small.images, strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.97


def test_difficulty_leaves_labels_and_captions_alone():
    easy, hard = phantom(difficulty=0).load("test"), phantom(difficulty=1).load("test")
    assert np.array_equal(easy.labels, hard.labels)
    assert easy.captions == hard.captions


def test_classes_are_balanced_in_every_block_of_five():
    labels = phantom().load("train").labels
    assert all(sorted(block) == [0, 1, 2, 3, 4] for block in labels.reshape(-1, 5))
    assert len({tuple(block) for block in labels.reshape(-1, 5)}) > 5


@pytest.mark.parametrize("size", [16, 28, 64, 65, 224])
def test_any_size_is_drawn(size):
    split = phantom(size=size, n_test=5).load("test")
    assert split.images.shape == split.masks.shape == (5, size, size)
    assert split.images.dtype == np.uint8
    assert split.masks.dtype == np.bool_
    assert all(image.std() > 20 for image in split.images)


def test_masks_are_where_the_finding_is():
    dataset = phantom(size=64, difficulty=0.2)
    for index in range(20):
        clear, nothing, _ = dataset.draw("test", index, CLEAR)
        assert not nothing.any()
        for label in (FOCAL, DIFFUSE, EFFUSION):
            image, mask, _ = dataset.draw("test", index, label)
            change = np.abs(image.astype(int) - clear)
            assert mask.any()
            assert change[mask].mean() > 4 * change[~mask].mean() + 5, CLASSES[label]
        _, heart, _ = dataset.draw("test", index, CARDIOMEGALY)
        assert 0.05 < heart.mean() < 0.3


def test_the_finding_makes_the_image_brighter():
    dataset = phantom(difficulty=0.2)
    for label in (FOCAL, DIFFUSE, EFFUSION, CARDIOMEGALY):
        images = [(dataset.draw("test", i, label)[0], dataset.draw("test", i, CLEAR)[0]) for i in range(10)]
        assert all(image.mean() > clear.mean() for image, clear in images), CLASSES[label]


def test_captions_name_the_class_and_the_side():
    split = phantom(n_test=100, size=64, difficulty=0).load("test")
    words = {CLEAR: "clear", FOCAL: "focal opacity", DIFFUSE: "diffuse opacity", EFFUSION: "effusion",
             CARDIOMEGALY: "cardiomegaly"}  # fmt: skip
    for caption, label, mask in zip(split.captions, split.labels, split.masks, strict=True):
        assert words[int(label)] in caption.lower()
        if label in (FOCAL, EFFUSION):
            # The patient's left is the image's right, as on a light box.
            center = np.flatnonzero(mask.any(axis=0)).mean()
            assert ("left" if center > 31.5 else "right") in caption.lower()


def test_difficulty_runs_from_trivially_separable_to_chance():
    def precision(difficulty):
        dataset = phantom(n_train=200, n_test=150, size=28, difficulty=difficulty)
        return pixel_precision(dataset.load("train"), dataset.load("test"))

    found = [precision(d) for d in (0.0, 0.25, 0.5, 1.0)]
    assert found[0] > 0.97
    assert found == sorted(found, reverse=True)
    assert 0.25 < found[2] < 0.6
    assert abs(found[3] - 0.2) < 4 * (0.2 * 0.8 / (5 * 150)) ** 0.5


def test_at_difficulty_one_nothing_of_the_finding_can_be_seen():
    dataset = phantom(difficulty=1)
    for label in range(len(CLASSES)):
        assert np.array_equal(dataset.draw("test", 3, label)[0], dataset.draw("test", 3, CLEAR)[0])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", 8),
        ("n_train", -1),
        ("n_test", 2.5),
        ("difficulty", 1.5),
        ("difficulty", "x"),
        ("seed", 2**32),
    ],
)
def test_values_out_of_range_are_refused_by_name(key, value):
    with pytest.raises(UserError, match=f"dataset.{key}={value}: must"):
        phantom(**{key: value})


def test_an_unknown_split_is_refused():
    with pytest.raises(UserError, match=r"'dev'.*train, val, test"):
        phantom().load("dev")
