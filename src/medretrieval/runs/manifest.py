"""What a run stood on: data, weights, code, libraries, threads, seed."""

import functools
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from medretrieval.config import EvaluationConfig, leaves
from medretrieval.datasets.base import Dataset
from medretrieval.datasets.groups import groups_sha256
from medretrieval.private import each
from medretrieval.protocol.queries import Queries
from medretrieval.runs.folder import FORMAT, MANIFEST, as_json, read_json, read_typed
from medretrieval.runs.typed_json import to_json

LIBRARIES = (
    "medretrieval", "faiss-cpu", "faiss-gpu", "hydra-core", "medmnist", "mlflow", "numpy", "omegaconf",
    "open_clip_torch", "pillow", "timm", "torch", "torchvision",
)  # fmt: skip


@dataclass(frozen=True)
class SideFacts:
    """The images or prompts of one role.

    Attributes:
        split: its name; "prompts" or "captions" for sentences.
        kind: "images", "prompts" or "captions".
        count: how many; of prompts the queries made of them.
        content_sha256: hash of the images, or of the sentences and how they become queries.
        labels_sha256: hash of their classes; of captions of what they have to find, too.
        groups_sha256: hash of their groups; null where the dataset names none.
    """

    split: str
    kind: str
    count: int
    content_sha256: str
    labels_sha256: str
    groups_sha256: str | None


@dataclass(frozen=True)
class Git:
    """The repository of this package.

    Attributes:
        commit: its hash; null outside a repository.
        dirty: whether files differ from it; null outside a repository.
    """

    commit: str | None
    dirty: bool | None


@dataclass(frozen=True)
class Machine:
    """Where the run was.

    Attributes:
        platform: operating system and version.
        processor: the CPU's name.
        cpus: logical CPUs; null where the system does not tell.
    """

    platform: str
    processor: str
    cpus: int | None


@dataclass(frozen=True)
class Threads:
    """Threads that were used.

    Attributes:
        faiss: of FAISS.
        torch: of torch; null where it was not used.
        omp_num_threads: the environment's OMP_NUM_THREADS; null where it is not set.
    """

    faiss: int
    torch: int | None
    omp_num_threads: str | None


@dataclass(frozen=True)
class Manifest:
    """What a run stood on; with its `config` this file suffices to do the run again.

    Attributes:
        format: of the run's folder.
        dataset: its name.
        data: role -> what was read for it: "query", "gallery", and "center" where protocol.center is set.
        encoder: what changes its vectors (`encoder.identity` of scores.json).
        weights_sha256: of the encoder's weights; null for an encoder without.
        git: the code.
        libraries: name -> version, of those that are installed and have a say.
        python: its version.
        machine: where the run was.
        threads: that were used.
        seed: of everything that is drawn.
        command: the words that started the process.
        config: the whole configuration, interpolations resolved.
        files: name -> SHA-256 of every other file that the run has written, and of those it links to.
        sha256: of this file without this key, as canonical JSON (sorted keys, no spaces).
    """

    format: int
    dataset: str
    data: dict[str, SideFacts]
    encoder: dict[str, Any]
    weights_sha256: str | None
    git: Git
    libraries: dict[str, str]
    python: str
    machine: Machine
    threads: Threads
    seed: int
    command: list[str]
    config: dict[str, Any]
    files: dict[str, str]
    sha256: str

    @property
    def evaluation(self) -> EvaluationConfig:
        """How the run was scored."""
        return EvaluationConfig(**self.config["evaluation"])

    def to_text(self) -> str:
        """The content of manifest.json."""
        return as_json(to_json(self))


def read_manifest(folder: Path, source: str | None = None) -> Manifest:
    """What a finished run stood on.

    Args:
        folder: the run's folder.
        source: what to call the run in messages; None for its folder.

    Raises:
        UserError: no finished run, one of another results format, or a file that is not as it should be.
    """
    return read_typed(Manifest, folder, MANIFEST, source)


def differing(before: Path, after: Path) -> list[str]:
    """In what two runs do not stand on the same, a sentence each.

    Threads and libraries that only one of them knows of are no difference: of a torch that one of them
    never loaded.

    Args:
        before: folder of a run of this or an earlier results format.
        after: folder of another one.
    """
    old, new = read_json(before, MANIFEST), read_json(after, MANIFEST)
    # Earlier formats say these as this one does, and the rest in other words.
    same = ("weights_sha256", "libraries", "seed")
    keys = (*same, "data", "threads") if old.get("format") == new.get("format") else same
    was, now = (leaves({key: facts.get(key) for key in keys}) for facts in (old, new))
    unused = {
        key
        for key in was.keys() | now.keys()
        if key.startswith(("threads.", "libraries.")) and None in (was.get(key), now.get(key))
    }
    return [
        f"{key} was {was.get(key)}, is {now.get(key)}"
        for key in dict.fromkeys([*was, *now])
        if key not in unused and was.get(key) != now.get(key)
    ]


def manifest(
    dataset: Dataset, sides: Mapping[str, Queries], identity: dict[str, Any], config: dict[str, Any]
) -> Manifest:
    """The manifest of a run, but for the sums of its files (`saved.seal.sealed`).

    Args:
        dataset: where the splits come from.
        sides: the splits that were read and the prompts, by role ("query", "gallery", "center").
        identity: of the encoder, with its weights' hash.
        config: the run's whole configuration.
    """
    return Manifest(
        format=FORMAT,
        dataset=dataset.name,
        data={role: _side(side) for role, side in sides.items()},
        encoder=identity,
        weights_sha256=identity.get("weights_sha256"),
        git=git_state(),
        libraries={name: found for name in LIBRARIES if (found := _version(name))},
        python=sys.version.split()[0],
        machine=Machine(platform.platform(), processor(), os.cpu_count()),
        threads=threads(),
        seed=config["seed"],
        command=each(sys.argv),
        config=config,
        files={},
        sha256="",
    )


def _side(side: Queries) -> SideFacts:
    return SideFacts(
        side.name,
        side.kind,
        len(side),
        side.content_sha256,
        side.labels_sha256,
        groups_sha256(side.groups),
    )


@functools.cache
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@functools.cache
def git_state() -> Git:
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
        return Git(None, None)
    return Git(git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "-uno")))


def processor() -> str:
    """The CPU's name where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def threads() -> Threads:
    """Threads of FAISS, of torch where it was used, and what the environment says."""
    import faiss

    torch = sys.modules.get("torch")
    return Threads(
        faiss.omp_get_max_threads(),
        torch.get_num_threads() if torch else None,
        os.environ.get("OMP_NUM_THREADS"),
    )
