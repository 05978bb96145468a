"""DICOM as a reader would see it, from files that pydicom writes."""

import importlib.util

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    generate_uid,
)

from medretrieval.errors import UserError
from medretrieval.images.decode import Decoding, Unreadable, decode, peek
from medretrieval.images.fit import Fit, as_in_dataset
from medretrieval.images.frames import Frames
from medretrieval.images.image_file import is_picture, pictures_in, read
from medretrieval.images.readers.dicom import read_header

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
    monkeypatch.setattr("medretrieval.images.readers.source.MAX_PIXELS", 5)
    with pytest.raises(UserError, match="3 x 2 pixels; at most"):
        read(written(tmp_path / "a.dcm"))


def test_without_pydicom_the_line_says_how_to_install_it(tmp_path, monkeypatch):
    path = written(tmp_path / "a.dcm")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pydicom" else find(name))
    with pytest.raises(UserError, match=r"pip install 'medretrieval\[dicom\]'"):
        read(path)


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("shape", [None, "IDENTITY", "INVERSE"])
def test_polarity_is_turned_once(tmp_path, kind, shape):
    plain = read(written(tmp_path / "a.dcm", WindowCenter=200, WindowWidth=201)).pixels
    said = {} if shape is None else {"PresentationLUTShape": shape}
    path = written(
        tmp_path / "b.dcm", PhotometricInterpretation=kind, WindowCenter=200, WindowWidth=201, **said
    )
    turned = kind == "MONOCHROME1" or shape == "INVERSE"
    np.testing.assert_array_equal(read(path).pixels, 255 - plain if turned else plain)


def test_windows_of_other_functions_are_those_of_the_standard(tmp_path):
    window = {"WindowCenter": 300, "WindowWidth": 400}
    sigmoid = written(tmp_path / "a.dcm", VOILUTFunction="SIGMOID", **window)
    np.testing.assert_array_equal(
        read(sigmoid).pixels, np.rint(255 / (1 + np.exp(-4 * (VALUES - 300.0) / 400)))
    )
    exact = written(tmp_path / "b.dcm", VOILUTFunction="LINEAR_EXACT", **window)
    np.testing.assert_array_equal(
        read(exact).pixels, np.rint(np.clip((VALUES - 300.0) / 400 + 0.5, 0, 1) * 255)
    )
    step = written(tmp_path / "c.dcm", WindowCenter=200, WindowWidth=1)
    np.testing.assert_array_equal(read(step).pixels, (VALUES > 199.5) * 255)


@pytest.mark.parametrize(("bits", "signed"), [(8, False), (7, False), (8, True)])
def test_up_to_8_bits_without_a_window_are_shown_as_they_are(tmp_path, bits, signed):
    low = -(2 ** (bits - 1)) if signed else 0
    values = (np.arange(20).reshape(4, 5) * 3 + low + 10).astype(np.int8 if signed else np.uint8)
    found = read(written(tmp_path / "a.dcm", values, bits))
    np.testing.assert_array_equal(found.pixels, np.rint((values.astype(float) - low) / (2**bits - 1) * 255))
    assert found.remarks == ()


def test_bits_above_those_stored_are_left_out(tmp_path):
    path = written(tmp_path / "a.dcm", VALUES | 0xF000, 12, WindowCenter=200, WindowWidth=201)
    np.testing.assert_array_equal(read(path).pixels, windowed(VALUES * 1.0, 200, 201))


@pytest.mark.parametrize("dtype", [np.uint32, np.int32])
def test_values_of_32_bits_are_read(tmp_path, dtype):
    values = np.array([[0, 10**6, 2 * 10**6]], dtype)
    np.testing.assert_array_equal(read(written(tmp_path / "a.dcm", values, 32)).pixels, [[0, 128, 255]])


