"""Pictures from files of every kind, pixel for pixel where the format keeps them."""

import numpy as np
import pytest
from PIL import Image

from medretrieval.errors import UserError
from medretrieval.images.fit import Fit, as_in_dataset, thumbnail
from medretrieval.images.image_file import pictures_in, read
from medretrieval.images.readers import source as images

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (20, 30)).astype(np.uint8)
RGB = RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8)


def saved(path, pixels, mode=None, **options):
    picture = Image.fromarray(pixels) if mode is None else Image.fromarray(pixels).convert(mode)
    picture.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "tiff", "bmp", "webp"])
@pytest.mark.parametrize("pixels", [GRAY, RGB], ids=["gray", "rgb"])
def test_formats_without_loss_keep_every_pixel(tmp_path, suffix, pixels):
    found = read(saved(tmp_path / f"a.{suffix}", pixels, lossless=True) if suffix == "webp" else
                 saved(tmp_path / f"a.{suffix}", pixels))  # fmt: skip
    gray = found.pixels if found.pixels.ndim == 2 or pixels.ndim == 3 else found.pixels[..., 0]
    np.testing.assert_array_equal(gray, pixels)
    assert found.remarks == ()


def test_a_file_is_told_by_its_bytes_and_not_by_its_name(tmp_path):
    saved(tmp_path / "a.png", GRAY)
    np.testing.assert_array_equal(read((tmp_path / "a.png").rename(tmp_path / "scan")).pixels, GRAY)


def test_jpeg_is_near_its_original(tmp_path):
    smooth = np.add.outer(np.arange(64), np.arange(96)).astype(np.uint8)
    found = read(saved(tmp_path / "a.jpg", smooth, quality=95)).pixels
    assert found.shape == smooth.shape
    assert np.abs(found.astype(int) - smooth).max() <= 4


@pytest.mark.parametrize(
    ("tag", "turned"),
    [(1, lambda a: a), (2, np.fliplr), (3, lambda a: np.rot90(a, 2)), (4, np.flipud), (5, lambda a: a.T),
     (6, lambda a: np.rot90(a, -1)), (7, lambda a: np.rot90(a, 2).T), (8, lambda a: np.rot90(a, 1))],
)  # fmt: skip
def test_exif_orientation_is_honoured(tmp_path, tag, turned):
    exif = Image.Exif()
    exif[0x0112] = tag
    path = saved(tmp_path / "a.jpg", np.kron(GRAY // 128 * 255, np.ones((8, 8), np.uint8)), exif=exif)
    with Image.open(path) as stored:
        np.testing.assert_array_equal(read(path).pixels, turned(np.asarray(stored)))


def test_palette_one_bit_and_cmyk_become_what_they_show(tmp_path):
    palette = saved(tmp_path / "p.png", RGB // 128 * 255, "P")
    with Image.open(palette) as stored:
        assert stored.mode == "P"
        np.testing.assert_array_equal(read(palette).pixels, np.asarray(stored.convert("RGB")))
    one_bit = saved(tmp_path / "1.png", GRAY // 128 * 255, "1")
    np.testing.assert_array_equal(read(one_bit).pixels, GRAY // 128 * 255)
    cmyk = saved(tmp_path / "c.tiff", RGB, "CMYK")
    np.testing.assert_allclose(read(cmyk).pixels, RGB, atol=2)


def test_transparency_is_laid_on_black_and_said(tmp_path):
    alpha = np.repeat(np.array([[0, 255, 128]], np.uint8), 3, axis=0)
    pixels = np.dstack([np.full((3, 3, 3), 200, np.uint8), alpha])
    found = read(saved(tmp_path / "a.png", pixels))
    np.testing.assert_array_equal(found.pixels[0, :, 0], [0, 200, 100])
    assert found.remarks == ("its transparent parts laid on black",)
    opaque = read(saved(tmp_path / "b.png", np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)])))
    np.testing.assert_array_equal(opaque.pixels, RGB)
    assert opaque.remarks == ()
    gray = read(saved(tmp_path / "c.png", np.dstack([GRAY, np.full(GRAY.shape, 255, np.uint8)])))
    np.testing.assert_array_equal(gray.pixels, GRAY)


def test_a_transparent_color_of_a_palette_is_laid_on_black(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 255, 255, 10, 20, 30])
    picture.putdata([0, 1])
    picture.save(tmp_path / "a.gif", transparency=0)
    found = read(tmp_path / "a.gif")
    np.testing.assert_array_equal(found.pixels, [[[0, 0, 0], [10, 20, 30]]])


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bits_go_from_their_least_to_their_greatest_value(tmp_path, suffix):
    values = np.array([[100, 1120], [2140, 4180]], np.uint16)
    found = read(saved(tmp_path / f"a.{suffix}", values))
    np.testing.assert_array_equal(found.pixels, [[0, 64], [128, 255]])  # (v - 100) / 4080 * 255, rounded
    assert found.remarks == ("its values 100 to 4180 as 0 to 255",)
    assert not read(saved(tmp_path / f"b.{suffix}", np.full((2, 2), 700, np.uint16))).pixels.any()


def test_floats_are_read_and_refused_where_they_are_no_numbers(tmp_path):
    np.testing.assert_array_equal(
        read(saved(tmp_path / "a.tiff", np.array([[-1, 0, 1]], np.float32))).pixels, [[0, 128, 255]]
    )
    with pytest.raises(UserError, match="NaN or infinite"):
        read(saved(tmp_path / "b.tiff", np.array([[0, np.nan]], np.float32)))


def test_the_first_of_several_frames_is_taken_and_said(tmp_path):
    frames = [Image.fromarray(GRAY), Image.fromarray(255 - GRAY)]
    frames[0].save(tmp_path / "a.tiff", save_all=True, append_images=frames[1:])
    found = read(tmp_path / "a.tiff")
    np.testing.assert_array_equal(found.pixels, GRAY)
    assert found.remarks == ("the first of its 2 frames",)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "gif", "bmp", "webp"])
