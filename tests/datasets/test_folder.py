"""Class folders as a dataset: what is found, what is left out, and what is refused."""

import os
from pathlib import Path

import numpy as np
import pytest
from tests.image_files import class_folders, own_dataset, write_png

from medretrieval import run
from medretrieval.errors import UserError

SMALL = (
    "dataset=folder",
    "dataset.size=28",
    "encoder=pixels",
    "evaluation.ks=[1,3]",
    "evaluation.resamples=100",
)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "images"


@pytest.fixture
def dataset(root, tmp_path):
    """The dataset of the folder, with keys of its configuration replaced."""
    return lambda **keys: own_dataset("folder", tmp_path / "cache", root=str(root), **keys)


def test_the_images_of_split_folders_are_those_that_were_written(root, dataset):
    arrays = class_folders(root)
    found = dataset()
    assert found.classes == ("benign", "malignant")
    assert found.channels == 1
    for split, (images, labels) in arrays.items():
        loaded = found.load(split)
        np.testing.assert_array_equal(loaded.images, images)
        np.testing.assert_array_equal(loaded.labels, labels)
        assert isinstance(loaded.images, np.ndarray)
        assert loaded.images.base is not None  # a view of a memory map


def test_a_folder_scores_as_the_npz_of_the_same_images(root, config, write_npz):
    arrays = class_folders(root, n=20)
    images = {f"{split}_images": found for split, (found, _) in arrays.items()}
    labels = {f"{split}_labels": found[:, None].astype(np.uint8) for split, (_, found) in arrays.items()}
    write_npz(n=20, **images, **labels)
    ours = run(config(*SMALL, f"dataset.root={root}"))
    theirs = run(config("dataset=breastmnist", *SMALL[2:]))
    assert ours.report.scores == theirs.report.scores
    for side in ("query", "gallery"):
        name = f"embeddings_{side}.npy"
        assert (ours.folder / name).read_bytes() == (theirs.folder / name).read_bytes()


def test_splits_are_drawn_where_there_are_none_and_written_for_others(root, config):
    images = np.random.default_rng(0).integers(0, 256, (60, 28, 28)).astype(np.uint8)
    for i, image in enumerate(images):
        write_png(root / ("a", "b")[i % 2] / f"patient{i // 3}_{i}.png", image)
    wanted = (
        f"dataset.root={root}",
        r"dataset.group_rule='patient(\d+)'",
        "dataset.shares={train: 0.5, val: 0, test: 0.5}",
    )
    found = run(config(*SMALL, *wanted))
    lines = (found.folder / "splits.csv").read_text().splitlines()
    assert lines[0] == "file,split,id,label,group"
    rows = [line.split(",") for line in lines[1:]]
    assert len(rows) == 60
    by_group = {}
    for file, split, _, label, group in rows:
        by_group.setdefault(group, set()).add(split)
        assert file.startswith(f"{label}/patient{group}_")
    assert all(len(sides) == 1 for sides in by_group.values())
    assert found.report.files.splits_made
    again = run(config(*SMALL, *wanted, "dataset.split_seed=1"))
    assert (again.folder / "splits.csv").read_text().splitlines() != lines
    # The ids are those of the ranking.
    ids = {row[2] for row in rows if row[1] == "test"}
    with np.load(found.folder / "ranking.npz") as ranking:
        assert ids == set(ranking["query_ids"].tolist())


def test_the_splits_of_a_run_can_be_given_back_as_a_table(root, config, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 28, 28)).astype(np.uint8)
    for i, image in enumerate(images):
        write_png(root / ("a", "b")[i % 2] / f"patient{i // 3}_{i}.png", image)
    drawn = run(config(*SMALL, f"dataset.root={root}", r"dataset.group_rule='patient(\d+)'"))
    columns = {"path": "file", "split": "split", "group": "group"}
    table = str(drawn.folder / "splits.csv")
    given = own_dataset("csv", tmp_path / "cache", table=table, root=str(root), columns=columns)
    with np.load(drawn.folder / "ranking.npz") as ranking:
        np.testing.assert_array_equal(given.load("test").labels, ranking["query_labels"])
        assert len(given.load("train")) == len(ranking["gallery_ids"])
    assert len(given.table) == 60


