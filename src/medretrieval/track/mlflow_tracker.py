"""Stage 4, track: the one module that writes to MLflow.

MLflow is never a reason to lose a run: where it is away, the results stay in the run's folder with
all that is needed to log them later (`medretrieval log <folder>`).
"""

import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medretrieval.config import TrackingConfig
from medretrieval.errors import UserError, first_line
from medretrieval.runs.folder import (
    AUDIT_PAIRS,
    AUDIT_PICTURE,
    CONFIG,
    FIGURES,
    MANIFEST,
    PER_QUERY,
    PROMPTS,
    RANKING,
    SCORES,
    write_json,
)
from medretrieval.runs.report import RunReport, numbers, read_report
from medretrieval.runs.tables import sweep_table
from medretrieval.track.mlflow_notes import run_note, sweep_note, sweep_view

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

TRACKING = "tracking.json"
SWEEP_TAG = "sweep"
FOLDER_TAG = "folder"  # where the run's files are, for verify and again
ARTIFACTS = (SCORES, PER_QUERY, RANKING, CONFIG, MANIFEST)
LARGE_ARTIFACTS = ("index.faiss", "embeddings_query.npy", "embeddings_gallery.npy")
SQLITE = "sqlite:///"


@dataclass
class RunDescription:
    """What MLflow is told of a run besides its scores.

    Attributes:
        name: the run's name in the UI.
        tags: searchable facts.
        params: the configuration's values worth comparing.
        inputs: role -> {"name", "digest", "source", "profile"} of the dataset's splits.
    """

    name: str
    tags: dict[str, str]
    params: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, dict[str, str]] = field(default_factory=dict)


class Tracker:
    """One MLflow run, from `start` to `finish` or `fail`; does nothing where tracking is off or away."""

    def __init__(self, config: TrackingConfig, outputs: Path, about: RunDescription) -> None:
        self.config = config
        self.outputs = outputs
        self.about = about
        self.run_id: str | None = None
        self._client: MlflowClient | None = None
        self._monitor: Any = None

    def start(self) -> None:
        """Create the run with its tags and parameters, so that it can be seen while it works."""
        if self.config.enabled:
            with self._tolerant("its results are kept in the run's folder"):
                client, experiment = connect(self.config, self.outputs)
                run = client.create_run(experiment, run_name=self.about.name, tags=self.about.tags)
                self.run_id, self._client = run.info.run_id, client
                _log_params(client, self.run_id, self.about.params)
                if self.config.system_metrics:
                    self._monitor = _monitor(self.run_id, self.config.uri)

    def finish(self, folder: Path) -> None:
        """Log what is in the run's folder, and leave a note there of what was logged where."""
        logged = False
        self._stop_monitor()
        if self._client is not None and self.run_id is not None:
            with self._tolerant(f"its results are kept; log them later with: medretrieval log {folder}"):
                log_folder(self._client, self.run_id, folder, self.about, self.config.log_index)
                logged = True
        elif self.config.enabled:
            log.warning("not in MLflow; log it later with: medretrieval log %s", folder)
        note = {
            "uri": self.config.uri,
            "experiment": self.config.experiment,
            "log_index": self.config.log_index,
            "run_id": self.run_id,
            "logged": logged,
            "about": self.about.__dict__,
        }
        write_json(folder / TRACKING, note)

    def fail(self, reason: str, status: str) -> None:
        """Mark the run FAILED or KILLED with its reason."""
        self._stop_monitor()
        if self._client is None and status == "FAILED":
            self.start()
        if self._client is not None and self.run_id is not None:
            with self._tolerant("its failure is not recorded there"):
                self._client.set_tag(self.run_id, "failure", reason[:5000])
                self._client.set_tag(self.run_id, "mlflow.note.content", f"**{status}**: {reason}"[:5000])
                self._client.set_terminated(self.run_id, status)

    def _stop_monitor(self) -> None:
        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None

    @contextmanager
    def _tolerant(self, consequence: str) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # whatever a server, a database or a disk may raise
            self._client = None
            log.warning("MLflow at %s is away (%s); %s", self.config.uri, first_line(error), consequence)


@contextmanager
def tracked(tracker: Tracker) -> Iterator[Tracker]:
    """Record a failure of the block in MLflow and pass it on.

    The reason is printed first, so that nobody waits for a database to read it.
    """
    try:
        yield tracker
    except UserError as error:
        log.error("medretrieval: %s", error)
        error.reported = True
        tracker.fail(str(error), "FAILED")
        raise
    except Exception as error:
        tracker.fail(f"{type(error).__name__}: {error}", "FAILED")
        raise
    except BaseException:
        tracker.fail("interrupted", "KILLED")
        raise


