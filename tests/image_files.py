"""Images of one's own as a user has them: class folders, a table, DICOM files; from the same arrays."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

PATIENT, NAME = "PATIENT-{:04d}", "MUELLER{}^ANNA"  # what may be shown nowhere


def write_png(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def write_csv(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_dicom(path, image, number, patient, **elements):
    """A Secondary Capture file of an 8-bit gray image; returns its SOP Instance UID."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    dataset, meta = Dataset(), FileMetaDataset()
    dataset.file_meta = meta
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = uid = f"1.2.826.0.1.3680043.8.498.{number}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"1.2.{patient}", f"1.2.{patient}.1"
    dataset.PatientID, dataset.PatientName = PATIENT.format(patient), NAME.format(patient)
    dataset.Rows, dataset.Columns = image.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = image.tobytes() + b"\0" * (image.size % 2)
    for key, value in elements.items():
        setattr(dataset, key, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return uid


def class_folders(root, n=12, splits=("train", "val", "test"), size=28, classes=("benign", "malignant")):
    """<root>/<split>/<class>/<number>.png, brightness tells the class; returns the arrays of each split."""
    from tests.conftest import painted

    arrays = {}
    for seed, split in enumerate(splits):
        labels = np.arange(n) % len(classes)
        images = painted(labels, size=size, seed=seed)
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            write_png(Path(root, split, classes[label], f"{i:04d}.png"), image)
        order = np.argsort(labels, kind="stable")  # folders are read one after the other
        arrays[split] = images[order], labels[order]
    return arrays


def own_dataset(kind, cache, **keys):
    """The dataset of conf/dataset/<kind>.yaml with other values for some of its keys."""
    from omegaconf import OmegaConf

    from medretrieval.config import root
    from medretrieval.datasets.base import Dataset
    from medretrieval.instantiate import instantiate

    node = OmegaConf.to_container(OmegaConf.load(root() / "conf" / "dataset" / f"{kind}.yaml"), resolve=False)
    node |= {"cache": str(cache), "size": 28}
    for key, value in keys.items():
        node[key] = node[key] | value if isinstance(node[key], dict) else value
    return instantiate(node, Dataset, "dataset")
