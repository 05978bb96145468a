"""Decoding into the cache: once a file, whatever it is called; resumed after a kill; the same bytes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import painted
from tests.image_files import write_png

from medretrieval.cache.store import Cache
from medretrieval.datasets.files import decoded as decoding_module
from medretrieval.datasets.files.decoded import FilesToDecode, decoded
from medretrieval.datasets.files.file_hashes import Unhashed, hash_files
from medretrieval.images.decode import Decoding
from medretrieval.images.fit import Fit
from medretrieval.images.frames import Frames

REPOSITORY = Path(__file__).resolve().parents[2]
GRAY = Decoding(28, 1, Fit.pad, Frames.first)


@pytest.fixture
def files(tmp_path):
    """Write n pictures, each another one; returns their paths and arrays."""

    def written(n=40):
        images = painted(np.arange(n) % 5)
        return [write_png(tmp_path / "own" / f"{i:03d}.png", image) for i, image in enumerate(images)], images

    return written


def decode(paths, cache, decoding=GRAY):
    return decoded(FilesToDecode("test", Path(paths[0]).parent, paths, None), decoding, cache)


@pytest.fixture
def counted(monkeypatch):
    """The paths that are decoded."""
    seen = []
    real = decoding_module.decode
    monkeypatch.setattr(decoding_module, "decode", lambda path, *rest: seen.append(path) or real(path, *rest))
    return seen


def test_each_file_is_decoded_once_whatever_it_is_called_and_in_whatever_order(
    files, cache, counted, tmp_path
):
    paths, images = files()
    np.testing.assert_array_equal(decode(paths, cache).images, images)
    assert sorted(counted) == paths
    counted.clear()
    np.testing.assert_array_equal(decode(paths, cache).images, images)
    moved = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "own", moved)
    some = [moved / path.name for path in reversed(paths[3:9])]
    np.testing.assert_array_equal(decode(some, cache).images, images[3:9][::-1])
    assert counted == []


def test_another_rule_is_another_image(files, cache, counted):
    paths, _ = files(6)
    decode(paths, cache)
    assert decode(paths, cache, Decoding(14, 1, Fit.pad, Frames.first)).images.shape == (6, 14, 14)
    assert decode(paths, cache, Decoding(28, 3, Fit.pad, Frames.first)).images.shape == (6, 28, 28, 3)
    assert len(counted) == 18


def test_a_file_that_changed_is_decoded_again(files, cache, counted):
    paths, images = files(6)
    decode(paths, cache)
    counted.clear()
    write_png(paths[2], 255 - images[2])
    found = decode(paths, cache).images
    assert counted == [paths[2]]
    np.testing.assert_array_equal(found[2], 255 - images[2])


def test_copies_of_a_file_are_decoded_once_and_found_each(files, cache, counted):
    paths, images = files(5)
    copy = paths[0].with_name("copy.png")
    shutil.copy(paths[3], copy)
    np.testing.assert_array_equal(decode([copy, *paths], cache).images, images[[3, 0, 1, 2, 3, 4]])
    assert len(counted) == 5


def test_what_cannot_be_read_is_named_and_the_others_keep_their_order(files, cache, counted):
    paths, images = files(8)
    paths[1].write_bytes(b"")
    paths[4].write_bytes(b"no picture")
    os.mkfifo(paths[6].with_suffix(".fifo"))
    wanted = [*paths, paths[6].with_suffix(".fifo"), paths[0].with_name("gone.png")]
    for _ in range(2):  # made, and from the cache
        found = decode(wanted, cache)
        assert set(found.reasons) == {1, 4, 8, 9}
        assert found.readable.tolist() == [i not in found.reasons for i in range(10)]
        np.testing.assert_array_equal(found.images, images[[0, 2, 3, 5, 6, 7]])
        assert "no such file" in found.reasons[9]
        assert "pipe" in found.reasons[8]
    assert not any(str(paths[0].parent) in reason for reason in found.reasons.values())


def test_nothing_that_can_be_read_is_no_image(files, cache):
    paths, _ = files(3)
    for path in paths:
        path.write_bytes(b"x")
    found = decode(paths, cache)
    assert found.images.shape == (0, 28, 28)
    assert len(found.reasons) == 3


def test_a_damaged_entry_is_decoded_again(files, cache, counted):
    paths, images = files(6)
    decode(paths, cache)
    (entry,) = cache.root.glob("decoded/*/*/images.npy")
    raw = bytearray(entry.read_bytes())
    raw[-1] ^= 1
    entry.write_bytes(raw)
    counted.clear()
    np.testing.assert_array_equal(decode(paths, cache).images, images)
    assert len(counted) == 6


KILLED = """
import sys, time
from pathlib import Path
from tests.datasets.test_decoded import GRAY
from medretrieval.cache.store import Cache
from medretrieval.datasets.files import decoded as module
from medretrieval.datasets.files.decoded import FilesToDecode, decoded

