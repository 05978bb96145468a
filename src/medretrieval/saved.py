"""A finished run opened again: what verbs that take a run start from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import faiss
import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from medretrieval import results
from medretrieval.compare_runs import RUN_ID, default_uri, find_one
from medretrieval.config import Config
from medretrieval.errors import UserError, first_line
from medretrieval.index import IndexSpec, VectorIndex, is_exhaustive, set_parameters

INDEX = "index.faiss"
LINKS = ("embeddings_query.npy", "embeddings_gallery.npy", INDEX)


def saved_config(folder: Path, overrides: tuple[str, ...]) -> DictConfig:
    """The configuration of a finished run, typed, with overrides on top.

    Raises:
        UserError: no finished run in the folder, or an unknown key.
    """
    for name in (results.SCORES, results.MANIFEST):
        if not (folder / name).exists():
            raise UserError(f"{folder}: no finished run in it (it holds no {name})")
    config = json.loads((folder / results.MANIFEST).read_text())["config"]
    cfg = OmegaConf.merge(OmegaConf.structured(Config), config)
    for override in overrides:
        key, _, value = override.partition("=")
        # As YAML, for dataset and encoder have no schema that would make "3" a number.
        OmegaConf.update(cfg, key, OmegaConf.from_dotlist([f"v={value}"]).v, force_add=False)
        if key == "paths.data" and "root" in cfg.dataset:
            cfg.dataset.root = value
    return cast(DictConfig, cfg)


def require_links(folder: Path) -> None:
    """Refuse a run whose embeddings or index are not there any more.

    Raises:
        UserError: naming the file and how to make it anew.
    """
    if gone := [name for name in LINKS if not (folder / name).exists()]:
        raise UserError(
            f"{folder / gone[0]}: gone (was the cache cleaned, or the run's folder?); "
            f"make it anew with: medretrieval again {folder}"
        )


def saved_vectors(folder: Path, role: str) -> NDArray[np.float32]:
    """Embeddings of a run, memory-mapped (float32 [n, d]).

    Args:
        folder: the run's folder.
        role: "query" or "gallery".

    Raises:
        UserError: the file is damaged.
    """
    path = folder / f"embeddings_{role}.npy"
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    except (OSError, ValueError) as error:
        raise _damaged(path, folder, error) from error


def saved_index(folder: Path, settings: Config, report: Mapping[str, Any]) -> VectorIndex:
    """A run's index, searched as the run searched it.

    Args:
        folder: the run's folder.
        settings: its configuration.
        report: the content of its scores.json.

    Raises:
        UserError: the file is damaged.
    """
    try:
        index = faiss.read_index(str(folder / INDEX))
    except Exception as error:  # a damaged file makes FAISS raise anything
        raise _damaged(folder / INDEX, folder, error) from error
    set_parameters(index, report["index"]["search"], "index.search")
    spec = IndexSpec(report["index"]["factory"], report["index"]["build"], report["index"]["search"], {})
    return VectorIndex(index, spec, settings.metric, folder / INDEX, 0.0, True, is_exhaustive(index))


def _damaged(path: Path, folder: Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: damaged, cannot be read ({first_line(error)}); `medretrieval cache verify` says what else "
        f"is, `medretrieval again {folder}` makes it anew"
    )


def run_and_overrides(verb: str, arguments: list[str], aside: Path) -> tuple[Path, tuple[str, ...]]:
    """The run's folder, fetched from MLflow where an id is given, and the overrides.

    Args:
        verb: what to call the command in messages.
        arguments: one run (a folder, its manifest or an MLflow id) among words of the form key=value.
        aside: a folder for files from MLflow.

    Raises:
        UserError: no run or several, or none of that name.
    """
    runs = [a for a in arguments if "=" not in a or Path(a).exists()]
    overrides = tuple(a for a in arguments if a not in runs)
    if len(runs) != 1:
        raise UserError(
            f"medretrieval {verb} wants one run: medretrieval {verb} <folder or MLflow id> [key=value ...]"
        )
    folder = Path(runs[0])
    if folder.name == results.MANIFEST:
        folder = folder.parent
    if folder.is_dir():
        return folder, overrides
    if not RUN_ID.fullmatch(runs[0]):
        raise UserError(f"{folder}: there is no such folder, and no MLflow run has such an id")
    given = dict(o.split("=", 1) for o in overrides)
    outputs = Path(given.get("paths.outputs", "outputs"))
    uri = given.get("tracking.uri") or default_uri(outputs)
    return find_one(runs[0], uri, aside), overrides
