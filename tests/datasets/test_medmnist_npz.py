import pickle
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import yaml
from tests.refusals import refusal

from medretrieval.config import root
from medretrieval.datasets.medmnist_npz import SIZES, MedMNIST

BREAST = {
    "name": "breastmnist",
    "label_type": "single",
    "classes": ["malignant", "benign"],
    "channels": 1,
    "size": 28,
}
FILES = sorted((root() / "conf" / "dataset").glob("*mnist.yaml"))
CONFIGS = {path.stem: yaml.safe_load(path.read_text()) for path in FILES}
NOTHING = {"test_images": np.zeros((0, 28, 28), np.uint8), "test_labels": np.zeros((0, 1), np.uint8)}
TASKS = {"multi-label, binary-class": "multi", "ordinal-regression": "ordinal"}


@pytest.fixture
def breast(tmp_path):
    def dataset(**changes):
        return MedMNIST(**(BREAST | {"root": str(tmp_path / "data")} | changes))

    return dataset


@pytest.fixture
def no_network(monkeypatch):
    """Every attempt to open an address fails, as without a network; says which were tried."""
    tried = []

    def urlopen(request, *args, **kwargs):
        tried.append(getattr(request, "full_url", request))
        raise urllib.error.URLError("Temporary failure in name resolution")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return tried


# What is read


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
@pytest.mark.parametrize("shape", [(12, 1), (12,)])
def test_labels_of_either_shape_and_any_number_type_are_read_alike(write_npz, breast, shape, dtype):
    numbers = np.arange(12) // 3 % 2
    write_npz(test_labels=numbers.reshape(shape).astype(dtype))
    labels = breast().load("test").labels
    assert labels.dtype == np.int64
    assert labels.tolist() == numbers.tolist()


def test_every_split_comes_with_its_own_images_in_the_order_of_the_file(write_npz, breast):
    with np.load(write_npz()) as file:
        for split in ("train", "val", "test"):
            read = breast().load(split)
            assert read.name == split
            assert read.images.dtype == np.uint8
            assert np.array_equal(read.images, file[f"{split}_images"])
            assert read.ids[[0, -1]].tolist() == [f"{split}/0", f"{split}/11"]


def test_rgb_images_keep_their_channels(write_npz, breast):
    images = np.random.default_rng(0).integers(0, 256, (12, 28, 28, 3)).astype(np.uint8)
    write_npz("dermamnist", test_images=images)
    assert np.array_equal(breast(name="dermamnist", channels=3).load("test").images, images)


@pytest.mark.parametrize("dtype", [np.uint8, np.bool_, np.float32])
def test_several_findings_an_image_are_read_as_booleans(write_npz, breast, dtype):
    findings = (np.random.default_rng(0).random((12, 14)) < 0.2).astype(dtype)
    write_npz("chestmnist", test_labels=findings)
    classes = CONFIGS["chestmnist"]["classes"]
    labels = breast(name="chestmnist", label_type="multi", classes=classes).load("test").labels
    assert labels.dtype == np.bool_
    assert np.array_equal(labels, findings.astype(bool))


@pytest.mark.parametrize("size", SIZES)
def test_the_size_is_part_of_the_file_name_but_for_28(breast, tmp_path, size):
    name = "breastmnist.npz" if size == 28 else f"breastmnist_{size}.npz"
    assert breast(size=size).path == tmp_path / "data" / name


def test_a_larger_size_is_read_from_its_own_file(write_npz, breast):
    write_npz()
    images = np.full((12, 64, 64), 7, np.uint8)
    write_npz("breastmnist_64", test_images=images)
    assert np.array_equal(breast(size=64).load("test").images, images)


def test_the_hash_of_the_images_is_free_of_the_labels(write_npz, breast):
    write_npz()
    before = breast().load("test")
    write_npz(test_labels=1 - before.labels)
    after = breast().load("test")
    assert after.images_sha256 == before.images_sha256
    assert after.labels_sha256 != before.labels_sha256


@pytest.mark.realdata
def test_the_real_pneumoniamnist_has_its_published_counts(real_root):
    dataset = MedMNIST("pneumoniamnist", "single", ["normal", "pneumonia"], 1, 28, str(real_root))
    counts = {split: np.bincount(dataset.load(split).labels).tolist() for split in ("train", "val", "test")}
    assert counts == {"train": [1214, 3494], "val": [135, 389], "test": [234, 390]}


