import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from tests.image_files import class_folders, own_dataset
from tests.toy_encoders import Brightness, Interrupted, numbered

from medretrieval import run
from medretrieval.cache import entry, shards
from medretrieval.cache.store import Cache
from medretrieval.commands.inputs.cache import VERB
from medretrieval.datasets.base import Split
from medretrieval.datasets.files import decoded
from medretrieval.embed.images import embed, identify
from medretrieval.errors import UserError

main = VERB.main


def make(cache, name, size=1000, used=None):
    """An entry of about `size` bytes, last used so many seconds after 1970."""

    def fill(folder):
        (folder / "data.bin").write_bytes(bytes(size))
        return {}

    folder = cache.get_or_make("things", {"name": name}, fill).folder
    if used is not None:
        os.utime(folder / "entry.json", (used, used))
    return folder


def unfinished(cache, monkeypatch, n=40):
    """The folder of the shards of a split whose embedding was interrupted."""
    monkeypatch.setattr(shards, "MIN_SHARD_ROWS", 8)
    encoder = Interrupted(at=5)
    split = Split("train", numbered(range(n)), np.zeros(n, np.int64))
    with pytest.raises(KeyboardInterrupt):
        embed(encoder, identify(encoder, cache), split, 6, cache)
    (folder,) = cache.root.glob("embeddings/*/*.shards")
    return folder


def size(folder):
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def said(capsys, *arguments):
    code = main(list(arguments))
    return code, capsys.readouterr().out


# Before anything


def test_it_starts_without_a_heavy_import(tmp_path):
    code = (
        "import sys; sys.argv=['medretrieval','cache','list']; from medretrieval.cli import main; main();"
        "print([m for m in ('torch','faiss','mlflow','scipy','pyarrow','PIL','tqdm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"0 entries, 0 B, in {tmp_path / 'cache'}", "[]"]


def test_the_command_has_the_verb(command, tmp_path):
    done = command("cache", "path")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'cache'}\n")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "cache: action= is missing; medretrieval cache list|verify|path"),
        (["clean"], "cache: action=clean: choose from: list, path, prune, verify"),
        (["lst"], "cache: action=lst: did you mean list? choose from: list, path, prune, verify"),
        (
            ["list", "--all"],
            "cache: --all: no such key; choose from: --dry-run, --json, --keep-gb, action",
        ),
        (["verify", "x"], "cache: action=x: action= is given twice"),
        (["path", "cache=/tmp"], "cache: cache=/tmp: no such key; did you mean paths.cache? choose from:"),
        (["list", "--keep-gb", "3"], "cache: --keep-gb: only for prune"),
        (["prune"], "cache: prune needs --keep-gb N"),
        (["prune", "--keep-gb"], "cache: --keep-gb=: give a value"),
        (["prune", "--keep", "3"], "cache: --keep: no such key; did you mean --keep-gb?"),
        (["prune", "--keep-gb", "3", "4"], "cache: action=4: action= is given twice"),
        (["prune", "--keep-gb", "all"], "cache: --keep-gb=all: give a number, 0 or more"),
        (["prune", "--keep-gb=-1"], "cache: --keep-gb=-1: give a number, 0 or more"),
        (["prune", "--keep-gb", "nan"], "cache: --keep-gb=nan: give a number, 0 or more"),
        (["prune", "--keep-gb", "inf"], "cache: --keep-gb=inf: give a number, 0 or more"),
    ],
)
def test_a_mistake_is_answered_with_one_line_and_removes_nothing(cache, arguments, line):
    folder = make(cache, "a")
    with pytest.raises(UserError) as caught:
        main(arguments)
    assert str(caught.value).startswith(line)
    assert len(str(caught.value).splitlines()) == 1
    assert folder.exists()


def test_the_default_is_that_of_the_configuration(monkeypatch, capsys, config, tmp_path):
    for value in (str(tmp_path / "mine"), None):
        if value is None:
            monkeypatch.delenv("MEDRETRIEVAL_CACHE")
        assert said(capsys, "path") == (0, f"{Path(config().paths.cache).expanduser()}\n")


def test_another_cache_can_be_named(capsys, tmp_path):
    make(Cache(tmp_path / "other"), "a")
    assert said(capsys, "path", f"paths.cache={tmp_path / 'other'}")[1] == f"{tmp_path / 'other'}\n"
    assert (
        said(capsys, "list", f"paths.cache={tmp_path / 'other'}")[1].splitlines()[-1].startswith("1 entry,")
    )
    assert said(capsys, "list")[1].startswith("0 entries")


# list


