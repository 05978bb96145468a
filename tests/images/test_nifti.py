"""Slices of volumes, from files that nibabel writes."""

import gzip

import nibabel
import numpy as np
import pytest

from medretrieval.images.decode import Decoding, Unreadable, decode, peek
from medretrieval.images.fit import Fit
from medretrieval.images.frames import Frames
from medretrieval.images.image_file import read
from medretrieval.images.readers import nifti

RNG = np.random.default_rng(0)
WIDE, DEEP, HIGH = 6, 8, 5  # left to right, back to front, feet to head
VOLUME = RNG.integers(0, 1000, (WIDE, DEEP, HIGH)).astype(np.int16)
EVERY = Decoding(8, 1, Fit.pad, Frames.all)


def written(path, volume=VOLUME, affine=None, **header):
    image = nibabel.Nifti1Image(volume, np.diag([1, 1, 1, 1]) if affine is None else affine)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def slices(path):
    """Every slice as it is, without being made square."""
    from medretrieval.images.image_file import opened

    with opened(path) as source:
        return np.stack([source.frame(place).pixels for place in range(source.peek.frames)])


def drawn(volume, low, high):
    """Of a RAS volume: front on top, the patient's right on the left; [slices, rows, columns]."""
    scaled = np.rint(np.clip((volume - low) / (high - low), 0, 1) * 255)
    wide, deep, deepest = volume.shape
    found = np.zeros((deepest, deep, wide))
    for x in range(wide):
        for y in range(deep):
            found[:, deep - 1 - y, wide - 1 - x] = scaled[x, y]
    return found


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_slices_go_from_feet_to_head_as_radiologists_see_them(tmp_path, suffix):
    path = written(tmp_path / f"a.{suffix}")
    found = peek(path)
    assert (found.kind, found.width, found.height, found.channels) == ("nifti", WIDE, DEEP, 1)
    assert (found.frames, found.bits) == (HIGH, 16)
    low, high = np.percentile(VOLUME, [0.5, 99.5])
    np.testing.assert_array_equal(slices(path), drawn(VOLUME.astype(float), low, high))


@pytest.mark.parametrize("axes", ["LPS", "RAS", "SAR", "PIR", "ASL"])
def test_however_a_volume_is_stored_its_slices_are_the_same(tmp_path, axes):
    plain = nibabel.Nifti1Image(VOLUME, np.diag([2, 3, 4, 1]))
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(plain.affine), nibabel.orientations.axcodes2ornt(axes)
    )
    turned = plain.as_reoriented(turn)
    assert "".join(nibabel.aff2axcodes(turned.affine)) == axes
    nibabel.save(plain, tmp_path / "plain.nii")
    nibabel.save(turned, tmp_path / "turned.nii.gz")
    np.testing.assert_array_equal(slices(tmp_path / "plain.nii"), slices(tmp_path / "turned.nii.gz"))
    assert peek(tmp_path / "turned.nii.gz") == peek(tmp_path / "plain.nii")


def test_the_range_of_the_header_comes_before_percentiles(tmp_path):
    path = written(tmp_path / "a.nii", cal_min=100, cal_max=300)
    np.testing.assert_array_equal(slices(path), drawn(VOLUME.astype(float), 100, 300))


