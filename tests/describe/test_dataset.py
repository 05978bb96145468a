"""A dataset of files described: by the function, and by the command with its JSON and its page."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from medretrieval.config import AuditConfig
from medretrieval.datasets.base import Dataset, EmptySplitError, Original, Split
from medretrieval.describe.dataset import describe
from medretrieval.describe.page import render
from medretrieval.describe.text import as_text
from medretrieval.errors import UserError
from medretrieval.files import file_sha256

AUDIT = AuditConfig(enabled=True, near_quantile=0.01, near_hash=2, max_pairs=10)
SIZE = 32


class FileBacked(Dataset):
    """Images of `<root>/<split>/<class>_<patient>_<number>.png`; stands for any dataset of files."""

    def __init__(self, root, name="own", label_type="single"):
        super().__init__(name, label_type, ("cat", "dog"), SIZE)
        self.root = root

    def files(self, split):
        return sorted((self.root / split).glob("*.png"))

    def load(self, split):
        good = [path for path in self.files(split) if path.stat().st_size]
        if not good:
            raise EmptySplitError(f"{split} is empty")
        parts = [path.stem.split("_") for path in good]
        labels = np.array([self.classes.index(p[0]) for p in parts])
        if self.label_type == "multi":
            labels = np.stack([labels == 1, np.zeros(len(labels))], axis=1).astype(bool)
        return Split(
            split,
            np.stack([np.asarray(Image.open(p).convert("L").resize((SIZE, SIZE))) for p in good]),
            labels,
            captions=tuple("" if p[2] == "0" else f"a {p[0]}" for p in parts),
            groups=np.array([p[1] for p in parts]),
            metadata={
                "age": np.array(["" if p[2] == "0" else f"{10 * int(p[2])}" for p in parts]),
                "view": np.array(["PA" if p[0] == "cat" else "AP" for p in parts]),
            },
        )

    def originals(self, split):
        found = []
        for path in self.files(split):
            if path.stat().st_size:
                with Image.open(path) as image:
                    facts = image.width, image.height, len(image.getbands()), 8, 1
                found.append(Original(path.name, "PNG", *facts, file_sha256(path)))
        return found

    def unreadable(self, split):
        return [
            (p.name, f"image={p}: damaged, cannot be read") for p in self.files(split) if not p.stat().st_size
        ]


@pytest.fixture
def folder(tmp_path):
    """Two splits; val is not there. Patient p1 is on both sides, one picture has two labels."""
    rng = np.random.default_rng(0)

    def put(split, name, pixels=None, mode="L"):
        path = tmp_path / "own data" / split / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (40, 48), np.uint8) if pixels is None else pixels
        Image.fromarray(pixels).convert(mode).save(path)
        return pixels

    for number in range(4):
        put("train", f"cat_p{number}_{number}")
        put("train", f"dog_q{number}_{number}", mode="RGB")
    twice = put("train", "dog_q9_1")
    put("test", "cat_p8_2", twice)
    put("test", "cat_p1_3")
    put("test", "dog_q0_0")
    (tmp_path / "own data" / "test" / "dog_q7_1.png").touch()
    return tmp_path / "own data"


def test_everything_that_was_put_there_is_found(folder):
    facts, sheet = describe(FileBacked(folder), AUDIT, 0)
    train, val, test = facts.splits
    assert [s.images for s in facts.splits] == [9, 0, 3]
    assert (val.shape, val.groups) == (None, None)
    assert (train.groups.groups, train.groups.least, train.groups.most) == (9, 1, 1)
    assert (train.without_caption, test.without_caption, test.unreadable) == (2, 1, 1)
    assert [c.images for c in facts.classes] == [{"train": 4, "test": 2}, {"train": 5, "test": 1}]
    assert facts.classes[0].shares["test"] == pytest.approx(2 / 3)
    (shared,) = facts.shared_groups
    assert (shared.split, shared.other, shared.groups, shared.images) == ("train", "test", 2, 2)
    copies = {(o.kind, o.split, o.other): (o.images, o.other_images, o.conflicts) for o in facts.likenesses}
    assert copies == {("file", "train", "test"): (1, 1, 1), ("image", "train", "test"): (1, 1, 1)}
    assert {(p.image, p.other, p.same_label) for p in facts.pairs} == {("train/8", "test/1", False)}
    age, view = facts.columns
    assert (age.missing, age.distinct) == ({"train": 2, "test": 1}, 3)
    assert (age.numbers["train"].least, age.numbers["train"].median, age.numbers["train"].most) == (
        10,
        20,
        30,
    )
    assert view.numbers is None
    assert [(v.value, v.images, v.classes) for v in view.values] == [
        ("AP", {"train": 5, "test": 1}, {"cat": 0, "dog": 6}),
        ("PA", {"train": 4, "test": 2}, {"cat": 6, "dog": 0}),
    ]
    assert [(o.kind, o.width, o.height, o.channels, o.images) for o in facts.originals] == [
        ("PNG", 48, 40, 1, {"train": 5, "test": 3}),
        ("PNG", 48, 40, 3, {"train": 4, "test": 0}),
    ]
    assert {row: {split: len(cell) for split, cell in cells.items()} for row, cells in sheet.items()} == {
        "cat": {"train": 4, "test": 2},
        "dog": {"train": 5, "test": 1},
    }


def test_what_needs_action_is_said_the_worst_first(folder):
    facts, _ = describe(FileBacked(folder), AUDIT, 0)
    begins = [
        "1 file of test cannot be read and is left out (dog_q7_1.png)",
        "1 image has a byte-identical copy with another label (train and test)",
        "2 groups have images in train and in test (2 and 2 images)",
        "1 image of train and 1 of test are byte-identical copies of each other",
        "train has fewer than 10 images of a class (cat: 4, dog: 5)",
        "test has fewer than 10 images of a class (cat: 2, dog: 1)",
        "age is missing for 3 images (25 %)",
        "3 images have no caption",
    ]
    assert [line[: len(begin)] for line, begin in zip(facts.findings, begins, strict=True)] == begins


def test_no_folder_of_this_machine_is_named(folder):
    facts, sheet = describe(FileBacked(folder), AUDIT, 0)
    page = render(facts, sheet, "medretrieval data", 0)
    for text in (as_text(facts), page, repr(facts)):
        assert folder.parent.name not in text
    assert "dog_q7_1.png: damaged" in as_text(facts)


def test_the_same_seed_draws_the_same_pictures(folder):
    rng = np.random.default_rng(1)
    for number in range(20):
        pixels = rng.integers(0, 256, (40, 48), np.uint8)
        Image.fromarray(pixels).save(folder / "train" / f"cat_r{number}_1.png")
    first, again, other = (describe(FileBacked(folder), AUDIT, seed)[1] for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert len(first["cat"]["train"]) == 8


def test_a_multi_label_dataset_has_a_row_for_no_finding(folder):
    facts, sheet = describe(FileBacked(folder, label_type="multi"), AUDIT, 0)
    assert [c.name for c in facts.classes] == ["cat", "dog", "none"]
    assert [c.images["train"] for c in facts.classes] == [5, 0, 4]
    assert list(sheet) == ["cat", "none"]
    assert facts.splits[0].without_finding == 4
    assert any(line.startswith("4 images of train have no finding") for line in facts.findings)


def test_a_dataset_without_an_image_is_refused(tmp_path):
    with pytest.raises(UserError, match="dataset=own: no split has an image"):
        describe(FileBacked(tmp_path), AUDIT, 0)


# The command


def test_the_command_prints_a_table_and_writes_a_page(say, write_npz, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 28, 28), np.uint8)
    images[3] = images[0]
    write_npz(train_images=images)
    code, out, err = say("data", "dataset=breastmnist", "seed=3", f"paths.data={tmp_path / 'data'}")
    assert (code, err) == (0, "")
    assert "1. 2 images have a byte-identical copy with another label (within train)" in out
    page = (tmp_path / "data_breastmnist.html").read_text()
    assert page.count("data:image/png;base64,") == 2 * 3 * 6
    assert "seed=3 paths.data=data" in page
    assert str(tmp_path) not in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_json_has_every_fact_and_no_page_where_none_is_wanted(say, write_npz, tmp_path):
    write_npz(n=4)
    code, out, err = say("data", "dataset=breastmnist", "out=none", "--json")
    assert (code, err) == (0, "")
    content = json.loads(out)
    assert list(content) == [
        "dataset", "label_type", "size", "findings", "splits", "classes", "columns", "originals",
        "distinct_originals", "likenesses", "hash_check", "pairs", "shared_groups", "unreadable", "page",
    ]  # fmt: skip
    assert content["page"] is None
    assert [split["images"] for split in content["splits"]] == [4, 4, 4]
    assert list(tmp_path.glob("*.html")) == []


def test_words_mean_what_they_mean_for_a_run(say, write_npz, tmp_path):
    path = write_npz("mine", n=4)
    (tmp_path / "conf" / "dataset").mkdir(parents=True)
    text = (
        "_target_: medretrieval.datasets.medmnist_npz.MedMNIST\nname: mine\nlabel_type: single\n"
        f"classes: [a, b]\nchannels: 1\nsize: 28\nroot: {path.parent}\ngroups: null\n"
    )
    (tmp_path / "conf" / "dataset" / "mine.yaml").write_text(text)
    words = ("dataset=mine", "out=none", "seed=1", "--config-dir", "conf", "--json", "seed=2")
    code, out, err = say("data", *words)
    assert code == 0, err
    assert json.loads(out)["dataset"] == "mine"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["dataset=nothing"], "dataset=nothing: there is no such dataset; choose from: "),
        (["dataset.sise=3"], "dataset.sise: no such key; did you mean dataset.size?"),
        (["out=page.pdf"], "data: out=page.pdf: give a name that ends in .html, or none"),
        (["seed=-1"], "seed=-1: must be 0 or more"),
        (["--config-dir", "nowhere"], "--config-dir nowhere: there is no such folder"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(refused, words, line):
    assert refused("data", *words).startswith(line)


def test_a_folder_is_no_page(refused, tmp_path):
    (tmp_path / "a.html").mkdir()
    assert refused("data", "out=a.html") == "data: out=a.html: is a folder; give the name of a file"


def test_data_that_is_not_here_is_said_before_it_is_downloaded(say, monkeypatch):
    def no_network(*_):
        raise UserError("no network")

    monkeypatch.setattr("medretrieval.datasets.medmnist_npz.download", no_network)
    code, out, err = say("data", "dataset=breastmnist", "out=none")
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        "dataset=breastmnist: not here yet; it is downloaded, as by a run",
        "medretrieval: no network",
    ]
