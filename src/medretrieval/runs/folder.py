"""A run's folder: what is in it, written whole or not at all, and how finished runs are found again."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from medretrieval.errors import UserError
from medretrieval.evaluate.evaluate import Evaluation
from medretrieval.protocol.ranking import Labels
from medretrieval.protocol.task import RetrievalTask

FORMAT = 5  # of a run's folder; runs of another format are not taken for finished
SCORES = "scores.json"
CONFIG = "config.yaml"
MANIFEST = "manifest.json"
PER_QUERY = "per_query.parquet"
RANKING = "ranking.npz"
SKIPPED = "skipped.json"
PROMPTS = "prompts.json"  # sentences of the queries, where sentences ask
AUDIT_PAIRS = "audit.parquet"
AUDIT_PICTURE = "audit.png"
FIGURES = "figures"  # folder of a run's pictures and of what they show
EXPLANATIONS = f"{FIGURES}/explanations.png"
EXPLAINED = f"{FIGURES}/explanations.json"  # numbers and curves of its pairs
DELETION = f"{FIGURES}/deletion.png"
FAILED = "failed.txt"
GROUP = "group"  # column of per_query.parquet, where queries have groups


def write(
    folder: Path,
    evaluation: Evaluation,
    task: RetrievalTask,
    documents: dict[str, str],
    links: dict[str, Path],
    writers: dict[str, Callable[[Path], None]],
) -> None:
    """Fill a run's folder. Everything is written aside first; scores.json is put in place last.

    Args:
        folder: the run's folder.
        evaluation: per-query scores and ranking.
        task: who queried whom.
        documents: name -> text, scores.json among them.
        links: name -> file in the cache, linked so that a sweep does not fill the disk with copies.
        writers: name -> what writes the file at the path it is handed. Names of both may be in one folder.

    Raises:
        OSError: the disk is full or the folder cannot be written; nothing is left half-written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / ".partial"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir()
        _write_per_query(aside / PER_QUERY, evaluation, task)
        evaluation.ranking.save(aside / RANKING)
        for name, target in links.items():
            (aside / name).parent.mkdir(exist_ok=True)
            _link(aside / name, target)
        for name, write_file in writers.items():
            (aside / name).parent.mkdir(exist_ok=True)
            write_file(aside / name)
        for name, text in documents.items():
            (aside / name).write_text(text)
        for path in sorted(aside.iterdir(), key=lambda p: p.name == SCORES):
            if path.is_dir():
                shutil.rmtree(folder / path.name, ignore_errors=True)
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _link(path: Path, target: Path) -> None:
    try:
        path.symlink_to(target.absolute())
    except OSError:  # a file system without links
        shutil.copyfile(target, path)


def _write_per_query(path: Path, evaluation: Evaluation, task: RetrievalTask) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    ranking = evaluation.ranking
    columns = {"id": pa.array(ranking.query_ids), "label": _label_column(ranking.query_labels)}
    columns["relevant"] = pa.array(task.n_relevant)
    if task.queries.groups is not None:
        columns[GROUP] = pa.array(task.queries.groups)
    columns |= {n: pa.array(v, from_pandas=True) for n, v in evaluation.per_query.items()}
    parquet.write_table(pa.table(columns), path)


def _label_column(labels: Labels) -> Any:
    import pyarrow as pa

    if labels.ndim == 1:
        return pa.array(labels)
    return pa.array([np.flatnonzero(row) for row in labels], type=pa.list_(pa.int64()))


def write_json(path: Path, content: Any) -> None:
    """Write JSON in one step, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(as_json(content))
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def as_json(content: Any) -> str:
    """Readable JSON text."""
    return json.dumps(content, indent=2) + "\n"


def read_scores(folder: Path) -> dict[str, Any]:
    """The content of a run's scores.json."""
    content: dict[str, Any] = json.loads((folder / SCORES).read_text())
    return content


def require_format(folder: Path) -> None:
    """Refuse a run of another results format.

    Raises:
        UserError: naming the format and how to make the run anew.
    """
    found = read_scores(folder).get("format", "before 4")
    if found != FORMAT:
        raise UserError(
            f"{folder}: a run of results format {found}, not {FORMAT}; make it anew with: "
            f"medretrieval again {folder}"
        )


def mark_finished(outputs: Path, fingerprint: str, folder: Path) -> None:
    """Remember which run has the results of a configuration."""
    where = os.path.relpath(folder, outputs)
    write_json(outputs / "finished" / f"{fingerprint}.json", {"run": where})


def mark_skipped(folder: Path, finished: Path) -> None:
    """Say in the folder of a run that was skipped which run has its results."""
    write_json(folder / SKIPPED, {"run": os.path.relpath(finished.resolve(), folder.resolve())})


def skipped_for(folder: Path) -> Path:
    """The run that has the results of one that was skipped; it may be gone by now."""
    return Path(os.path.normpath(folder.resolve() / json.loads((folder / SKIPPED).read_text())["run"]))


def find_finished(outputs: Path, fingerprint: str) -> Path | None:
    """The folder of the run that has finished this configuration, None where there is none any more."""
    try:
        where = json.loads((outputs / "finished" / f"{fingerprint}.json").read_text())["run"]
    except (OSError, ValueError, KeyError):
        return None
    folder = Path(os.path.normpath(outputs / where))
    try:
        return folder if read_scores(folder)["fingerprint"] == fingerprint else None
    except (OSError, ValueError, KeyError):
        return None