@pytest.mark.parametrize("size", [(3, 4), (300, 400)])  # by pixel, and by value
def test_a_table_of_values_gives_what_each_pixel_gives(tmp_path, size):
    values = np.random.default_rng(0).integers(-500, 1500, size).astype(np.int16)
    window = {"WindowCenter": 300, "WindowWidth": 900, "RescaleSlope": 0.7, "RescaleIntercept": -3.5}
    found = read(written(tmp_path / "a.dcm", values, 16, **window)).pixels
    np.testing.assert_array_equal(found, windowed(values * 0.7 - 3.5, 300, 900))


def lut(first, bits, entries):
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 2**16, first, bits])
    item.add_new("LUTData", "US", list(entries))
    return item


def test_a_modality_lut_comes_before_the_window(tmp_path):
    table = lut(100, 16, [0, 500, 1000, 700])
    values = np.array([[0, 100, 101, 102, 103, 999]], np.uint16)
    path = written(
        tmp_path / "a.dcm", values, ModalityLUTSequence=[table], WindowCenter=500.5, WindowWidth=1001
    )
    np.testing.assert_array_equal(read(path).pixels, np.rint(np.array([[0, 0, 500, 1000, 700, 700]]) * 0.255))


def test_a_voi_lut_of_8_bits_may_be_longer_than_256(tmp_path):
    table = lut(0, 8, (np.arange(1000) // 4).tolist())
    path = written(tmp_path / "a.dcm", VOILUTSequence=[table], WindowCenter=1, WindowWidth=2)
    np.testing.assert_array_equal(read(path).pixels, np.minimum(VALUES, 999) // 4)


def test_an_empty_table_is_none(tmp_path):
    empty = pydicom.Dataset()
    empty.add_new("LUTData", "US", None)
    path = written(tmp_path / "a.dcm", VOILUTSequence=[empty], ModalityLUTSequence=[empty])
    np.testing.assert_array_equal(read(path).pixels, np.rint(VALUES / 1000 * 255))


def test_padding_is_black_within_a_window_too(tmp_path):
    path = written(
        tmp_path / "a.dcm", PhotometricInterpretation="MONOCHROME1", WindowCenter=200, WindowWidth=201
    )
    dataset = pydicom.dcmread(path)
    dataset.add_new("PixelPaddingValue", "US", 0)
    dataset.add_new("PixelPaddingRangeLimit", "US", 100)
    dataset.save_as(path)
    wanted = 255 - windowed(VALUES * 1.0, 200, 201)
    np.testing.assert_array_equal(read(path).pixels, np.where(VALUES <= 100, 0, wanted))


def test_frames_have_windows_of_their_own(tmp_path):
    def group(center, slope):
        voi, transformation, item = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        voi.WindowCenter, voi.WindowWidth = center, 101
        transformation.RescaleSlope, transformation.RescaleIntercept = slope, 0
        item.FrameVOILUTSequence, item.PixelValueTransformationSequence = [voi], [transformation]
        return item

    path = written(
        tmp_path / "a.dcm", np.stack([VALUES, VALUES]), NumberOfFrames=2,
        PerFrameFunctionalGroupsSequence=[group(100, 1), group(300, 2)],
    )  # fmt: skip
    way = Decoding(6, 1, Fit.stretch, Frames.all)
    for place, (center, slope) in enumerate([(100, 1), (300, 2)]):
        wanted = as_in_dataset(windowed(VALUES * slope, center, 101).astype(np.uint8), 6, 1, Fit.stretch)
        np.testing.assert_array_equal(decode(path, way, place), wanted)


@pytest.mark.parametrize("nominal", [8, 16])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_palettes_of_16_bits_are_read(tmp_path, nominal, syntax):
    places = np.array([[5, 6, 7, 8]], np.uint16)
    order = ">u2" if syntax == ExplicitVRBigEndian else "<u2"
    stored = places.astype(order).view(np.uint16)
    path = written(tmp_path / "a.dcm", places, 16, PhotometricInterpretation="PALETTE COLOR")
    dataset = pydicom.dcmread(path)
    unit = 257 if nominal == 16 else 1  # 8 bits in words of 16
    for name, entries in (("Red", [10, 20, 255]), ("Green", [0, 1, 2]), ("Blue", [9, 8, 7])):
        dataset.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [3, 6, nominal])
        words = (np.array(entries) * unit).astype(order).tobytes()
        dataset.add_new(f"{name}PaletteColorLookupTableData", "OW", words)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = stored.tobytes()
    pydicom.dcmwrite(path, dataset, little_endian=syntax.is_little_endian, implicit_vr=False)
    np.testing.assert_array_equal(read(path).pixels, [[[10, 0, 9], [10, 0, 9], [20, 1, 8], [255, 2, 7]]])


def test_a_palette_in_segments_is_read(tmp_path):
    path = written(tmp_path / "a.dcm", np.arange(4, dtype=np.uint8)[None], 8)
    dataset = pydicom.dcmread(path)
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    for name, end in (("Red", 90), ("Green", 60), ("Blue", 30)):
        dataset.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [4, 0, 8])
        # one entry of 0, then three on a line to the end
        dataset.add_new(f"Segmented{name}PaletteColorLookupTableData", "OW", bytes([0, 1, 0, 1, 3, end]))
    dataset.save_as(path)
    np.testing.assert_array_equal(read(path).pixels, [[[0, 0, 0], [30, 20, 10], [60, 40, 20], [90, 60, 30]]])


def test_float_pixels_are_read_and_what_is_no_number_is_black(tmp_path):
    path = written(tmp_path / "a.dcm")
    dataset = pydicom.dcmread(path)
    for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, name)
    dataset.BitsAllocated = 32
    dataset.FloatPixelData = np.array([[0, 1, 2], [np.nan, 4, np.inf]], np.float32).tobytes()
    dataset.save_as(path)
    np.testing.assert_array_equal(read(path).pixels, [[0, 64, 128], [0, 255, 0]])