# What is refused, always in one line that names the file


@pytest.mark.parametrize("size", [29, 0, 256])
def test_a_size_that_medmnist_does_not_have_is_refused(breast, size):
    line = refusal(lambda: breast(size=size))
    assert line == f"dataset.size={size}: breastmnist comes at the sizes 28, 64, 128, 224"


def test_an_unknown_task_is_refused(breast):
    line = refusal(lambda: breast(label_type="regression"))
    assert line == "dataset.label_type=regression: choose from: multi, ordinal, single"


@pytest.mark.parametrize("share", [0, 0.001, 0.2, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(write_npz, breast, share):
    path = write_npz()
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    line = refusal(lambda: breast().load("test"))
    assert str(path) in line
    assert "delete it to download it again" in line


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_changed_byte_in_the_middle_of_an_array_is_noticed(write_npz, breast, save):
    path = write_npz()
    with np.load(path) as file:
        save(path, **file)
    content = bytearray(path.read_bytes())
    begin = content.index(b"test_images")
    content[(begin + content.index(b"test_labels")) // 2] ^= 0xFF
    path.write_bytes(content)
    assert f"{path}: damaged" in refusal(lambda: breast().load("test"))


@pytest.mark.parametrize(
    ("offset", "byte"),
    [
        pytest.param(6, 0xFF, id="written by a later version of zip"),
        pytest.param(8, 0x01, id="said to be encrypted"),
        pytest.param(10, 99, id="unknown compression"),
    ],
)
def test_a_changed_byte_in_the_directory_of_the_archive_is_noticed(write_npz, breast, offset, byte):
    path = write_npz()
    content = bytearray(path.read_bytes())
    for entry in (content.rindex(b"test_images") - 46, content.rindex(b"test_labels") - 46):
        content[entry + offset] |= byte
    path.write_bytes(content)
    assert str(path) in refusal(lambda: breast().load("test"))


def test_a_text_file_under_the_name_is_refused(write_npz, breast):
    path = write_npz()
    path.write_text("<html>404 Not Found</html>\n")
    assert f"{path}: damaged or not an .npz file" in refusal(lambda: breast().load("test"))


def test_a_single_array_under_the_name_is_refused(write_npz, breast):
    path = write_npz()
    with path.open("wb") as file:
        np.save(file, np.zeros((12, 28, 28), np.uint8))
    assert str(path) in refusal(lambda: breast().load("test"))


def test_a_folder_under_the_name_is_refused(write_npz, breast):
    path = write_npz()
    path.unlink()
    path.mkdir()
    assert f"{path}: cannot be read" in refusal(lambda: breast().load("test"))


def test_foreign_arrays_are_refused_and_listed(write_npz, breast):
    path = write_npz()
    np.savez(path, x=np.zeros(3), y=np.ones(3))
    line = refusal(lambda: breast().load("test"))
    assert f"{path}: not a MedMNIST file: no array 'test_images' in it (it holds x, y)" in line


class Payload:
    """Pickled, it would make the file `witness` when it is unpickled."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return Path.touch, (self.witness,)


def test_pickled_objects_are_refused_and_never_unpickled(write_npz, breast, tmp_path):
    witness = tmp_path / "executed"
    pickle.loads(pickle.dumps(Payload(witness)))
    witness.unlink()  # so the payload does work
    path = write_npz(test_images=np.array([Payload(witness)] * 12, dtype=object))
    assert str(path) in refusal(lambda: breast().load("test"))
    path.write_bytes(pickle.dumps(Payload(witness)))
    assert str(path) in refusal(lambda: breast().load("test"))
    assert not witness.exists()


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"test_labels": np.zeros((11, 1), np.uint8)}, "test_labels has 11 rows for 12 images"),
        ({"test_labels": None}, "no array 'test_labels'"),
        (NOTHING, "split 'test' is empty"),
        ({"test_images": np.zeros((12, 64, 64), np.uint8)}, "uint8 [12, 64, 64], but dataset=breastmnist"),
        ({"test_images": np.zeros((12, 28, 28, 3), np.uint8)}, "needs uint8 [n, 28, 28]"),
        ({"test_images": np.zeros((12, 28, 28))}, "test_images is float64"),
        ({"test_labels": np.full(12, 2)}, "holds class 2, but dataset.classes names 2 (0 to 1)"),
        ({"test_labels": np.full(12, -1)}, "holds class -1"),
        ({"test_labels": np.full(12, 0.5)}, "class numbers must be whole numbers"),
        ({"test_labels": np.full(12, np.nan)}, "class numbers must be whole numbers"),
        ({"test_labels": np.zeros((12, 2))}, "one class number per image is needed"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_are_refused(write_npz, breast, arrays, said):
    path = write_npz(**arrays)
    line = refusal(lambda: breast().load("test"))
    assert line.startswith(f"{path}: ")
    assert said in line


@pytest.mark.parametrize("labels", [np.array(["benign"] * 12), np.array(1)], ids=["text", "one number"])
def test_labels_that_are_no_numbers_or_no_list_are_refused(write_npz, breast, labels):
    path = write_npz(test_labels=labels)
    assert f"{path}: test_labels" in refusal(lambda: breast().load("test"))


@pytest.mark.parametrize("findings", [np.zeros((12, 13)), np.zeros((12, 1)), np.full((12, 14), 2)])
def test_findings_that_do_not_fit_are_refused(write_npz, breast, findings):
    path = write_npz("chestmnist", test_labels=findings)
    chest = breast(name="chestmnist", label_type="multi", classes=CONFIGS["chestmnist"]["classes"])
    line = refusal(lambda: chest.load("test"))
    assert line == f"{path}: test_labels is {list(findings.shape)}, not 0/1 [n, 14 findings]"


def test_the_other_splits_of_a_file_are_not_held_against_it(write_npz, breast):
    write_npz(val_images=None, train_labels=np.full(12, 9))
    assert len(breast().load("test")) == 12


# Download


def test_a_missing_file_without_a_network_is_refused_after_one_try(breast, no_network):
    dataset = breast()
    line = refusal(lambda: dataset.load("test"))
    assert len(no_network) == 1
    # medmnist's own message begins with an empty line.
    assert line.startswith(
        f"{dataset.path}: not there, and downloading it failed (Automatic download failed!"
    )
    assert "paths.data (or MEDRETRIEVAL_DATA)" in line
    assert no_network
    assert "breastmnist.npz" in no_network[0]
    assert list(dataset.path.parent.iterdir()) == []


def test_a_missing_file_of_a_name_that_medmnist_does_not_know_is_refused(breast, no_network):
    assert "mymnist.npz" in refusal(lambda: breast(name="mymnist").load("test"))


def test_a_downloaded_file_is_put_in_place_and_not_fetched_again(write_npz, breast, monkeypatch):
    path, fetched = breast(size=64).path, []
    images = np.zeros((12, 64, 64), np.uint8)
    content = write_npz("source", train_images=images, test_images=images).read_bytes()

    def download_url(url, root, filename, md5):
        fetched.append((url, filename))
        (Path(root) / filename).write_bytes(content)

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download_url)
    before = set(path.parent.iterdir())
    for _ in range(2):
        assert len(breast(size=64).load("test")) == 12
    assert [name for _, name in fetched] == ["breastmnist_64.npz"]
    assert "breastmnist_64.npz" in fetched[0][0]
    assert path.read_bytes() == content
    assert set(path.parent.iterdir()) - before == {path}


@pytest.mark.parametrize("error", [urllib.error.URLError("reset"), OSError(28, "No space left on device")])
def test_a_download_that_stops_half_way_leaves_nothing(breast, monkeypatch, error):
    def download_url(url, root, filename, md5):
        (Path(root) / filename).write_bytes(b"PK\x03\x04 half of it")
        raise error

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download_url)
    path = breast().path
    assert str(path) in refusal(lambda: breast().load("test"))
    assert list(path.parent.iterdir()) == []


# Configurations


def test_every_2d_set_of_medmnist_has_a_configuration():
    from medmnist import INFO

    assert CONFIGS.keys() == {flag for flag in INFO if not flag.endswith("3d")}


@pytest.mark.parametrize("flag", CONFIGS)
def test_a_configuration_says_what_medmnist_says(flag):
    from medmnist import INFO

    config, info = CONFIGS[flag], INFO[flag]
    assert config["name"] == flag
    assert config["classes"] == [info["label"][str(number)] for number in range(len(info["label"]))]
    assert config["channels"] == info["n_channels"]
    assert config["label_type"] == TASKS.get(info["task"], "single")
    assert all(f"url_{size}" in info for size in SIZES if size != 28)
