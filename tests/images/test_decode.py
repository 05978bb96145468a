"""Files of any kind as images of a dataset, and what is refused of them."""

import json
import os
import random
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tests.images.test_dicom import written

from medretrieval.images.decode import Decoding, NoImage, Unreadable, decode, peek
from medretrieval.images.fit import Fit, as_in_dataset
from medretrieval.images.frames import Frames, cell_side, montage
from medretrieval.images.image_file import is_supported, read
from medretrieval.images.readers.source import MAX_PIXELS

GRAY, COLOR = Decoding(20, 1, Fit.pad, Frames.first), Decoding(20, 3, Fit.pad, Frames.first)
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8)


def pages(count=5, color=True):
    """Frames of which each is another shade, with a corner that tells up from down."""
    frames = np.repeat(np.arange(1, count + 1, dtype=np.uint8) * 40, 20 * 30).reshape(count, 20, 30)
    frames[:, :5, :5] = 255
    return np.repeat(frames[..., None], 3, axis=3) if color else frames


def write_frames(path, frames):
    if path.suffix == ".dcm":
        kind = {"PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
        return written(path, frames, 8, NumberOfFrames=len(frames), **kind)
    first, *more = [Image.fromarray(frame) for frame in frames]
    options = {".gif": {}, ".tif": {}, ".webp": {"lossless": True}, ".png": {}}[path.suffix]
    first.save(path, save_all=True, append_images=more, **options)
    return path


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp", "png", "dcm"])
def test_frames_are_taken_by_the_rule(tmp_path, suffix):
    frames = pages()
    path = write_frames(tmp_path / f"a.{suffix}", frames)
    assert peek(path).frames == 5
    expected = [as_in_dataset(frame, 20, 3, Fit.pad) for frame in frames]
    np.testing.assert_array_equal(decode(path, COLOR), expected[0])
    np.testing.assert_array_equal(decode(path, replace(COLOR, frames=Frames.middle)), expected[2])
    every = replace(COLOR, frames=Frames.all)
    for place in (4, 0, 2, 1, 3):
        np.testing.assert_array_equal(decode(path, every, place), expected[place])
    side = cell_side(5, 20)
    grid = montage([as_in_dataset(frame, side, 3, Fit.pad) for frame in frames], 20)
    np.testing.assert_array_equal(decode(path, replace(COLOR, frames=Frames.montage)), grid)
    for wrong in (5, -1):
        with pytest.raises(Unreadable, match="it has 5 frames"):
            decode(path, every, wrong)


def test_a_single_frame_is_the_same_by_every_rule(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    first = decode(path, COLOR)
    for rule in (Frames.middle, Frames.montage):
        np.testing.assert_array_equal(decode(path, replace(COLOR, frames=rule)), first)
    np.testing.assert_array_equal(decode(path, replace(COLOR, frames=Frames.all), 0), first)


def test_a_frame_is_named_exactly_where_all_are_wanted(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    for frames, frame in ((Frames.first, 0), (Frames.all, None)):
        with pytest.raises(ValueError, match="exactly where frames=all"):
            decode(path, replace(COLOR, frames=frames), frame)


def test_a_dataset_and_a_query_see_the_same_pixels(tmp_path):
    values = RNG.integers(300, 4000, (30, 40)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    written(tmp_path / "b.dcm", values, WindowCenter=2000, WindowWidth=3000)
    for path in (tmp_path / "a.png", tmp_path / "b.dcm"):
        np.testing.assert_array_equal(decode(path, GRAY), as_in_dataset(read(path).pixels, 20, 1, Fit.pad))


def kinds(folder):
    """A file of each kind of pixels, and what a header should say of it: kind, channels, bits."""
    gray, wide = PIXELS[..., 0], PIXELS[..., 0].astype(np.uint16) * 200
    alpha = np.dstack([gray, gray])
    shades = Image.fromarray(gray).convert("P")
    found = {
        "gray.png": (Image.fromarray(gray), "png", 1, 8),
        "color.png": (Image.fromarray(PIXELS), "png", 3, 8),
        "wide.png": (Image.fromarray(wide), "png", 1, 16),
        "bits.png": (Image.fromarray(gray > 127), "png", 1, 1),
        "alpha.png": (Image.fromarray(alpha, "LA"), "png", 1, 8),
        "palette.png": (Image.fromarray(PIXELS).quantize(16), "png", 3, 8),
        "shades.png": (shades, "png", 1, 8),
        "gray.jpg": (Image.fromarray(gray), "jpeg", 1, 8),
        "color.JPEG": (Image.fromarray(PIXELS), "jpeg", 3, 8),
        "cmyk.jpg": (Image.fromarray(PIXELS).convert("CMYK"), "jpeg", 3, 8),
        "wide.tif": (Image.fromarray(wide), "tiff", 1, 16),
        "real.tiff": (Image.fromarray(gray.astype(np.float32) / 7), "tiff", 1, 32),
        "color.bmp": (Image.fromarray(PIXELS), "bmp", 3, 8),
        "gray.bmp": (Image.fromarray(gray), "bmp", 1, 8),
        "color.webp": (Image.fromarray(PIXELS), "webp", 3, 8),
        "gray.gif": (Image.fromarray(gray), "gif", 1, 8),
        "gray.pgm": (Image.fromarray(gray), "ppm", 1, 8),
        "color.jp2": (Image.fromarray(PIXELS), "jpeg2000", 3, 8),
    }
    for name, (picture, *_) in found.items():
        picture.save(folder / name)
    return {folder / name: said for name, (_, *said) in found.items()}


def test_a_header_says_what_is_then_decoded(tmp_path):
    for path, said in kinds(tmp_path).items():
        found = peek(path)
        assert [found.kind, found.channels, found.bits] == said, path.name
        pixels = read(path).pixels
        assert pixels.shape == (20, 30, 3)[: 2 if found.channels == 1 else 3], path.name
        assert (found.width, found.height, found.frames) == (30, 20, 1)
        assert decode(path, GRAY).shape == (20, 20)
        assert decode(path, COLOR).shape == (20, 20, 3)
        assert is_supported(path)


def test_a_turned_jpeg_is_peeked_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=exif)
    assert (peek(tmp_path / "a.jpg").width, peek(tmp_path / "a.jpg").height) == (20, 30)
    assert read(tmp_path / "a.jpg").pixels.shape == (30, 20, 3)


def test_a_constant_image_is_black_and_divides_by_nothing(tmp_path):
    Image.fromarray(np.full((20, 20), 40000, np.uint16)).save(tmp_path / "a.png")
    written(tmp_path / "a.dcm", np.full((20, 20), 900, np.uint16))
    assert not decode(tmp_path / "a.png", GRAY).any()
    assert not decode(tmp_path / "a.dcm", GRAY).any()


def test_gray_of_16_bits_with_alpha_is_gray_on_black(tmp_path):
    rows = struct.pack(">BHHHH", 0, 0xC800, 0xFFFF, 0xC800, 0)  # one opaque pixel, one transparent
    write_png(tmp_path / "a.png", 2, 1, 16, 4, rows)
    assert peek(tmp_path / "a.png").channels == 1
    np.testing.assert_array_equal(read(tmp_path / "a.png").pixels, [[200, 0]])


def write_png(path, width, height, bits, color, rows):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def test_bombs_are_refused_by_their_header(tmp_path):
    for side in (9000, 100_000):  # below and above Pillow's own limit
        write_png(tmp_path / "bomb.png", side, side, 8, 0, b"")
        for look in (peek, lambda path: decode(path, GRAY)):
            with pytest.raises(Unreadable, match="megapixels"):
                look(tmp_path / "bomb.png")
    big = Image.new("1", (9000, 9000))
    Image.fromarray(PIXELS).save(
        tmp_path / "a.tif", save_all=True, append_images=[big], compression="tiff_deflate"
    )
    assert peek(tmp_path / "a.tif").frames == 2
    with pytest.raises(Unreadable, match="9000 x 9000 pixels; at most 80 megapixels"):
        decode(tmp_path / "a.tif", replace(GRAY, frames=Frames.all), 1)


def test_an_animation_that_claims_more_frames_than_it_can_hold_is_refused(tmp_path):
    path = write_frames(tmp_path / "a.png", pages())
    content = path.read_bytes()
    place = content.index(b"acTL")
    data = struct.pack(">II", 2**31 - 1, 0)
    claim = b"acTL" + data + struct.pack(">I", zlib.crc32(b"acTL" + data))
    path.write_bytes(content[:place] + claim + content[place + len(claim) :])
    with pytest.raises(Unreadable, match="says 2147483647 frames"):
        peek(path)


def test_what_is_no_file_with_an_image_is_told_apart(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "note.jpg").write_text("not a picture")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "report.dcm").write_bytes(written(tmp_path / "a.dcm").read_bytes()[:140])
    for name, said, kind in (
        ("empty.png", "empty", NoImage),
        ("note.jpg", "not a picture; give PNG", NoImage),
        ("folder.png", "a folder", NoImage),
        ("pipe.png", "a pipe, socket or device", NoImage),
        ("gone.png", "there is no such file", Unreadable),
        ("loop.png", "cannot be read", Unreadable),
        ("report.dcm", "damaged, it ends before its first element", Unreadable),
    ):
        for look in (peek, lambda path: decode(path, GRAY)):
            with pytest.raises(Unreadable) as refused:
                look(tmp_path / name)
            assert type(refused.value) is kind
            assert refused.value.reason.startswith(said), refused.value
            assert str(refused.value) == f"{tmp_path / name}: {refused.value.reason}"
            assert str(tmp_path) not in refused.value.reason
    with pytest.raises(NoImage, match="a pipe, socket or device"):
        decode(type(tmp_path)("/dev/zero"), GRAY)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_unreadable(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    with pytest.raises(Unreadable, match=r"cannot be read \(Permission denied\)"):
        decode(tmp_path / "a.png", GRAY)


def test_permission_denied_is_a_reason(tmp_path, monkeypatch):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "open", refused)
    with pytest.raises(Unreadable, match=r"cannot be read \(Permission denied\)"):
        decode(tmp_path / "a.png", GRAY)


def test_no_damage_gives_anything_but_pixels_or_a_reason(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "b.jpg")
    sources = [*kinds(tmp_path), written(tmp_path / "a.dcm", PIXELS[..., 0].astype(np.uint16))]
    dice = random.Random(0)
    for path in sources:
        whole = path.read_bytes()
        for turn in range(12):
            content = bytearray(whole)
            if turn % 2:
                del content[dice.randrange(len(content)) :]
            for _ in range(turn % 4):
                content[dice.randrange(max(1, len(content)))] = dice.randrange(256) if content else 0
            hurt = tmp_path / f"hurt{path.suffix}"
            hurt.write_bytes(content)
            try:
                assert decode(hurt, COLOR).shape == (20, 20, 3)
            except Unreadable as error:
                assert "\n" not in str(error)  # noqa: PT017 - either is right


def test_suffixes_and_marks_say_what_is_taken_of_a_tree(tmp_path):
    for name in ("a.PNG", "b.jpeg", "c.dcm", "d.nii.gz", "e.nii"):
        (tmp_path / name).touch()
        assert is_supported(tmp_path / name)
    for name in ("a.txt", "b.csv", "c.gz", "._a.png", ".DS_Store", "noname"):
        (tmp_path / name).touch()
        assert not is_supported(tmp_path / name)
    os.mkfifo(tmp_path / "pipe")
    assert not is_supported(tmp_path / "pipe")
    assert is_supported(written(tmp_path / "x.dcm").rename(tmp_path / "IM0001"))


def test_the_key_names_all_that_decides_and_imports_nothing():
    found = GRAY.key()
    assert json.loads(json.dumps(found)) == found
    assert (found["size"], found["channels"], found["fit"], found["frames"]) == (20, 1, "pad", "first")
    assert found["libraries"]["pillow"] == Image.__version__
    assert {replace(GRAY, size=21).key()["size"], COLOR.key()["channels"]} == {21, 3}
    code = (
        "import sys; from medretrieval.images.decode import *; from medretrieval.images.fit import Fit; "
        "from medretrieval.images.frames import Frames; Decoding(8, 1, Fit.pad, Frames.first).key(); "
        "print([m for m in ('PIL', 'pydicom', 'nibabel') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_threads_get_the_pixels_of_one(tmp_path):
    paths = [path for path in kinds(tmp_path) if peek(path).frames]
    paths += [
        written(tmp_path / f"{n}.dcm", RNG.integers(0, 4096, (40, 40)).astype(np.uint16)) for n in range(6)
    ]
    alone = [decode(path, COLOR) for path in paths]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            for one, other in zip(alone, pool.map(lambda path: decode(path, COLOR), paths), strict=True):
                np.testing.assert_array_equal(one, other)


NOISE = """
import logging, sys, warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from medretrieval.images.decode import *
from medretrieval.images.fit import Fit
from medretrieval.images.frames import Frames
logging.basicConfig(level=logging.WARNING)
way = Decoding(20, 1, Fit.pad, Frames.first)
def look(path):
    try:
        decode(path, way)
    except Unreadable:
        pass
with ThreadPoolExecutor(4) as pool:
    list(pool.map(look, [Path(name) for name in sys.argv[1:]] * 20))
import pydicom
warnings.warn("someone else's")
logging.getLogger("pydicom").warning("someone else's log")
"""


@pytest.mark.filterwarnings("ignore:Invalid value")
def test_nothing_is_printed_of_files_that_make_the_readers_warn(tmp_path):
    path = written(tmp_path / "a.dcm", PatientID="\\u00e9" * 80, StudyDate="no date")
    path.write_bytes(path.read_bytes() + b"\0" * 7)  # more pixels than rows and columns say
    write_png(tmp_path / "large.png", 13000, 13000, 1, 0, b"")  # Pillow warns from 89 megapixels on
    Image.fromarray(PIXELS).save(tmp_path / "a.tif")
    cut = tmp_path / "a.tif"
    cut.write_bytes(cut.read_bytes()[:-20])
    paths = [str(path), str(tmp_path / "large.png"), str(cut)]
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", NOISE, *paths], capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    said = [line for line in done.stderr.splitlines() if "someone" not in line]
    assert said == []
    assert done.stderr.count("someone else's") == 2 + done.stderr.count('warn("someone')


def test_the_limit_is_80_megapixels():
    assert MAX_PIXELS == 80 * 10**6