def connect(config: TrackingConfig, outputs: Path) -> tuple["MlflowClient", str]:
    """A client and the experiment's id; the SQLite database is made by one process at a time."""
    # A server that is away is said to be so in seconds, not minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.system_metrics", "mlflow.tracking"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    from filelock import FileLock
    from mlflow import MlflowClient

    database = sqlite_file(config.uri)
    if database is None:
        client = MlflowClient(tracking_uri=config.uri)
        return client, _experiment(client, config.experiment, None)
    database.parent.mkdir(parents=True, exist_ok=True)
    # MLflow would try a place that it cannot write to for most of a minute.
    with FileLock(database.with_name(f".{database.name}.lock")):
        client = MlflowClient(tracking_uri=config.uri)
        location = (outputs / "mlartifacts" / config.experiment).absolute().as_uri()
        return client, _experiment(client, config.experiment, location)


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite tracking store, None for any other store."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def _experiment(client: "MlflowClient", name: str, location: str | None) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            created: str = client.create_experiment(name, artifact_location=location)
            return created
        except MlflowException:  # another process was faster
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise UserError(
            f"tracking.experiment={name}: deleted in MLflow; restore it there (mlflow experiments restore "
            f"--experiment-id {found.experiment_id}) or choose another name"
        )
    experiment_id: str = found.experiment_id
    return experiment_id


def _log_params(client: "MlflowClient", run_id: str, params: dict[str, str]) -> None:
    from mlflow.entities import Param

    client.log_batch(run_id, params=[Param(k, str(v)[:6000]) for k, v in params.items()])


def _monitor(run_id: str, uri: str) -> Any:
    import mlflow
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    mlflow.set_tracking_uri(uri)
    monitor = SystemMetricsMonitor(run_id)
    monitor.start()
    return monitor


