import hashlib
import io
import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from tests.refusals import refusal

from medretrieval.datasets import corruptions
from medretrieval.datasets.corruptions import (
    DEGREES,
    GAMMAS,
    NAMES,
    SEVERITIES,
    SHIFTS,
    TEXT_SHARE,
    Corruption,
    corrupt,
    corrupt_chunks,
    move_masks,
    random_words,
    seeds_of,
    strength,
)

WORD = 2**64 - 1


def pictures(n, side, channels=1):
    """Smooth shapes with some grain: noise alone would not show what a blur does."""
    rng = np.random.default_rng(side + channels)
    shape = (n, side, side) if channels == 1 else (n, side, side, channels)
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), (0, side / 8, side / 8, 0)[: len(shape)])
    grain = 0.15 * smooth.std() * rng.normal(size=shape)
    values = smooth + grain
    return (255 * (values - values.min()) / np.ptp(values)).astype(np.uint8)


GRAY, RGB = pictures(6, 28), pictures(5, 64, 3)


def split_mix(seed, count):
    """SplitMix64 with Python's own whole numbers."""
    numbers = []
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) & WORD
        z = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & WORD
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
        numbers.append(z ^ (z >> 31))
    return numbers


def seed_of(image):
    return int.from_bytes(hashlib.sha256(image.tobytes()).digest()[:8], "little")


def uniform(image, place=0):
    return (split_mix(seed_of(image), place + 1)[place] >> 11) / 2**53