def test_the_list_says_what_made_each_entry_of_a_run(config, write_npz, capsys, cache):
    write_npz()
    run(config("dataset=breastmnist", "encoder=random", "index=hnsw", "metric=l2", "evaluation.ks=[1]"))
    code, text = said(capsys, "list")
    rows = {tuple(line.split("  ")[-1].strip().split(" · ")) for line in text.splitlines()[2:-1]}
    assert code == 0
    assert {("random", "test", "12 x 128"), ("random", "train", "12 x 128")} <= rows
    assert ("pixels", "query_gallery", "l2") in rows
    assert ("random",) in rows  # what its vectors are compared with
    assert any(row[0].startswith("embeddings ") and " and " in row[0] for row in rows)  # the audit's
    keys = {p.name[:12] for p in cache.root.glob("embeddings/*/*") if "." not in p.name}
    assert {row[:2] for row in rows if "HNSW" in row[0]} == {("HNSW32,Flat", "l2")}
    assert all(
        row[2].removeprefix("embeddings ") in keys for row in rows if len(row) == 3 and "emb" in row[2]
    )


def test_the_list_is_in_the_order_of_pruning_and_adds_up(cache, capsys):
    folders = [make(cache, name, used=used) for name, used in (("a", 300), ("b", 100), ("c", 200))]
    lines = said(capsys, "list")[1].splitlines()
    assert [line.split()[5] for line in lines[2:5]] == [folders[i].name[:12] for i in (1, 2, 0)]
    assert lines[5].startswith(f"3 entries, {sum(map(size, folders)) / 1000:.1f} kB, in ")


def test_the_list_shows_what_is_unfinished_damaged_old_and_left_over(cache, capsys, monkeypatch):
    unfinished(cache, monkeypatch)
    (make(cache, "a") / "entry.json").write_bytes(b"\0")
    old = make(cache, "b")
    (old / "checksums.json").unlink()
    (old / "entry.json").write_text('{"made_from": {}, "facts": {}, "files": {"data.bin": 1000}}')
    (cache.root / "things" / "ab").mkdir(exist_ok=True)
    (left := cache.root / "things" / "ab" / f"{'ab' * 32}.partial-xyz").mkdir()
    (left / "data.bin").write_bytes(bytes(50))
    text = said(capsys, "list")[1]
    assert "toy · unfinished, 2 shards" in text
    assert "unreadable" in text
    assert "an older version; no run uses it" in text
    assert text.splitlines()[-1].startswith("1 leftover, 50 B")


# verify


def test_decoded_files_are_listed_verified_and_pruned_like_the_rest(cache, capsys, tmp_path, monkeypatch):
    class_folders(tmp_path / "own", n=40, splits=("train", "test"))
    for path in (tmp_path / "own").rglob("*.png"):
        os.utime(path, (1, 1))  # long there, so that hashes are remembered
    own_dataset("folder", cache.root, root=str(tmp_path / "own")).load("train")
    monkeypatch.setattr(decoded, "MAX_SHARD_FILES", 16)
    with monkeypatch.context() as dies:
        dies.setattr(decoded._Work, "_shard", interrupted_after(1, decoded._Work._shard))
        with pytest.raises(KeyboardInterrupt):
            own_dataset("folder", cache.root, root=str(tmp_path / "own")).load("test")
    code, text = said(capsys, "list")
    assert code == 0
    assert "files to 28 px, gray, fit pad, frames first · 40 images" in text
    assert "files to 28 px, gray, fit pad, frames first · unfinished, 1 shard" in text
    assert "beside them: hashes of the files of 1 dataset," in text
    assert said(capsys, "verify")[1].startswith("2 entries whole, 0 damaged")
    assert said(capsys, "prune", "--keep-gb", "0")[0] == 0
    assert list(cache.root.glob("decoded/*/*")) == []
    assert len(list(cache.root.glob("file_hashes/*.npz"))) == 1