def log_folder(
    client: "MlflowClient", run_id: str, folder: Path, about: RunDescription, log_index: bool
) -> None:
    """Log a finished run's folder: scores in one call, inputs, note, small files; then FINISHED."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, RunTag

    report = read_report(folder)
    now = int(time.time() * 1000)
    metrics = [Metric(name, float(value), now, 0) for name, value in _flat(report).items()]
    metrics += [
        Metric(f"autotune/{name}", value, now, step)
        for step, point in enumerate(report.autotune.curve if report.autotune else [])
        for name, value in numbers(point).items()
    ]
    _log_params(client, run_id, about.params)  # those of `start` once more, and the fitted ones
    tags = [RunTag("mlflow.note.content", run_note(report)), RunTag(FOLDER_TAG, str(folder.absolute()))]
    client.log_batch(run_id, metrics=metrics, tags=tags)
    inputs = [
        DatasetInput(Dataset(source_type="local", **facts), [InputTag("mlflow.data.context", role)])
        for role, facts in about.inputs.items()
    ]
    client.log_inputs(run_id, inputs)
    some = tuple(name for name in (AUDIT_PAIRS, AUDIT_PICTURE, PROMPTS) if (folder / name).exists())
    for name in ARTIFACTS + some + (LARGE_ARTIFACTS if log_index else ()):
        client.log_artifact(run_id, str(folder / name))
    for path in sorted((folder / FIGURES).glob("*")):
        if path.exists():  # the map is a link into the cache, which may have been pruned since
            client.log_artifact(run_id, str(path), FIGURES)
    client.set_terminated(run_id, "FINISHED")


def _flat(report: RunReport) -> dict[str, float]:
    """The numbers of a report under flat names, in the groups that the MLflow UI folds."""
    first = report.objective.name  # MLflow's page of a run lists them in this order
    values: dict[str, float] = {first: report.scores[first]} | report.scores | numbers(report.counts)
    values |= {f"time/{name}_s": seconds for name, seconds in report.timings_s.items()}
    for name, ends in report.intervals.items():
        values |= _grouped(f"interval/{name}_", ends)
    for group, found in (("chance", report.chance), ("lift", report.lift)):
        values |= {f"{group}/{name}": value for name, value in found.items()}
    values |= _grouped("audit/", report.audit)
    if report.baseline is not None:
        values |= {f"baseline/{name}": value for name, value in report.baseline.scores.items()}
    if report.left_out is not None and (change := report.left_out.change) is not None:
        values |= {"left_out/change": change.value}
        values |= {"left_out/change_low": change.low, "left_out/change_high": change.high}
    values["embed/images_per_s"] = report.encoder.images_per_s
    values |= _grouped("embed/", report.encoder.fidelity)
    values |= _grouped("search/latency_ms_", report.speed.latency_ms) | _grouped("search/", report.speed)
    return values | _flat_text(report) | _flat_approximation(report) | _flat_explain(report)


def _grouped(prefix: str, part: object | None) -> dict[str, float]:
    """The numbers of a part of a report, each name after the prefix; of None none."""
    return {} if part is None else {f"{prefix}{name}": value for name, value in numbers(part).items()}


def _flat_text(report: RunReport) -> dict[str, float]:
    """Numbers of runs whose queries are sentences; the areas of single classes stay in scores.json."""
    gap = report.modality_gap
    values = _grouped("zero_shot/", report.zero_shot) | _grouped("modality_gap/", gap)
    if gap is None or gap.recall is None:
        return values
    sides = {"sentences": gap.recall.sentences, "images": gap.recall.images}
    return values | {f"modality_gap/recall_{side}": recall for side, recall in sides.items()}


def _flat_approximation(report: RunReport) -> dict[str, float]:
    ann = report.approximation
    if ann is None:
        return {}
    values = {f"ann/recall_at_{k}": value for k, value in ann.recall.items()}
    values |= {f"ann/{name}_change": change.value for name, change in ann.changes.items()}
    return values | {"ann/missing": ann.missing}


def _flat_explain(report: RunReport) -> dict[str, float]:
    """explain/deletion_advantage, explain/deletion_advantage_low, explain/pointing_hits and their kin."""
    explain = report.explain
    if explain is None:
        return {}
    values = _grouped("explain/deletion_", explain.deletion) | _grouped("explain/pointing_", explain.pointing)
    intervals = {f"deletion_{name}": ends for name, ends in explain.deletion.intervals.items()}
    if explain.pointing is not None:
        intervals |= {f"pointing_{name}": ends for name, ends in explain.pointing.intervals.items()}
    for name, ends in intervals.items():
        values |= _grouped(f"explain/{name}_", ends)
    return values


def log_sweep(
    sweep: str, config: TrackingConfig, outputs: Path, reports: list[RunReport], pictures: Sequence[Path]
) -> None:
    """Log a sweep as a run of its own, without scores: its table and pictures, and how its runs are shown."""
    try:
        client, experiment = connect(config, outputs)
        tags = {SWEEP_TAG: sweep, "mlflow.source.name": "medretrieval"}
        note = {"mlflow.note.content": sweep_note(sweep, experiment, reports)}
        run_id = client.create_run(experiment, run_name=f"sweep {sweep}", tags=tags | note).info.run_id
        client.log_text(run_id, sweep_table(reports) + "\n", "sweep.txt")
        for picture in pictures:
            client.log_artifact(run_id, str(picture))
        for name, view in sweep_view(sweep, reports).items():
            client.set_experiment_tag(experiment, name, view)
        client.set_terminated(run_id, "FINISHED")
    except Exception as error:  # whatever a server, a database or a disk may raise
        log.warning(
            "MLflow at %s is away (%s); the sweep's table is not there", config.uri, first_line(error)
        )


def add_to_sweep(folder: Path, sweep: str) -> None:
    """Let a run that had finished before be found with a later sweep that skipped it."""
    try:
        note = json.loads((folder / TRACKING).read_text())
        if not note["logged"]:
            log.warning("that run is not in MLflow yet; log it with: medretrieval log %s", folder)
            return
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=note["uri"])
        old = client.get_run(note["run_id"]).data.tags.get(SWEEP_TAG, "")
        if sweep not in old.split():
            client.set_tag(note["run_id"], SWEEP_TAG, f"{old} {sweep}".strip())
    except Exception as error:  # the run itself is safe; only the tag is not set
        log.warning("%s could not be tagged as part of sweep %s (%s)", folder, sweep, first_line(error))


def log_later(folders: list[Path], uri: str | None, outputs_of: Path) -> int:
    """Log finished runs that MLflow does not have yet.

    Args:
        folders: runs' folders, or folders of runs.
        uri: where to; None for where each run was meant to go.
        outputs_of: the folder for artifacts of a SQLite store.

    Returns:
        The number of runs logged.

    Raises:
        UserError: no finished run in a folder, or MLflow is away.
    """
    count = 0
    for top in folders:
        found = sorted(path.parent for path in top.rglob(TRACKING) if (path.parent / SCORES).exists())
        if not found:
            raise UserError(f"{top}: no finished run in it (a run's folder holds {SCORES} and {TRACKING})")
        for folder in found:
            count += _log_one(folder, uri, outputs_of)
    return count


def _log_one(folder: Path, uri: str | None, outputs: Path) -> int:
    note = json.loads((folder / TRACKING).read_text())
    target = uri or note["uri"]
    read_report(folder)  # refused before MLflow is asked
    if note["logged"] and note["uri"] == target:
        log.info("%s: in MLflow already, run %s", folder, note["run_id"])
        return 0
    config = TrackingConfig(True, target, note["experiment"], note["log_index"], False)
    about = RunDescription(**note["about"])
    try:
        client, experiment = connect(config, outputs)
        run_id = note["run_id"] if note["uri"] == target else None
        if run_id is None:
            run_id = client.create_run(experiment, run_name=about.name, tags=about.tags).info.run_id
        log_folder(client, run_id, folder, about, config.log_index)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"MLflow at {target} is away ({first_line(error)}); nothing is lost, try again"
        ) from error
    write_json(folder / TRACKING, note | {"uri": target, "run_id": run_id, "logged": True})
    log.info("%s: logged as run %s at %s", folder, run_id, target)
    return 1
