"""Batches against the checkpoint's own transform, one Pillow image at a time."""

import threading
import time

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from tests.refusals import refusal
from timm.data import create_transform
from torchvision import transforms

from medretrieval.encoders.runtime.preprocess import BATCHED, SINGLE, Preprocess, ahead, vectorize, whole

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


# The whole picture

BORDERED = {
    **KNOWN,
    "open_clip, longest": clip(resize_mode="longest"),
    "timm, border": lite(224, 0.9, crop_mode="border"),
    "timm, wide": lite(224, 0.9, input_size=(3, 112, 224)),
}
PILLOW = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
# Of these the checkpoint's own transform shows the whole of a square image already.
UNCROPPED = {
    "ViT-B-32, BiomedCLIP", "open_clip, 336", "open_clip, bilinear", "SigLIP: squash", "open_clip, longest",
}  # fmt: skip


@pytest.mark.parametrize("transform", BORDERED.values(), ids=BORDERED)
@pytest.mark.parametrize("shape", [(2, 28, 28), (2, 300, 411), (2, 37, 64, 3)], ids=str)
def test_batches_of_whole_images_are_what_their_transform_gives_one_by_one(transform, shape):
    assert_own(whole(transform), noise(*shape))


@pytest.mark.parametrize("name", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(28, 28), (300, 200), (411, 224)])
def test_whole_is_pillows_resize_of_the_image_and_the_checkpoints_normalization(name, size):
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    transform = whole(lite(224, 0.875, interpolation=name, mean=mean, std=std))
    picture = Image.fromarray(noise(*size, 3))
    resized = np.asarray(picture.resize((224, 224), PILLOW[name]), np.float64) / 255
    wanted = ((resized - mean) / std).transpose(2, 0, 1)
    np.testing.assert_allclose(transform(picture).numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize("name", sorted(UNCROPPED))
@pytest.mark.parametrize("side", [28, 224, 500])
def test_a_square_image_that_no_crop_touches_has_the_same_pixels(name, side):
    for image in (noise(1, side, side), noise(1, side, side, 3)):
        assert torch.equal(own(whole(BORDERED[name]), image), own(BORDERED[name], image))


@pytest.mark.parametrize("name", sorted(BORDERED))
def test_a_mark_in_the_corner_reaches_the_model_where_the_view_is_whole(name):
    transform = BORDERED[name]
    plain, marked = np.zeros((2, 1, 256, 256), np.uint8)
    marked[0, :3, :3] = 255
    (dark, bright), (all_dark, all_bright) = (
        [own(view, images) for images in (plain, marked)] for view in (transform, whole(transform))
    )
    assert all_bright.shape == bright.shape
    assert (all_bright - all_dark).abs().max() > 1
    assert torch.equal(dark, bright) == (name not in UNCROPPED)


@pytest.mark.parametrize(
    "steps",
    [
        None,
        [transforms.ToTensor()],
        [transforms.Resize(16), transforms.Resize(8), transforms.ToTensor()],
        [transforms.Resize(16), transforms.RandomRotation(9), transforms.ToTensor()],
        [transforms.Resize(16)],
    ],
    ids=["no steps", "no resize", "two", "a turn", "no tensor"],
)
def test_a_transform_whose_crop_is_not_known_has_no_whole_view(steps):
    def unknown(picture):
        return torch.zeros(3, 2, 2)

    transform = unknown if steps is None else transforms.Compose([*steps, NORMAL])
    line = refusal(lambda: whole(transform))
    assert line.startswith("encoder.view=whole: the steps of the checkpoint's transform (")
    assert line.endswith("; set encoder.view=checkpoint")


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
