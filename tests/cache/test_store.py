import contextlib
import errno
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from medretrieval.cache.store import Cache, content_key
from medretrieval.errors import UserError

PARTS = {"images": "abc", "size": 28, "encoder": {"name": "x", "normalize": False, "mean": [0.5, 0.5]}}


class Make:
    """A `make` that counts its calls."""

    def __init__(self, seconds=0.0, error=None):
        self.calls, self.seconds, self.error = 0, seconds, error

    def __call__(self, folder):
        self.calls += 1
        (folder / "data.bin").write_bytes(b"0123456789")
        time.sleep(self.seconds)
        if self.error:
            raise self.error
        return {"shape": [2, 5]}


def left(cache):
    """What is in the cache besides locks."""
    return sorted(
        p.name for p in cache.root.rglob("*") if p.is_file() and p.suffix not in (".lock", ".owner")
    )


def folders(cache):
    return sorted(p.name.partition(".")[2] for p in (cache.root / "things").glob("*/*") if p.is_dir())


# Once


def test_what_was_made_is_not_made_again(cache):
    make = Make()
    first, second = (cache.get_or_make("things", PARTS, make) for _ in range(2))
    assert make.calls == 1
    assert (first.fresh, second.fresh) == (True, False)
    assert first.facts == second.facts == {"shape": [2, 5]}
    assert first.folder == second.folder
    assert (second.folder / "data.bin").read_bytes() == b"0123456789"


def test_another_cache_on_the_same_folder_finds_it(cache):
    make = Make()
    cache.get_or_make("things", PARTS, make)
    assert not Cache(cache.root).get_or_make("things", PARTS, make).fresh


def test_an_entry_says_what_made_it(cache):
    folder = cache.get_or_make("things", PARTS, Make()).folder
    assert folder == cache.root / "things" / content_key(PARTS)[:2] / content_key(PARTS)
    assert json.loads((folder / "entry.json").read_text())["made_from"] == PARTS


def test_one_key_under_two_kinds_is_two_entries(cache):
    make = Make()
    folders = {cache.get_or_make(kind, PARTS, make).folder for kind in ("embeddings", "indexes")}
    assert make.calls == len(folders) == 2


@pytest.mark.parametrize(
    "other",
    [
        PARTS | {"images": "abd"},
        PARTS | {"size": 64},
        PARTS | {"size": "28"},
        PARTS | {"more": None},
        {key: value for key, value in PARTS.items() if key != "size"},
        PARTS | {"encoder": PARTS["encoder"] | {"normalize": True}},
        PARTS | {"encoder": PARTS["encoder"] | {"mean": [0.5, 0.25]}},
    ],
)
def test_any_changed_part_makes_another_entry(cache, other):
    cache.get_or_make("things", PARTS, Make())
    assert content_key(other) != content_key(PARTS)
    assert cache.get_or_make("things", other, Make()).fresh


def test_the_order_of_keys_and_the_kind_of_sequence_make_no_other_entry():
    encoder = dict(reversed(PARTS["encoder"].items())) | {"mean": (0.5, 0.5)}
    assert content_key({"encoder": encoder, "size": 28, "images": "abc"}) == content_key(PARTS)


def test_two_threads_at_once_make_it_once(cache):
    make, start = Make(seconds=0.2), threading.Barrier(2)

    def get(_):
        start.wait(10)
        return Cache(cache.root).get_or_make("things", PARTS, make)

    with ThreadPoolExecutor(2) as pool:
        entries = list(pool.map(get, range(2)))
    assert make.calls == 1
    assert sorted(entry.fresh for entry in entries) == [False, True]
    assert entries[0].facts == entries[1].facts


# Fills its entry only when the other process has come to the same point.
RACE = """
import os, pathlib, sys, time
from medretrieval.cache.store import Cache

root, ready = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])

def make(folder):
    print("made")
    while len(list(ready.iterdir())) < 2:
        time.sleep(0.01)
    time.sleep(0.1)
    return {}

(ready / str(os.getpid())).touch()
print(Cache(root).get_or_make("things", {"size": 28}, make).fresh)
"""


