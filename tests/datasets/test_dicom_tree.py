"""DICOM files as a dataset: labels by UID, path or tag, and patients whose names appear nowhere."""

import logging

import numpy as np
import pytest
from tests.conftest import painted
from tests.image_files import NAME, PATIENT, own_dataset, write_csv, write_dicom

from medretrieval import run
from medretrieval.datasets.files.pseudonyms import PathNames, pseudonym, salt_of
from medretrieval.errors import UserError

pytest.importorskip("pydicom")
N = 48
NAMING = (PATIENT[:8], NAME[:7])  # what every id and name begins with


@pytest.fixture
def tree(tmp_path):
    """Write a folder a patient of two images each, and a table of labels by UID; returns the table."""
    rows = []
    labels = np.arange(N) // 2 % 2
    for i, image in enumerate(painted(labels)):
        path = tmp_path / "export" / PATIENT.format(i // 2) / f"{NAME.format(i // 2)}-{i % 2}.dcm"
        uid = write_dicom(
            path, image, i, i // 2, PatientSex="FM"[i // 2 % 2], BodyPartExamined=("CHEST", "HAND")[labels[i]]
        )
        rows.append([uid, ("benign", "malignant")[labels[i]], ("train", "test")[i // 4 % 2], "59"])
    return write_csv(tmp_path / "labels.csv", ["key", "label", "split", "age"], rows)


@pytest.fixture
def dataset(tmp_path):
    keys = {"root": str(tmp_path / "export"), "cache": str(tmp_path / "cache")}
    return lambda **more: own_dataset("dicom", **{**keys, **more})


def test_images_labels_and_patients_come_out_as_written(tree, dataset):
    found = dataset(labels=str(tree), columns={"split": "split"}, metadata=["PatientSex"],
                    metadata_columns=["age"])  # fmt: skip
    loaded = found.load("test")
    rows = [i for i in range(N) if i // 4 % 2]
    np.testing.assert_array_equal(loaded.images, painted(np.arange(N) // 2 % 2)[rows])
    assert loaded.labels.tolist() == [i // 2 % 2 for i in rows]
    assert loaded.metadata["PatientSex"].tolist() == ["FM"[i // 2 % 2] for i in rows]
    assert set(loaded.metadata["age"]) == {"59"}
    groups = loaded.groups.tolist()
    assert len(set(groups)) == len(rows) // 2
    assert [groups[i] == groups[i + 1] for i in range(0, len(groups), 2)] == [True] * (len(groups) // 2)


@pytest.mark.parametrize("by_tag", [True, False])
def test_images_with_some_labels_can_be_left_out(tree, dataset, by_tag):
    keys = {"label_tag": "BodyPartExamined"} if by_tag else {"labels": str(tree)}
    names = ("CHEST", "HAND") if by_tag else ("benign", "malignant")
    extra = write_dicom(tree.parent / "export" / "e.dcm", painted(np.zeros(1, int))[0], 999, 999,
                        BodyPartExamined="FOOT")  # fmt: skip
    with tree.open("a") as file:
        file.write(f"{extra},unclear,test,59\n")
    found = dataset(**keys, drop_labels=["FOOT" if by_tag else "unclear"])
    assert found.classes == names
    assert len(found.table) == N


@pytest.mark.parametrize(
    "keys",
    [
        {"label_tag": "BodyPartExamined"},
        {"label_tag": "(0018,0015)"},
        {"labels": "series", "key": "series_instance_uid"},
        {"labels": "path", "key": "path"},
    ],
)
def test_labels_come_from_a_tag_a_series_or_a_path_too(tree, dataset, tmp_path, keys):
    names = ("benign", "malignant") if "labels" in keys else ("CHEST", "HAND")
    if keys.get("labels") == "series":
        rows = [[f"1.2.{p}.1", names[p % 2]] for p in range(N // 2)]
        keys = keys | {"labels": str(write_csv(tmp_path / "s.csv", ["key", "label"], rows))}
    elif "labels" in keys:
        files = sorted((tmp_path / "export").rglob("*.dcm"))
        paths = [file.relative_to(tmp_path / "export").as_posix() for file in files]
        rows = [[path, names[i // 2 % 2]] for i, path in enumerate(paths)]
        keys = keys | {"labels": str(write_csv(tmp_path / "p.csv", ["key", "label"], rows))}
    found = dataset(**keys)
    assert found.classes == names
    assert found.table.labels.tolist() == [i // 2 % 2 for i in range(N)]


def everything_in(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_no_patient_is_named_in_logs_mlflow_results_or_cache(
    tree, tmp_path, say, caplog, monkeypatch, database
):
    monkeypatch.setenv("MEDRETRIEVAL_CACHE", str(tmp_path / "kept" / "cache"))
    caplog.set_level(logging.DEBUG)
    broken = tmp_path / "export" / PATIENT.format(3) / f"{NAME.format(3)}-9.dcm"
    broken.write_bytes(b"\0" * 128 + b"DICM broken")
    alone = tmp_path / "export" / PATIENT.format(77) / "IM001.dcm"
    alone.parent.mkdir()
    alone.write_bytes(b"\0" * 128 + b"DICM broken")
    words = (
        "dataset=dicom", f"dataset.root={tmp_path}/export", "dataset.label_tag=BodyPartExamined",
        "encoder=pixels", f"tracking.uri={database}",
        "dataset.size=28", "dataset.metadata=[PatientSex]", "evaluation.ks=[1,3]", "evaluation.resamples=100",
        "dataset.shares={train: 0.5, val: 0, test: 0.5}",
    )  # fmt: skip
    with pytest.raises(SystemExit):
        say(*words)
    code, out, err = say(*words, "dataset.unreadable=skip")
    assert code == 0
    assert "cannot be read" in err
    shown = out + err + caplog.text
    assert not any(name in shown for name in NAMING)
    assert "IM001.dcm" in shown  # by which its owner finds it
    content = everything_in(tmp_path / "outputs") + everything_in(tmp_path / "kept")
    content += (tmp_path / "mlflow.db").read_bytes()
    assert content
    assert not any(name.encode() in content for name in NAMING)
    assert (tmp_path / "kept" / "cache.salt").stat().st_mode & 0o077 == 0


def test_the_same_patient_has_the_same_name_in_every_run_and_another_with_another_salt(
    tree, dataset, tmp_path
):
    names = [set(dataset(label_tag="BodyPartExamined", cache=str(tmp_path / c)).table.groups) for c in "aab"]
    assert names[0] == names[1]
    assert names[0].isdisjoint(names[2])


def test_drawn_splits_keep_patients_together(tree, dataset):
    found = dataset(label_tag="BodyPartExamined")
    sides = {}
    for group, split in zip(found.table.groups, found.table.splits, strict=True):
        sides.setdefault(group, set()).add(split)
    assert all(len(where) == 1 for where in sides.values())


def test_splits_csv_has_the_uid_by_which_others_find_an_image(tree, config, tmp_path):
    found = run(config(
        "dataset=dicom", f"dataset.root={tmp_path}/export", f"dataset.labels={tree}", "dataset.size=28",
        "dataset.columns.split=split", "encoder=pixels", "evaluation.ks=[1,3]", "evaluation.resamples=100",
    ))  # fmt: skip
    rows = [line.split(",") for line in (found.folder / "splits.csv").read_text().splitlines()]
    assert rows[0] == ["file", "split", "id", "label", "group", "sop_instance_uid"]
    uids = [line.split(",")[0] for line in tree.read_text().splitlines()[1:]]
    assert [row[-1] for row in rows[1:]] == uids


def test_files_without_a_picture_are_left_out(tree, dataset, tmp_path, caplog):
    import pydicom

    path = next((tmp_path / "export").rglob("*.dcm"))
    report = pydicom.dcmread(path)
    del report.Rows, report.Columns, report.PixelData
    report.save_as(tmp_path / "export" / "report.dcm")
    (tmp_path / "export" / "readme.txt").write_text("nothing")
    caplog.set_level("INFO")
    assert len(dataset(label_tag="BodyPartExamined").table) == N
    assert "1 DICOM files hold no picture" in caplog.text
    assert ".txt 1" in caplog.text


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({}, r"dataset.labels: give a CSV .*, or the tag that is the label"),
        ({"labels": "TABLE", "label_tag": "Modality"}, r"both say the label"),
        ({"label_tag": "PatientID"}, r"dataset.label_tag: PatientID leads to a person"),
        ({"label_tag": "Modality", "metadata": ["PatientBirthDate"]}, r"PatientBirthDate leads"),
        ({"label_tag": "Modality", "metadata": ["(0010,0010)"]}, r"dataset.metadata: .0010,0010. leads"),
        ({"label_tag": "NoSuchTag"}, r"NoSuchTag"),
        ({"label_tag": "Modality"}, r"no image has a label|48 of 48 images have no label"),
        ({"labels": "TABLE", "key": "uid"}, r"dataset.key=uid: choose from: path, series"),
        ({"labels": "TABLE", "key": "path"}, r"no row has the path of an image in dataset.root"),
        ({"label_tag": "BodyPartExamined", "metadata_columns": ["age"]}, r"are columns of dataset.labels"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(tree, dataset, keys, line):
    keys = keys | ({"labels": str(tree)} if keys.get("labels") == "TABLE" else {})
    with pytest.raises(UserError, match=line) as refusal:
        dataset(**keys).load("test")
    assert "\n" not in str(refusal.value)


def test_images_without_a_label_fail_or_are_left_out(tree, dataset, tmp_path):
    short = tmp_path / "short.csv"
    short.write_text("\n".join(tree.read_text().splitlines()[:-4]) + "\n")
    with pytest.raises(UserError, match="4 of 48 images have no label"):
        dataset(labels=str(short)).load("test")
    assert len(dataset(labels=str(short), unlabeled="skip").table) == N - 4


def test_a_salt_that_is_damaged_is_refused_and_one_is_made_once(tmp_path):
    first = salt_of(tmp_path / "cache")
    assert salt_of(tmp_path / "cache") == first
    (tmp_path / "cache.salt").write_bytes(b"short")
    with pytest.raises(UserError, match=r"the salt for the names of patients is damaged"):
        salt_of(tmp_path / "cache")


def test_paths_lose_the_parts_that_name_a_patient(tmp_path):
    salt = b"s" * 32
    known = [(tmp_path / "17" / "scan-17.dcm", ("17",)), (tmp_path / "ct" / "18" / "x117.dcm", ("18", "Li"))]
    names = PathNames(salt, tmp_path, known)
    assert names.of(known[0][0]) == f"{pseudonym(salt, '17')}/{pseudonym(salt, 'scan-17.dcm')}"
    assert names.of(known[1][0]) == f"ct/{pseudonym(salt, '18')}/x117.dcm"
    unread = tmp_path / "ct" / "NEW^MAN" / "18 broken.dcm"
    assert names.of(unread, unknown=True) == (
        f"ct/{pseudonym(salt, 'NEW^MAN')}/{pseudonym(salt, '18 broken.dcm')}"
    )