def test_class_folders_can_be_left_out(root, dataset, caplog):
    arrays = class_folders(root, splits=("train", "test"), classes=("benign", "malignant", "unclear"))
    caplog.set_level("INFO")
    found = dataset(drop_labels=["unclear"])
    assert found.classes == ("benign", "malignant")
    images, labels = arrays["test"]
    np.testing.assert_array_equal(found.load("test").images, images[labels < 2])
    assert "dataset.drop_labels leaves out 8 images" in caplog.text
    with pytest.raises(UserError, match="drop_labels: nothing has the label 'typo'; choose from: benign, m"):
        dataset(drop_labels=["typo"]).load("test")


def test_files_that_are_no_images_and_hidden_ones_are_passed_over(root, dataset, caplog):
    class_folders(root, splits=("test",))
    (root / "test" / "benign" / "notes.txt").write_text("nothing")
    (root / "test" / "benign" / "._0000.png").write_bytes(b"macOS")
    (root / ".git").mkdir()
    caplog.set_level("INFO")
    assert len(dataset().load("test")) == 12
    assert "1 file is no image and is left out (.txt 1)" in caplog.text


def test_a_link_back_to_a_folder_is_read_once(root, dataset):
    class_folders(root, splits=("test",))
    (root / "test" / "benign" / "loop").symlink_to(root / "test" / "benign")
    (root / "test" / "benign" / "again").symlink_to(root, target_is_directory=True)
    found = dataset()
    names = found.table.names.tolist()
    assert len(names) == len({Path(root, name).resolve() for name in names})
    (root / "test" / "malignant" / "nowhere.png").symlink_to(root / "gone.png")
    (root / "test" / "malignant" / "itself.png").symlink_to(root / "test" / "malignant" / "itself.png")
    assert len(dataset(unreadable="skip").load("test")) == len(found.load("test")) == 12


def test_names_that_are_no_utf8_are_shown_by_their_bytes(root, dataset):
    class_folders(root, splits=("test",))
    source = root / "test" / "benign" / "0000.png"
    try:
        os.rename(source, os.fsencode(source.parent) + b"/bild\xff.png")
    except OSError:
        pytest.skip("this file system takes no such names")
    found = dataset()
    assert r"test/benign/bild\xff.png" in found.table.names.tolist()
    assert len(found.load("test")) == 12
    next(iter(found.listing()))["file"].encode()


def test_the_same_name_in_two_classes_is_two_images(root, dataset):
    for name, value in (("a", 10), ("b", 200)):
        for i in range(3):
            write_png(root / name / f"{i}.png", np.full((28, 28), value + i, np.uint8))
    loaded = dataset(shares={"train": 0, "val": 0, "test": 1}).load("test")
    assert loaded.images[:, 0, 0].tolist() == [10, 11, 12, 200, 201, 202]


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n truncated", b"no image at all"])
def test_what_cannot_be_read_fails_the_run_or_is_counted(root, config, content):
    class_folders(root, n=20)
    bad = root / "test" / "malignant" / "0099.png"
    bad.write_bytes(content)
    with pytest.raises(UserError) as refusal:
        run(config(*SMALL, f"dataset.root={root}"))
    line = str(refusal.value)
    assert line.startswith(
        "dataset=folder: 1 of the 21 files of split 'test' cannot be read: test/malignant/0099.png ("
    )
    assert "dataset.unreadable=skip" in line
    found = run(config(*SMALL, f"dataset.root={root}", "dataset.unreadable=skip"))
    assert (found.report.files.unreadable, found.report.files.files) == (1, 41)
    assert any("1 file of 41 cannot be read" in note for note in found.report.notes)
    assert "test/malignant/0099.png,test,,malignant" in (found.folder / "splits.csv").read_text()
    bad.unlink()
    clean = run(config(*SMALL, f"dataset.root={root}"))
    assert clean.report.scores == found.report.scores


