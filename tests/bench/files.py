"""Decoding many files of one's own: files a second, memory, and a kill in the middle that changes no byte."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tests.bench.measure import Row, peak_mib, row
from tests.image_files import own_dataset

SIZE = 128  # dataset.size
CLASSES = ("benign", "malignant")


def write(root: Path, n: int, side: int, endings: tuple[str, ...]) -> None:
    """Gray files in two class folders, no two alike, the endings in turn."""
    rng = np.random.default_rng(0)
    ground = np.add.outer(np.arange(side), np.arange(side)) * 0.4 % 200
    for name in CLASSES:
        (root / name).mkdir(parents=True)
    for i in range(n):
        grain = rng.integers(0, 50, (side // 4, side // 4), np.uint8).repeat(4, 0).repeat(4, 1)
        image = Image.fromarray((np.roll(ground, i, axis=1) + grain).astype(np.uint8))
        path = root / CLASSES[i % 2] / f"{i:06d}.{endings[i // 2 % len(endings)]}"
        image.save(path, **({"compress_level": 1} if path.suffix == ".png" else {}))


def load(root: Path, cache: Path) -> None:
    """Load all files as one split; print seconds, the CPU's seconds, peak memory and the images' SHA-256."""
    dataset = own_dataset(
        "folder", cache, root=str(root), size=SIZE, shares={"train": 0.0, "val": 0.0, "test": 1.0}
    )
    before, start, used = peak_mib(), time.perf_counter(), time.process_time()
    images = dataset.load("test").images
    spent = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - used}
    peak = {"peak_mib": peak_mib(), "before_mib": before}
    (made,) = (p for p in (cache / "decoded").glob("*/*/images.npy") if ".shards" not in str(p))
    with made.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    print(json.dumps({"files": len(images), **spent, **peak, "sha256": digest}))


def started(root: Path, cache: Path) -> "subprocess.Popen[str]":
    call = [sys.executable, "-m", "tests.bench.files", "load", str(root), str(cache)]
    return subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def loaded(root: Path, cache: Path) -> dict[str, Any]:
    process = started(root, cache)
    out, _ = process.communicate()
    assert process.returncode == 0
    found: dict[str, Any] = json.loads(out)
    return found


def killed(root: Path, cache: Path, shards: int) -> int:
    """Kill -9 a decoding when some shards are whole; how many there are then."""
    process = started(root, cache)
    while process.poll() is None:
        done = len([p for p in cache.glob("decoded/*/*.shards/*") if "." not in p.name])
        if done >= shards:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            return done
        time.sleep(0.02)
    raise AssertionError("it was whole before it could be killed")


def cold_and_warm(folder: Path, n: int, turns: int) -> Row:
    """A row of `make bench`: the first load of small PNG files against the next ones."""
    root, pairs, last = folder / "files", [], {}
    write(root, n, 64, ("png",))
    for turn in range(turns):
        cold, warm = (loaded(root, folder / f"decoded-{turn}") for _ in range(2))
        assert cold["sha256"] == warm["sha256"]
        pairs.append((cold["seconds"], warm["seconds"]))
        last = cold
    more = last["peak_mib"] - last["before_mib"]
    note = f"{n / pairs[-1][0]:.0f} files/s decoded, {more:.0f} MiB more memory"
    note += f" for {n * SIZE**2 / 2**20:.0f} MiB of images"
    return row(f"{n} PNG files: decode / take from the cache", pairs, note)


def main(n: int) -> None:
    """All of it for JPEG and PNG files of 256 x 256, printed as JSON."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "files", n, 256, ("jpg", "png"))
        cold, warm = (loaded(folder / "files", folder / "whole") for _ in range(2))
        print(json.dumps({"cold": cold, "warm": warm}), flush=True)
        shutil.rmtree(folder / "whole")
        shards = killed(folder / "files", folder / "killed", max(1, n // 1024))
        again = loaded(folder / "files", folder / "killed")
        print(
            json.dumps(
                {"shards_at_the_kill": shards, "again": again, "same": again["sha256"] == cold["sha256"]}
            )
        )


if __name__ == "__main__":
    if sys.argv[1] == "load":
        load(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main(int(sys.argv[1]))
