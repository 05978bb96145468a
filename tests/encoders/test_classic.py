import functools
import importlib.util

import numpy as np
import pytest
import yaml
from tests.refusals import refusal
from tests.tiny_models import images as noise

from medretrieval.config import root
from medretrieval.encoders.base import Encoder
from medretrieval.encoders.classic import HistogramEncoder, luma
from medretrieval.instantiate import instantiate

pytest.importorskip("skimage")
from skimage.feature import hog, local_binary_pattern

NAMES = ("hog", "lbp", "histogram")
# name -> option -> another value of it, each of which gives other vectors of RGB images.
CHANGES = {
    "hog": {"side": 21, "cell": 6, "block": 3, "orientations": 8, "block_norm": "L1", "normalize": True},
    "lbp": {"points": 7, "radius": 2.5, "method": "nri_uniform", "grid": 3, "normalize": True},
    "histogram": {"bins": 31, "colors": "intensity", "normalize": True},
}
every = pytest.mark.parametrize("name", NAMES)


@functools.cache
def defaults(name):
    return yaml.safe_load((root() / "conf" / "encoder" / f"{name}.yaml").read_text())


def made(name, **changes):
    return instantiate(defaults(name) | changes, Encoder, "encoder")


@every
@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 3), (31, 45), (70, 64, 3)])
def test_vectors_are_finite_float32_rows_that_differ_and_do_not_depend_on_the_batch(name, shape):
    encoder, images = made(name), noise(4, *shape)
    images.flags.writeable = False
    vectors = encoder.encode(images)
    assert vectors.dtype == np.float32
    assert vectors.shape[0] == 4
    assert np.isfinite(vectors).all()
    assert len(np.unique(vectors, axis=0)) == 4
    assert np.array_equal(encoder.encode(images[2:3])[0], vectors[2])


@pytest.mark.parametrize(("name", "key"), [(n, key) for n, changes in CHANGES.items() for key in changes])
def test_each_option_changes_the_vectors_and_what_they_are_known_by(name, key):
    images = noise(3, 28, 28, 3)
    encoder, other = made(name), made(name, **{key: CHANGES[name][key]})
    a, b = encoder.encode(images), other.encode(images)
    assert a.shape != b.shape or not np.allclose(a, b)
    assert encoder.identity() != other.identity()


def test_every_option_is_one_of_those():
    for name in NAMES:
        assert set(defaults(name)) - {"_target_", "name", "batch_size", "card"} == set(CHANGES[name])


@every
def test_gray_images_are_as_rgb_images_of_equal_channels(name):
    images = noise(3)
    gray, color = (made(name, normalize=True).encode(i) for i in (images, images[..., None].repeat(3, 3)))
    # Three equal histograms one after the other have the direction of one.
    if name == "histogram":
        color = color[:, :32] * np.float32(np.sqrt(3))
    assert np.allclose(gray, color, atol=1e-6)


@every
@pytest.mark.parametrize("n", [28, 28 * 3])
def test_normalized_vectors_have_length_one(name, n):
    vectors = made(name, normalize=True).encode(noise(2, n, n, 3))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("name", ["hog", "lbp"])
def test_a_missing_package_is_named_in_one_line(name, monkeypatch):
    encoder, found = made(name), importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "skimage" else found(n))
    line = f"encoder={name} needs the package scikit-image; pip install 'medretrieval[classic]'"
    assert refusal(encoder.signature) == refusal(encoder.encode, noise(1)) == line


def test_histograms_need_no_package(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "skimage" else found(n))
    assert made("histogram").encode(noise(1)).shape == (1, 32)


@pytest.mark.parametrize(
    ("name", "key", "value", "says"),
    [
        ("hog", "cell", 0, "must be 1 or more"),
        ("hog", "side", -1, "must be 1 or more"),
        ("hog", "block_norm", "L3", "choose from: L1, L1-sqrt, L2, L2-Hys"),
        ("lbp", "points", 0, "must be 1 or more"),
        ("lbp", "radius", 0, "must be above 0"),
        ("lbp", "method", "var", "choose from: nri_uniform, uniform"),
        ("histogram", "bins", 0, "must be 1 to 256"),
        ("histogram", "bins", 257, "must be 1 to 256"),
        ("histogram", "colors", "hsv", "choose from: channels, intensity, joint"),
        ("histogram", "batch_size", 0, "must be 1 or more"),
    ],
)
def test_values_out_of_range_are_refused_by_name(name, key, value, says):
    assert refusal(lambda: made(name, **{key: value})) == f"encoder.{key}={value}: {says}"


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        (
            "hog",
            (13, 40),
            "encoder=hog: images of 13 x 40 pixels hold no block of 2 x 2 cells of 7 x 7 pixels",
        ),
        ("lbp", (9, 3), "encoder=lbp: images of 9 x 3 pixels cannot be cut into 4 x 4 cells"),
    ],
)
def test_images_that_are_too_small_are_refused(name, shape, says):
    assert refusal(made(name).encode, np.zeros((1, *shape), np.uint8)).startswith(says)


@every
def test_the_smallest_images_that_fit_have_a_vector(name):
    side = {"hog": 14, "lbp": 4, "histogram": 1}[name]
    assert np.isfinite(made(name).encode(np.zeros((1, side, side), np.uint8))).all()


# Against the definitions