def test_a_deflated_file_is_read_and_a_bomb_of_one_refused(tmp_path, monkeypatch):
    plain = read(written(tmp_path / "a.dcm")).pixels
    path = written(tmp_path / "b.dcm", syntax=DeflatedExplicitVRLittleEndian)
    np.testing.assert_array_equal(read(path).pixels, plain)
    assert peek(path).width == 3
    with monkeypatch.context() as patch:
        patch.setattr("medretrieval.images.readers.dicom.MOST_INFLATED_BYTES", 100)
        with pytest.raises(Unreadable, match="larger than 1 GiB when it is inflated"):
            peek(path)
    content = path.read_bytes()
    path.write_bytes(content[:-20] + b"\xff" * 20)
    with pytest.raises(Unreadable, match=r"damaged|not a DICOM file"):
        peek(path)


def test_frames_and_sizes_that_its_bytes_cannot_hold_are_refused(tmp_path):
    path = written(tmp_path / "a.dcm", NumberOfFrames=1)
    for elements, said in (
        ({"NumberOfFrames": 2**31 - 1}, "says 2147483647 frames"),
        ({"Rows": 65535, "Columns": 65535}, "65535 x 65535 pixels; at most 80 megapixels"),
        ({"Rows": 0}, "3 x 0 pixels"),
    ):
        dataset = pydicom.dcmread(path)
        for name, value in elements.items():
            setattr(dataset, name, value)
        dataset.save_as(tmp_path / "b.dcm")
        with pytest.raises(Unreadable, match=said):
            peek(tmp_path / "b.dcm")
    dataset = pydicom.dcmread(path)
    dataset.NumberOfFrames = 5
    dataset.save_as(tmp_path / "b.dcm")
    with pytest.raises(Unreadable, match="damaged, its pixels cannot be read"):
        read_first(tmp_path / "b.dcm")


def read_first(path):
    return decode(path, Decoding(8, 1, Fit.pad, Frames.first))