def interrupted_after(calls, real):
    """A function that Ctrl-C stops after so many calls."""
    left = iter(range(calls))

    def called(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return real(*arguments)

    return called


def test_a_whole_cache_is_whole(cache, capsys, monkeypatch):
    unfinished(cache, monkeypatch)
    make(cache, "a")
    assert said(capsys, "verify") == (0, f"4 entries whole, 0 damaged, in {cache.root}\n")


@pytest.mark.parametrize("name", ["data.bin", "entry.json", "checksums.json"])
def test_a_damaged_file_is_named_although_its_size_and_time_are_as_they_were(cache, capsys, name):
    make(cache, "a")
    path = make(cache, "b") / name
    raw, stat = bytearray(path.read_bytes()), path.stat()
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    code, text = said(capsys, "verify")
    assert code == 1
    assert text.splitlines()[0].startswith(f"{path.parent}: ")
    assert text.splitlines()[0].endswith("is damaged; the next run that needs it makes it again")
    assert text.splitlines()[1] == f"1 entry whole, 1 damaged, in {cache.root}"


def test_a_damaged_shard_is_named(cache, capsys, monkeypatch):
    shard = sorted(p for p in unfinished(cache, monkeypatch).iterdir() if "." not in p.name)[0]
    (shard / "embeddings.npy").write_bytes(b"")
    code, text = said(capsys, "verify")
    assert code == 1
    assert text.startswith(f"{shard}: embeddings.npy is damaged")


def test_verifying_hashes_what_this_process_has_hashed_before(cache, capsys, monkeypatch):
    folder = make(cache, "a")
    for path in folder.iterdir():
        os.utime(path, (100, 100))
    entry.read(folder)
    hashed, real = [], entry.file_sha256
    monkeypatch.setattr(entry, "file_sha256", lambda path: hashed.append(path.name) or real(path))
    entry.read(folder)
    assert hashed == []
    said(capsys, "verify")
    assert sorted(hashed) == ["data.bin", "entry.json"]


def test_verifying_changes_nothing(cache, capsys, monkeypatch):
    folder = make(cache, "a", used=100)
    (folder / "data.bin").write_bytes(b"")
    before = [(p, p.stat().st_mtime_ns) for p in sorted(cache.root.rglob("*"))]
    said(capsys, "verify")
    assert [(p, p.stat().st_mtime_ns) for p in sorted(cache.root.rglob("*"))] == before


# prune


def keep(folders):
    """As many GB as these entries take."""
    return str(sum(map(size, folders)) / 1e9)


def test_the_least_recently_used_go_first_and_no_more_than_needed(cache, capsys):
    a, b, c, d = (
        make(cache, name, used=used) for name, used in zip("abcd", (200, 100, 400, 300), strict=True)
    )
    assert said(capsys, "prune", "--keep-gb", keep([c, d]))[0] == 0
    assert [f.exists() for f in (a, b, c, d)] == [False, False, True, True]
    said(capsys, "prune", f"--keep-gb={keep([c, d])}")
    assert (c.exists(), d.exists()) == (True, True)
    said(capsys, "prune", "--keep-gb", "0")
    assert [p for p in cache.root.rglob("*") if not p.is_dir()] == []


def test_what_is_used_again_goes_last(cache, capsys):
    a, b = make(cache, "a", used=100), make(cache, "b", used=200)
    assert not cache.get_or_make("things", {"name": "a"}, None).fresh
    said(capsys, "prune", "--keep-gb", keep([a]))
    assert (a.exists(), b.exists()) == (True, False)


def test_leftovers_go_although_there_is_room(cache, capsys):
    folder = make(cache, "a")
    left = [folder.with_name(folder.name + suffix) for suffix in (".partial-x1", ".damaged-y2", ".shards")]
    for path in left:
        path.mkdir()
        (path / "data.bin").write_bytes(bytes(10))
    owner, lock = (folder.with_name(folder.name + suffix) for suffix in (".owner", ".lock"))
    owner.write_text("1@nowhere")
    assert lock.exists()
    assert "39 B freed" in said(capsys, "prune", "--keep-gb", "1")[1]
    assert list(folder.parent.iterdir()) == [folder]


def test_shards_of_an_unfinished_split_stay_while_there_is_room(cache, capsys, monkeypatch):
    folder = unfinished(cache, monkeypatch)
    said(capsys, "prune", "--keep-gb", "1")
    assert folder.exists()
    said(capsys, "prune", "--keep-gb", "0")
    assert not folder.exists()


def test_what_another_process_makes_stays_with_all_that_belongs_to_it(cache, capsys, monkeypatch):
    folder = unfinished(cache, monkeypatch)
    place = folder.with_name(folder.name.removesuffix(".shards"))
    partial = place.with_name(f"{place.name}.partial-abc")
    partial.mkdir()
    holder = (
        "import sys; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire(); "
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", holder, f"{place}.lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        text = said(capsys, "prune", "--keep-gb", "0")[1]
        assert "1 entry kept: another process is making them" in text
        assert folder.exists()
        assert partial.exists()
        assert Path(f"{place}.lock").exists()
        process.send_signal(signal.SIGKILL)
    said(capsys, "prune", "--keep-gb", "0")
    assert not folder.exists()
    assert not partial.exists()


def test_what_the_cache_did_not_make_stays(cache, capsys):
    make(cache, "a")
    foreign = [
        cache.root / "thesis.docx",
        cache.root / "things" / "ab" / "notes.partial-1",
        cache.root / "things" / "ab" / f"{'a' * 64}.txt",
        cache.root / "things" / "ab" / ("a" * 63),
    ]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    said(capsys, "prune", "--keep-gb", "0")
    assert all(path.exists() for path in foreign)


def test_a_run_after_pruning_makes_anew(config, write_npz, capsys):
    write_npz()
    overrides = ("dataset=breastmnist", "encoder=pixels", "metric=l2", "evaluation.ks=[1]", "force=true")
    first = run(config(*overrides)).report
    said(capsys, "prune", "--keep-gb", "0")
    second = run(config(*overrides)).report
    assert not second.encoder.cached
    assert second.scores == first.scores


def test_a_reader_keeps_its_vectors_while_they_are_pruned(cache, capsys):
    encoder, split = Brightness(), Split("train", numbered(range(9)), np.zeros(9, np.int64))
    made = embed(encoder, identify(encoder, cache), split, 6, cache)
    before = made.vectors.copy()
    said(capsys, "prune", "--keep-gb", "0")
    assert not made.path.exists()
    assert np.array_equal(made.vectors, before)


def test_a_kill_amid_pruning_leaves_no_half_entry(cache, capsys, monkeypatch):
    folder = make(cache, "a")

    def killed(path, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            main(["prune", "--keep-gb", "0"])
    assert not folder.exists()
    said(capsys, "prune", "--keep-gb", "1")
    assert [p for p in cache.root.rglob("*") if not p.is_dir()] == []


def test_a_read_only_cache_gives_one_line(cache, monkeypatch):
    folder = make(cache, "a")

    def refused(self, *args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(folder))

    monkeypatch.setattr(FileLock, "acquire", refused)
    with pytest.raises(UserError, match=f"{folder}: Read-only file system"):
        main(["prune", "--keep-gb", "0"])
    assert folder.exists()


# What runs lose


def test_a_preview_removes_nothing_and_says_what_the_pruning_then_does(cache, small_run, capsys):
    place = f"outputs={small_run.parent.parent}"
    before = sorted(cache.root.rglob("*"))
    code, out = said(capsys, "prune", "--keep-gb", "0", "--dry-run", place)
    assert code == 0
    assert sorted(cache.root.rglob("*")) == before
    names = ["embeddings_gallery.npy", "embeddings_query.npy", "index.faiss"]
    assert f"  {small_run}: {', '.join(names)}" in out.splitlines()
    preview = json.loads(said(capsys, "prune", "--keep-gb", "0", "--dry-run", place, "--json")[1])
    assert preview["losing"] == {str(small_run): names}
    entries = json.loads(said(capsys, "list", "--json")[1])["entries"]
    assert preview["entries"] == entries
    done = json.loads(said(capsys, "prune", "--keep-gb", "0", place, "--json")[1])
    assert {key: done[key] for key in ("removed", "freed_bytes", "left_bytes", "losing")} == {
        key: preview[key] for key in ("removed", "freed_bytes", "left_bytes", "losing")
    }
    assert not any((small_run / name).exists() for name in names)
    assert all((small_run / name).is_symlink() for name in names)


def test_a_run_loses_only_what_goes(cache, small_run, capsys):
    for path in cache.root.glob("*/*/*/entry.json"):
        used = 1 if path.parts[-4] == "indexes" else 2
        os.utime(path, (used, used))
    keep = sum(
        size(path) for kind in cache.root.iterdir() if kind.name != "indexes" for path in kind.glob("*/*")
    )
    place = f"outputs={small_run.parent.parent}"
    found = json.loads(said(capsys, "prune", "--keep-gb", str(keep / 10**9), place, "--json")[1])
    assert found["losing"] == {str(small_run): ["index.faiss"]}
    assert (small_run / "embeddings_query.npy").exists()


def test_a_cache_that_no_run_links_to(cache, capsys, tmp_path):
    make(cache, "a")
    out = said(capsys, "prune", "--keep-gb", "0", "--dry-run", f"outputs={tmp_path / 'none'}")[1]
    assert out.splitlines()[-1] == f"no run in {tmp_path / 'none'} links to it"


@pytest.mark.parametrize("word", ["--dry-run", "outputs=x"])
def test_words_of_prune_are_refused_elsewhere(word):
    with pytest.raises(UserError, match="only for prune"):
        main(["list", word])
