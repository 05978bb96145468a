"""Fixtures: where the real data is, files in the real formats, configurations that write only to tmp_path."""

import copy
import functools
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from omegaconf import DictConfig

from medretrieval import cli, compose, private, run
from medretrieval.cache.store import Cache
from medretrieval.cli import VERBS
from medretrieval.track.mlflow import database as database_file
from medretrieval.track.mlflow.database import make_database

REPOSITORY = Path(__file__).resolve().parent.parent
# Read before any fixture: `_own_places` puts an empty folder into the variable for the time of each test.
DATA_FOLDERS = [
    *(Path(value) for value in [os.environ.get("MEDRETRIEVAL_DATA")] if value),
    REPOSITORY.parent / "shared" / "data",
]
SMALL_RUN = (
    "dataset=breastmnist", "encoder=random", "metric=l2", "evaluation.ks=[1,3]", "evaluation.resamples=100",
)  # fmt: skip
NO_PICTURES = "figures.enabled=false"  # where a test does not look at them; a later override wins


@pytest.fixture(scope="session")
def real_root() -> Path:
    """The folder of the real pneumoniamnist.npz."""
    for folder in DATA_FOLDERS:
        if (folder / "pneumoniamnist.npz").exists():
            return folder.absolute()
    pytest.skip("pneumoniamnist.npz is neither in $MEDRETRIEVAL_DATA nor in ../shared/data")


@pytest.fixture(scope="session")
def dicom_root() -> Path:
    """The folder of real DICOM files (pydicom-data, pylibjpeg-data), some of them broken."""
    for folder in DATA_FOLDERS:
        if (folder / "dicom").is_dir():
            return (folder / "dicom").absolute()
    pytest.skip("dicom/ is neither in $MEDRETRIEVAL_DATA nor in ../shared/data")


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """A command that runs within a test sends its log to stderr; the next test's stderr is its own."""
    handlers, level = list(logging.root.handlers), logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache, data or MLflow store."""
    monkeypatch.setenv("MEDRETRIEVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MEDRETRIEVAL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv(private.MEMORY, raising=False)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """The cache that MEDRETRIEVAL_CACHE names in a test."""
    return Cache(tmp_path / "cache")


def painted(labels: NDArray[np.int64], size: int = 28, spread: int = 4, seed: int = 0) -> NDArray[np.uint8]:
    """Gray images whose brightness is their class: any sensible encoder retrieves them without a fault."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, spread + 1, (len(labels), size, size))
    return (20 + 40 * labels[:, None, None] + noise).astype(np.uint8)


def write_breastmnist(
    folder: Path, name: str = "breastmnist", n: int = 12, **arrays: NDArray[np.generic] | None
) -> Path:
    """Write a file like BreastMNIST's (2 classes, gray) into a folder; arrays can be replaced."""
    content: dict[str, NDArray[np.generic] | None] = {}
    for seed, split in enumerate(("train", "val", "test")):
        labels = np.arange(n, dtype=np.int64) % 2
        content[f"{split}_images"] = painted(labels, seed=seed)
        content[f"{split}_labels"] = labels[:, None].astype(np.uint8)
    content |= arrays
    path = folder / f"{name}.npz"
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **{key: value for key, value in content.items() if value is not None})
    return path


@pytest.fixture
def write_npz(tmp_path: Path) -> Callable[..., Path]:
    """`write_breastmnist` into the test's data folder."""
    return functools.partial(write_breastmnist, tmp_path / "data")


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., DictConfig]:
    """Compose a configuration that writes under tmp_path, untracked unless told otherwise."""

    def composed(*overrides: str) -> DictConfig:
        found = copy.deepcopy(_composed(*overrides))
        if not any(override.startswith("paths.outputs=") for override in overrides):
            found.paths.outputs = str(tmp_path / "outputs")
        return found

    return composed


@functools.cache
def _composed(*overrides: str) -> DictConfig:
    """Composed once for all tests: it takes a quarter of a second, most of it within Hydra."""
    return compose("tracking=none", NO_PICTURES, *overrides)


@pytest.fixture
def small_run(config: Callable[..., DictConfig], write_npz: Callable[..., Path]) -> Path:
    """The folder of a finished run of SMALL_RUN over 20 images a split."""
    write_npz(n=20)
    return run(config(*SMALL_RUN)).folder


@pytest.fixture
def say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """`medretrieval ...` in tmp_path, in this process: exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def said(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["medretrieval", *map(str, arguments)])
        capsys.readouterr()
        code = cli.main()
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return said


@pytest.fixture
def refused(say: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    """The one line that `medretrieval ...` answers a mistake with."""

    def line(*arguments: object) -> str:
        code, out, err = say(*arguments)
        assert (code, out) == (1, "")
        (only,) = err.splitlines()
        return only.removeprefix("medretrieval: ")

    return line


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in tmp_path, as a user would."""

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        if arguments[0] not in (*VERBS, "--help") and not any(a.startswith("figures.") for a in arguments):
            arguments = (*arguments, NO_PICTURES)
        return subprocess.run(
            [sys.executable, "-m", "medretrieval", *arguments],
            cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    return call


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """MLflow's tables, made once; making them takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    make_database(path)
    return path.read_bytes()


@pytest.fixture(autouse=True)
def _made_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """New MLflow stores of this process are copies of the first one."""

    def copy(path: Path) -> None:
        path.write_bytes(request.getfixturevalue("empty_database"))

    monkeypatch.setattr(database_file, "make_database", copy)


@pytest.fixture
def database(tmp_path: Path, empty_database: bytes) -> str:
    """The URI of an MLflow store that is a test's own, and empty."""
    path = tmp_path / "mlflow.db"
    path.write_bytes(empty_database)
    return f"sqlite:///{path}"


@pytest.fixture(scope="session")
def finished_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of `tests.report_runs.finished`, made once; a test that changes them copies them."""
    from tests.report_runs import finished

    return finished(tmp_path_factory.mktemp("finished") / "outputs")
