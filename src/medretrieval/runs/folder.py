"""A run's folder: what is in it, written whole or not at all, and read by its type or refused."""

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from medretrieval.cache.lock import locked_if_free
from medretrieval.datasets.base import Split
from medretrieval.errors import UserError
from medretrieval.evaluate.evaluate import Evaluation
from medretrieval.files import put_in_place
from medretrieval.protocol.ranking import Labels
from medretrieval.protocol.task import RetrievalTask
from medretrieval.runs.typed_json import ContentError, from_json

FORMAT = 10  # of a run's folder, raised when a file changes its keys: runs of another format are not read
SCORES = "scores.json"
CONFIG = "config.yaml"
MANIFEST = "manifest.json"
PER_QUERY = "per_query.parquet"
RANKING = "ranking.npz"
IMAGES = "images.parquet"  # groups and metadata of the images, where the dataset has any
HALVES = "halves.npz"  # scores in halves of the images, where the queries are the gallery
SKIPPED = "skipped.json"
SPLITS = "splits.csv"  # which file is in which split, where images have files of their own
PROMPTS = "prompts.json"  # sentences of the queries, where these are sentences
AUDIT_PAIRS = "audit.parquet"
AUDIT_PICTURE = "audit.png"
FIGURES = "figures"  # folder of a run's pictures and of what they show
EXPLANATIONS = f"{FIGURES}/explanations.png"
EXPLAINED = f"{FIGURES}/explanations.json"  # numbers and curves of its pairs
DELETION = f"{FIGURES}/deletion.png"
FAILED = "failed.txt"
TRACKING = "tracking.json"  # what the run's tracker was told, so that another can be told later
LINKED = ("index.faiss", "embeddings_query.npy", "embeddings_gallery.npy")  # into the cache
FITTED = ("adaptation.safetensors", "joined.safetensors")
# All that a run may leave in its folder; what else is there is Hydra's, or the user's own. In the order in
# which it is removed: without scores.json nothing counts, and by manifest.json what was interrupted is known.
RESULTS = (
    SCORES, CONFIG, PER_QUERY, RANKING, IMAGES, HALVES, SKIPPED, SPLITS, PROMPTS, AUDIT_PAIRS, AUDIT_PICTURE,
    FIGURES, FAILED, TRACKING, *LINKED, *FITTED, MANIFEST,
)  # fmt: skip
ASIDE = ".partial"  # where results are until all are there
CLAIM = ".run"  # with .lock behind it: a run is working in the folder
MLFLOW_SOURCE = "MLflow run "  # how a run that is in MLflow alone is called in messages
# Columns of per_query.parquet before those of the scores, and what they hold.
ID, LABEL, N_RELEVANT, GROUP = "id", "label", "n_relevant", "group"
QUERY_COLUMNS = {
    ID: "text: `<split>/<position>`, or the sentence's id in prompts.json",
    LABEL: "int64, the class; for multi-label data a list of int64, the findings",
    N_RELEVANT: "int64, relevant gallery images that the query may find: R in the formulas of the scores",
    GROUP: "text, the query's group (patient, lesion, site); only where the dataset has groups",
}
# Columns of images.parquet, and what they hold.
ROLE, METADATA = "role", "metadata."
IMAGE_COLUMNS = {
    ROLE: 'text, "query" or "gallery"; an image that is both has two rows',
    ID: "text: `<split>/<position>`",
    GROUP: "text, the image's group (patient, lesion, site); only where the dataset has groups",
    METADATA + "<column>": "text, for each column of the dataset's metadata; empty where it is not known",
}
T = TypeVar("T")


@dataclass(frozen=True)
class FolderContent:
    """What goes into a run's folder besides scores of queries and ranking. Names may be in a subfolder.

    Attributes:
        documents: name -> text, scores.json among them.
        links: name -> file in the cache, linked so that a sweep does not fill the disk with copies.
        writers: name -> what writes the file at the path it is handed.
        seal: the text of manifest.json, given the folder in which all other files lie.
    """

    documents: Mapping[str, str]
    links: Mapping[str, Path]
    writers: Mapping[str, Callable[[Path], None]]
    seal: Callable[[Path], str]


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Within the block the folder is this run's alone.

    Args:
        folder: of the run; made where it is new, and then gone after the block where nothing is in it.

    Raises:
        UserError: another run is working in it.
    """
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked_if_free(folder / CLAIM) as free:
            if not free:
                raise UserError(
                    f"{folder}: another run is working in this folder; wait until it has ended, or give this "
                    "one a folder of its own (hydra.run.dir=, of a sweep hydra.sweep.dir=)"
                )
            yield
    finally:
        if new:
            with suppress(OSError):  # something is in it
                folder.rmdir()


def clear(folder: Path) -> None:
    """Remove what an earlier run has left in a folder; where none was, files of these names are others'."""
    known = any((folder / name).exists() for name in (SCORES, MANIFEST))
    for name in RESULTS if known else (SKIPPED, FAILED):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write(folder: Path, evaluation: Evaluation, task: RetrievalTask, content: FolderContent) -> None:
    """Fill a run's folder, in the place of what an earlier run has left there (`put_results`).

    Args:
        folder: the run's folder, which nobody else writes into (`claimed`).
        evaluation: per-query scores and ranking.
        task: who queried whom.
        content: everything else.

    Raises:
        OSError: the disk is full or the folder cannot be written; nothing is left half-written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / ASIDE
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir()
        _write_per_query(aside / PER_QUERY, evaluation, task)
        evaluation.ranking.save(aside / RANKING)
        _write_images(aside / IMAGES, task)
        for name, target in content.links.items():
            (aside / name).parent.mkdir(exist_ok=True)
            _link(aside / name, target)
        for name, write_file in content.writers.items():
            (aside / name).parent.mkdir(exist_ok=True)
            write_file(aside / name)
        for name, text in content.documents.items():
            (aside / name).write_text(text)
        (aside / MANIFEST).write_text(content.seal(aside))
        put_results(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def put_results(aside: Path, folder: Path) -> None:
    """Move a run's results into its folder, where those of an earlier run may be.

    At any moment the folder has a scores.json with all that belongs to it and nothing else, or has none:
    that of the earlier run goes first, and the new one comes last.

    Args:
        aside: where the results are.
        folder: of the run, on the same disk.

    Raises:
        OSError: the folder cannot be written.
    """
    clear(folder)
    for path in sorted(aside.iterdir(), key=lambda path: (path.name == SCORES) - (path.name == MANIFEST)):
        path.replace(folder / path.name)


def _link(path: Path, target: Path) -> None:
    try:
        path.symlink_to(target.absolute())
    except OSError:  # a file system without links
        shutil.copyfile(target, path)


def _write_per_query(path: Path, evaluation: Evaluation, task: RetrievalTask) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    ranking = evaluation.ranking
    columns = {ID: pa.array(ranking.query_ids), LABEL: _label_column(ranking.query_labels)}
    columns[N_RELEVANT] = pa.array(task.n_relevant)
    if task.queries.groups is not None:
        columns[GROUP] = pa.array(task.queries.groups)
    columns |= {n: pa.array(v, from_pandas=True) for n, v in evaluation.per_query.items()}
    parquet.write_table(pa.table(columns), path)


def write_splits(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """Write the rows of `Dataset.listing` as CSV, UTF-8.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = None
        for row in rows:
            if writer is None:
                writer = csv.DictWriter(file, list(row))
                writer.writeheader()
            writer.writerow(row)


