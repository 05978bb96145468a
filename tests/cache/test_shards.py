import contextlib
import errno
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.toy_encoders import Brightness, Neighborly, numbered, numbers

from medretrieval.cache import entry, shards
from medretrieval.cache.store import Cache
from medretrieval.datasets.base import Split
from medretrieval.embed.images import embed, identify, image_digests
from medretrieval.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _small_and_quick_shards(monkeypatch):
    monkeypatch.setattr(shards, "MIN_SHARD_ROWS", 8)
    monkeypatch.setattr(shards, "ASSEMBLED_BYTES", 64)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # slow, and no test here cuts the power


def split_of(which, name="train"):
    images = numbered(which) if not isinstance(which, np.ndarray) else which
    return Split(name, images, np.zeros(len(images), np.int64))


def run(encoder, cache, split):
    return embed(encoder, identify(encoder, cache), split, 6, cache)


def means(split):
    flat = split.images.reshape(len(split), -1).astype(np.float32)
    return np.stack([flat.mean(1), flat.std(1)], 1)


class StopsAt(Neighborly):
    """Raises `error` in place of embedding batch `at`."""

    def __init__(self, at, error, **kwargs):
        super().__init__(**kwargs)
        self.at, self.error = at, error

    def encode(self, images):
        if len(self.batches) == self.at:
            raise self.error
        return super().encode(images)


def shard_folders(cache):
    return [p for p in cache.root.glob("embeddings/*/*.shards/*") if "." not in p.name]


def half_written(cache):
    return list(cache.root.glob("**/*.partial-*"))


# Going on


