"""A checkpoint's resize and crop, undone: against torchvision's own arithmetic, and by bright squares."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import transforms as tv

from medretrieval.encoders.runtime.preprocess import vectorize, whole
from medretrieval.errors import UserError
from medretrieval.images.geometry import placement


def steps_of(resize, crop, interpolation=tv.InterpolationMode.BICUBIC):
    return [tv.Resize(resize, interpolation, antialias=True), tv.CenterCrop(crop)]


@settings(max_examples=15, deadline=None)
@given(
    st.integers(20, 400), st.integers(20, 400), st.integers(32, 160), st.integers(70, 100),
    st.sampled_from([tv.InterpolationMode.BICUBIC, tv.InterpolationMode.BILINEAR]),
)  # fmt: skip
def test_scale_and_offset_are_those_of_resize_and_center_crop(height, width, resize, percent, interpolation):
    crop = resize * percent // 100
    where = placement(steps_of(resize, crop, interpolation), height, width)
    short = min(height, width)
    for raw, axis in ((height, where.y), (width, where.x)):
        resized = resize if raw == short else int(resize * raw / short)
        scale = raw / resized
        assert axis.seen == crop
        assert axis.scale == pytest.approx(scale, rel=2e-3)
        # The crop itself rounds to a whole pixel, one way or the other.
        assert axis.offset == pytest.approx((resized - crop) / 2 * scale, abs=0.51 * scale + 0.1)


@pytest.mark.parametrize("size", [(28, 28), (28, 40), (64, 64), (300, 200), (200, 300)])
@pytest.mark.parametrize("view", [lambda transform: transform, whole], ids=["checkpoint", "whole"])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
def test_a_bright_square_comes_back_to_its_place(size, view, resize_mode):
    from open_clip.transform import PreprocessCfg, image_transform_v2

    own = image_transform_v2(PreprocessCfg(size=96, resize_mode=resize_mode), False)
    steps = vectorize(view(own)).geometry
    height, width = size
    where = placement(steps, height, width)
    for top, left in ((height // 3, width // 2), (height // 2, width // 3)):
        image = np.zeros(size, np.uint8)
        side = min(size) // 7
        image[top : top + side, left : left + side] = 255
        picture = _through(steps, image)
        back = where.to_image(picture)
        center = np.unravel_index(back.argmax(), back.shape)
        assert top <= center[0] < top + side
        assert left <= center[1] < left + side
        # What is put back is the image itself, but for the blur of the resize.
        assert np.corrcoef(back[where.visible], image[where.visible])[0, 1] > 0.85


def _through(steps, image):
    from PIL import Image

    picture = Image.fromarray(image)
    for step in steps:
        picture = step(picture)
    return np.asarray(picture, np.float32)


@pytest.mark.parametrize("size", [(28, 28), (300, 200), (57, 411)])
def test_of_a_whole_image_every_pixel_has_its_place(size):
    own = tv.Compose([*steps_of(128, 112), tv.ToTensor(), tv.Normalize((0.5,) * 3, (0.5,) * 3)])
    where = placement(vectorize(whole(own)).geometry, *size)
    assert where.visible.all()
    assert where.share == pytest.approx(1, abs=2e-3)
    for raw, axis in zip(size, (where.y, where.x), strict=True):
        assert axis.scale == pytest.approx(raw / 112, rel=2e-3)
        assert axis.offset == pytest.approx(0, abs=0.002 * raw)


@settings(max_examples=15, deadline=None)
@given(st.integers(20, 400), st.integers(20, 400), st.integers(32, 160), st.integers(70, 100))
def test_the_share_that_is_seen_is_that_of_the_crop(height, width, resize, percent):
    crop, short, long = resize * percent // 100, *sorted((height, width))
    wanted = (crop / resize) * (crop / int(resize * long / short))
    assert placement(steps_of(resize, crop), height, width).share == pytest.approx(wanted, abs=0.02)


def test_a_crop_leaves_zero_outside_and_padding_takes_nothing_away():
    cropped = placement(steps_of(128, 64), 40, 60)
    assert not cropped.visible[:9].any()
    assert cropped.visible[11:29, 21:39].all()
    values = cropped.to_image(np.ones((3, 3), np.float32))
    assert (values[~cropped.visible] == 0).all()
    np.testing.assert_allclose(values[cropped.visible], 1, rtol=1e-6)
    padded = placement([tv.Resize(30), tv.Pad((0, 20))], 60, 80)
    assert padded.visible.all()
    assert padded.y.offset == pytest.approx(-40, abs=0.1)


def test_interpolation_is_linear_between_the_centers_of_cells():
    where = placement([tv.Resize((80, 80))], 40, 40)
    grid = np.arange(4, dtype=np.float32)[:, None].repeat(4, axis=1)
    # Centers of four cells over 40 pixels lie at 5, 15, 25, 35; a pixel's own center half a pixel on.
    wanted = np.interp(np.arange(40) + 0.5, [5, 15, 25, 35], [0, 1, 2, 3])
    np.testing.assert_allclose(where.to_image(grid)[:, 7], wanted, atol=1e-2)


@pytest.mark.parametrize(
    "step", [tv.RandomRotation((30, 30)), tv.RandomHorizontalFlip(p=1), tv.RandomVerticalFlip(p=1)]
)
def test_another_geometry_is_refused(step):
    with pytest.raises(UserError, match="not made of resize, crop and padding alone"):
        placement([tv.Resize(64), step], 50, 50)
