"""MLflow runs that are no runs of ours: of a sweep as a whole, of a comparison, of a report."""

import re
import time
from typing import TYPE_CHECKING

from medretrieval.private import shareable
from medretrieval.runs.tables import sweep_table
from medretrieval.track.mlflow.notes import sweep_note
from medretrieval.track.mlflow.store import MAX_TAG_LENGTH, NOTE_TAG, create_run, log_params
from medretrieval.track.mlflow.views import keep_views, sweep_view
from medretrieval.track.tracker import KIND_TAG, SWEEP_TAG, Entry, Sweep

if TYPE_CHECKING:
    from mlflow import MlflowClient

METRIC_BATCH = 1000  # metrics that MLflow takes at once
MAX_METRIC_NAME = 250  # characters


def log_sweep_run(client: "MlflowClient", experiment_id: str, sweep: Sweep) -> None:
    """Log a sweep as a run of its own, without scores: its table and pictures, and how its runs are shown."""
    note = sweep_note(sweep.id, experiment_id, sweep.reports)
    tags = {KIND_TAG: "sweep", SWEEP_TAG: sweep.id, NOTE_TAG: note}
    run_id = create_run(client, experiment_id, f"sweep {sweep.id}", tags)
    client.log_text(run_id, sweep_table(sweep.reports) + "\n", "sweep.txt")
    for picture in sweep.pictures:
        client.log_artifact(run_id, str(picture))
    keep_views(client, experiment_id, sweep_view(sweep.id, sweep.reports))
    client.set_terminated(run_id, "FINISHED")


def log_entry_run(client: "MlflowClient", experiment_id: str, entry: Entry) -> str:
    """Log an entry to its sweep's own run, where there is one, else to a run of its own.

    Returns:
        The run's id.
    """
    run_id = _sweep_run(client, experiment_id, entry.sweep)
    if run_id is None:
        tags = {KIND_TAG: entry.kind} | entry.tags | ({NOTE_TAG: entry.note} if entry.note else {})
        run_id = create_run(client, experiment_id, entry.name, tags)
        client.set_terminated(run_id, "FINISHED")
    if entry.params:
        log_params(client, run_id, entry.params)
    _log_metrics(client, run_id, entry)
    for name, text in entry.files.items():
        client.log_text(run_id, shareable(text), name)
    if entry.front is not None:
        _link(client, experiment_id, run_id, entry)
    return run_id


def _log_metrics(client: "MlflowClient", run_id: str, entry: Entry) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = [Metric(_metric_name(name), value, now, 0) for name, value in entry.metrics.items()]
    for begin in range(0, len(metrics), METRIC_BATCH):
        client.log_batch(run_id, metrics=metrics[begin : begin + METRIC_BATCH])


def _metric_name(readable: str) -> str:
    """What MLflow's alphabet leaves of a name."""
    return re.sub(r"[^\w./ -]", "-", readable, flags=re.ASCII)[:MAX_METRIC_NAME]


def _sweep_run(client: "MlflowClient", experiment_id: str, sweep: str | None) -> str | None:
    """The run that holds a sweep's table: of its tag, and without an encoder."""
    if sweep is None:
        return None
    runs = client.search_runs([experiment_id], f"tags.{SWEEP_TAG} = '{sweep}'", max_results=50000)
    own = [run.info.run_id for run in runs if "encoder" not in run.data.tags]
    return own[0] if own else None


def _link(client: "MlflowClient", experiment_id: str, run_id: str, entry: Entry) -> None:
    """Put a link to the entry's first file at the top of the run's note."""
    note = client.get_run(run_id).data.tags.get(NOTE_TAG, "")
    where = f"#/experiments/{experiment_id}/runs/{run_id}/artifacts/{entry.front}"
    link = f"[{entry.kind.capitalize()}]({where})"
    if link not in note:
        client.set_tag(run_id, NOTE_TAG, f"{link}\n\n{note}"[:MAX_TAG_LENGTH].strip())