@pytest.mark.parametrize("shape", [(28, 28), (35, 42, 3)])
def test_gradients_are_those_of_scikit_image_and_larger_images_are_made_smaller_first(shape):
    images = noise(2, *shape)
    options = {"pixels_per_cell": (7, 7), "cells_per_block": (2, 2), "orientations": 9}
    axis = None if len(shape) == 2 else -1
    wanted = [hog(image, block_norm="L2-Hys", channel_axis=axis, **options) for image in images]
    assert np.array_equal(made("hog").encode(images), np.float32(wanted))
    doubled = images.repeat(2, 1).repeat(2, 2)
    assert np.array_equal(
        made("hog", side=28).encode(doubled[:, :56, :56]), made("hog").encode(images[:, :28, :28])
    )


def test_the_direction_of_an_edge_is_its_bin():
    image = np.zeros((1, 28, 28), np.uint8)
    image[:, 14:] = 200  # the gradient points down: 90 of 180 degrees, the middle one of 9 bins
    found = made("hog").encode(image).reshape(-1, 9).sum(axis=0)
    assert found.argmax() == 4
    assert found[4] == found.sum()


@pytest.mark.parametrize(("size", "seen"), [((28, 28), 1), ((30, 30), 28**2 / 900), ((224, 224), 1)])
def test_what_lies_beside_the_cells_is_said_to_be_unseen(size, seen):
    encoder = made("hog")
    assert encoder.unseen(*size) == pytest.approx(1 - seen)
    images = noise(1, *size)
    if seen < 1:
        changed = images.copy()
        changed[:, 29:] = 0
        assert np.array_equal(encoder.encode(changed), encoder.encode(images))


@pytest.mark.parametrize("method", ["uniform", "nri_uniform"])
@pytest.mark.parametrize("shape", [(28, 28), (30, 23, 3)])
def test_patterns_are_those_of_scikit_image_counted_by_cell(method, shape):
    images = noise(2, *shape)
    encoder = made("lbp", method=method, grid=3)
    found = encoder.encode(images).reshape(2, 3, 3, -1)
    assert found.shape[-1] == {"uniform": 10, "nri_uniform": 59}[method]
    height, width = shape[:2]
    for i, image in enumerate(luma(images)):
        codes = local_binary_pattern(image, 8, 1, method)
        for r in range(3):
            for c in range(3):
                inside = [
                    codes[y, x]
                    for y in range(height)
                    for x in range(width)
                    if y * 3 // height == r and x * 3 // width == c
                ]
                wanted = [inside.count(code) / len(inside) for code in range(found.shape[-1])]
                assert found[i, r, c] == pytest.approx(wanted, abs=1e-6)
    assert np.allclose(found.sum(axis=-1), 1, atol=1e-6)


def test_patterns_do_not_change_with_contrast():
    images = noise(2) // 4
    assert np.array_equal(made("lbp").encode(images), made("lbp").encode(images * 3))


def test_patterns_of_a_turned_image_are_the_same_as_a_whole():
    whole = made("lbp", grid=1)
    images = np.pad(noise(2, 20, 20), ((0, 0), (4, 4), (4, 4)))  # what lies outside an image counts as 0
    assert np.allclose(whole.encode(images), whole.encode(np.rot90(images, axes=(1, 2))), atol=1e-6)


@pytest.mark.parametrize("colors", ["intensity", "channels", "joint"])
def test_a_histogram_sums_to_one_and_forgets_where_pixels_are(colors):
    images = noise(3, 12, 9, 3)
    encoder = made("histogram", colors=colors, bins=8)
    vectors = encoder.encode(images)
    assert vectors.shape == (3, {"intensity": 8, "channels": 24, "joint": 512}[colors])
    assert np.allclose(vectors.sum(axis=1), 1, atol=1e-6)
    moved = np.random.default_rng(0).permuted(images.reshape(3, -1, 3)[:, :, 0], axis=1)
    order = np.random.default_rng(1).permutation(12 * 9)
    shuffled = images.reshape(3, -1, 3)[:, order].reshape(images.shape)
    assert np.array_equal(encoder.encode(shuffled), vectors)
    if colors == "channels":  # each channel for itself
        images = images.reshape(3, -1, 3).copy()
        images[:, :, 0] = moved
        assert np.array_equal(encoder.encode(images.reshape(3, 12, 9, 3)), vectors)


@pytest.mark.parametrize("bins", [1, 7, 32, 256])
def test_histograms_are_those_of_numpy(bins):
    images = noise(2, 10, 11, 3)
    found = made("histogram", bins=bins).encode(images).reshape(2, 3, bins)
    small = made("histogram", bins=min(bins, 7), colors="joint").encode(images)
    for i, image in enumerate(images):
        for channel in range(3):
            wanted, _ = np.histogram(image[..., channel], bins, (0, 256))
            assert found[i, channel] == pytest.approx(wanted / 330, abs=1e-6)
        wanted, _ = np.histogramdd(image.reshape(-1, 3), min(bins, 7), [(0, 256)] * 3)
        assert small[i] == pytest.approx(wanted.ravel() / 110, abs=1e-6)


def test_joint_colors_of_gray_images_are_refused():
    encoder = HistogramEncoder("histogram", 8, "joint", False, 4)
    assert refusal(encoder.encode, noise(1)) == (
        "encoder=histogram: encoder.colors=joint counts colors, and the images are gray; set it to intensity"
    )