def test_two_processes_at_once_make_it_once(cache, tmp_path):
    (ready := tmp_path / "ready").mkdir()
    command = [sys.executable, "-c", RACE, str(cache.root), str(ready)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sorted(process.communicate(timeout=30)[0] for process in both) == ["False\n", "made\nTrue\n"]


HOLD = """
import pathlib, sys, time
from medretrieval.cache.store import Cache

def make(folder):
    print("making", flush=True)
    sys.stdin.readline()
    return {}

Cache(pathlib.Path(sys.argv[1])).get_or_make("things", %r, make)
"""


@pytest.fixture
def waits(cache, caplog):
    """Another process that makes the entry until it is told to go on, and a thread that waits for it."""
    caplog.set_level(logging.INFO, "medretrieval")
    command = [sys.executable, "-c", HOLD % PARTS, str(cache.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "making\n"
        with ThreadPoolExecutor(1) as pool:
            entry = pool.submit(cache.get_or_make, "things", PARTS, Make())
            while not any("waiting for" in r.getMessage() for r in caplog.records):
                time.sleep(0.01)
            yield other, entry
        other.kill()


def test_whoever_waits_says_for_whom(cache, waits, caplog):
    other, entry = waits
    other.stdin.write("go on\n")
    other.stdin.flush()
    assert not entry.result(30).fresh
    folder, records = cache.place("things", PARTS), caplog.get_records("setup") + caplog.records
    (line,) = [r.getMessage() for r in records]
    assert line == f"waiting for {other.pid}@{socket.gethostname()}, which makes {folder}"


def test_whoever_waits_takes_over_when_the_other_is_killed(cache, waits, caplog):
    other, entry = waits
    other.kill()
    assert entry.result(30).fresh
    line = caplog.records[-1].getMessage()
    assert line.startswith(f"{other.pid}@{socket.gethostname()} ended before ")
    assert left(cache) == ["checksums.json", "data.bin", "entry.json"]


def test_where_locks_do_not_lock_the_first_entry_in_its_place_is_taken(cache, monkeypatch):
    first = Cache(cache.root)

    def overtaken(folder):
        monkeypatch.setattr("medretrieval.cache.store.locked", contextlib.nullcontext)
        first.get_or_make("things", PARTS, Make())
        return Make()(folder)

    entry = cache.get_or_make("things", PARTS, overtaken)
    assert entry.facts == {"shape": [2, 5]}
    assert folders(cache) == [""]


# Not half


@pytest.mark.parametrize(
    "error",
    [ValueError("bad"), KeyboardInterrupt(), SystemExit(1), UserError("no"), OSError(errno.ENOSPC, "full")],
)
def test_an_error_in_making_passes_through_and_leaves_nothing(cache, error):
    with pytest.raises(type(error)) as caught:
        cache.get_or_make("things", PARTS, Make(error=error))
    assert caught.value is error
    assert left(cache) == []
    assert folders(cache) == []


def test_after_an_error_it_can_be_made(cache):
    with pytest.raises(KeyboardInterrupt):
        cache.get_or_make("things", PARTS, Make(error=KeyboardInterrupt()))
    assert cache.get_or_make("things", PARTS, Make()).fresh
    assert left(cache) == ["checksums.json", "data.bin", "entry.json"]


def test_what_a_killed_process_left_is_not_taken_for_an_entry(cache):
    script = """
import os, pathlib, signal, sys
from medretrieval.cache.store import Cache

def make(folder):
    (folder / "data.bin").write_bytes(b"0")
    os.kill(os.getpid(), signal.SIGKILL)

Cache(pathlib.Path(sys.argv[1])).get_or_make("things", %r, make)
"""
    assert subprocess.run([sys.executable, "-c", script % PARTS, str(cache.root)]).returncode == -9
    assert left(cache) == ["data.bin"]
    entry = cache.get_or_make("things", PARTS, Make())
    assert entry.fresh
    assert (entry.folder / "data.bin").read_bytes() == b"0123456789"


# Damaged


def truncate(folder):
    (folder / "data.bin").write_bytes(b"0123")


def flip(folder):
    (folder / "data.bin").write_bytes(b"0123456798")


def remove_sums(folder):
    (folder / "checksums.json").unlink()


def remove(folder):
    (folder / "data.bin").unlink()


def remove_entry(folder):
    (folder / "entry.json").unlink()


def write_entry(text):
    return lambda folder: (folder / "entry.json").write_bytes(text)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        pytest.param(truncate, "data.bin", id="file cut"),
        pytest.param(flip, "data.bin", id="file of the same size"),
        pytest.param(remove, "data.bin", id="file missing"),
        pytest.param(remove_sums, "checksums.json", id="checksums.json missing"),
        pytest.param(remove_entry, "entry.json", id="entry.json missing"),
        pytest.param(write_entry(b""), "entry.json", id="entry.json empty"),
        pytest.param(write_entry(b'{"facts": {'), "entry.json", id="entry.json cut"),
        pytest.param(write_entry(b"\0" * 64), "entry.json", id="entry.json zeros"),
        pytest.param(write_entry(b"\xff\xfe"), "entry.json", id="entry.json no text"),
        pytest.param(write_entry(b"{}"), "entry.json", id="entry.json of nothing"),
        pytest.param(write_entry(b'{"files": {}}'), "entry.json", id="entry.json without facts"),
        pytest.param(write_entry(b"[]"), "entry.json", id="entry.json of a list"),
    ],
)  # fmt: skip
def test_a_damaged_entry_is_set_aside_and_made_again(cache, caplog, damage, named):
    make = Make()
    folder = cache.get_or_make("things", PARTS, make).folder
    damage(folder)
    with caplog.at_level(logging.WARNING):
        entry = cache.get_or_make("things", PARTS, make)
    assert [r.getMessage() for r in caplog.records] == [
        f"{folder}: {named} is damaged; set aside and made again"
    ]
    assert (make.calls, entry.fresh, entry.folder) == (2, True, folder)
    assert (folder / "data.bin").read_bytes() == b"0123456789"
    assert len([name for name in folders(cache) if name.startswith("damaged-")]) == 1
    assert not cache.get_or_make("things", PARTS, make).fresh


def test_two_that_meet_a_damaged_entry_at_once_make_it_once(cache):
    make, both = Make(seconds=0.1), threading.Barrier(2)
    truncate(cache.get_or_make("things", PARTS, Make()).folder)

    class Meet(logging.Handler):
        def emit(self, record):
            # Where only one of them sees the damage, as it should be, there is no other to meet.
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(1)

    meet, logger = Meet(), logging.getLogger("medretrieval.cache.store")
    logger.addHandler(meet)
    try:
        with ThreadPoolExecutor(2) as pool:
            entries = list(pool.map(lambda _: cache.get_or_make("things", PARTS, make), range(2)))
    finally:
        logger.removeHandler(meet)
    assert make.calls == 1
    assert entries[0].facts == entries[1].facts == {"shape": [2, 5]}


# Where nothing can be written (root ignores permissions, so the system's answers are put in their place)


@pytest.fixture
def read_only(monkeypatch):
    def refuse(error):
        def refused(*args, **kwargs):
            raise OSError(error, os.strerror(error))

        for name in ("mkdtemp", "TemporaryFile"):
            monkeypatch.setattr(tempfile, name, refused)
        monkeypatch.setattr("pathlib.Path.mkdir", refused)
        monkeypatch.setattr("filelock.FileLock.acquire", refused)

    return refuse


def test_a_read_only_cache_serves_what_it_holds(cache, read_only):
    cache.get_or_make("things", PARTS, Make())
    read_only(errno.EROFS)
    entry = cache.get_or_make("things", PARTS, Make(error=AssertionError("made again")))
    assert not entry.fresh
    assert entry.facts == {"shape": [2, 5]}


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES])
def test_a_read_only_cache_without_the_entry_is_refused_before_the_work(cache, read_only, error):
    make = Make()
    read_only(error)
    with pytest.raises(UserError) as caught:
        cache.get_or_make("things", PARTS, make)
    assert make.calls == 0
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert line.startswith(f"paths.cache={cache.root}: cannot be written ({os.strerror(error)})")
    assert "MEDRETRIEVAL_CACHE" in line


def test_a_damaged_entry_of_a_read_only_cache_is_refused(cache, read_only):
    truncate(cache.get_or_make("things", PARTS, Make()).folder)
    read_only(errno.EROFS)
    with pytest.raises(UserError, match=r"paths\.cache="):
        cache.get_or_make("things", PARTS, Make())
    assert folders(cache) == [""]


def test_a_full_disk_before_the_work_is_no_matter_of_permissions(cache, read_only):
    read_only(errno.ENOSPC)
    with pytest.raises(OSError, match="No space left") as caught:
        cache.get_or_make("things", PARTS, Make())
    assert caught.value.errno == errno.ENOSPC


def test_a_file_in_place_of_the_cache_is_refused(cache):
    cache.root.write_text("not a folder")
    with pytest.raises(UserError, match=r"paths\.cache="):
        cache.get_or_make("things", PARTS, Make())
