"""DICOM as a reader would see it, from files that pydicom writes."""

import importlib.util

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless, generate_uid

from medretrieval.errors import UserError
from medretrieval.images.image_file import is_picture, pictures_in, read

VALUES = np.array([[0, 100, 200], [300, 400, 1000]], np.uint16)


def written(path, values=VALUES, bits=12, **elements):
    """A secondary capture of these stored values; elements that are None are left out."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = elements.pop("syntax", ExplicitVRLittleEndian)
    dataset = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    frames = elements.get("NumberOfFrames", 1)
    shape = values.shape[1:] if frames > 1 else values.shape
    dataset.Rows, dataset.Columns = shape[:2]
    dataset.SamplesPerPixel = shape[2] if len(shape) == 3 else 1
    dataset.BitsAllocated = values.dtype.itemsize * 8
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Modality = "DX"
    dataset.PixelData = values.tobytes()
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_without_a_window_the_least_and_the_greatest_value_are_black_and_white(tmp_path):
    found = read(written(tmp_path / "a.dcm"))
    np.testing.assert_array_equal(found.pixels, np.rint(VALUES / 1000 * 255))
    assert found.remarks == ("it has no window: its values 0 to 1000 as 0 to 255",)


def test_a_file_is_known_by_its_mark_too(tmp_path):
    path = written(tmp_path / "a.dcm").rename(tmp_path / "IM00001")
    assert is_picture(path)
    assert read(path).pixels.shape == (2, 3)


def windowed(values, center, width):
    """PS3.3 C.11.2.1.2.1, to 0 .. 255."""
    inside = (values - (center - 0.5)) / (width - 1) + 0.5
    return np.rint(np.clip(inside, 0, 1) * 255)


@pytest.mark.parametrize(("center", "width"), [(200, 201), (300, 1000), (50, 40)])
def test_a_window_is_applied_to_rescaled_values(tmp_path, center, width):
    path = written(
        tmp_path / "a.dcm", WindowCenter=center, WindowWidth=width, RescaleSlope=2, RescaleIntercept=-100
    )
    found = read(path)
    np.testing.assert_array_equal(found.pixels, windowed(VALUES * 2.0 - 100, center, width))
    assert found.remarks == ()


def test_of_several_windows_the_first_is_taken(tmp_path):
    path = written(tmp_path / "a.dcm", WindowCenter=[200, 900], WindowWidth=[201, 10])
    np.testing.assert_array_equal(read(path).pixels, windowed(VALUES * 1.0, 200, 201))


def test_a_negative_slope_turns_the_picture(tmp_path):
    path = written(
        tmp_path / "a.dcm", WindowCenter=500, WindowWidth=1001, RescaleSlope=-1, RescaleIntercept=1000
    )
    np.testing.assert_array_equal(read(path).pixels, windowed(1000.0 - VALUES, 500, 1001))


def test_signed_values_are_read(tmp_path):
    values = np.array([[-1000, 0, 1000]], np.int16)
    path = written(tmp_path / "a.dcm", values, 16, WindowCenter=40, WindowWidth=400)
    np.testing.assert_array_equal(read(path).pixels, windowed(values * 1.0, 40, 400))


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 200, "WindowWidth": 201}])
def test_monochrome1_is_inverted(tmp_path, window):
    plain = read(written(tmp_path / "a.dcm", **window)).pixels
    inverted = read(written(tmp_path / "b.dcm", PhotometricInterpretation="MONOCHROME1", **window)).pixels
    np.testing.assert_array_equal(inverted, 255 - plain)


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_stretch_the_values(tmp_path, kind):
    values = np.array([[4000, 100, 200]], np.uint16)
    path = written(tmp_path / "a.dcm", values, PhotometricInterpretation=kind)
    dataset = pydicom.dcmread(path)
    dataset.add_new("PixelPaddingValue", "US", 4000)
    dataset.save_as(path)
    np.testing.assert_array_equal(
        read(path).pixels, [[0, 255, 0]] if kind == "MONOCHROME1" else [[0, 0, 255]]
    )


def test_a_voi_lut_is_applied(tmp_path):
    lut = pydicom.Dataset()
    lut.add_new("LUTDescriptor", "US", [4, 0, 8])
    lut.add_new("LUTData", "US", [10, 200, 30, 255])
    path = written(tmp_path / "a.dcm", np.array([[0, 1, 2, 3]], np.uint16), VOILUTSequence=[lut])
    np.testing.assert_array_equal(read(path).pixels, [[10, 200, 30, 255]])


def test_color_is_read(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    path = written(tmp_path / "a.dcm", pixels, 8, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    np.testing.assert_array_equal(read(path).pixels, pixels)


def test_the_first_of_several_frames_is_taken_and_said(tmp_path):
    window = {"WindowCenter": 200, "WindowWidth": 201}
    path = written(tmp_path / "a.dcm", np.stack([VALUES, VALUES[::-1]]), NumberOfFrames=2, **window)
    found = read(path)
    np.testing.assert_array_equal(found.pixels, windowed(VALUES * 1.0, 200, 201))
    assert found.remarks == ("the first of its 2 frames",)


def test_what_cannot_be_decoded_names_its_transfer_syntax(tmp_path):
    path = written(tmp_path / "a.dcm")
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xf7" + b"\0" * 40])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    with pytest.raises(
        UserError, match=r"JPEG-LS Lossless.*cannot be decoded.*save it uncompressed"
    ) as refused:
        read(path)
    assert "\n" not in str(refused.value)


def test_an_unknown_transfer_syntax_is_refused(tmp_path):
    path = written(tmp_path / "a.dcm")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1k2.1\0"))
    with pytest.raises(UserError, match=r"1k2\.1\) cannot be decoded"):
        read(path)


def test_what_pydicom_warns_of_is_not_printed(tmp_path, capfd, recwarn):
    path = written(tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes() + b"\0" * 7)  # more pixels than rows and columns say
    assert read(path).pixels.shape == (2, 3)
    assert capfd.readouterr().err == ""
    assert not recwarn.list


def test_a_truncated_file_one_without_pixels_and_no_dicom_are_refused(tmp_path):
    path = written(tmp_path / "a.dcm")
    whole = path.read_bytes()
    path.write_bytes(whole[:-6])
    with pytest.raises(UserError, match="damaged, its pixels cannot be read"):
        read(path)
    path.write_bytes(whole[:200])
    with pytest.raises(UserError, match=r"a\.dcm: "):
        read(path)
    path.write_text("no DICOM")
    with pytest.raises(UserError, match="not a DICOM file that can be read"):
        read(path)
    dataset = pydicom.dcmread(written(path))
    del dataset.PixelData
    dataset.save_as(path)
    with pytest.raises(UserError, match="it has no pixels"):
        read(path)


def test_of_a_folder_only_what_has_a_picture_is_taken(tmp_path):
    path = written(tmp_path / "a.dcm")
    dataset = pydicom.dcmread(path)
    for name in ("PixelData", "Rows", "Columns"):
        delattr(dataset, name)
    dataset.save_as(tmp_path / "DICOMDIR", enforce_file_format=True)
    assert pictures_in(tmp_path) == ([path], 1)


@pytest.mark.parametrize("width", [0, -5])
def test_a_window_without_a_width_is_none(tmp_path, width):
    found = read(written(tmp_path / "a.dcm", WindowCenter=1, WindowWidth=width))
    np.testing.assert_array_equal(found.pixels, np.rint(VALUES / 1000 * 255))
    assert found.remarks == (f"its window of width {width} is none: its values 0 to 1000 as 0 to 255",)


def test_a_huge_frame_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("medretrieval.images.source.MAX_PIXELS", 5)
    with pytest.raises(UserError, match="3 x 2 pixels; at most"):
        read(written(tmp_path / "a.dcm"))


def test_without_pydicom_the_line_says_how_to_install_it(tmp_path, monkeypatch):
    path = written(tmp_path / "a.dcm")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pydicom" else find(name))
    with pytest.raises(UserError, match=r"pip install 'medretrieval\[dicom\]'"):
        read(path)
