"""What a run stood on: data, weights, code, libraries, threads, seed."""

import functools
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from medretrieval.datasets.base import Dataset
from medretrieval.datasets.groups import groups_sha256
from medretrieval.protocol.queries import Queries

LIBRARIES = (
    "medretrieval", "faiss-cpu", "faiss-gpu", "hydra-core", "medmnist", "mlflow", "numpy", "omegaconf",
    "open_clip_torch", "pillow", "timm", "torch", "torchvision",
)  # fmt: skip


def manifest(
    dataset: Dataset, sides: Mapping[str, Queries], identity: dict[str, Any], config: dict[str, Any]
) -> dict[str, Any]:
    """Facts about a run, as JSON values.

    Args:
        dataset: where the splits come from.
        sides: the splits that were read and the prompts, by role ("query", "gallery", "center").
        identity: of the encoder, with its weights' hash.
        config: the run's whole configuration; with it this file suffices to do the run again.
    """
    return {
        "dataset": dataset.name,
        "data": {
            role: {
                "split": side.name,
                **_content(side),
                "labels_sha256": side.labels_sha256,
                "groups_sha256": groups_sha256(side.groups),
            }
            for role, side in sides.items()
        },
        "encoder": identity,
        "weights_sha256": identity.get("weights_sha256"),
        "git": git_state(),
        "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
        "python": sys.version.split()[0],
        "machine": {"platform": platform.platform(), "processor": processor(), "cpus": os.cpu_count()},
        "threads": threads(),
        "seed": config["seed"],
        "command": sys.argv,
        "config": config,
    }


def _content(side: Queries) -> dict[str, Any]:
    hashed = "texts_sha256" if side.split is None else "images_sha256"
    return {side.kind: len(side), hashed: side.content_sha256}


@functools.cache
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@functools.cache
def git_state() -> dict[str, Any]:
    """Commit of this package's repository and whether files differ from it; None outside one.

    Asked once a process: the code that runs is the code that was there when it began.
    """
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    # In a wheel the package may lie inside somebody else's repository.
    if git("ls-files", "--error-unmatch", __file__) is None:
        return {"commit": None, "dirty": None}
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}


def processor() -> str:
    """The CPU's name where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def threads() -> dict[str, Any]:
    """Threads of FAISS, of torch where it was used, and what the environment says."""
    import faiss

    torch = sys.modules.get("torch")
    return {
        "faiss": faiss.omp_get_max_threads(),
        "torch": torch.get_num_threads() if torch else None,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
    }