def test_all_unreadable_is_refused_even_where_some_may_be_skipped(root, dataset):
    for name in ("a", "b"):
        write_png(root / "test" / name / "x.png", np.zeros((3, 3), np.uint8)).write_bytes(b"")
    with pytest.raises(UserError, match="2 of the 2 files of split 'test' cannot be read"):
        dataset(unreadable="skip").load("test")


@pytest.mark.parametrize("fit", ["pad", "stretch", "crop"])
def test_pictures_that_are_no_squares_become_some_by_the_rule(root, dataset, fit):
    wide = np.zeros((20, 40), np.uint8)
    wide[:, :10], wide[:, 30:] = 250, 250
    for name in ("a", "b"):
        write_png(root / "test" / name / "wide.png", wide)
    image = dataset(fit=fit, size=40).load("test").images[0]
    assert (image[0].max() > 200) == (
        fit == "stretch"
    )  # padding is black above, the crop leaves the sides off
    assert (image[20].max() > 200) == (fit != "crop")


def test_color_anywhere_makes_all_rgb_and_channels_can_be_said(root, dataset):
    class_folders(root, splits=("test",))
    write_png(root / "test" / "benign" / "red.png", np.full((28, 28, 3), (200, 10, 10), np.uint8))
    assert dataset().load("test").images.shape == (13, 28, 28, 3)
    assert dataset(channels=1).load("test").images.shape == (13, 28, 28)


def mixed(root):
    class_folders(root)
    (root / "other").mkdir()


def loose(root):
    class_folders(root)
    write_png(root / "test" / "x.png", np.zeros((3, 3), np.uint8))


def one_class(root):
    class_folders(root, classes=("benign",), splits=("test",))


def twice(root):
    class_folders(root, splits=("val", "validation"))


@pytest.mark.parametrize(
    ("make", "keys", "line"),
    [
        (mixed, {}, "holds the split folders .* and beside them other"),
        (loose, {}, "1 image lies in no class folder .first x.png.; put each into the folder of its class"),
        (lambda root: root.mkdir(), {}, "holds no image in a class folder; make it <root>/<class>/<image>"),
        (one_class, {}, "dataset.classes: 'benign': retrieval is scored by class, and at least 2 are needed"),
        (twice, {}, "val and validation are one split"),
        (class_folders, {"classes": ["benign", "bad"]}, "label 'malignant' is none of dataset.class"),
        (class_folders, {"label_type": "multi"}, "a file lies in one class folder; use dataset=csv"),
        (class_folders, {"label_type": "ordinal"}, "the order of the classes is not known"),
        (class_folders, {"channels": 2}, "dataset.channels=2: give 1 for gray, 3 for RGB, or null"),
        (class_folders, {"fit": "squash"}, "dataset.fit=squash: choose from: crop, pad, stretch"),
        (class_folders, {"size": 0}, "dataset.size=0: give a whole number, 1 or more"),
        (class_folders, {"group_rule": "("}, "no regular expression"),
        (class_folders, {"group_rule": "nobody"}, "finds no group in 'test/benign/0000.png'"),
        (class_folders, {"group_rule": "png"}, "finds 'png' in all paths"),
        (class_folders, {"group_rule": r"(\d+).png"}, "12 groups have images in more than one split"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_in_one_line(root, dataset, make, keys, line):
    make(root)
    with pytest.raises(UserError, match=line) as refusal:
        dataset(**keys).load("test")
    assert "\n" not in str(refusal.value)


def test_no_folder_is_refused_by_its_key(tmp_path):
    with pytest.raises(UserError, match=r"dataset.root: give the folder of the images"):
        own_dataset("folder", tmp_path)
    with pytest.raises(UserError, match=r"dataset.root=/nowhere: there is no such folder"):
        own_dataset("folder", tmp_path, root="/nowhere").load("test")
