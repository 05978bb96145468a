"""The real PneumoniaMNIST as class folders, a table and DICOM gives what its .npz gives, to the bit."""

import numpy as np
import pytest
from tests.image_files import write_csv, write_dicom, write_png

from medretrieval import run
from medretrieval.runs.reopen import saved_ranking

CLASSES = ("normal", "pneumonia")
SPLITS = ("val", "test")
QUICK = (
    "audit.enabled=false",
    "evaluation.baseline=none",
    "evaluation.resamples=100",
    "protocol.gallery=val",
)


@pytest.fixture(scope="module")
def arrays(real_root):
    """Images and labels of the two splits, class after class as folders are read, otherwise as they stand."""
    with np.load(real_root / "pneumoniamnist.npz", allow_pickle=False) as npz:
        found = {split: (npz[f"{split}_images"], npz[f"{split}_labels"][:, 0]) for split in SPLITS}
    order = {split: np.argsort(labels, kind="stable") for split, (_, labels) in found.items()}
    return {split: (images[order[split]], labels[order[split]]) for split, (images, labels) in found.items()}


def as_npz(root, arrays):
    root.mkdir()
    content = {f"{split}_images": images for split, (images, _) in arrays.items()}
    content |= {f"{split}_labels": labels[:, None] for split, (_, labels) in arrays.items()}
    content |= {f"train_{key}": content[f"val_{key}"] for key in ("images", "labels")}
    np.savez(root / "pneumoniamnist.npz", **content)
    return ["dataset=pneumoniamnist", f"paths.data={root}"]


def each(arrays):
    """Split, number in it, image and class of every image."""
    for split, (images, labels) in arrays.items():
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield split, i, image, CLASSES[label]


def as_folder(root, arrays):
    for split, i, image, label in each(arrays):
        write_png(root / split / label / f"{i:04d}.png", image)
    return ["dataset=folder", f"dataset.root={root}", "dataset.size=28"]


def as_csv(root, arrays):
    rows = []
    for split, _, image, label in each(arrays):
        name = f"images/{split}-{len(rows)}.png"
        write_png(root / name, image)
        rows.append([name, label, split])
    path = write_csv(root / "images.csv", ["path", "label", "split"], rows)
    return ["dataset=csv", f"dataset.table={path}", "dataset.columns.split=split", "dataset.size=28"]


def as_dicom(root, arrays):
    rows = []
    for split, i, image, label in each(arrays):
        number = len(rows)
        uid = write_dicom(root / "export" / split / f"{i:04d}", image, number, number)
        rows.append([uid, label, split])
    path = write_csv(root / "labels.csv", ["key", "label", "split"], rows)
    return [
        "dataset=dicom", f"dataset.root={root / 'export'}", f"dataset.labels={path}",
        "dataset.columns.split=split", "dataset.size=28",
    ]  # fmt: skip


KINDS = {"folder": as_folder, "csv": as_csv, "dicom": as_dicom}


@pytest.fixture
def result(tmp_path, config, monkeypatch):
    """Write images in one way, and run over them with a cache of their own: nothing is taken from another."""

    def of(kind, write, arrays, *overrides):
        monkeypatch.setenv("MEDRETRIEVAL_CACHE", str(tmp_path / f"cache-{kind}"))
        return run(config(*write(tmp_path / kind, arrays), *QUICK, *overrides))

    return of


def require_same(one, two):
    for name in ("embeddings_query.npy", "embeddings_gallery.npy"):
        left, right = (np.load(found.folder / name, allow_pickle=False) for found in (one, two))
        assert left.tobytes() == right.tobytes()
    left, right = (saved_ranking(found.folder) for found in (one, two))
    np.testing.assert_array_equal(left.ids, right.ids)
    np.testing.assert_array_equal(left.query_labels, right.query_labels)
    assert left.distances.tobytes() == right.distances.tobytes()
    assert one.report.scores == two.report.scores
    assert one.report.intervals == two.report.intervals


@pytest.mark.realdata
@pytest.mark.parametrize("kind", KINDS)
def test_files_give_the_images_embeddings_and_scores_of_the_npz(result, arrays, kind):
    if kind == "dicom":
        pytest.importorskip("pydicom")
    npz = result("npz", as_npz, arrays, "encoder=pixels")
    files = result(kind, KINDS[kind], arrays, "encoder=pixels")
    require_same(npz, files)
    assert files.report.files.files == sum(len(images) for images, _ in arrays.values())


@pytest.mark.realdata
@pytest.mark.slow
def test_a_network_sees_the_same(result, arrays):
    some = {split: (images[::16], labels[::16]) for split, (images, labels) in arrays.items()}
    npz, *files = (
        result(kind, write, some, "encoder=efficientnet_lite0")
        for kind, write in {"npz": as_npz, **KINDS}.items()
    )
    for found in files:
        require_same(npz, found)