def _write_images(path: Path, task: RetrievalTask) -> None:
    """Groups and metadata of both sides, from the first image of the queries to the last of the gallery."""
    sides = {"query": task.queries.split, "gallery": task.gallery}
    found = {role: split for role, split in sides.items() if split is not None}
    names = list(dict.fromkeys(name for split in found.values() for name in split.metadata or {}))
    grouped = any(split.groups is not None for split in found.values())
    if not names and not grouped:
        return
    import pyarrow as pa
    from pyarrow import parquet

    def joined(part: Callable[[Split], Any]) -> list[str]:
        return [str(value) for split in found.values() for value in part(split)]

    def column(name: str) -> list[str]:
        return joined(lambda split: (split.metadata or {}).get(name, [""] * len(split)))

    columns = {ROLE: [role for role, split in found.items() for _ in range(len(split))]}
    columns[ID] = joined(lambda split: split.ids)
    if grouped:
        columns[GROUP] = joined(lambda split: [""] * len(split) if split.groups is None else split.groups)
    columns |= {METADATA + name: column(name) for name in names}
    parquet.write_table(pa.table(columns), path)


def _label_column(labels: Labels) -> Any:
    import pyarrow as pa

    if labels.ndim == 1:
        return pa.array(labels)
    return pa.array([np.flatnonzero(row) for row in labels], type=pa.list_(pa.int64()))


def write_json(path: Path, content: Any) -> None:
    """Write JSON in one step, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with put_in_place(path) as aside:
        aside.write_text(as_json(content))


def as_json(content: Any) -> str:
    """Readable JSON text."""
    return json.dumps(content, indent=2) + "\n"


def read_typed(kind: type[T], folder: Path, name: str, source: str | None = None) -> T:
    """A JSON file of a finished run as its type.

    Args:
        kind: the type of its content.
        folder: the run's folder.
        name: of the file.
        source: what to call the run in messages; None for its folder.

    Raises:
        UserError: no finished run, one of another results format, or a file that is not as it should be.
    """
    content = read_json(folder, name, source)
    found = content["format"] if "format" in content else saved_format(folder, source)
    anew = f"repeat the run with: medretrieval again {(source or str(folder)).removeprefix(MLFLOW_SOURCE)}"
    if found != FORMAT:
        raise UserError(
            f"{source or folder}: a run of results format {found}, and this version reads {FORMAT}; {anew}"
        )
    try:
        return from_json(kind, content)
    except ContentError as error:
        raise UserError(f"{source or folder}: {name}: {error}; {anew}") from error


def read_json(folder: Path, name: str, source: str | None = None) -> dict[str, Any]:
    """The content of a JSON file of a finished run of any results format.

    Args:
        folder: the run's folder.
        name: of the file.
        source: what to call the run in messages; None for its folder.

    Raises:
        UserError: no finished run, or a file that is no JSON.
    """
    path = folder / name
    if not path.exists():
        raise UserError(f"{source or folder}: no finished run in it (it holds no {name})")
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        content = None
    if not isinstance(content, dict):
        where = path if source is None else f"{source}: {name}"
        raise UserError(f"{where}: damaged, not valid JSON; repeat the run from {folder / CONFIG}")
    return content


def saved_format(folder: Path, source: str | None = None) -> Any:
    """The results format of a run, said in words where it is too old to say.

    Raises:
        UserError: as `read_json`.
    """
    return read_json(folder, SCORES, source).get("format", "3 or before")


def mark_skipped(folder: Path, finished: Path) -> None:
    """Say in the folder of a run that was skipped which run has its results; those of another one go."""
    clear(folder)
    write_json(folder / SKIPPED, {"run": os.path.relpath(finished.resolve(), folder.resolve())})


def skipped_for(folder: Path) -> Path:
    """The run that has the results of one that was skipped; it may be gone by now."""
    return Path(os.path.normpath(folder.resolve() / json.loads((folder / SKIPPED).read_text())["run"]))
