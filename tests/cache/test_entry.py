import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medretrieval.cache import entry
from medretrieval.cache.entry import Damaged, content_key

PARTS = {"images": "abc", "size": 28}
FILES = ("data.bin", "entry.json", "checksums.json")


def fill(folder):
    (folder / "data.bin").write_bytes(bytes(range(64)))
    return {"shape": [8, 8]}


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / content_key(PARTS)
    entry.write(place, PARTS, fill)
    return place


@pytest.fixture
def hashed(monkeypatch):
    """The names of the files that are hashed from now on."""
    names, real = [], entry.file_sha256
    monkeypatch.setattr(entry, "file_sha256", lambda path: names.append(path.name) or real(path))
    return names


def settle(folder):
    """As if it had been written a minute ago."""
    for path in folder.iterdir():
        stat = path.stat()
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns - 60 * 10**9))


def test_no_part_stands_in_for_the_format_of_the_cache(monkeypatch):
    """A part named "format" replaced it, so a raised FORMAT_VERSION left such an entry valid."""
    with pytest.raises(ValueError, match='cannot be named "format"'):
        content_key({"format": 7})
    before = content_key(PARTS)
    monkeypatch.setattr(entry, "FORMAT_VERSION", -1)
    assert content_key(PARTS) != before


def test_keys_stay_what_they_are():
    """Else every cache is made again: raise FORMAT_VERSION only where the bytes of an entry change."""
    assert content_key(PARTS) == "f90e9f26435bd5cdeb29ff1f5269a12b72f642d5530bb749d13823588c1d3471"
    assert (
        content_key({"b": {2: (1, 0.5)}, "a": None})
        == "965136773184484e313385de3dfa306629d6955d8b4e8134db06c6ca3d7139c7"
    )


@pytest.mark.parametrize("name", FILES)
def test_any_changed_byte_of_any_file_is_found(folder, name):
    path = folder / name
    whole = path.read_bytes()
    for at in range(len(whole)):
        for mask in (1 << at % 8, 0x20, 0xFF):
            changed = bytearray(whole)
            changed[at] ^= mask
            path.write_bytes(changed)
            with pytest.raises(Damaged):
                entry.read(folder)
    path.write_bytes(whole)
    assert entry.read(folder)["facts"] == {"shape": [8, 8]}


@pytest.mark.parametrize("name", FILES)
def test_any_cut_or_added_byte_of_any_file_is_found(folder, name):
    path = folder / name
    whole = path.read_bytes()
    for changed in (*(whole[:n] for n in range(len(whole))), whole + b"\0", whole + b"\n", whole + whole):
        path.write_bytes(changed)
        with pytest.raises(Damaged):
            entry.read(folder)


@pytest.mark.parametrize("name", FILES)
@given(text=st.binary(max_size=200))
def test_no_other_content_of_a_file_is_taken_for_it(name, text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("e") / content_key(PARTS)
    entry.write(folder, PARTS, fill)
    (folder / name).write_bytes(text)
    with pytest.raises(Damaged):
        entry.read(folder)


def test_an_entry_in_the_place_of_another_is_found(folder):
    other = folder.with_name(content_key({"size": 64}))
    folder.replace(other)
    with pytest.raises(Damaged, match=r"entry\.json"):
        entry.read(other)


def test_numbers_as_keys_are_found_again(tmp_path):
    parts = {"layers": {9: 1, 10: 2}}
    entry.write(tmp_path / content_key(parts), parts, fill)
    assert entry.read(tmp_path / content_key(parts))["facts"] == {"shape": [8, 8]}


def test_what_is_not_listed_is_not_vouched_for(folder):
    (folder / "more.bin").write_bytes(b"1")
    with pytest.raises(Damaged, match=r"checksums\.json"):
        entry.read(folder, files=("more.bin",))


def test_a_file_is_hashed_once_for_each_of_its_states(folder, hashed):
    settle(folder)
    for _ in range(3):
        entry.read(folder)
    assert sorted(hashed) == ["data.bin", "entry.json"]
    (folder / "data.bin").write_bytes(bytes(range(1, 65)))
    with pytest.raises(Damaged, match=r"data\.bin"):
        entry.read(folder)


def test_a_file_changed_with_its_size_and_time_put_back_is_found(folder):
    settle(folder)
    entry.read(folder)
    path = folder / "data.bin"
    stat = path.stat()
    path.write_bytes(bytes(64))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(Damaged, match=r"data\.bin"):
        entry.read(folder)


def test_a_file_that_was_just_written_is_not_remembered(folder, hashed):
    entry.read(folder)
    entry.read(folder)
    assert hashed.count("data.bin") == 2


def test_nothing_remembered_is_used_where_all_is_to_be_hashed(folder, hashed):
    settle(folder)
    for _ in range(2):
        entry.read(folder, remember=False)
    assert hashed.count("data.bin") == 2


def test_everything_is_on_the_disk_before_it_is_in_its_place(tmp_path, monkeypatch):
    done, sync, replace = [], os.fsync, Path.replace

    def syncing(descriptor):
        done.append(os.readlink(f"/proc/self/fd/{descriptor}").rpartition("/")[2].partition(".partial")[0])
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(Path, "replace", lambda a, b: done.append("in place") or replace(a, b))
    place = tmp_path / content_key(PARTS)
    entry.write(place, PARTS, fill)
    assert sorted(done[:4]) == sorted([*FILES, place.name])
    assert done[4:] == ["in place", tmp_path.name]


def test_new_folders_are_on_the_disk_too(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(entry, "flush", flushed.append)
    entry.make_folder(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()
    assert flushed == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    entry.make_folder(tmp_path / "a" / "b" / "c")
    assert len(flushed) == 3


def test_the_checksums_are_those_of_sha256sum(folder):
    import hashlib

    sums = json.loads((folder / "checksums.json").read_text())
    assert sums["data.bin"] == {"bytes": 64, "sha256": hashlib.sha256(bytes(range(64))).hexdigest()}
    assert set(sums) == {"data.bin", "entry.json"}
