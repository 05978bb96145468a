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
    read_scores,
    require_format,
    write_json,
)
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

    content = read_scores(folder)
    now = int(time.time() * 1000)
    metrics = [Metric(name, float(value), now, 0) for name, value in _flat(content).items()]
    metrics += [
        Metric(f"autotune/{name}", float(setting[name]), now, step)
        for step, setting in enumerate((content["autotune"] or {"curve": []})["curve"])
        for name in ("recall", "ms")
    ]
    _log_params(client, run_id, about.params)  # those of `start` once more, and the fitted ones
    tags = [RunTag("mlflow.note.content", run_note(content)), RunTag(FOLDER_TAG, str(folder.absolute()))]
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


def _flat(content: dict[str, Any]) -> dict[str, float]:
    """The numbers of scores.json under flat names, in the groups that the MLflow UI folds."""
    first = content["objective"]["name"]  # MLflow's page of a run lists them in this order
    values: dict[str, float] = {first: content["scores"][first]} | content["scores"] | content["counts"]
    values |= {f"time/{name}_s": seconds for name, seconds in content["timings_s"].items()}
    for name, (low, high) in content["intervals"].items():
        values |= {f"interval/{name}_low": low, f"interval/{name}_high": high}
    for group in ("chance", "lift", "audit"):
        values |= {f"{group}/{name}": value for name, value in content[group].items()}
    values |= {f"baseline/{name}": value for name, value in content["baseline"]["scores"].items()}
    if content["left_out"] is not None and content["left_out"]["change"] is not None:
        names = ("change", "change_low", "change_high")
        values |= {f"left_out/{n}": v for n, v in zip(names, content["left_out"]["change"], strict=True)}
    values["embed/images_per_s"] = content["encoder"]["images_per_s"]
    if (fidelity := content["encoder"]["fidelity"]) is not None:
        numbers = {name: v for name, v in fidelity.items() if isinstance(v, int | float)}
        values |= {f"embed/{name}": value for name, value in numbers.items()}
    speed = content["speed"]
    values |= {f"search/latency_ms_{name}": value for name, value in speed["latency_ms"].items()}
    for name in ("queries_per_s_single", "queries_per_s_batched", "bytes_per_vector"):
        values[f"search/{name}"] = speed[name]
    values |= _flat_in_words(content)
    return values | _flat_approximation(content["approximation"]) | _flat_explain(content["explain"])


def _flat_in_words(content: dict[str, Any]) -> dict[str, float]:
    """Numbers of runs whose queries are sentences; the areas of single classes stay in scores.json."""
    found: dict[str, float] = {}
    for group in ("zero_shot", "modality_gap"):
        numbers = {name: v for name, v in content.get(group, {}).items() if isinstance(v, int | float)}
        found |= {f"{group}/{name}": value for name, value in numbers.items()}
    recall = content.get("modality_gap", {}).get("recall", {})
    return found | {f"modality_gap/recall_{side}": recall[side] for side in ("sentences", "images") if recall}


def _flat_approximation(found: dict[str, Any] | None) -> dict[str, float]:
    if found is None:
        return {}
    values = {f"ann/recall_at_{k}": value for k, value in found["recall"].items()}
    values |= {f"ann/{name}_change": change for name, (change, _, _) in found["changes"].items()}
    return values | {"ann/missing": found["missing"]}


def _flat_explain(found: dict[str, Any] | None) -> dict[str, float]:
    """explain/deletion_advantage, explain/deletion_advantage_low, explain/pointing_hits and their kin."""
    if found is None:
        return {}
    values: dict[str, float] = {}
    for group in ("deletion", "pointing"):
        numbers = found[group] or {"intervals": {}}
        values |= {f"{group}_{name}": v for name, v in numbers.items() if isinstance(v, int | float)}
        for name, (low, high) in numbers["intervals"].items():
            values |= {f"{group}_{name}_low": low, f"{group}_{name}_high": high}
    return {f"explain/{name}": value for name, value in values.items()}


def log_sweep(
    sweep: str, config: TrackingConfig, outputs: Path, reports: list[dict[str, Any]], pictures: Sequence[Path]
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
    require_format(folder)
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