def as_bytes(values):
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def naive_noise(image, severity):
    sigma, bits = strength("noise", severity, image.shape[0]), []
    for word in split_mix(seed_of(image), -(-image.size // 4)):
        bits += [(word >> 16 * i) & 0xFFFF for i in range(4)]
    drawn = [NormalDist().inv_cdf((b + 0.5) / 65536) for b in bits[: image.size]]
    return as_bytes(image + 255 * sigma * np.reshape(drawn, image.shape))


def naive_blur(image, severity):
    sigma = strength("blur", severity, image.shape[0])
    return as_bytes(
        ndimage.gaussian_filter(image.astype(float), (sigma, sigma, 0)[: image.ndim], mode="nearest")
    )


def naive_contrast(image, severity):
    mean = image.mean(axis=(0, 1))
    return as_bytes((image - mean) * strength("contrast", severity, image.shape[0]) + mean)


def naive_gamma(image, severity):
    exponent = 1 / GAMMAS[severity - 1] if uniform(image) < 0.5 else GAMMAS[severity - 1]
    return as_bytes([[255 * (value / 255) ** exponent for value in row] for row in image.astype(float)])


def naive_jpeg(image, severity):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=round(strength("jpeg", severity, image.shape[0])))
    return np.asarray(Image.open(file))


def moved(image, down, right):
    height, width = image.shape[:2]
    found = np.empty_like(image)
    for i in range(height):
        for j in range(width):
            found[i, j] = image[min(max(i - down, 0), height - 1), min(max(j - right, 0), width - 1)]
    return found


def naive_motion(image, severity):
    side = image.shape[0]
    sigma = strength("motion", severity, side)
    angle = math.radians(90 * uniform(image) - 45)
    steps = range(2 * math.ceil(strength("motion radius", severity, side)) + 1)
    whole = sum(math.exp(-(s**2) / (2 * sigma**2)) for s in steps)
    total, weights = 0.0, 0.0
    for step in steps:
        weight = math.exp(-(step**2) / (2 * sigma**2)) / whole
        if weight >= 1e-4:
            total += weight * moved(image, round(step * math.sin(angle)), round(step * math.cos(angle)))
            weights += weight
    return as_bytes(total / weights)


def naive_pixelate(image, severity):
    side = image.shape[0]
    small = int(side * strength("pixelate", severity, side))
    cells = np.arange(side * small) // side  # of the copies of each pixel, `small` of them
    means = np.zeros((small, small, *image.shape[2:]))
    large = np.repeat(np.repeat(image.astype(float), small, axis=0), small, axis=1)
    for a in range(small):
        for b in range(small):
            means[a, b] = large[cells == a][:, cells == b].mean(axis=(0, 1))
    places = [int((i + 0.5) * small / side) for i in range(side)]
    return as_bytes(means[places][:, places])


def naive_rotation(image, severity):
    degrees = DEGREES[severity - 1] * (1 if uniform(image) < 0.5 else -1)
    channels = image[..., None] if image.ndim == 2 else image
    turned = [
        ndimage.rotate(channels[..., c].astype(float), degrees, reshape=False, order=1, mode="nearest")
        for c in range(channels.shape[2])
    ]
    return as_bytes(np.stack(turned, axis=-1).reshape(image.shape))


def naive_shift(image, severity):
    distance = max(1, round(SHIFTS[severity - 1] * image.shape[0]))
    angle = 2 * math.pi * uniform(image)
    return moved(image, round(distance * math.sin(angle)), round(distance * math.cos(angle)))


ORACLES = {name.removeprefix("naive_"): f for name, f in globals().items() if name.startswith("naive_")}


@pytest.mark.parametrize("images", [GRAY, RGB], ids=["28 gray", "64 RGB"])
@pytest.mark.parametrize("name", NAMES)
def test_every_corruption_keeps_shape_and_type_and_changes_every_image(name, images):
    for severity in SEVERITIES:
        found = corrupt(images, Corruption(name, severity))
        assert (found.shape, found.dtype) == (images.shape, np.uint8)
        assert (found != images).any(axis=tuple(range(1, images.ndim))).all()


def test_every_corruption_but_text_has_a_naive_twin():
    assert set(NAMES) - set(ORACLES) == {"text"}


@pytest.mark.parametrize("images", [GRAY, RGB[:3]], ids=["28 gray", "64 RGB"])
@pytest.mark.parametrize("name", ORACLES)
def test_all_at_once_are_as_one_by_one(name, images):
    for severity in (1, 3, 5):
        found = corrupt(images, Corruption(name, severity))
        wanted = np.stack([ORACLES[name](image, severity) for image in images])
        # Sums in another order may round the other way.
        assert np.abs(found.astype(int) - wanted).max() <= 1
        assert (found != wanted).mean() < 0.005


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_corrupted_alike_in_every_batch(name, monkeypatch):
    whole = corrupt(RGB, Corruption(name, 4))
    monkeypatch.setattr(corruptions, "CHUNK_VALUES", 2 * RGB[0].size)
    chunks = list(corrupt_chunks(RGB, Corruption(name, 4)))
    assert [len(chunk) for chunk in chunks] == [2, 2, 1]
    assert np.array_equal(np.concatenate(chunks), whole)
    assert np.array_equal(corrupt(RGB[::-1], Corruption(name, 4))[::-1], whole)


@pytest.mark.parametrize("images", [pictures(24, 28), RGB, pictures(3, 224)], ids=["28", "64 RGB", "224"])
@pytest.mark.parametrize("name", NAMES)
def test_damage_grows_with_severity(name, images):
    damage = [
        np.abs(corrupt(images, Corruption(name, severity)).astype(int) - images).mean()
        for severity in SEVERITIES
    ]
    # CIFAR-10-C's motion of severities 3 and 4 differs in its radius alone, of which little is left.
    slack = 0.98 if name == "motion" else 1
    assert all(after > slack * before for before, after in itertools.pairwise(damage))


def test_noise_is_normal_and_of_its_own_in_every_image():
    gray = np.full((40, 64, 64), 128, np.uint8)
    gray[:, 0, 0] = np.arange(40)  # another image, another seed
    change = corrupt(gray, Corruption("noise", 1)).astype(float)[:, 1:] - 128
    assert abs(change.mean()) < 0.1
    assert change.std() == pytest.approx(255 * 0.04, rel=0.02)
    assert abs(np.corrcoef(change[0].ravel(), change[1].ravel())[0, 1]) < 0.05


def test_random_words_are_those_of_split_mix():
    # The first outputs of the published generator for the seed 1234567.
    assert random_words(np.array([1234567], np.uint64), 3)[0].tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_constants_are_the_published_ones_at_their_sides_and_between_them_in_between():
    assert [strength("blur", s, 224) for s in SEVERITIES] == [1, 2, 3, 4, 6]
    assert [strength("jpeg", s, 28) for s in SEVERITIES] == [80, 65, 58, 50, 40]
    assert strength("noise", 5, 64) < strength("noise", 5, 128) < strength("noise", 5, 224)


@pytest.mark.parametrize("side", [28, 64, 224])
def test_text_covers_no_more_than_its_share_and_leaves_the_rest(side):
    gray = np.full((8, side, side), 100, np.uint8)
    gray[:, 0, 0] = np.arange(8)
    for severity in SEVERITIES:
        found = corrupt(gray, Corruption("text", severity)).astype(float)
        ink = (found - gray) / (255 - gray)
        assert ink.min() == 0  # white on a dark image
        assert (ink.mean(axis=(1, 2)) > 0.005).all()
        assert (ink.mean(axis=(1, 2)) < TEXT_SHARE).all()
    # It stands in different places.
    assert len({image.tobytes() for image in corrupt(gray, Corruption("text", 1))[:, 1:]}) > 3


def test_text_is_black_on_a_bright_image():
    bright = np.full((1, 64, 64), 230, np.uint8)
    assert corrupt(bright, Corruption("text", 3)).min() == 0
    assert corrupt(bright, Corruption("text", 3)).max() == 230


@pytest.mark.parametrize("name", ["motion", "rotation", "shift"])
def test_masks_go_where_the_finding_goes(name):
    masks = np.zeros((4, 64, 64), np.bool_)
    for i in range(4):
        masks[i, 20 + i : 40, 25 : 45 + i] = True
    images = masks.astype(np.uint8) * 255
    corruption = Corruption(name, 5)
    assert corruption.moves
    (found,) = move_masks(masks, images, corruption)
    assert found.dtype == np.bool_
    assert not np.array_equal(found, masks)
    assert np.array_equal(found, corrupt(images, corruption) > 127)


def test_the_same_picture_has_the_same_seed_whatever_its_memory_looks_like():
    assert seeds_of(RGB[:, ::-1][:, ::-1]).tolist() == seeds_of(RGB).tolist()
    assert len(set(seeds_of(RGB).tolist())) == len(RGB)


def test_no_images_stay_none():
    assert corrupt(GRAY[:0], Corruption("blur", 1)).shape == (0, 28, 28)


def test_what_is_no_corruption_is_refused_in_one_line():
    line = refusal(Corruption.from_word, "noize@3")
    assert "did you mean noise?" in line
    assert "choose from: blur, contrast" in line
    for word in ("noise", "noise@0", "noise@6", "noise@1.5", "noise@", "noise@three"):
        assert f"dataset.corrupt={word}: the severity is 1 to 5" in refusal(Corruption.from_word, word)
    assert str(Corruption.from_word("text@5")) == "text@5"
