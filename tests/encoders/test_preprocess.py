"""Batches against the checkpoint's own transform, one Pillow image at a time."""

import threading
import time

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from timm.data import create_transform
from torchvision import transforms

from medretrieval.encoders.preprocess import BATCHED, SINGLE, Preprocess, ahead, vectorize

NORMAL = transforms.Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def clip(**changes):
    """open_clip's transform; by default that of ViT-B-32, and of BiomedCLIP, which has the same settings."""
    return image_transform_v2(PreprocessCfg(**changes), is_train=False)


def lite(size, crop, **changes):
    mean = (0.5, 0.5, 0.5)
    said = {
        "input_size": (3, size, size),
        "crop_pct": crop,
        "interpolation": "bicubic",
        "mean": mean,
        "std": mean,
    }
    return create_transform(**(said | changes))


KNOWN = {
    "ViT-B-32, BiomedCLIP": clip(),
    "open_clip, 336": clip(size=336),
    "open_clip, bilinear": clip(interpolation="bilinear"),
    "SigLIP: squash": clip(resize_mode="squash", mean=(0.5,) * 3, std=(0.5,) * 3),
    "open_clip, wide": clip(size=(112, 224)),
    "lite0": lite(224, 0.875),
    "lite1": lite(240, 0.882),
    "lite2": lite(260, 0.89),
    "timm, Lanczos": lite(224, 0.95, interpolation="lanczos"),
    "timm, squash": lite(224, 0.9, crop_mode="squash"),
}
known = pytest.mark.parametrize("transform", KNOWN.values(), ids=KNOWN)


def own(transform, images):
    return torch.stack([transform(Image.fromarray(image).convert("RGB")) for image in images])


def noise(*shape):
    return np.random.default_rng(2).integers(0, 256, shape).astype(np.uint8)


def assert_own(transform, images):
    """Batches come out as the transform's own: a gray level off would be 0.01 or more."""
    preprocess = vectorize(transform)
    before = images.copy()
    batch = preprocess(images)
    assert preprocess.implementation == BATCHED
    assert batch.dtype == torch.uint8
    assert batch.shape[1] == (1 if images.ndim == 3 else 3)
    assert (preprocess.normalize(batch) - own(transform, images)).abs().max() < 1e-5
    assert np.array_equal(images, before)


@known
@pytest.mark.parametrize(
    "shape",
    [(3, 28, 28), (2, 64, 37), (2, 300, 411), (2, 28, 28, 3), (1, 411, 300, 3), (1, 224, 224, 3)],
    ids=str,
)
def test_batches_are_what_the_checkpoints_own_transform_gives(transform, shape):
    assert_own(transform, noise(*shape))


@pytest.mark.realdata
@known
def test_real_images_are_what_the_checkpoints_own_transform_gives(transform, real_root):
    with np.load(real_root / "pneumoniamnist.npz", allow_pickle=False) as content:
        assert_own(transform, content["test_images"][:32])


def color_only(picture):
    """Raises on a gray image."""
    return Image.merge("RGB", picture.split()[::-1])


def warm(picture):
    """Not the same on a gray image as on its RGB form."""
    return picture.point(lambda v: v // 2) if picture.mode == "L" else picture


@pytest.mark.parametrize(
    "steps",
    [
        [transforms.ToTensor()],
        [NORMAL],
        [transforms.ToTensor(), NORMAL, transforms.Resize(16)],
        [transforms.ToTensor(), transforms.Resize((16, 16)), NORMAL],
        [transforms.PILToTensor(), transforms.ConvertImageDtype(torch.float32), NORMAL],
        [color_only, transforms.Resize((16, 16)), transforms.ToTensor(), NORMAL],
        [warm, transforms.Resize((16, 16)), transforms.ToTensor(), NORMAL],
    ],
    ids=[
        "no normalization",
        "no tensor",
        "a step after",
        "a step between",
        "other steps",
        "color",
        "by mode",
    ],
)
def test_unknown_transforms_run_image_by_image(steps):
    transform = transforms.Compose(steps)
    preprocess = vectorize(transform)
    assert preprocess.implementation == SINGLE
    if steps[0] is not NORMAL:
        images = noise(2, 28, 28)
        batch = preprocess(images)
        assert torch.equal(preprocess.normalize(batch), own(transform, images))


def test_a_transform_without_steps_runs_as_it_is():
    def transform(picture):
        return torch.full((3, 2, 2), float(picture.size[0]))

    preprocess = vectorize(transform)
    assert preprocess.implementation == Preprocess(transform).implementation == SINGLE
    assert preprocess(noise(2, 5, 7)).tolist() == torch.full((2, 3, 2, 2), 7.0).tolist()


# Ahead


@pytest.mark.parametrize("threads", [1, 3])
def test_what_is_prepared_ahead_comes_in_order(threads):
    def slow_first(i):
        time.sleep(0.01 * (i == 0))
        return i, threading.current_thread() is threading.main_thread()

    assert list(ahead(slow_first, range(7), threads)) == [(i, False) for i in range(7)]
    assert list(ahead(slow_first, [], threads)) == []


def test_no_more_is_prepared_than_asked_for():
    asked = []
    made = ahead(lambda i: i, (asked.append(i) or i for i in range(100)), 1)
    next(made)
    assert len(asked) == 3
    made.close()
    assert len(asked) == 3


def test_an_error_of_the_thread_reaches_the_consumer():
    made = ahead(lambda i: 1 // (2 - i), range(5), 1)
    assert [next(made), next(made)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(made)