@pytest.mark.parametrize("slope", [0.5, -2.0])
def test_values_are_rescaled_first(tmp_path, slope):
    path = written(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([slope, -10], np.float32).tobytes()  # scl_slope, scl_inter
    path.write_bytes(content)
    values = VOLUME * slope - 10
    low, high = np.percentile(values, [0.5, 99.5])
    np.testing.assert_allclose(slices(path), drawn(values, low, high), atol=1)


def test_values_that_are_no_numbers_do_not_spoil_the_window(tmp_path):
    values = VOLUME.astype(np.float32)
    values[0, 0, 0], values[1, 0, 0], values[2, 0, 0] = np.nan, np.inf, -np.inf
    found = slices(written(tmp_path / "a.nii.gz", values))
    assert (found[0, DEEP - 1, WIDE - 1], found[0, DEEP - 1, WIDE - 2]) == (0, 255)
    low, high = np.percentile(values[np.isfinite(values)], [0.5, 99.5])
    np.testing.assert_array_equal(found[1:], drawn(VOLUME.astype(float), low, high)[1:])


def test_of_several_volumes_the_first_is_taken(tmp_path):
    both = np.stack([VOLUME, VOLUME[::-1]], axis=-1)
    written(tmp_path / "one.nii.gz")
    np.testing.assert_array_equal(
        slices(written(tmp_path / "two.nii.gz", both)), slices(tmp_path / "one.nii.gz")
    )


def test_frames_of_a_volume_are_its_slices(tmp_path):
    path = written(tmp_path / "a.nii.gz")
    every = [decode(path, EVERY, place) for place in range(HIGH)]
    middle = decode(path, Decoding(8, 1, Fit.pad, Frames.middle))
    np.testing.assert_array_equal(middle, every[HIGH // 2])
    assert read(path).remarks == ("the first of its 5 frames",)
    with pytest.raises(Unreadable, match="it has 5 frames"):
        decode(path, EVERY, HIGH)


def test_a_file_that_has_changed_is_read_again(tmp_path):
    path = written(tmp_path / "a.nii")
    before = slices(path)
    written(path, VOLUME[::-1])
    assert (slices(path) != before).any()


def test_big_endian_and_nifti_2_and_constant_volumes_are_read(tmp_path):
    expected = slices(written(tmp_path / "a.nii"))
    nibabel.save(nibabel.Nifti2Image(VOLUME, np.eye(4)), tmp_path / "two.nii.gz")
    np.testing.assert_array_equal(slices(tmp_path / "two.nii.gz"), expected)
    header = nibabel.Nifti1Header(endianness=">")
    big = nibabel.Nifti1Image(VOLUME.astype(">i2"), np.eye(4), header)
    nibabel.save(big, tmp_path / "big.nii")
    assert (tmp_path / "big.nii").read_bytes()[:4] == b"\0\0\x01\x5c"
    np.testing.assert_array_equal(slices(tmp_path / "big.nii"), expected)
    assert not slices(written(tmp_path / "c.nii", np.full((4, 4, 4), 7, np.int16))).any()


def test_damage_and_other_files_are_refused(tmp_path):
    whole = written(tmp_path / "a.nii").read_bytes()
    packed = gzip.compress(whole)
    colors = np.zeros((4, 4, 4), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    cases = {
        "short.nii": (whole[:-1], "bytes of voxels are there"),
        "head.nii": (whole[:200], "not a NIfTI file"),
        "short.nii.gz": (packed[: len(packed) // 2], "not a NIfTI file"),
        "text.nii": (b"not a volume", "not a NIfTI file"),
        "text.nii.gz": (b"not a volume", "not a NIfTI file"),
        "mark.nii": (whole[:344] + b"none" + whole[348:], "no mark of a single file"),
        "color.nii": (written(tmp_path / "rgb.nii", colors).read_bytes(), "not gray values"),
        "complex.nii": (written(tmp_path / "c.nii", VOLUME.astype(np.complex64)).read_bytes(), "not gray"),
    }
    for name, (content, said) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Unreadable, match=said) as refused:
            decode(tmp_path / name, EVERY, 0)
        assert "\n" not in str(refused.value)


def test_a_volume_that_would_fill_the_memory_is_refused_by_its_header(tmp_path, monkeypatch):
    header = nibabel.Nifti1Header()
    header.set_data_shape((2000, 2000, 2000))
    header.set_data_dtype(np.float64)
    header["magic"], header["vox_offset"] = b"n+1", 352
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(header.binaryblock + b"\0" * 2**20))
    for look in (peek, lambda path: decode(path, EVERY, 0)):
        with pytest.raises(Unreadable, match="2000 x 2000 x 2000 voxels; at most 1 GiB"):
            look(tmp_path / "bomb.nii.gz")
    path = written(tmp_path / "a.nii")
    monkeypatch.setattr(nifti, "MOST_VOLUME_BYTES", VOLUME.nbytes - 1)
    with pytest.raises(Unreadable, match="6 x 8 x 5 voxels"):
        peek(path)
    monkeypatch.setattr(nifti, "MOST_VOLUME_BYTES", VOLUME.nbytes)
    assert peek(path).frames == HIGH


def test_no_more_is_inflated_than_the_header_says(tmp_path):
    whole = written(tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(whole + b"\0" * 2**27, 1))  # 128 MiB of nothing
    import tracemalloc

    tracemalloc.start()
    decode(tmp_path / "a.nii.gz", EVERY, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**24


def test_without_nibabel_the_line_says_how_to_install_it(tmp_path, monkeypatch):
    path = written(tmp_path / "a.nii")
    find = nifti.importlib.util.find_spec
    monkeypatch.setattr(
        nifti.importlib.util, "find_spec", lambda name: None if name == "nibabel" else find(name)
    )
    with pytest.raises(Unreadable, match=r"pip install 'medretrieval\[nifti\]'"):
        peek(path)
