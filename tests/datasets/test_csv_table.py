"""A table as a dataset: its columns, what they may hold, and what is refused with its line."""

import numpy as np
import pytest
from tests.conftest import painted
from tests.image_files import own_dataset, write_csv, write_png

from medretrieval import run
from medretrieval.errors import UserError

N = 24


@pytest.fixture
def table(tmp_path):
    """Write the images and a table of them; columns can be replaced or added."""

    def written(n=N, **columns):
        labels = np.arange(n) % 2
        for i, image in enumerate(painted(labels)):
            write_png(tmp_path / "own" / "img" / f"{i}.png", image)
        found = {
            "path": [f"img/{i}.png" for i in range(n)],
            "label": [("benign", "malignant")[label] for label in labels],
            "split": [("train", "test")[i // 2 % 2] for i in range(n)],
        } | columns
        found = {name: column for name, column in found.items() if column is not None}
        return write_csv(tmp_path / "own" / "images.csv", found, zip(*found.values(), strict=True))

    return written


@pytest.fixture
def dataset(tmp_path):
    """The dataset of a table, with keys of its configuration replaced."""
    return lambda path, **keys: own_dataset("csv", tmp_path / "cache", table=str(path), **keys)


def test_columns_become_labels_splits_groups_captions_and_metadata(table, dataset):
    path = table(
        patient=[f"p{i // 2}" for i in range(N)], note=[f"note {i}, with a comma" for i in range(N)],
        sex=["F", "M", ""] * (N // 3), age=[str(40 + i) for i in range(N)],
    )  # fmt: skip
    names = {"split": "split", "group": "patient", "caption": "note"}
    found = dataset(path, columns=names)
    loaded = found.load("test")
    rows = [i for i in range(N) if i // 2 % 2]
    assert loaded.labels.tolist() == [i % 2 for i in rows]
    assert loaded.groups.tolist() == [f"p{i // 2}" for i in rows]
    assert list(loaded.captions) == [f"note {i}, with a comma" for i in rows]
    assert set(loaded.metadata) == {"sex", "age"}
    assert loaded.metadata["sex"].tolist() == [("F", "M", "")[i % 3] for i in rows]
    np.testing.assert_array_equal(loaded.images, painted(np.arange(N) % 2)[rows])
    only = dataset(path, columns=names, metadata=["age"]).load("test")
    assert set(only.metadata) == {"age"}


def test_a_table_of_excel_with_other_names_and_folders_is_read(tmp_path, table, dataset):
    table()
    text = "\ufeffFile Name,Diagnosis\r\n" + "".join(f"img/{i}.png,{'ab'[i % 2]}\r\n" for i in range(N))
    path = tmp_path / "elsewhere" / "t.csv"
    path.parent.mkdir()
    path.write_bytes(text.encode())
    names = {"path": "File Name", "label": "Diagnosis"}
    found = dataset(path, columns=names, root=str(tmp_path / "own"))
    assert found.classes == ("a", "b")
    assert sum(len(found.load(split)) for split in ("train", "val", "test")) == N


def test_a_pattern_makes_paths_of_names(table, dataset):
    plain = dataset(table(), columns={"split": "split"}).load("test")
    path = table(path=[str(i) for i in range(N)])
    named = dataset(path, columns={"split": "split"}, path_pattern="img/{}.png")
    np.testing.assert_array_equal(named.load("test").images, plain.images)
    assert named.table.names[0] == "img/0.png"


def test_several_findings_and_none(table, dataset):
    labels = ["mass|nodule", "mass", "", "nodule | effusion"] * (N // 4)
    found = dataset(table(label=labels), label_type="multi", columns={"split": "split"})
    assert found.classes == ("effusion", "mass", "nodule")
    loaded = found.load("train")
    assert loaded.labels.dtype == np.bool_
    assert loaded.labels[:2].tolist() == [[False, True, True], [False, True, False]]
    assert found.load("test").labels[0].tolist() == [False, False, False]


def test_rows_with_some_labels_can_be_left_out(table, dataset, caplog):
    labels = [("benign", "malignant", "todo")[i % 3] for i in range(N)]
    caplog.set_level("INFO")
    found = dataset(table(label=labels), drop_labels=["todo"], columns={"split": "split"})
    assert found.classes == ("benign", "malignant")
    assert len(found.table) == N - N // 3
    assert "dataset.drop_labels leaves out 8 rows" in caplog.text


def test_ordered_classes_keep_their_order(table, dataset):
    path = table(label=[("mild", "severe", "none")[i % 3] for i in range(N)])
    found = dataset(path, label_type="ordinal", classes=["none", "mild", "severe"])
    assert found.table.labels[:3].tolist() == [1, 2, 0]


def test_a_patient_on_two_sides_is_refused_or_reported(table, dataset, config):
    path = table(patient=[f"p{i % 3}" for i in range(N)])
    line = r"3 groups have images in more than one split .first 'p0': train, test"
    with pytest.raises(UserError, match=line):
        dataset(path, columns={"split": "split", "group": "patient"}).load("test")
    found = run(config(
        "dataset=csv", f"dataset.table={path}", "dataset.size=28", "encoder=pixels", "evaluation.ks=[1,3]",
        "evaluation.resamples=100", "dataset.columns.split=split", "dataset.columns.group=patient",
        "dataset.shared_groups=report",
    ))  # fmt: skip
    assert found.report.files.shared_groups == 3
    assert any("3 groups have images in more than one split" in note for note in found.report.notes)


def test_drawn_splits_keep_patients_apart_and_pass_the_check(table, dataset):
    path = table(split=None, patient=[f"p{i % 8}" for i in range(N)])
    found = dataset(path, columns={"group": "patient"})
    groups = [set(found.load(split).groups) for split in ("train", "test")]
    assert groups[0].isdisjoint(groups[1])


def test_splits_drawn_by_image_part_patients_and_must_be_allowed_to(table, dataset):
    path = table(split=None, patient=[f"p{i // 2}" for i in range(N)])
    keys = {"columns": {"group": "patient"}, "split_by": "image"}
    with pytest.raises(UserError, match="groups have images in more than one split"):
        dataset(path, **keys).load("test")
    found = dataset(path, **keys, shared_groups="report")
    groups = [set(found.load(split).groups) for split in ("train", "test")]
    assert not groups[0].isdisjoint(groups[1])
    without_groups = dataset(path).table.splits
    np.testing.assert_array_equal(found.table.splits, without_groups)


@pytest.mark.parametrize(
    ("columns", "why"), [({"split": "split", "group": "patient"}, "given, not drawn"), ({}, "no groups")]
)
def test_splits_by_image_are_refused_where_that_changes_nothing(table, dataset, columns, why):
    path = table(patient=[f"p{i // 8}" for i in range(N)])
    with pytest.raises(UserError, match=f"dataset.split_by=image: has no effect, as .*{why}"):
        dataset(path, columns=columns, split_by="image").load("test")


@pytest.mark.parametrize(
    ("columns", "keys", "line"),
    [
        ({"label": None}, {}, r"dataset.columns.label=label: .* has no such column; choose from: path"),
        ({}, {"columns": {"grup": "x"}}, "dataset.columns.grup: no such role"),
        ({}, {"columns": {"path": None}}, "dataset.columns.path: is needed"),
        ({}, {"metadata": ["sexx"]}, r"dataset.metadata=sexx: .* no such column"),
        ({"path": ["img/0.png", "./img/0.png", *(f"img/{i}.png" for i in range(2, N))]}, {},
         r"line 3: a second row for file 'img/0.png'; the first is line 2; keep one"),
        ({"path": ["../outside.png", *(f"img/{i}.png" for i in range(1, N))]}, {},
         r"line 2: path '../outside.png' leaves the folder .*; set dataset.root"),
        ({"path": ["/etc/hosts", *(f"img/{i}.png" for i in range(1, N))]}, {}, r"'/etc/hosts' leaves"),
        ({"path": ["img/gone.png", *(f"img/{i}.png" for i in range(1, N))]}, {},
         r"line 2: there is no file 'img/gone.png' in "),
        ({"path": ["", *(f"img/{i}.png" for i in range(1, N))]}, {}, r"line 2: has no path"),
        ({}, {"split_by": "patient"}, r"dataset.split_by=patient: choose from: group, image"),
        ({}, {"path_pattern": "img/.png"}, r"dataset.path_pattern=img/.png: needs {} once"),
        ({}, {"path_pattern": "{}/{}.png"}, r"needs {} once"),
        ({}, {"path_pattern": "{}.jpg"}, r"line 2: there is no file 'img/0.png.jpg' in "),
        ({}, {"path_pattern": "../{}"}, r"line 2: path '../img/0.png' leaves the folder"),
        ({"label": ["", *["a", "b"] * 12][:N]}, {}, r"line 2: has no label; .*dataset.drop_labels=\[''\]"),
        ({"label": ["a|b", *["a", "b"] * 12][:N]}, {}, r"line 2: has several labels .*type=multi"),
        ({}, {"classes": ["benign", "other"]}, r"line 3: label 'malignant' is none of .*other"),
        ({}, {"drop_labels": ["typo"]}, r"dataset.drop_labels: nothing has the label 'typo'"),
        ({"split": ["tset"] * N}, {"columns": {"split": "split"}}, r"line 2: no split 'tset'; choose from"),
        ({"split": [""] * N}, {"columns": {"split": "split"}}, r"line 2: no split ''"),
        ({"g": [""] * N}, {"columns": {"group": "g"}}, r"line 2: has an empty group"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_its_line(table, dataset, columns, keys, line):
    with pytest.raises(UserError, match=line) as refusal:
        dataset(table(**columns), **keys).load("test")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "is empty; its first line must name the columns"),
        (b"path,label\n", "has no rows below its first line"),
        (b"path,path\na,b\n", "names the column 'path' twice"),
        (b"path,,label\na,b,c\n", "a column of the first line has no name"),
        (b"path,label\na.png,b,c\n", "line 2 has 3 fields, the first line 2"),
        (b"path,label\n\xff\xfe,b\n", "not UTF-8"),
        (b'path,label\n"a.png,b\n', "not a CSV file"),
        (b"path,label\n\x00,b\n", "line 2: |not a CSV"),
    ],
)
def test_no_table_is_refused(tmp_path, dataset, content, line):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=line) as refusal:
        dataset(path).load("test")
    assert "\n" not in str(refusal.value)


def test_a_table_that_is_not_there_is_refused(tmp_path, dataset):
    with pytest.raises(UserError, match=r"dataset.table: give the CSV file that lists the images"):
        own_dataset("csv", tmp_path)
    with pytest.raises(UserError, match=r"cannot be read .No such file"):
        dataset(tmp_path / "no.csv").load("test")