def test_a_truncated_picture_is_answered_with_one_line(tmp_path, suffix):
    path = saved(tmp_path / f"a.{suffix}", RNG.integers(0, 256, (64, 64, 3)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"a\.{suffix}: (damaged|not a picture)") as refused:
        read(path)
    assert "\n" not in str(refused.value)


def test_what_is_no_picture_and_what_is_not_there_is_refused(tmp_path):
    (tmp_path / "note.png").write_text("not a picture")
    with pytest.raises(UserError, match="not a picture; give PNG"):
        read(tmp_path / "note.png")
    with pytest.raises(UserError, match="there is no such file"):
        read(tmp_path / "gone.png")


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", GRAY)
    monkeypatch.setattr(images, "MAX_PIXELS", GRAY.size - 1)
    with pytest.raises(UserError, match="30 x 20 pixels"):
        read(path)
    monkeypatch.setattr(images, "MAX_PIXELS", GRAY.size)
    assert read(path).pixels.shape == GRAY.shape
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # as if it were beyond Pillow's own limit
    with pytest.raises(UserError, match="megapixels"):
        read(path)


def test_a_folder_gives_its_pictures_by_name_and_counts_the_rest(tmp_path):
    for name in ("b.png", "a.jpg"):
        saved(tmp_path / name, GRAY)
    (tmp_path / "note.txt").write_text("x")
    (tmp_path / "more").mkdir()
    found, skipped = pictures_in(tmp_path)
    assert [p.name for p in found] == ["a.jpg", "b.png"]
    assert skipped == 1


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(UserError, match="it has no files"):
        pictures_in(tmp_path)
    (tmp_path / "note.txt").write_text("x")
    with pytest.raises(UserError, match="none of its 1 files is a picture"):
        pictures_in(tmp_path)


def test_an_image_of_the_dataset_stays_as_it_is():
    square = GRAY[:, :20]
    for fit in Fit:
        np.testing.assert_array_equal(as_in_dataset(square, 20, 1, fit), square)
        np.testing.assert_array_equal(as_in_dataset(square, 20, 3, fit), np.repeat(square[..., None], 3, 2))


def test_fits_crop_the_center_pad_with_black_or_stretch():
    np.testing.assert_array_equal(as_in_dataset(GRAY, 20, 1, Fit.crop), GRAY[:, 5:25])
    np.testing.assert_array_equal(as_in_dataset(GRAY.T, 20, 1, Fit.crop), GRAY.T[5:25])
    padded = as_in_dataset(GRAY, 30, 1, Fit.pad)
    np.testing.assert_array_equal(padded[5:25], GRAY)
    assert not padded[:5].any()
    assert not padded[25:].any()
    stretched = Image.fromarray(GRAY).resize((20, 20), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(as_in_dataset(GRAY, 20, 1, Fit.stretch), np.asarray(stretched))


def test_making_smaller_averages_and_does_not_alias():
    stripes = np.tile(np.array([0, 255], np.uint8), (280, 140))  # of one pixel each
    small = as_in_dataset(stripes, 28, 1, Fit.crop)
    assert np.abs(small.astype(int) - 128).max() <= 12


def test_a_thumbnail_is_no_larger_and_keeps_the_shape():
    assert thumbnail(np.zeros((600, 300), np.uint8), 100).shape == (100, 50)
    np.testing.assert_array_equal(thumbnail(RGB, 100), RGB)