module.SHARD_BYTES = 1
module.MIN_SHARD_FILES = 4
real = module.decode
def slow(path, *rest):
    time.sleep(0.02)
    return real(path, *rest)
module.decode = slow
paths = sorted(Path(sys.argv[2]).glob("*.png"))
print("begins", flush=True)
decoded(FilesToDecode("test", Path(sys.argv[2]), paths, None), GRAY, Cache(Path(sys.argv[1])))
"""


def shards_in(cache):
    return [p for p in cache.root.glob("decoded/*/*.shards/*") if "." not in p.name]


def test_a_kill_in_the_middle_costs_a_shard_and_ends_in_the_same_bytes(
    files, cache, tmp_path, monkeypatch, counted
):
    paths, images = files(60)
    arguments = [sys.executable, "-c", KILLED, str(cache.root), str(paths[0].parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=environment, cwd=REPOSITORY) as process:
        process.stdout.readline()
        while not shards_in(cache):
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    kept = len(shards_in(cache))
    assert not list(cache.root.glob("decoded/*/*/images.npy"))
    monkeypatch.setattr(decoding_module, "SHARD_BYTES", 1)
    monkeypatch.setattr(decoding_module, "MIN_SHARD_FILES", 4)
    np.testing.assert_array_equal(decode(paths, cache).images, images)
    assert len(counted) <= 60 - 4 * kept
    whole = Cache(tmp_path / "whole")
    decode(paths, whole)
    (ours,), (theirs,) = (sorted(c.root.glob("decoded/*/*/images.npy")) for c in (cache, whole))
    assert ours.read_bytes() == theirs.read_bytes()
    assert not list(cache.root.glob("decoded/*/*.shards"))


def test_hashes_are_remembered_without_names_and_a_young_file_is_read_again(files, tmp_path):
    paths, _ = files(4)
    old = time.time() - 60
    for path in paths[:3]:
        os.utime(path, (old, old))
    first = hash_files(paths, paths[0].parent, tmp_path / "cache", "")
    (kept,) = (tmp_path / "cache" / "file_hashes").glob("*.npz")
    with np.load(kept) as npz:
        assert len(npz["states"]) == 3
    assert b"own" not in kept.read_bytes()
    assert hash_files(paths, paths[0].parent, tmp_path / "cache", "") == first
    kept.write_bytes(b"damaged")
    assert hash_files(paths, paths[0].parent, tmp_path / "cache", "") == first
    paths[0].write_bytes(b"changed")
    assert hash_files(paths, paths[0].parent, tmp_path / "cache", "")[0] != first[0]


def test_a_folder_a_pipe_and_what_is_gone_have_no_hash(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    found = hash_files([tmp_path, tmp_path / "pipe", tmp_path / "gone"], tmp_path, tmp_path / "cache", "")
    assert all(isinstance(one, Unhashed) for one in found)