@pytest.mark.parametrize(
    ("syntax", "stream"),
    [
        (JPEGLSLossless, b"\xff\xd8\xff\xf7\0\x0b\x08\xff\xff\xff\xff\1\1\x11\0"),
        (JPEG2000Lossless, b"\xff\x4f\xff\x51\0\x29\0\0" + b"\0\0\xff\xff" * 2 + b"\0" * 30),
    ],
)
def test_a_compressed_frame_that_says_another_size_is_no_bomb(tmp_path, syntax, stream):
    path = written(tmp_path / "a.dcm")
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = pydicom.encaps.encapsulate([stream])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    assert peek(path).width == 3
    with pytest.raises(Unreadable, match="65535 x 65535 pixels"):
        read_first(path)


def test_ybr_of_two_pixels_a_color_becomes_rgb(tmp_path):
    words = np.array([[[90, 100, 110, 140], [200, 210, 128, 128]]], np.uint8)  # Y1 Y2 Cb Cr
    path = written(tmp_path / "a.dcm", np.zeros((1, 4, 3), np.uint8), 8)
    dataset = pydicom.dcmread(path)
    dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "YBR_FULL_422", 0
    dataset.PixelData = words.tobytes()
    dataset.save_as(path)
    found = read(path).pixels.astype(float)
    y, cb, cr = np.array([90, 100, 200, 210]), np.array([110, 110, 128, 128]), np.array([140, 140, 128, 128])
    red, blue = y + 1.402 * (cr - 128), y + 1.772 * (cb - 128)
    green = y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128)
    np.testing.assert_allclose(found[0], np.stack([red, green, blue], axis=-1), atol=1)


def test_a_file_without_the_mark_is_read_where_its_name_says_dicom(tmp_path):
    path = written(tmp_path / "a.dcm", syntax=ImplicitVRLittleEndian)
    dataset = pydicom.dcmread(path)
    plain = read(path).pixels
    pydicom.dcmwrite(tmp_path / "old.dcm", dataset, implicit_vr=True, little_endian=True)
    bare = (tmp_path / "old.dcm").read_bytes()
    begin = bare.index(b"\x08\0\x60\0")  # behind the preamble and the meta information
    (tmp_path / "old.dcm").write_bytes(bare[begin:])
    np.testing.assert_array_equal(read(tmp_path / "old.dcm").pixels, plain)


def test_a_header_gives_texts_of_elements_and_refuses_the_rest(tmp_path):
    path = written(
        tmp_path / "a.dcm", PatientID=" 17 ", PatientName="Doe^Jane", BodyPartExamined="CHEST",
        ImageType=["ORIGINAL", "PRIMARY"], SOPInstanceUID="1.2.3", VOILUTSequence=[lut(0, 8, [1, 2])],
    )  # fmt: skip
    header = read_header(path)
    assert (header.patient_id, header.patient_name, header.sop_instance_uid) == ("17", "Doe^Jane", "1.2.3")
    assert header.study_instance_uid == header.tag("Laterality") == header.tag("(0020,0060)") == ""
    assert header.tag("BodyPartExamined") == header.tag("(0018,0015)") == header.tag("00180015") == "CHEST"
    assert header.tag("ImageType") == "ORIGINAL\\PRIMARY"
    assert header.tag("Rows") == "2"
    assert "Doe" not in repr(header)
    for name, said in (
        ("BodyPartExamind", "did you mean BodyPartExamined"),
        ("zebra", "no DICOM keyword"),
        ("VOILUTSequence", "is no text"),
    ):
        with pytest.raises(UserError, match=said) as refused:
            header.tag(name)
        assert "\n" not in str(refused.value)


@pytest.mark.filterwarnings("ignore")
def test_no_message_holds_patient_data(tmp_path):
    path = written(tmp_path / "a.dcm", PatientName="Secret^Name", PatientID="secret id", Modality="DX")
    whole = path.read_bytes()
    assert b"Secret^Name" in whole
    for turn in range(0, len(whole) - 130, 5):
        content = bytearray(whole)
        content[130 + turn] ^= 0x55
        path.write_bytes(content)
        for look in (peek, read_header, read_first):
            try:
                look(path)
            except UserError as error:
                assert "ecret" not in str(error)  # noqa: PT017 - either is right
