"""Every real DICOM file is decoded as pydicom's own functions would show it, or named with a reason."""

import numpy as np
import pydicom
import pytest
from pydicom.pixels import (
    apply_color_lut,
    apply_modality_lut,
    apply_voi_lut,
    apply_windowing,
    convert_color_space,
    pixel_array,
)

from medretrieval.errors import UserError
from medretrieval.images.decode import Decoding, Unreadable, decode, peek
from medretrieval.images.fit import Fit
from medretrieval.images.frames import Frames
from medretrieval.images.image_file import read
from medretrieval.images.readers.dicom import read_header

pytest.importorskip("libjpeg", reason="pylibjpeg-libjpeg is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")

# Named *_fixed beside them, or cut on purpose: `too_short` ends within its pixels; the two JPEG Extended have
# a scan that says it ends at 0, where the standard demands 63; the stream of 966 is cut.
BROKEN = {
    "emri_small_jpeg_2k_lossless_too_short.dcm": "damaged, it has no pixels",
    "966.dcm": "cannot be decoded",
    "JPEG-lossy.dcm": "scan start must be zero and scan stop must be 63",
    "RG2_JPLY.dcm": "scan start must be zero and scan stop must be 63",
}
LOSSY = ("JPEG Baseline", "JPEG Extended")  # where decoders may differ in a level


def files(root):
    found = sorted(root.rglob("*.dcm"))
    assert len(found) >= 158
    return found


