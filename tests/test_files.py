import errno
import hashlib
import os

import pytest

from medretrieval import files
from medretrieval.files import file_sha256, put_in_place


def test_a_file_takes_its_place_whole_and_after_it_is_on_the_disk(tmp_path, monkeypatch):
    path, done = tmp_path / "a.json", []
    path.write_text("old")
    monkeypatch.setattr(files, "flush", lambda place: done.append((place.name, path.read_text())))
    with put_in_place(path) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
        assert aside.parent == tmp_path
    assert done == [(aside.name, "old"), (tmp_path.name, "new")]
    assert os.listdir(tmp_path) == ["a.json"]


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", ["written", "flushed", "renamed"])
def test_what_goes_wrong_leaves_what_was_there_before(tmp_path, monkeypatch, step):
    def write():
        with put_in_place(path) as aside:
            aside.write_text("new")
            if step == "written":
                full()

    path = tmp_path / "a.json"
    path.write_text("old")
    if step != "written":
        place, name = {"flushed": (files, "flush"), "renamed": (type(path), "replace")}[step]
        monkeypatch.setattr(place, name, full)
    with pytest.raises(OSError, match="No space left"):
        write()
    assert os.listdir(tmp_path) == ["a.json"]
    assert path.read_text() == "old"


def test_the_error_of_a_folder_that_is_none_is_raised_as_it_is(tmp_path):
    (tmp_path / "a").write_text("a file")
    with pytest.raises(NotADirectoryError), put_in_place(tmp_path / "a" / "b.json") as aside:
        aside.write_text("new")


def test_the_hash_is_that_of_all_bytes(tmp_path):
    content = os.urandom(3_000_000)
    (tmp_path / "a.bin").write_bytes(content)
    assert file_sha256(tmp_path / "a.bin") == hashlib.sha256(content).hexdigest()