@pytest.mark.parametrize("at", range(11))
def test_an_interrupted_split_goes_on_after_its_last_whole_shard_and_ends_the_same(cache, tmp_path, at):
    split = split_of(range(41))
    whole = run(Neighborly(), Cache(tmp_path / "whole"), split)
    first, second = StopsAt(at, KeyboardInterrupt()), Neighborly()
    with pytest.raises(KeyboardInterrupt):
        run(first, cache, split)
    assert half_written(cache) == []
    assert len(shard_folders(cache)) == at // 2  # two batches of 4 make a shard of 8
    made = run(second, cache, split)
    assert second.seen == list(range(at // 2 * 8, 41))
    assert made.path.read_bytes() == whole.path.read_bytes()
    assert not made.cached
    assert shard_folders(cache) == []


@given(
    stops=st.lists(st.integers(0, 6), max_size=4), batch=st.integers(1, 9), n=st.integers(1, 40)
)  # fmt: skip
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_however_often_it_is_interrupted_the_bytes_are_the_same(tmp_path_factory, stops, batch, n):
    split, folder = split_of(range(n)), tmp_path_factory.mktemp("c")
    whole = run(Neighborly(batch_size=batch), Cache(folder / "whole"), split)
    cache, seen = Cache(folder / "cache"), []
    for at in stops:
        encoder = StopsAt(at, KeyboardInterrupt(), batch_size=batch)
        with contextlib.suppress(KeyboardInterrupt):
            run(encoder, cache, split)
        seen += encoder.seen
    last = Neighborly(batch_size=batch)
    made = run(last, cache, split)
    assert made.path.read_bytes() == whole.path.read_bytes()
    shard = -(-8 // batch) * batch
    times = Counter(seen + last.seen)
    assert set(times) == set(range(n))
    assert sum(times.values()) - n <= len(stops) * shard


def test_the_bar_starts_where_it_goes_on(cache, monkeypatch):
    bars = []

    class Bar:
        def __init__(self, total, initial, **kwargs):
            self.total, self.n = total, initial
            bars.append((initial, self))

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def update(self, n):
            self.n += n

    monkeypatch.setattr("tqdm.tqdm", Bar)
    split = split_of([*range(20), 0, 1])
    with pytest.raises(KeyboardInterrupt):
        run(StopsAt(3, KeyboardInterrupt()), cache, split)
    run(Neighborly(), cache, split)
    assert [(initial, bar.n, bar.total) for initial, bar in bars] == [(0, 12, 20), (8, 20, 20)]


def test_another_batch_size_goes_on_too(cache):
    split, second = split_of(range(41)), Brightness(batch_size=3)
    with pytest.raises(KeyboardInterrupt):
        run(StopsAt(5, KeyboardInterrupt()), cache, split)
    made = run(second, cache, split)
    assert second.batches == [3, 3, 3] * 2 + [3, 3, 1]
    assert np.allclose(made.vectors, means(split), rtol=1e-4)


# Each process below is forked, killed, and looked after by this script, which prints what it saw.
KILLED = """
import json, os, pathlib, random, signal, sys, time
sys.path.insert(0, sys.argv[2])
import tqdm, filelock
import numpy as np
from medretrieval.cache import shards
from medretrieval.cache.store import Cache
from medretrieval.datasets.base import Split
from medretrieval.embed.images import embed, image_digests
from tests.toy_encoders import Neighborly, numbered

place, n = pathlib.Path(sys.argv[1]), int(sys.argv[3])
shards.MIN_SHARD_ROWS, shards.ASSEMBLED_BYTES = 8, 64
split = Split("train", numbered(range(n)), np.zeros(n, np.int64))
of_digest = {d: i for i, d in enumerate(image_digests(split.images))}

class Logged(Neighborly):
    def stream(self, images):
        with (place / "log").open("a") as log:
            log.write(f"{int(images[0, 0, 0]) * 256 + int(images[0, 0, 1])}\\n")
        return super().stream(images)

def fork(root, before=lambda: None):
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        before()
        embed(Logged(), {"kind": "toy"}, split, 6, Cache(root))
        os._exit(0)
    return pid

def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def started():
    log = place / "log"
    lines = [int(line) for line in log.read_text().split()] if log.exists() else []
    log.unlink(missing_ok=True)
    return lines

def whole(root):
    found = []
    for folder in root.glob("embeddings/*/*.shards/*"):
        if "." not in folder.name:
            raw = np.load(folder / "images.npy").view("S32")[:, 0]
            found.append(of_digest[raw[0]])
    return found

def result(root):
    (path,) = [p for p in root.glob("embeddings/*/*/embeddings.npy") if ".partial-" not in str(p)]
    return path.read_bytes().hex()
"""
RANDOM_MOMENTS = """
start = time.perf_counter()
assert ended(fork(place / "whole")) == 0
seconds = time.perf_counter() - start
expected, said = result(place / "whole"), []
started()
random.seed(int(sys.argv[4]))
root, kills = place / "cache", 0
while kills < 20:
    before, pid = whole(root), fork(root)
    time.sleep(random.uniform(0, seconds / 4))
    os.kill(pid, signal.SIGKILL)
    if ended(pid) == 0:  # it was quicker; begin anew
        assert result(root) == expected
        root = place / f"cache{kills}"
    else:
        kills += 1
    said.append([before, started()])
before = whole(root)
assert ended(fork(root)) == 0
said.append([before, started()])
print(json.dumps({"same": result(root) == expected, "said": said}))
"""
EVERY_STEP = """
import pathlib
step, said = 0, []
assert ended(fork(place / "whole")) == 0
expected = result(place / "whole")
code = -9
while code == -9:
    root, left = place / f"cache{step}", step
    def dies():
        real = {"fsync": os.fsync, "replace": pathlib.Path.replace, "rmtree": shards.entry.shutil.rmtree}
        def counted(name):
            def call(*args, **kwargs):
                global left
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                return real[name](*args, **kwargs)
            return call
        os.fsync = counted("fsync")
        pathlib.Path.replace = counted("replace")
        shards.entry.shutil.rmtree = counted("rmtree")
    code = ended(fork(root, dies))
    before = whole(root)
    finished = bool(list(root.glob("embeddings/*/" + "[0-9a-f]" * 64)))
    started()
    assert ended(fork(root)) == 0
    said.append([finished, before, started(), result(root) == expected])
    step += 1
print(json.dumps(said))
"""


def killed(script, tmp_path, *arguments):
    command = [sys.executable, "-c", KILLED + script, str(tmp_path), str(REPOSITORY), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("seed", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_killed_at_20_random_moments_it_ends_with_the_same_bytes(tmp_path, seed):
    found = killed(RANDOM_MOMENTS, tmp_path, "200", seed)
    assert found["same"]
    assert len(found["said"]) >= 21
    for before, started in found["said"]:
        assert not set(before) & set(started)  # no whole shard is embedded again
        assert len(set(started)) == len(started)


def test_killed_at_each_step_of_writing_it_ends_with_the_same_bytes(tmp_path):
    """Two shards and the split, with flushes and renames between."""
    found = killed(EVERY_STEP, tmp_path, "16")
    assert len(found) > 15
    for finished, before, started, same in found:
        assert same
        assert started == ([] if finished else sorted(set(range(0, 16, 8)) - set(before)))


def test_eight_processes_at_once_embed_once(tmp_path):
    script = """
(place / "ready").mkdir(exist_ok=True)
(place / "ready" / str(os.getpid())).touch()
while len(list((place / "ready").iterdir())) < 8:
    time.sleep(0.005)
made = embed(Logged(), {"kind": "toy"}, split, 6, Cache(place / "cache"))
assert isinstance(made.vectors.base, np.memmap)
print(made.cached, made.vectors.tobytes().hex())
"""
    command = [sys.executable, "-c", KILLED + script, str(tmp_path), str(REPOSITORY), "96"]
    eight = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(8)
    ]
    said = [process.communicate(timeout=120) for process in eight]
    assert [p.returncode for p in eight] == [0] * 8, said
    cached, vectors = zip(*(out.split() for out, _ in said), strict=True)
    assert sorted(cached) == ["False"] + ["True"] * 7
    assert len(set(vectors)) == 1
    assert [int(line) for line in (tmp_path / "log").read_text().split()] == list(range(0, 96, 8))


# Damage


def damage(path, how):
    raw = bytearray(path.read_bytes())
    if how == "cut":
        del raw[len(raw) * 2 // 3 :]
    elif how == "emptied":
        raw.clear()
    else:
        at = {"head": 20, "first": 128, "middle": len(raw) // 2, "last": len(raw) - 1}[how]
        raw[at] ^= 0x10
    path.write_bytes(raw)


def assert_named(caplog, folder, file):
    """A wrong checksum may be damage of the checksum or of the file it is of."""
    names = NPY_ENTRY if file == "checksums.json" else [file]
    (line,) = [r.getMessage() for r in caplog.records]
    assert line in [f"{folder}: {name} is damaged; set aside and made again" for name in names]


NPY_ENTRY = ["embeddings.npy", "images.npy", "entry.json", "checksums.json"]
HOW = ["head", "first", "middle", "last", "cut", "emptied"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("file", NPY_ENTRY)
def test_a_damaged_shard_is_named_set_aside_and_made_again(cache, tmp_path, caplog, file, how):
    split = split_of(range(41))
    whole = run(Neighborly(), Cache(tmp_path / "whole"), split)
    with pytest.raises(KeyboardInterrupt):
        run(StopsAt(8, KeyboardInterrupt()), cache, split)
    folder = sorted(shard_folders(cache))[1]
    lost = np.load(folder / "images.npy").view("S32")[:, 0]
    damage(folder / file, how)
    second = Neighborly()
    with caplog.at_level(logging.WARNING):
        made = run(second, cache, split)
    assert_named(caplog, folder, file)
    again = np.flatnonzero(np.isin(image_digests(split.images), lost))
    assert second.seen == [*again, *range(32, 41)]
    assert made.path.read_bytes() == whole.path.read_bytes()
    assert len(list(cache.root.glob("embeddings/*/*.damaged-*"))) == 1


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("file", NPY_ENTRY)
def test_a_damaged_split_is_named_set_aside_and_made_again(cache, caplog, file, how):
    split = split_of(range(41))
    first = run(Neighborly(), cache, split)
    expected = first.path.read_bytes()
    damage(first.path.with_name(file), how)
    second = Neighborly()
    with caplog.at_level(logging.WARNING):
        made = run(second, cache, split)
    assert_named(caplog, first.path.parent, file)
    assert second.seen == list(range(41))
    assert made.path.read_bytes() == expected
    assert run(Neighborly(), cache, split).cached


@pytest.mark.parametrize("how", HOW)
def test_nothing_is_taken_from_another_damaged_split(cache, caplog, how):
    damage(run(Neighborly(), cache, split_of(range(10))).path, how)
    split, second = split_of(range(20)), Brightness()
    with caplog.at_level(logging.WARNING):
        made = run(second, cache, split)
    assert sum(second.batches) == 20
    assert np.allclose(made.vectors, means(split), rtol=1e-5)
    assert "nothing is taken from it" in caplog.text


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_no_damage_gives_a_wrong_vector(tmp_path_factory, data):
    cache, split = Cache(tmp_path_factory.mktemp("c")), split_of(range(20))
    place = run(Brightness(), cache, split).path.parent
    path = place / data.draw(st.sampled_from(sorted(p.name for p in place.iterdir())))
    raw = bytearray(path.read_bytes())
    begin = int(data.draw(st.floats(0, 1, exclude_max=True)) * len(raw))
    end = begin + 1 if data.draw(st.booleans()) else len(raw)
    raw[begin:end] = data.draw(st.binary(max_size=8))
    path.write_bytes(raw)
    assert np.allclose(run(Brightness(), cache, split).vectors, means(split), rtol=1e-5)


# Each image once


def test_duplicates_are_embedded_once(cache):
    which = [5, 1, 5, 2, 1, 1, 9]
    encoder, split = Neighborly(batch_size=2), split_of(which)
    made = run(encoder, cache, split)
    assert encoder.seen == [5, 1, 2, 9]
    assert np.allclose(made.vectors, means(split), rtol=1e-4)
    assert np.array_equal(made.vectors[0], made.vectors[2])


def test_of_a_gallery_that_grew_only_the_new_images_are_embedded(cache):
    old = run(Neighborly(), cache, split_of(range(13)))
    encoder, split = Neighborly(), split_of(range(30))
    grown = run(encoder, cache, split)
    assert encoder.seen == list(range(13, 30))
    assert np.array_equal(grown.vectors[:13], old.vectors)
    assert np.allclose(grown.vectors, means(split), rtol=1e-4)
    assert not grown.cached


def test_a_gallery_that_grew_while_it_was_unfinished_takes_its_shards(cache):
    with pytest.raises(KeyboardInterrupt):
        run(StopsAt(4, KeyboardInterrupt()), cache, split_of(range(30)))
    encoder = Neighborly()
    run(encoder, cache, split_of(range(40)))
    assert encoder.seen == list(range(16, 40))


def test_images_of_another_split_and_another_order_are_not_embedded(cache):
    run(Neighborly(), cache, split_of(range(20)))
    encoder, split = Neighborly(), split_of([7, 3, 19], name="test")
    made = run(encoder, cache, split)
    assert encoder.seen == []
    assert made.cached
    assert made.images_per_s > 0
    assert np.allclose(made.vectors, means(split), rtol=1e-4)


def test_another_encoder_takes_nothing(cache):
    run(Neighborly(), cache, split_of(range(20)))
    other = Neighborly(weights=1)
    run(other, cache, split_of(range(20)))
    assert len(other.seen) == 20


def test_images_of_the_same_bytes_and_another_shape_are_others(cache):
    images = numbered(range(4))
    run(Neighborly(), cache, split_of(images))
    other = Neighborly()
    run(other, cache, split_of(images.reshape(4, 4, 9)))
    assert len(other.seen) == 4


@given(galleries=st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=40), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_whatever_the_splits_each_image_is_embedded_once_and_each_vector_is_its_own(
    tmp_path_factory, galleries
):
    cache, seen = Cache(tmp_path_factory.mktemp("c")), []
    for which in galleries:
        encoder, split = Neighborly(batch_size=3), split_of(which)
        assert np.allclose(run(encoder, cache, split).vectors, means(split), rtol=1e-4)
        seen += encoder.seen
    assert Counter(seen) == Counter({i for which in galleries for i in which})


def test_a_finished_split_is_on_the_disk_once(cache):
    made = run(Neighborly(), cache, split_of(range(100)))
    files = [p for p in cache.root.rglob("*") if p.is_file() and p.stat().st_size >= 8 * 8]
    assert [p for p in files if p.suffix == ".npy"] == [made.path, made.path.with_name("images.npy")]


def test_shards_are_handed_over_without_a_copy_where_there_are_no_duplicates(cache):
    split, handed = split_of(range(20)), []

    class Watching(Brightness):
        def stream(self, images):
            handed.append(np.shares_memory(images, split.images))
            return super().stream(images)

    run(Watching(), cache, split)
    assert handed == [True] * 3


# Streams


class Streams(Brightness):
    def __init__(self, stream, **kwargs):
        super().__init__(**kwargs)
        self.stream = lambda images: stream(self, images)


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (lambda self, images: iter([self.encode(images[:4])]), "gave vectors for 4 of 8 images"),
        (lambda self, images: iter(()), "gave vectors for 0 of 8 images"),
        (lambda self, images: iter([self.encode(images)]), "gave [8, 2] for 4 images"),
        (lambda self, images: iter([self.encode(images[:4])] * 3), "gave [4, 2] for 0 images"),
    ],
    ids=["too few", "none", "all at once", "too many"],
)
def test_a_stream_of_other_than_the_batches_is_refused(cache, stream, said):
    with pytest.raises(UserError) as caught:
        run(Streams(stream), cache, split_of(range(8)))
    assert said in str(caught.value)
    assert half_written(cache) == []


def test_shards_of_different_widths_are_refused(cache):
    class Widening(Brightness):
        def encode(self, images):
            return np.tile(super().encode(images), (1, 1 + len(self.batches) // 3))

    with pytest.raises(UserError, match=r"gave \[4, 4\] for 4 images, not \[4, 2\]$"):
        run(Widening(), cache, split_of(range(16)))


def test_the_image_that_is_not_finite_is_named_beyond_the_first_shard_and_duplicates(cache):
    class OneBad(Neighborly):
        def encode(self, images):
            vectors = super().encode(images)
            vectors[[n == 15 for n in numbers(images)]] = np.nan
            return vectors

    with pytest.raises(UserError, match="image train/18 is not finite"):
        run(OneBad(), cache, split_of([0, 0, 0, *range(30)]))


# Where nothing more can be written


class Full:
    """A disk that takes so many bytes of .npy files and no more."""

    def __init__(self, monkeypatch, room, error=errno.ENOSPC):
        self.room, self.error, real, disk = room, error, io.open, self

        class Raw(io.RawIOBase):
            def __init__(self, path):
                self.file = io.FileIO(path, "wb")

            def writable(self):
                return True

            def write(self, data):
                if disk.room == 0:
                    raise OSError(disk.error, os.strerror(disk.error))
                written = self.file.write(bytes(data)[: disk.room])
                disk.room -= written
                return written

        def opened(path, mode="r", *args, **kwargs):
            if mode == "wb" and path.suffix == ".npy":
                return io.BufferedWriter(Raw(path))
            return real(path, mode, *args, **kwargs)

        monkeypatch.setattr(Path, "open", opened)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize(("room", "kept"), [(0, 0), (150, 0), (800, 1), (2500, 4), (3900, 6)])
def test_a_full_disk_gives_one_line_and_leaves_what_was_embedded(
    cache, tmp_path, monkeypatch, room, kept, error
):
    """A shard of 8 has 192 + 384 bytes, the last of 1 136 + 160, the split of 41 456 + 1440."""
    split = split_of(range(41))
    whole = run(Neighborly(), Cache(tmp_path / "whole"), split)
    with monkeypatch.context() as patch:
        Full(patch, room, error)
        with pytest.raises(UserError) as caught:
            run(Neighborly(), cache, split)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert os.strerror(error) in line
    assert f"{min(8 * kept, 41)} of 41 images of split train are embedded and kept" in line
    assert half_written(cache) == []
    assert len(shard_folders(cache)) == kept
    second = Neighborly()
    assert run(second, cache, split).path.read_bytes() == whole.path.read_bytes()
    assert second.seen == list(range(min(8 * kept, 41), 41))


@pytest.mark.parametrize("step", range(0, 24, 3))
def test_a_disk_that_is_full_when_flushed_leaves_nothing_half_written(cache, monkeypatch, step):
    real, left = os.fsync, [step]

    def full(descriptor):
        if left[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= 1
        real(descriptor)

    split = split_of(range(17))
    identity = identify(Neighborly(), cache)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left"):
            embed(Neighborly(), identity, split, 6, cache)
    assert half_written(cache) == []
    assert np.allclose(run(Neighborly(), cache, split).vectors, means(split), rtol=1e-4)


def test_another_error_is_not_taken_for_a_full_disk(cache):
    with pytest.raises(FileNotFoundError):
        run(StopsAt(3, FileNotFoundError(errno.ENOENT, "gone", "weights")), cache, split_of(range(41)))
    assert half_written(cache) == []


@pytest.fixture
def read_only(cache, monkeypatch):
    """As a read-only mount; root may write where permissions forbid it, so the answer is put in place."""

    def refused(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def refuse():
        for name in ("tempfile.mkdtemp", "tempfile.TemporaryFile", "pathlib.Path.mkdir", "os.utime"):
            monkeypatch.setattr(name, refused)
        monkeypatch.setattr("filelock.FileLock.acquire", refused)

    return refuse


def test_a_read_only_cache_serves_a_split(cache, read_only):
    run(Neighborly(), cache, split_of(range(20)))
    read_only()
    assert run(Neighborly(), cache, split_of(range(20))).cached


def test_a_read_only_cache_refuses_the_work_before_it_begins(cache, read_only):
    identity, encoder = identify(Neighborly(), cache), Neighborly()
    read_only()
    with pytest.raises(UserError, match=r"paths\.cache=.*cannot be written \(Read-only file system\)"):
        embed(encoder, identity, split_of(range(20)), 6, cache)
    assert encoder.seen == []


def test_a_split_without_images_is_refused(cache):
    with pytest.raises(UserError, match="split 'test': has no images"):
        run(Neighborly(), cache, Split("test", np.zeros((0, 6, 6), np.uint8), np.zeros(0, np.int64)))


def test_where_locks_do_not_lock_a_shard_of_another_process_is_taken(cache, monkeypatch):
    split, real, raced = split_of(range(20)), entry.write, []

    def overtaken(folder, parts, make):
        if not raced:
            raced.append(folder)
            real(folder, parts, make)
        return real(folder, parts, make)

    identity = identify(Neighborly(), cache)
    monkeypatch.setattr(entry, "write", overtaken)
    made = embed(Neighborly(), identity, split, 6, cache)
    assert np.allclose(made.vectors, means(split), rtol=1e-4)
    assert half_written(cache) == []


# Entries of others that go while they are looked at


def test_a_split_that_is_removed_while_it_is_looked_at_is_no_matter(cache, monkeypatch):
    gone = run(Neighborly(), cache, split_of(range(10))).path.parent
    real = entry.read

    def removing(folder, *args, **kwargs):
        if folder == gone:
            shutil.rmtree(gone)
        return real(folder, *args, **kwargs)

    monkeypatch.setattr(entry, "read", removing)
    encoder = Neighborly()
    run(encoder, cache, split_of(range(20)))
    assert len(encoder.seen) == 20


# Memory


def test_memory_is_bounded_by_the_shard_not_by_the_split(cache):
    class Wide(Brightness):
        def encode(self, images):
            return np.tile(super().encode(images), (1, 5000))

    split = split_of(range(400))  # 16 MB of vectors, 320 kB a shard
    encoder, identity = Wide(), identify(Wide(), cache)
    tracemalloc.start()
    try:
        for _ in range(2):
            embed(encoder, identity, split, 6, cache)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4e6