def opened(path):
    dataset = pydicom.dcmread(path, force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    for name in ("VOILUTSequence", "ModalityLUTSequence"):  # left empty by some writers
        if name in dataset and dataset[name].value[0].LUTData is None:
            del dataset[name]
    for name in ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth"):
        if name in dataset and dataset[name].value is None:
            del dataset[name]
    if dataset.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRBigEndian:
        # pydicom takes the words of a palette in the byte order of this machine.
        for color in ("Red", "Green", "Blue"):
            if (element := dataset.get(f"{color}PaletteColorLookupTableData")) is not None:
                swapped = np.frombuffer(element, ">u2").astype("<u2").tobytes()
                setattr(dataset, f"{color}PaletteColorLookupTableData", swapped)
    groups = [dataset.get("SharedFunctionalGroupsSequence"), dataset.get("PerFrameFunctionalGroupsSequence")]
    for group in [each[0] for each in groups if each]:
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            dataset.update(group.get(name, [pydicom.Dataset()])[0])
    return dataset


def expected(dataset):
    """The first frame as stored, and from 0 to 255, not rounded, by pydicom's functions."""
    syntax = dataset.file_meta.TransferSyntaxUID
    plugin = "pylibjpeg" if syntax.is_encapsulated else ""
    stored = pixel_array(dataset, index=0, decoding_plugin=plugin)
    kind = dataset.PhotometricInterpretation
    if kind == "PALETTE COLOR":
        colors = apply_color_lut(stored, dataset)
        return stored, colors / (2.0 ** (colors.dtype.itemsize * 8) - 1) * 255
    if stored.ndim == 3:
        return stored, stored / (2.0**dataset.BitsStored - 1) * 255
    values = apply_modality_lut(stored, dataset)
    if "BitsStored" not in dataset:  # pydicom has no window for real numbers
        center, width = float(dataset.WindowCenter), float(dataset.WindowWidth)
        return stored, np.clip((values - center) / width + 0.5, 0, 1) * 255
    shown = apply_voi_lut(values, dataset)
    if "VOILUTSequence" in dataset:
        low, high = 0, 2 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1
    elif "WindowWidth" in dataset:
        low, high = apply_windowing(np.array([-np.inf, np.inf]), dataset)
    elif dataset.BitsStored <= 8:
        low, high = 0, 2**dataset.BitsStored - 1
    else:
        padding = dataset.get("PixelPaddingValue")
        inside = shown[stored != padding] if padding is not None and (stored != padding).any() else shown
        low, high = inside.min(), inside.max()
        shown = np.clip(shown, low, high)
    scaled = (shown.astype(float) - low) / (float(high) - low) * 255
    return stored, 255 - scaled if kind == "MONOCHROME1" else scaled


def is_padding(dataset, stored):
    padding = dataset.get("PixelPaddingValue")
    if padding is None or stored.ndim == 3 or "RedPaletteColorLookupTableData" in dataset:
        return np.zeros(stored.shape, bool)
    return stored == padding


def packed_bits(dataset):
    """What pydicom does not decode: single bits that are compressed in runs, or deflated a frame."""
    syntax = dataset.file_meta.TransferSyntaxUID
    return dataset.get("BitsAllocated") == 1 and syntax in ("1.2.840.10008.1.2.5", "1.2.840.10008.1.2.8.1")


@pytest.fixture(
    scope="module",
    params=[pytest.param(2**19, id="small"), pytest.param(2**40, id="all", marks=pytest.mark.slow)],
)
def shown(request, dicom_root):
    """Of each file up to so many pixels (the same bytes once): its first frame, or why there is none."""
    found, seen = {}, set()
    for path in files(dicom_root):
        content, header = path.read_bytes(), read_header(path).dataset
        if content not in seen and (header.Rows * header.Columns < request.param or path.name in BROKEN):
            seen.add(content)
            try:
                found[path] = read(path).pixels
            except UserError as error:
                found[path] = str(error)
    return found


def test_every_file_is_decoded_or_named_with_a_reason(shown):
    refused = {path.name: said for path, said in shown.items() if isinstance(said, str)}
    assert set(refused) == set(BROKEN)
    for name, said in BROKEN.items():
        assert said in refused[name], refused[name]
        assert "\n" not in refused[name]
    for path, pixels in shown.items():
        header = peek(path)  # no header shows the damage
        if path.name in BROKEN:
            with pytest.raises(Unreadable):
                decode(path, Decoding(32, 1, Fit.pad, Frames.first))
            continue
        assert (header.kind, header.height, header.width) == ("dicom", *pixels.shape[:2])
        assert header.channels == (1 if pixels.ndim == 2 else 3)
        image = decode(path, Decoding(32, header.channels, Fit.pad, Frames.montage))
        assert image.shape == (32, 32, 3)[: pixels.ndim]


def test_first_frames_are_what_pydicoms_functions_show(shown):
    compared, turned = 0, 0
    for path, found in shown.items():
        dataset = opened(path)
        if path.name in BROKEN or packed_bits(dataset):
            continue
        stored, wanted = expected(dataset)
        outside = is_padding(dataset, stored)
        assert not found[outside].any(), path.name
        difference = np.abs(found.astype(float) - wanted)[~outside]
        lossy = dataset.file_meta.TransferSyntaxUID.name.startswith(LOSSY)
        assert difference.max() <= (2.5 if lossy else 0.5 + 1e-6), (path.name, difference.max())
        compared += 1
        if dataset.PhotometricInterpretation == "MONOCHROME1":  # bright where it is dense
            assert np.corrcoef(stored.astype(float).ravel(), found.ravel())[0, 1] < -0.5, path.name
            turned += 1
    assert compared == len(shown) - len(BROKEN) - 4
    assert turned >= (3 if len(shown) > 120 else 0)


@pytest.mark.parametrize("plain", ["liver", "liver_nonbyte_aligned"])
def test_single_bits_are_the_same_however_they_are_compressed(dicom_root, plain):
    folder = dicom_root / "pydicom-data"
    every = Decoding(128, 1, Fit.pad, Frames.all)
    for place in range(3):
        wanted = decode(folder / f"{plain}.dcm", every, place)
        assert len(np.unique(wanted)) > 1
        for way in ("rle", "deflate", "j2k"):
            np.testing.assert_array_equal(decode(folder / f"{plain}_{way}.dcm", every, place), wanted)


def test_ybr_that_is_not_compressed_becomes_rgb(dicom_root):
    path = dicom_root / "pydicom-data" / "SC_ybr_full_uncompressed.dcm"
    raw = pixel_array(pydicom.dcmread(path), raw=True)
    np.testing.assert_array_equal(read(path).pixels, convert_color_space(raw, "YBR_FULL", "RGB"))


def test_headers_are_read_and_give_no_patient_away(dicom_root):
    for path in files(dicom_root):
        header, dataset = read_header(path), pydicom.dcmread(path, force=True, stop_before_pixels=True)
        assert header.sop_instance_uid == str(dataset.get("SOPInstanceUID", ""))
        assert header.patient_id == str(dataset.get("PatientID") or "").strip()
        assert header.patient_name == str(dataset.get("PatientName") or "").strip()
        assert header.tag("Modality") == header.tag("(0008,0060)") == str(dataset.get("Modality") or "")
        assert repr(header) == "DicomHeader()"
